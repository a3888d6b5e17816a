"""Failover: two hosts agree by VRRP (RFC 5798), without API and agents, which of them has addresses."""
