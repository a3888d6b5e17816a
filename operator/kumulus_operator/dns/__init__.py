"""DNS zones and records: who holds a domain, what is in its zone file, and where that is kept for the name servers."""
