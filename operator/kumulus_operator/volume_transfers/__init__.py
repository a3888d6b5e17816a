"""Volumes that one project gives to another."""
