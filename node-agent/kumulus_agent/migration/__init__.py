"""Migration between hosts: the agents' half of the protocol, and the tunnel through which guests travel."""
