"""Claims whose claimant is gone: found, kept in quarantine, released."""
