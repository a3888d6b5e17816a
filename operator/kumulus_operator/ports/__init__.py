"""User-made ports: their addresses, deletion."""
