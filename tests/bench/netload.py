"""How fast two guests of two hosts are, through the rules of their ports and VXLAN, and without the rules.

Method: two hosts cabled to each other, each with the agent's own datapath, carry one network; a namespace on each
stands in for a guest, with a port in two groups. iperf3 sends TCP from one to the other for some seconds, in turn with
the rules as they are and with none (no table of nftables, and bridged packets shown to no table), on the same bridges
and the same VXLAN. The share is that of the two runs beside each other, so that a machine that slows down slows both.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import uuid
from contextlib import AsyncExitStack, suppress
from ipaddress import IPv4Address
from pathlib import Path

from kumulus_agent.network.command import run
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.network.groups import GroupRule, SecurityGroup
from kumulus_agent.network.state import NetworkDesired, PortDesired
from kumulus_agent.services.host_service import HostServices

ROUNDS = 7
SECONDS = 3
_VNI = 0x4D
_MTU = 1450
_SHOWN = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")


async def inside(namespace: str, *argv: str, stdin: bytes = b"") -> bytes:
    """Run a command in a namespace."""
    return await run(("ip", "netns", "exec", namespace, *argv), stdin=stdin)


async def make_host(name: str, number: int, directory: Path, stack: AsyncExitStack) -> None:
    """Make a host's datapath with one network, its port, and the namespace that is plugged into it."""
    datapath = Datapath(
        HostServices(directory / name / "services", init_pid=None),
        directory / name / "dns",
        namespace=f"{name}-dp",
        host_namespace=name,
        service_prefix=f"{name}-kd",
    )
    stack.push_async_callback(datapath.close)
    await datapath.start()
    web, members = ("load", "web"), ("load", "default")
    addresses = {n: IPv4Address(f"10.0.0.{n}") for n in (1, 2)}
    groups = {
        web: SecurityGroup(frozenset({GroupRule("ingress", 6, (5201, 5201)), GroupRule("egress")})),
        members: SecurityGroup(frozenset({GroupRule("ingress", remote=members)}), frozenset(addresses.values())),
    }
    port = PortDesired(
        f"kt{number:011x}", f"02:00:00:00:00:{number:02x}", (addresses[number],), name, groups=frozenset(groups)
    )
    other = 3 - number
    await datapath.ensure_network(
        NetworkDesired(
            vni=_VNI,
            mtu=_MTU,
            underlay_address=f"192.0.2.{number}",
            peers=frozenset({f"192.0.2.{other}"}),
            neighbours=frozenset({(f"02:00:00:00:00:{other:02x}", f"192.0.2.{other}")}),
            ports=(port,),
            groups=groups,
        )
    )
    guest = f"{name}-guest"
    await run(("ip", "netns", "add", guest))
    veth = ("link", "add", port.tap, "mtu", str(_MTU), "type", "veth")
    peer = ("peer", "name", "eth0", "address", port.mac, "mtu", str(_MTU), "netns", guest)
    await run(("ip", "-netns", name, *veth, *peer))
    await datapath.plug(port.tap, _VNI)
    await run(("ip", "-netns", guest, "address", "add", f"{addresses[number]}/24", "dev", "eth0"))
    await run(("ip", "-netns", guest, "link", "set", "eth0", "up"))


async def speed(names: list[str]) -> float:
    """Send for some seconds, and give bits in a second as they arrived.

    Raises:
        RuntimeError: iperf3 says why not.
    """
    source, target = (f"{name}-guest" for name in names)
    # A server of its own each time: one that has not let go of the former client turns the next away.
    argv = ("ip", "netns", "exec", target, "iperf3", "--server", "--one-off", "--forceflush")
    server = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    try:
        assert server.stdout is not None
        async with asyncio.timeout(10):
            while b"listening" not in await server.stdout.readline():
                pass
        argv = ("iperf3", "--client", "10.0.0.2", "--time", str(SECONDS), "--omit", "1", "--json")
        told = json.loads(await inside(source, *argv))
    finally:
        with suppress(ProcessLookupError):  # it ends with its client
            server.terminate()
        await server.communicate()
    if "error" in told:
        raise RuntimeError(f"iperf3: {told['error']}")
    return float(told["end"]["sum_received"]["bits_per_second"])


class Rules:
    """The rules of two datapaths, which can be away."""

    def __init__(self, namespaces: list[str]) -> None:
        self._namespaces = namespaces
        self._texts: dict[str, bytes] = {}

    async def remove(self) -> None:
        """Leave no table, and show bridged packets to none."""
        for name in self._namespaces:
            self._texts[name] = await inside(name, "nft", "list", "ruleset")
            await inside(name, "nft", "flush", "ruleset")
            await inside(name, "sysctl", "-qw", *(f"{setting}=0" for setting in _SHOWN))

    async def restore(self) -> None:
        """Put them back."""
        for name in self._namespaces:
            await inside(name, "sysctl", "-qw", *(f"{setting}=1" for setting in _SHOWN))
            await inside(name, "nft", "-f", "-", stdin=self._texts[name])


async def shares() -> tuple[list[float], list[float]]:
    """Give for each round the share that is left with the rules, and the Gbit/s with them."""
    prefix = f"kbench-{uuid.uuid4().hex[:6]}"
    names = [f"{prefix}-{letter}" for letter in "ab"]
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kumulus-bench-")))
        stack.push_async_callback(_remove, prefix)
        for name in names:
            await run(("ip", "netns", "add", name))
        cable = ("type", "veth", "peer", "name", "under", "netns", names[1])
        await run(("ip", "-netns", names[0], "link", "add", "under", *cable))
        for number, name in enumerate(names, 1):
            await run(("ip", "-netns", name, "address", "add", f"192.0.2.{number}/24", "dev", "under"))
            await run(("ip", "-netns", name, "link", "set", "under", "up"))
        for number, name in enumerate(names, 1):
            await make_host(name, number, directory, stack)
        return await _rounds(names, Rules([f"{name}-dp" for name in names]))


async def _rounds(names: list[str], rules: Rules) -> tuple[list[float], list[float]]:
    await inside(f"{names[0]}-guest", "busybox", "ping", "-q", "-c", "1", "-W", "5", "10.0.0.2")
    found, speeds = [], []
    for _ in range(ROUNDS):
        judged = await speed(names)
        await rules.remove()
        plain = await speed(names)
        await rules.restore()
        found.append(judged / plain)
        speeds.append(judged / 1e9)
    return found, speeds


async def _remove(prefix: str) -> None:
    for namespace in await asyncio.to_thread(lambda: sorted(Path("/run/netns").glob(f"{prefix}*"))):
        await run(("ip", "netns", "delete", namespace.name))


if __name__ == "__main__":
    print(asyncio.run(shares()))
