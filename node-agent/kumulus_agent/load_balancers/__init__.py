"""Load balancers on this host: a namespace each, with HAProxy in it."""
