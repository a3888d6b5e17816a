"""Network namespaces that stand in for machines."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from kumulus_agent.network.command import run


@dataclass
class Machine:
    """What is in a namespace."""

    namespace: str

    async def run(self, *argv: str, allowed: tuple[int, ...] = (0,)) -> str:
        """Run a command inside."""
        return (await run(("ip", "netns", "exec", self.namespace, *argv), allowed=allowed)).decode()

    async def reaches(self, address: IPv4Address | IPv6Address, *options: str) -> bool:
        """Tell whether a ping is answered within two seconds."""
        argv = (
            "busybox",
            "ping" if isinstance(address, IPv4Address) else "ping6",
            "-q",
            "-c",
            "1",
            "-W",
            "2",
            *options,
            str(address),
        )
        return " 0% packet loss" in await self.run(*argv, allowed=(0, 1))
