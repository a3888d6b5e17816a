"""What the rules of a namespace do with a packet: a pure reading of `nft -j list ruleset`.

The packet is the first of a connection, or the answer to it, which `connections` finds.

The rules are read as the kernel has them, whoever wrote them: what is not there lets through or drops as it does there.
What cannot be judged from a packet alone (bytes behind the headers, statements that this reader does not know) is told
as such, and not guessed. How often something happens is not looked at: no rate is exceeded by one packet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from kumulus_agent.network.groups import ICMP, Flow
from kumulus_agent.tracing.connections import INVALID, NEW, UNTRACKED, Connection, steps
from kumulus_agent.tracing.words import DIRECTIONS, ETHER_TYPES, FAMILIES, STATUSES, Field, Value, number, width

_TERMINAL: Final = {"accept": "accept", "drop": "drop", "reject": "drop", "return": "return"}
_PORTS: Final = {"tcp": 6, "udp": 17, "dccp": 33, "sctp": 132, "udplite": 136}
_PASSED_OVER: Final = ("counter", "comment", "log", "limit")
_DEPTH: Final = 16


class Unjudged(Exception):
    """A rule cannot be judged from what is known of the packet; the message says which, and why."""


class _Unmatched(Exception):
    """The rule is about another packet."""


@dataclass(frozen=True)
class Frame:
    """The packet as it is at a hook.

    Attributes:
        flow: its addresses and ports.
        source_mac: lower case, as the other.
        incoming: the interface that it came by, as the other one it leaves by.
        mark: of the packet.
        translated: bits of the connection's status.
        local: addresses of the namespace.
        answer: it is no first packet, but the answer to one.
        known: the connections of the namespace that it may be of.
        zone: of connection tracking.
        state: of its connection, as bits of `words.STATES`.
        connection: the one that it answers.
    """

    flow: Flow
    source_mac: str = ""
    destination_mac: str = ""
    incoming: str = ""
    outgoing: str = ""
    mark: int = 0
    translated: int = 0
    local: frozenset[IPv4Address | IPv6Address] = frozenset()
    answer: bool = False
    known: tuple[Connection, ...] = ()
    zone: int = 0
    state: int = NEW
    connection: Connection | None = None


@dataclass(frozen=True)
class Passage:
    """What became of a packet at a hook.

    Attributes:
        frame: as it is then.
        dropped: the chain that dropped it; "" if none did.
        path: the chains that it went through, in order.
    """

    frame: Frame
    dropped: str = ""
    path: tuple[str, ...] = ()


@dataclass
class Ruleset:
    """Tables, chains, sets and maps of a namespace.

    Attributes:
        chains: rules by family, table and name.
        hooks: base chains by family and hook, in the kernel's order.
        sets: elements by family, table and name.
    """

    chains: dict[tuple[str, str, str], list[Sequence[Any]]] = field(default_factory=dict)
    hooks: dict[tuple[str, str], list[tuple[int, str, str, str, str]]] = field(default_factory=dict)
    sets: dict[tuple[str, str, str], Sequence[Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, listed: Iterable[Mapping[str, Any]]) -> Ruleset:
        """Read the objects of `nft --json list ruleset`."""
        made = cls()
        for kind, item in (pair for entry in listed for pair in entry.items()):
            family, table, name = item.get("family", ""), item.get("table", ""), item.get("name", "")
            if kind == "chain":
                made.chains.setdefault((family, table, name), [])
                if "hook" in item:
                    base = (item["prio"], table, name, item.get("policy", "accept"), item.get("type", "filter"))
                    made.hooks.setdefault((family, item["hook"]), []).append(base)
            elif kind == "rule":
                made.chains.setdefault((family, table, item["chain"]), []).append(item["expr"])
            elif kind in ("set", "map"):
                made.sets[family, table, name] = item.get("elem", ())
        return made

    def elements(self, family: str, table: str, name: str) -> Iterator[tuple[Any, Any]]:
        """Yield the keys of a set, or keys and values of a map, as nft prints them."""
        for element in self.sets.get((family, table, name), ()):
            key, value = element if isinstance(element, list) else (element, None)
            yield (key["elem"]["val"] if isinstance(key, dict) and "elem" in key else key), value


def pass_hook(rules: Ruleset, families: Sequence[str], hook: str, frame: Frame) -> Passage:
    """Say what the chains at a hook do with a packet.

    Args:
        rules: of the namespace.
        families: whose chains see it there, as in ("inet", "ip").
        hook: its name.
        frame: the packet.

    Raises:
        Unjudged: a rule could not be judged.
    """
    bases = sorted((base, family) for family in families for base in rules.hooks.get((family, hook), ()))
    path: list[str] = []
    kernels = steps(hook, families)
    for (priority, table, name, policy, kind), family in bases:
        while kernels and kernels[0][0] <= priority:
            frame = kernels.pop(0)[1](frame)
        if kind == "nat" and frame.state != NEW:
            # What is translated is decided by the first packet of a connection.
            continue
        walk = _Walk(rules, family, table, frame, path)
        verdict = walk.chain(name) or policy
        frame = walk.frame
        if verdict == "drop":
            return Passage(frame, walk.dropped or name, tuple(path))
    for _, step in kernels:
        frame = step(frame)
    return Passage(frame, "", tuple(path))


class _Walk:
    """One table's way with one packet."""

    def __init__(self, rules: Ruleset, family: str, table: str, frame: Frame, path: list[str]) -> None:
        self._rules, self._family, self._table = rules, family, table
        self.frame, self._path = frame, path
        self.dropped = ""
        """The chain whose rule dropped it."""

    def chain(self, name: str, depth: int = 0) -> str | None:
        """Give accept or drop; None if it returns."""
        if depth > _DEPTH:
            raise Unjudged(f"chain {name} is called too deep")
        self._path.append(name)
        for expressions in self._rules.chains.get((self._family, self._table, name), ()):
            verdict = self._rule(name, expressions, depth)
            if verdict == "return":
                return None
            if verdict is not None:
                return verdict
        return None

    def _rule(self, name: str, expressions: Sequence[Any], depth: int) -> str | None:
        try:
            for expression in expressions:
                verdict = self._statement(expression, depth)
                if verdict == "drop":
                    # The chain that was called has noted itself before.
                    self.dropped = self.dropped or name
                if verdict is not None:
                    return verdict
        except _Unmatched:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise Unjudged(f"a rule of chain {name} is not understood: {error}") from error
        return None

    def _statement(self, expression: Any, depth: int) -> str | None:
        """Give a verdict, or None to go on with the rule."""
        named: dict[str, Any] = expression if isinstance(expression, dict) else {str(expression): None}
        kind, value = next(iter(named.items()))
        if kind in _TERMINAL:
            return _TERMINAL[kind]
        if kind in ("jump", "goto"):
            return self._call(kind, value["target"], depth)
        if kind == "match":
            self._match(value)
        elif kind == "vmap":
            return self._verdict(self._looked_up(value), depth)
        elif kind in ("mangle", "notrack"):
            self._change(value)
        elif kind in ("dnat", "snat"):
            self._translate(kind, value)
            return "accept"
        elif kind == "set":
            # A limit that one packet does not exceed: the rule goes no further.
            if value.get("stmt"):
                raise _Unmatched
        elif kind not in _PASSED_OVER:
            raise ValueError(f"the statement {kind}")
        return None

    def _call(self, kind: str, target: str, depth: int) -> str | None:
        verdict = self.chain(target, depth + 1)
        # After a goto nothing of the present chain is looked at any more.
        return verdict or ("return" if kind == "goto" else None)

    def _verdict(self, found: Any, depth: int) -> str | None:
        if not isinstance(found, dict):
            raise _Unmatched
        return self._statement(found, depth)

    def _match(self, value: Mapping[str, Any]) -> None:
        left, right, op = value["left"], value["right"], value["op"]
        if isinstance(left, dict) and "exthdr" in left:
            # The first packet that is judged is no fragment.
            if right is not False or op != "==":
                raise _Unmatched
            return
        fields, found = self._value(left)
        flags = fields in ([("ct", "status")], [("ct", "state")])
        if op in ("in", "!") or (flags and op == "==" and isinstance(right, str)):
            wanted = _bits(fields[0], right)
            held = bool(found[0] & wanted)  # type: ignore[operator]
            holds = not held if op == "!" else held
        elif op in ("==", "!="):
            holds = self._within(fields, found, right) == (op == "==")
        else:
            raise ValueError(f"the comparison {op}")
        if not holds:
            raise _Unmatched

    def _within(self, fields: list[Field], found: list[Value], right: Any) -> bool:
        if isinstance(right, str) and right.startswith("@"):
            return any(_equal(fields, found, key) for key, _ in self._named(right))
        if isinstance(right, dict) and "set" in right:
            return any(_equal(fields, found, item) for item in _listed(right["set"]))
        return _equal(fields, found, right)

    def _named(self, reference: str) -> Iterator[tuple[Any, Any]]:
        return self._rules.elements(self._family, self._table, reference.removeprefix("@"))

    def _looked_up(self, value: Mapping[str, Any]) -> Any:
        fields, found = self._value(value["key"])
        data = value["data"]
        pairs = self._named(data) if isinstance(data, str) else iter([(pair[0], pair[1]) for pair in data["set"]])
        for key, result in pairs:
            if _equal(fields, found, key):
                return result
        raise _Unmatched

    def _value(self, left: Any) -> tuple[list[Field], list[Value]]:
        """Give where values come from, and the values; several of a concatenation."""
        ((kind, value),) = left.items()
        if kind == "concat":
            parts = [self._value(part) for part in value]
            return [part[0][0] for part in parts], [part[1][0] for part in parts]
        if kind in ("&", "|"):
            fields, (first,) = self._value(value[0])
            mask = int(number(fields[0], value[1]))
            return fields, [int(first) & mask if kind == "&" else int(first) | mask]
        if kind == "meta":
            return [("meta", value["key"])], [self._meta(value["key"])]
        if kind == "fib" and value == {"result": "type", "flags": ["daddr"]}:
            kinds = ("fib", "type")
            return [kinds], ["local" if self.frame.flow.destination in self.frame.local else "unicast"]
        if kind == "ct":
            return [("ct", value["key"])], [self._tracked(value["key"])]
        if kind == "rt":
            # What rules ask of the next hop is how fast it may be asked for: one packet does not exceed that.
            raise _Unmatched
        if kind == "payload" and "protocol" in value:
            named = (value["protocol"], value["field"])
            return [named], [_header(self.frame, *named)]
        raise ValueError(f"the expression {kind}")

    def _meta(self, key: str) -> Value:
        frame, six = self.frame, self.frame.flow.source.version == 6
        known: dict[str, Value] = {
            "iifname": frame.incoming,
            "oifname": frame.outgoing,
            "mark": frame.mark,
            "nfproto": FAMILIES["ipv6" if six else "ipv4"],
            "l4proto": frame.flow.protocol,
            "protocol": ETHER_TYPES["ip6" if six else "ip"],
        }
        return known[key]

    def _tracked(self, key: str) -> Value:
        """What holds of the packet's connection."""
        frame = self.frame
        if frame.state in (INVALID, UNTRACKED) and key != "state":
            # It has none, and the kernel passes the rule over.
            raise _Unmatched
        direction = DIRECTIONS["original" if frame.connection is None else "reply"]
        fixed = {"state": frame.state, "mark": 0, "zone": frame.zone, "direction": direction}
        return {**fixed, "status": frame.translated}[key]

    def _change(self, value: Mapping[str, Any] | None) -> None:
        if value is None:
            self.frame = replace(self.frame, state=UNTRACKED)
            return
        key, given = value["key"], value["value"]
        ((kind, what),) = key.items()
        result = self._result(given)
        if (kind, what.get("key")) == ("meta", "mark"):
            self.frame = replace(self.frame, mark=int(result))
        elif (kind, what.get("field")) == ("payload", "saddr") and what["protocol"] == "ether":
            self.frame = replace(self.frame, source_mac=str(result))
        elif (kind, what.get("key")) == ("ct", "zone"):
            self.frame = replace(self.frame, zone=int(result))
        elif kind != "ct":
            raise ValueError(f"a change of {what}")

    def _result(self, given: Any) -> Any:
        if isinstance(given, dict) and "map" in given:
            return self._looked_up(given["map"])
        return given

    def _translate(self, kind: str, value: Mapping[str, Any]) -> None:
        flow = self.frame.flow
        changes: dict[str, Any] = {}
        if "addr" in value:
            changes["destination" if kind == "dnat" else "source"] = ip_address(self._result(value["addr"]))
        if "port" in value and flow.protocol in _PORTS.values():
            changes["second" if kind == "dnat" else "first"] = int(value["port"])
        self.frame = replace(
            self.frame, flow=replace(flow, **changes), translated=self.frame.translated | STATUSES[kind]
        )


