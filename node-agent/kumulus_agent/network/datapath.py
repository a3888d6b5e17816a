"""The host's datapath: what the rest of the agent calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kumulus_agent.metadata.service import MetadataService
from kumulus_agent.network import (
    bandwidth,
    bridge,
    connections,
    firewall,
    interfaces,
    link,
    names,
    namespace,
    plan,
    service_link,
    shaping,
    tap,
    vxlan,
)
from kumulus_agent.network import uplink as uplinks
from kumulus_agent.network.errors import NetworkAbsent, NetworkError
from kumulus_agent.network.firewall import Firewall
from kumulus_agent.network.limits import Dropped, dropped_of
from kumulus_agent.network.netlink import AsyncIPRoute
from kumulus_agent.network.observe import observe_links
from kumulus_agent.network.plan import Step
from kumulus_agent.network.rules import FirewallChange
from kumulus_agent.network.state import HostInterface, NetworkDesired, Observed, PortDesired
from kumulus_agent.network.tap import Counters
from kumulus_agent.network.together import Together, plan_together
from kumulus_agent.services import dnsmasq
from kumulus_agent.services.dnsmasq import Dnsmasq
from kumulus_agent.services.host_service import HostServices


class ServiceStep(Step):
    """Something that was done to the network's DHCP and DNS server."""


