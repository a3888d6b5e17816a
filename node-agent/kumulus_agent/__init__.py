"""The node agent: acts. Images, disks, network and libvirt domains of one host."""
