"""Networks: their VNI, and where their ports are."""
