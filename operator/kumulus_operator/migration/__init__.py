"""Migration: a target is chosen and room kept there, the agents carry the guest over, the host is flipped last."""