@dataclass(eq=False)
class _Asked:
    """A network that somebody waits for, and what came of it."""

    desired: NetworkDesired
    outcome: tuple[Step, ...] | Exception | None = None

    async def settle(self, work: Awaitable[tuple[Step, ...]]) -> None:
        """Note what the work gives, or what it raises: that is for who asked."""
        try:
            self.outcome = await work
        except Exception as error:  # noqa: BLE001 - raised again by who asked
            self.outcome = error

    @property
    def steps(self) -> tuple[Step, ...]:
        """What was done, once it is settled."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome or ()


class Datapath:
    """Networks and ports of this host. Every method may be repeated; methods may run at once.

    Args:
        services: where DHCP servers are started.
        directory: where their files are kept.
        namespace: name of the datapath's network namespace.
        host_namespace: name of the namespace with the underlay and libvirt's taps; None for the present one.
        service_prefix: prefix of the names of the DHCP servers' namespaces.
        metadata: answers guests there too; None where nobody does.
    """

    def __init__(
        self,
        services: HostServices,
        directory: Path = Path("/run/kumulus/dns"),
        *,
        namespace: str = "kumulus",
        host_namespace: str | None = None,
        service_prefix: str = "kd",
        metadata: MetadataService | None = None,
    ) -> None:
        self._namespace = namespace
        self._host_namespace = host_namespace
        self._service_prefix = service_prefix
        self._services = services
        self._dnsmasq = Dnsmasq(services, directory)
        self._metadata = metadata
        # One change of the datapath at a time: numbers of networks are given by what was observed.
        self._changing = asyncio.Lock()
        # The kernel answers EBUSY to a second dump of one netlink socket.
        self._reading = asyncio.Lock()
        self._serving: dict[int, asyncio.Lock] = {}
        self._asked: list[_Asked] = []
        self._open = AsyncExitStack()
        self.started = False
        self.unlimited = ""
        """Why rates cannot be limited here; empty if they can."""
        self._limited: dict[int, dict[str, PortDesired]] = {}
        """By network, the ports that have a rate, by tap: this may come later than they."""
        self._marks: Mapping[str, int] = {}
        """Of interfaces, as they were seen or given last: counters go by them."""
        self._host: AsyncIPRoute
        self._datapath: AsyncIPRoute
        self._firewall: Firewall

    async def start(self) -> None:
        """Make the namespace if it is not there, put the fixed rules in place, and open netlink.

        Raises:
            DatapathUnavailable: the host lacks something.
        """
        await namespace.ensure(self._namespace)
        await namespace.configure_datapath(self._namespace)
        self._host = await self._netlink(self._host_namespace)
        self._datapath = await self._netlink(self._namespace)
        self._firewall = self._open.enter_context(closing(Firewall(self._namespace)))
        async with self._changing:
            await self._apply(plan.plan_base(await self.observe()))
            namespace.configure_fragments(self._namespace)
            self.unlimited = await shaping.unsupported(self._datapath)
        self.started = True

    async def _netlink(self, name: str | None) -> AsyncIPRoute:
        # No multicast groups: messages that nobody reads would pile up.
        where = {"fileno": namespace.netlink_socket(name)} if name else {}
        return await self._open.enter_async_context(AsyncIPRoute(groups=0, **where))

    async def close(self) -> None:
        """Close netlink; networks, ports and servers stay."""
        self._services.exits.close()
        if self._metadata is not None:
            await self._metadata.close()
        await self._open.aclose()

    def on_server_exit(self, lost: Callable[[int, float], None]) -> None:
        """Have `lost` called with network and seconds since `ensure_network` when a DHCP server ends by itself."""

        def ended(unit: str, seconds: float) -> None:
            vni = dnsmasq.vni_of(unit)
            if vni is not None:
                lost(vni, seconds)

        self._services.exits.on_exit = ended

    def differs(self, desired: NetworkDesired, observed: Observed) -> bool:
        """Whether `ensure_network` would find something to do besides writing the DHCP server's files."""
        served = desired.service_link is None or (self._dnsmasq.runs(desired.vni) and self._answers(desired.vni))
        return not served or bool(plan.plan(self._within_means(desired), observed))

    def _within_means(self, desired: NetworkDesired) -> NetworkDesired:
        """Leave out the rates if the kernel cannot limit them."""
        if not self.unlimited:
            return desired
        return replace(desired, ports=tuple(replace(port, rates=None) for port in desired.ports))

    def _answers(self, vni: int) -> bool:
        return self._metadata is None or self._metadata.serves(vni, self._service_namespace(vni))

    async def observe(self, wanted: Collection[str] = ()) -> Observed:
        """Read what is in the datapath, and these interfaces of the host."""
        async with self._reading:
            found = await interfaces.observe(self._host, self._datapath, wanted)
            rules = await self._firewall.observe()
            links = await observe_links(self._datapath, self._namespace)
        observed = replace(links, firewall=rules, interfaces=found)
        self._marks = observed.firewall.marks()
        return observed

    async def observe_links(self) -> Observed:
        """Read the datapath's interfaces and forwarding entries, and no rules."""
        async with self._reading:
            return await observe_links(self._datapath, self._namespace)

    @property
    def namespace(self) -> str:
        """The name of the namespace of bridges."""
        return self._namespace

    async def interfaces(self, wanted: Collection[str]) -> dict[str, HostInterface]:
        """Read those of the host's interfaces that are there, taken or not; none while it is on its way."""
        async with self._changing, self._reading:
            return await interfaces.observe(self._host, self._datapath, wanted)

    async def supports_vlans(self) -> bool:
        """Whether the kernel has 8021q, as a module that it loads by itself or built in."""
        return await interfaces.supports_vlans(self._host)

    async def ensure_network(self, desired: NetworkDesired) -> list[Step]:
        """Make the network as desired on this host; return the steps that were needed.

        Networks that are asked for while others are being changed are changed together.
        """
        asked = _Asked(self._within_means(desired))
        self._asked.append(asked)
        try:
            # What the same event has others ask for comes along.
            await asyncio.sleep(0)
            async with self._changing:
                if asked.outcome is None:
                    await self._ensure_asked()
        finally:
            if asked in self._asked:
                self._asked.remove(asked)
        async with self._serving.setdefault(desired.vni, asyncio.Lock()):
            return [*asked.steps, *await self._serve(asked.desired, asked.steps)]

    async def _ensure_asked(self) -> None:
        """Change what was asked for by now: overlays together, what concerns the host's own interfaces by itself.

        Who is cancelled meanwhile leaves the others to the next of them.
        """
        asked = list(self._asked)
        overlays = [item for item in asked if not item.desired.provider]
        if len(overlays) > 1:
            await self._ensure_together(overlays)
        for item in asked:
            if item.outcome is None:
                await item.settle(self._ensure_one(item.desired))
        self._asked = [item for item in self._asked if item.outcome is None]

    async def _ensure_one(self, desired: NetworkDesired) -> tuple[Step, ...]:
        self._note_rates(desired)
        wanted = (desired.uplink.interface,) if desired.uplink is not None else ()
        steps = plan.plan(desired, await self.observe(wanted))
        await self._apply(steps)
        return steps

    async def _ensure_together(self, asked: list[_Asked]) -> None:
        """Change networks by one transaction; if that cannot be had they are left to be changed one by one."""
        for item in asked:
            self._note_rates(item.desired)
        try:
            all_of_them = plan_together([item.desired for item in asked], await self.observe())
            await self._apply(all_of_them.flushes)
            if all_of_them.rules is not None:
                await self._apply((all_of_them.rules,))
        except NetworkError:
            return
        for item, steps in zip(asked, all_of_them.plans, strict=True):
            await item.settle(self._apply_rest(steps))

    async def _apply_rest(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        await self._apply(Together.remaining(steps))
        return steps

    def _note_rates(self, desired: NetworkDesired) -> None:
        self._limited[desired.vni] = {port.tap: port for port in desired.ports if port.rates is not None}

    async def _serve(self, desired: NetworkDesired, steps: tuple[Step, ...]) -> list[Step]:
        target = self._service_namespace(desired.vni)
        if desired.service_link is None:
            return await self._stop_serving(desired.vni, "no port here needs DHCP")
        anew = any(isinstance(step, plan.CreateServiceLink) for step in steps)
        answering = asyncio.create_task(self._answer(desired, target, anew=anew))
        try:
            done = await self._dnsmasq.ensure(desired, namespace.path(target), restart=anew)
        finally:
            await asyncio.wait((answering,))
        return [ServiceStep(target, reason) for reason in (*done, *answering.result())]

    async def _answer(self, desired: NetworkDesired, target: str, *, anew: bool) -> tuple[str, ...]:
        """Have guests' questions for metadata answered; give what was done."""
        opened = self._metadata is not None and await self._metadata.ensure(desired, target, anew=anew)
        return ("answers for metadata",) if opened else ()

    async def _stop_serving(self, vni: int, reason: str) -> list[Step]:
        target = self._service_namespace(vni)
        stopped = await self._dnsmasq.absent(vni)
        if self._metadata is not None:
            await self._metadata.absent(vni)
        removed = await namespace.absent(target)
        return [ServiceStep(target, reason)] if stopped or removed else []

    async def remove_network(self, vni: int) -> list[Step]:
        """Remove the network and all its ports from this host; return the steps that were needed."""
        async with self._serving.setdefault(vni, asyncio.Lock()):
            served = await self._stop_serving(vni, "its network is no longer on this host")
        async with self._changing:
            steps = plan.plan_removal(vni, await self.observe())
            await self._apply(steps)
        self._serving.pop(vni, None)
        self._limited.pop(vni, None)
        return [*served, *steps]

    async def prepare_tap(self, name: str, mtu: int) -> None:
        """Make the tap for a domain that is about to start (never for one that runs): a used one is replaced."""
        await link.absent(self._datapath, name)
        await tap.ensure(self._host, self._host_namespace, name, mtu)

    async def plug(self, name: str, vni: int) -> bool:
        """Move the started domain's tap to the network's bridge; False if it was there.

        The network's rules judge the port from its first frame on: without `ensure_network` naming it, it is closed.

        Raises:
            NetworkAbsent: `ensure_network` has not run for the network, or the tap is nowhere.
        """
        master = names.bridge(vni)
        bridge = await link.seen(self._datapath, master)
        if bridge is None:
            raise NetworkAbsent(f"asked to plug {name}: bridge {master} is not there; ensure the network first")
        found = await link.seen(self._datapath, name)
        if found is None and await link.move(self._host, name, self._namespace):
            found = await link.seen(self._datapath, name)
        if found is None:
            raise NetworkAbsent(f"asked to plug {name}: there is no such tap; prepare it and start the domain first")
        wanted = replace(found, master=bridge.index, mtu=bridge.mtu, up=True)
        if found == wanted:
            return False
        limited = self._limited.get(vni, {}).get(name)
        if limited is not None:
            async with self._changing:
                await self._apply(tuple(bandwidth.shaping(limited, await self.observe())))
        await link.become(self._datapath, wanted)
        return True

    async def plugged(self, name: str) -> bool:
        """Tell whether the tap is on a bridge; cheaper than `observe`."""
        found = await link.seen(self._datapath, name)
        return found is not None and bool(found.master)

    async def unplug(self, name: str) -> bool:
        """Delete the tap, wherever it is; False if there was none."""
        await link.absent(self._datapath, names.queue(name))
        here, there = await link.absent(self._datapath, name), await link.absent(self._host, name)
        return here or there

    async def counters(self, name: str) -> Counters | None:
        """Read a plugged tap's counters; None if it is not plugged."""
        return await tap.counters(self._datapath, name)

    async def dropped(self) -> dict[str, Dropped]:
        """Read what was dropped of each plugged tap's traffic, by name; those of which nothing was are left out."""
        return dropped_of(*await firewall.counts(self._namespace), self._marks)

    async def all_counters(self) -> dict[str, Counters]:
        """Read the counters of all plugged taps (and of the other interfaces), by name."""
        async with self._reading:
            return await tap.all_counters(self._datapath)

    def _service_namespace(self, vni: int) -> str:
        return f"{self._service_prefix}{vni:06x}"

    async def _apply(self, steps: tuple[Step, ...]) -> None:
        for step in steps:
            await self._actuators()[type(step)](step)

    def _actuators(self) -> dict[type[Step], Callable[[Any], Awaitable[object]]]:
        """Return the verb of each kind of step."""
        ipr = self._datapath
        return {
            plan.CreateBridge: lambda s: bridge.ensure(ipr, s.target, s.mtu),
            plan.CreateVxlan: lambda s: vxlan.ensure(
                self._host, ipr, self._namespace, vxlan.Tunnel(s.target, s.vni, s.mtu, s.local)
            ),
            plan.CreateServiceLink: lambda s: service_link.ensure(ipr, self._service_link(s)),
            plan.SetLink: lambda s: link.configure(ipr, s.target, s.mtu, s.master),
            plan.DeleteLink: lambda s: link.absent(ipr, s.target),
            plan.TakeInterface: lambda s: uplinks.take(self._host, s.target, self._namespace, s.note),
            plan.GiveBack: lambda s: uplinks.give_back(ipr, s.target, self._host_namespace, up=s.up, alias=s.alias),
            plan.CreateVlan: lambda s: uplinks.ensure_vlan(
                self._host, ipr, self._namespace, (s.target, s.interface, s.vlan), s.note
            ),
            plan.AddPeer: lambda s: vxlan.ensure_peer(ipr, s.target, s.peer),
            plan.RemovePeer: lambda s: vxlan.absent_peer(ipr, s.target, s.peer),
            plan.AddNeighbour: lambda s: vxlan.ensure_neighbour(ipr, s.target, s.mac, s.peer),
            plan.RemoveNeighbour: lambda s: vxlan.absent_neighbour(ipr, s.target, s.mac),
            plan.AddForward: lambda s: vxlan.ensure_forward(ipr, s.target, s.mac),
            plan.RemoveForward: lambda s: vxlan.absent_forward(ipr, s.target, s.mac),
            plan.ChangeFirewall: lambda s: self._change_rules(s.change),
            plan.JudgeConnections: lambda s: connections.judge(self._namespace, s.zone, s.desired),
            bandwidth.SetRate: lambda s: shaping.set_rate(ipr, s.target, s.bucket),
            bandwidth.RemoveRate: lambda s: shaping.remove_rate(ipr, s.target),
            bandwidth.CreateQueue: lambda s: shaping.ensure_queue(ipr, s.target),
            bandwidth.Redirect: lambda s: shaping.redirect(ipr, s.target, s.through),
            bandwidth.Unredirect: lambda s: shaping.unredirect(ipr, s.target),
            plan.FlushZone: lambda s: firewall.flush_zone(self._namespace, s.zone),
        }

    async def _change_rules(self, change: FirewallChange) -> None:
        await self._firewall.apply(change)
        self._marks = change.result.marks()

    def _service_link(self, step: plan.CreateServiceLink) -> service_link.ServiceLink:
        return service_link.ServiceLink(
            name=step.target,
            namespace=self._service_namespace(step.vni),
            mac=names.service_mac(step.vni),
            addresses=step.addresses,
            gateways=step.gateways,
            mtu=step.mtu,
            note=step.note,
        )
