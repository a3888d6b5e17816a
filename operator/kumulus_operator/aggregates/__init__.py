"""HostAggregates: who belongs to them."""
