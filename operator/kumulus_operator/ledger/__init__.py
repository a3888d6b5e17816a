"""The ledger: one task through which all admissions pass, so that two cannot take the same room."""
