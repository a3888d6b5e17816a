"""Devices of the host that its servers are given whole: PCI devices, and mediated ones that are made for them."""
