"""Load balancers: their addresses, the hosts that have them, and the members that they lead to."""
