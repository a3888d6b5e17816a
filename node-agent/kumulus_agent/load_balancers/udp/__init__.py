"""Datagrams of load balancers: HAProxy passes on none, so the kernel does, and this asks who is well."""
