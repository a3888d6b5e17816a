"""Site-to-site VPN: strongSwan in the namespace of a router."""
