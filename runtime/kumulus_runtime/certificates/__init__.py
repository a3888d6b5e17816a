"""Certificates that a process makes for itself, and the TLS contexts that serve with them."""
