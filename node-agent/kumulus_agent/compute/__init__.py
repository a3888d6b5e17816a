"""Everything that speaks to libvirt: the domain's XML, the connection and its verbs."""
