"""What the agent knows and proves about the host it runs on."""
