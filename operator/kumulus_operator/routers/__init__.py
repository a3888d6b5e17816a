"""Routers: the addresses that they have, the host that they lead out on."""
