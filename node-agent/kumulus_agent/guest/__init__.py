"""What the agent inside a guest says and does; it is never trusted, and nothing waits for it."""
