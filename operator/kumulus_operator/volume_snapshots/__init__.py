"""Snapshots of volumes: quota, the host that takes them, deletion."""
