"""Images that this host imports for the cloud."""
