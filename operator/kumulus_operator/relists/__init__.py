"""Relists: noticing deletions that no watch has shown."""
