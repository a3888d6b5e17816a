"""Addresses of networks: choosing (pure) and claiming (by the creation of an object)."""
