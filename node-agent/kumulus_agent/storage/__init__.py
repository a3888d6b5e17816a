"""Files on the host's disk: cached images, root disks, local volumes and boot seeds."""
