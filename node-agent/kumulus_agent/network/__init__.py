"""The host's datapath: tenant bridges, VXLAN devices, taps and their rules in one network namespace."""
