"""Backups of volumes in a bucket: made, read back, restored and removed here."""
