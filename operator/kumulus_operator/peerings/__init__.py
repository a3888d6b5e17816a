"""Peering of networks with the cluster: what is granted, what overlaps, and by which addresses pods come."""
