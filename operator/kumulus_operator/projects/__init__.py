"""Projects: a namespace of their name, roles in it."""
