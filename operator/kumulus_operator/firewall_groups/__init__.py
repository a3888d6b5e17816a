"""Firewall groups: which interfaces of routers they are on, and what becomes of that."""
