"""Servers of this host: observe the domain and its surroundings, plan, apply, tell."""