def _bits(named: Field, right: Any) -> int:
    words = _listed(right["set"]) if isinstance(right, dict) else right if isinstance(right, list) else [right]
    total = 0
    for word in words:
        total |= int(number(named, word))
    return total


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def _equal(fields: list[Field], found: list[Value], given: Any) -> bool:
    """Whether values are those of a literal, or within it."""
    if isinstance(given, dict) and "concat" in given:
        return all(_one(*pair) for pair in zip(fields, found, given["concat"], strict=True))
    return _one(fields[0], found[0], given)


def _one(named: Field, found: Value, given: Any) -> bool:
    if isinstance(given, dict) and "range" in given:
        first, last = (number(named, end) for end in given["range"])
        return bool(first <= found <= last)  # type: ignore[operator]
    if isinstance(given, dict) and "prefix" in given:
        prefix = given["prefix"]
        rest: int = width(named, str(prefix["addr"])) - prefix["len"]
        return int(found) >> rest == int(number(named, prefix["addr"])) >> rest
    return bool(number(named, given) == found)


def _header(frame: Frame, protocol: str, name: str) -> Value:
    flow, six = frame.flow, not isinstance(frame.flow.source, IPv4Address)
    if protocol == "ether":
        macs = {"saddr": frame.source_mac, "daddr": frame.destination_mac}
        if name == "type":
            return ETHER_TYPES["ip6" if six else "ip"]
        # One that nobody knows is none that a rule names.
        return number(("ether", name), macs[name]) if macs[name] else -1
    if protocol in ("ip", "ip6"):
        if (protocol == "ip6") != six:
            raise _Unmatched
        ends: dict[str, Value] = {"saddr": int(flow.source), "daddr": int(flow.destination)}
        # The packet that is judged is no fragment.
        return {**ends, "protocol": flow.protocol, "nexthdr": flow.protocol, "frag-off": 0}[name]
    if protocol in ("icmp", "icmpv6"):
        if flow.protocol != ICMP[6 if protocol == "icmpv6" else 4]:
            raise _Unmatched
        return {"type": flow.first, "code": flow.second}[name]
    if protocol in _PORTS or protocol == "th":
        if flow.protocol != _PORTS.get(protocol, flow.protocol):
            raise _Unmatched
        return {"sport": flow.first, "dport": flow.second}[name]
    # Of another protocol: ARP, VLAN and whatever else the packet is not.
    raise _Unmatched
