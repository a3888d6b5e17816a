"""Drivers of volumes: they are told a folder and change files; they know neither API nor libvirt."""
