"""Floating IPs: their addresses, where they lead, the host that translates them."""
