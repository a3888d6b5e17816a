"""Processes of the host that outlive the agent's pod."""
