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


async def cable(switch: Machine, number: int, host: str, interface: str = "phys", end: str = "") -> None:
    """Cable an interface of a host's namespace, still down, to a new port of the bridge `switch`.

    The two have different indexes: of a pair with equal ones the kernel tells bridges of a carrier up to a second later
    (`linkwatch`).

    Args:
        switch: where the bridge is.
        number: of the port.
        host: name of the namespace.
        interface: its name there.
        end: the port's name; else `p` and the number.
    """
    end = end or f"p{number}"
    pair = ("index", str(1000 + number), "type", "veth", "peer", "name", interface, "netns", host)
    await switch.run("ip", "link", "add", end, *pair)
    await switch.run("ip", "link", "set", end, "master", "switch", "up")
