"""The Host object of this machine: what it has, whether it works, which instances run unclaimed."""
