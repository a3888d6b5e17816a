"""Tracing: what the kernel of this host would do with a packet, read from its own rules, bridges and routes."""
