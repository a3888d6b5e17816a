"""ServerActions: acts on servers that are begun once and reported on."""
