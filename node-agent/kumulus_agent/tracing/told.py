"""The sentences of a trace: which rule lets a packet through, or which one would (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from kumulus_agent.network.groups import Direction, Flow, GroupKey, GroupRule, Groups, permitting, stateless
from kumulus_agent.network.state import PortDesired
from kumulus_agent.routers.firewall import Firewall, is_about
from kumulus_agent.tracing.state import Hop
from kumulus_api.network_trace import HopKind, TraceVerdict

_NAMES = {1: "ICMP", 6: "TCP", 17: "UDP", 33: "DCCP", 58: "ICMPv6", 132: "SCTP", 136: "UDPLite"}
_KINDS: dict[Direction, HopKind] = {"egress": HopKind.EGRESS_RULES, "ingress": HopKind.INGRESS_RULES}
_REPAIRED = "the agent puts its rules right within about a minute; if this stays, read the log of the host's agent"
_ROUTED = (
    "have its range routed to the router, and the external network say so (routedPrefixes), let the gateway translate "
    "(enableSNATIPv6), or give the server an IPv6 floating IP"
)

_REWRITTEN = (
    "the agent puts back chains and addresses within about a minute; of a chain that is there it misses no rule: "
    "change a rule of the group, which has the chain written anew"
)


def packet(flow: Flow) -> str:
    """Say what a packet is, as in `TCP port 80 from 10.0.0.11 to 10.0.0.12`."""
    name = _NAMES.get(flow.protocol, f"protocol {flow.protocol}")
    what = f"{name} type {flow.first}" if flow.protocol in (1, 58) else f"{name} port {flow.second}"
    return f"{what} from {flow.source} to {flow.destination}"


def rule(item: GroupRule) -> str:
    """Say what a rule lets through."""
    if item.protocol is None:
        what = f"all of IPv{item.family}"
    else:
        what = _NAMES.get(item.protocol, f"protocol {item.protocol}")
    if item.ports:
        first, last = item.ports
        what += f" port {first}" if first == last else f" ports {first} to {last}"
    if item.icmp:
        what += f" type {item.icmp[0]}" + (f" code {item.icmp[1]}" if item.icmp[1] is not None else "")
    word = "from" if item.direction == "ingress" else "to"
    if isinstance(item.remote, tuple):
        return f"{what} {word} members of group {item.remote[1]}"
    if isinstance(item.remote, IPv4Network | IPv6Network) and item.remote.prefixlen:
        return f"{what} {word} {item.remote}"
    return f"{what} {word} anywhere"


def judged(port: PortDesired, groups: Groups, direction: Direction, flow: Flow, *, passed: bool) -> Hop:
    """Say why the kernel's rules let a port's packet through or drop it, by the rules that the API has.

    Args:
        port: as it was applied.
        groups: those that it is in.
        direction: as seen from the port.
        flow: the packet.
        passed: what the kernel does.
    """
    kind, word = _KINDS[direction], "out" if direction == "egress" else "in"
    verdict = TraceVerdict.PASSED if passed else TraceVerdict.DROPPED
    if port.groups is None:
        if passed:
            return Hop(kind, port.tap, verdict, "the port has no port security: nothing is judged")
        return Hop(kind, port.tap, verdict, "the port has no port security, and yet the kernel drops it", _REPAIRED)
    names = _names(port.groups)
    found = permitting(port.groups, groups, direction, flow)
    if passed and found is not None:
        key, item = found
        message = f"{direction} rule of group {key[1]} lets {word} {rule(item)}"
        if stateless(port.groups, groups):
            other = "ingress" if direction == "egress" else "egress"
            message += f"; the group is stateless: answers need an {other} rule of their own"
        return Hop(kind, "/".join(key), verdict, message)
    if passed:
        message = f"the kernel lets {word} {packet(flow)}, though no {direction} rule of {names} does"
        return Hop(kind, names, verdict, message, _REPAIRED)
    if found is not None:
        message = f"the {direction} rule of group {found[0][1]} for {rule(found[1])} is missing in the kernel"
        return Hop(kind, names, verdict, message, _REWRITTEN)
    message = f"no {direction} rule of {names} lets {word} {packet(flow)}: what no rule lets {word} is dropped"
    remedy = f"add an {direction} rule for it to {names}" if port.groups else "put the port into a group"
    return Hop(kind, names, verdict, message, remedy)


def firewall(wanted: Firewall, direction: Direction, group: str, flow: Flow, *, passed: bool) -> Hop:
    """Say why a firewall group on a router's interface lets a packet through or drops it, by the rules of the API.

    Args:
        wanted: the router's firewall.
        direction: out of the network of the interface (egress), or into it.
        group: its name.
        flow: the packet, as the router sees it.
        passed: what the kernel does.
    """
    verdict = TraceVerdict.PASSED if passed else TraceVerdict.DROPPED
    rules = next((guard.rules(direction) for guard in wanted.guards if guard.group == group), ())
    found = next((item for item in rules if is_about(item, flow)), None)
    allowed = found is not None and found.action == "Allow"
    remedy = ""
    if found is not None:
        message = f"{direction} rule {found.name} of firewall group {group} ({found.action}) is about {packet(flow)}"
        remedy = "" if passed else f"change that rule of firewall group {group}, or put one that allows it before"
    else:
        message = (
            f"no {direction} rule of firewall group {group} is about {packet(flow)}: what no rule allows is denied"
        )
        remedy = f"add an {direction} rule that allows it to firewall group {group}"
    if allowed is not passed:
        message, remedy = f"{message}, but the kernel {'lets it pass' if passed else 'drops it'}", _REPAIRED
    return Hop(HopKind.FIREWALL, group, verdict, message, remedy)


def checked(port: PortDesired, chain: str, flow: Flow, mac: str) -> Hop:
    """Say whether a port may use the packet's MAC and address; `chain` is the one that dropped it, or "".

    The chains are named by what they look at: the frame's MAC first, then its address.
    """
    if not chain:
        message = f"{flow.source} and {mac} are the port's to use"
        if not port.secured:
            message = "the port has no port security: it may use whatever address it likes"
        return Hop(HopKind.ADDRESS_CHECK, port.tap, TraceVerdict.PASSED, message)
    ours = flow.source in port.sources or any(flow.source in network for network in port.ranges)
    if ours and mac in port.macs:
        message = f"{flow.source} and {mac} are the port's, but the kernel does not know that (chain {chain})"
        return Hop(HopKind.ADDRESS_CHECK, port.tap, TraceVerdict.DROPPED, message, _REPAIRED)
    message = f"the port may not send from {flow.source} with {mac} (chain {chain})"
    remedy = "send from the port's own address, or add an allowed address pair to the Port"
    return Hop(HopKind.ADDRESS_CHECK, port.tap, TraceVerdict.DROPPED, message, remedy)


def dropped(kind: HopKind, name: str, chain: str) -> Hop:
    """Say which chain of the kernel's dropped a packet for which no group is to blame."""
    why = {
        "entering": "the frame is not let into the network: its interface is unknown to the rules, or it says what "
        "only a router or a server of the network says",
        "crossing": "the bridge's rules do not let it pass between these two interfaces",
        "excess": "the port has begun too many connections",
        "leaving": "the router does not let it out: it is for a link, is not translated, or is for a network behind a "
        "tunnel that is not established",
        "unrouted": "the outside does not route this IPv6 network to the router, which does not translate it either",
    }.get(chain, "a rule of the kernel drops it")
    remedy = _ROUTED if chain == "unrouted" else _REPAIRED
    return Hop(kind, name, TraceVerdict.DROPPED, f"{why} (chain {chain})", remedy)


def point(flow: Flow) -> str:
    """Say where a packet goes."""
    return f"{flow.destination} port {flow.second}" if flow.protocol in (6, 17) else str(flow.destination)


def _names(keys: Iterable[GroupKey]) -> str:
    named = ", ".join(sorted(name for _, name in keys))
    return (
        f"one of security groups {named}"
        if "," in named
        else f"security group {named}"
        if named
        else "no security group"
    )
