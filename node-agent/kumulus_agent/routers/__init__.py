"""Routers: a network namespace for each router that something on this host uses."""
