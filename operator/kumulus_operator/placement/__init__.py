"""Where a server runs: filters and weighers, all pure."""
