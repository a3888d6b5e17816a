"""Servers: resolve what they refer to, admit, claim, assign, adopt, release."""
