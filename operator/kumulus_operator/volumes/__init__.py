"""Volumes: quota, release, deletion."""
