"""Volumes of one host for the servers of another: NBD over TLS, from process to process of the hosts."""
