"""Start the node agent."""

from __future__ import annotations

import asyncio
import logging
import sys

import kumulus_runtime.imports  # noqa: F401 - must precede kopf and kubernetes
from kumulus_agent.settings import AgentSettings
from kumulus_runtime import garbage, logs, process


async def run(stop: asyncio.Event, settings: AgentSettings) -> None:
    """Wait for this host's lock, then work until `stop` is set."""
    from kumulus_agent.hosts.agent_lock import agent_lock  # noqa: PLC0415
    from kumulus_runtime.api_client import KubeClient  # noqa: PLC0415 - a waiting agent stays small

    async with agent_lock(settings.run_dir / "agent.lock"):
        from kumulus_agent.agent import Agent  # noqa: PLC0415
        from kumulus_agent.hosts.machine import agent_version  # noqa: PLC0415

        garbage.keep_waste_small()
        async with await KubeClient.connect(f"kumulus-agent/{agent_version()}") as client:
            await Agent(settings, client).run(stop)


def main() -> None:
    """Run the process."""
    settings = AgentSettings.read("kumulus-agent")
    logs.configure(settings.log_format, settings.log_level)
    # At INFO kopf writes a line for each event that it hands over.
    logging.getLogger("kopf").setLevel(max(logging.WARNING, logging.getLogger().level))
    sys.exit(process.run(lambda stop: run(stop, settings), grace=settings.shutdown_seconds))


if __name__ == "__main__":
    main()
