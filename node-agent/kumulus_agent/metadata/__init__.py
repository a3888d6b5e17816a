"""The metadata service: what guests ask at 169.254.169.254."""
