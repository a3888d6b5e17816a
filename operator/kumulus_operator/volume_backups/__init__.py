"""Backups of volumes: quota, parent, the host that works, removal; and the policies that make them."""
