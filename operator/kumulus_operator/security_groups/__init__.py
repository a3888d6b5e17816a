"""Security groups: admitted against the quota, kept while a port is in them, named by ports."""
