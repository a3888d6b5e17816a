"""Hosts: whether they speak, and what they have."""
