"""The consoles of the guests here: served to the console proxy, and to nobody else."""
