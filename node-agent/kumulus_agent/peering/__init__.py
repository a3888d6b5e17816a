"""Peering of networks with the cluster: links between networks and the host's own namespace, and what passes there."""
