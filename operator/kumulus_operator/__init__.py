"""The operator: decides. Tenancy, quota, addresses, placement."""
