"""Volumes that live on this host."""
