"""Boot data: user data for node agents, over TLS."""
