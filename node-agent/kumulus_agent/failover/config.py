"""What keepalived is told of one VRRP instance (pure); keepalived.conf(5).

The members of an instance speak to each other alone (unicast), over a link that nobody else can send to. None preempts:
who leads goes on leading until the others hear nothing of it, and what came back waits. Where two have led apart, the
one of greater priority stays: give that to the member that takes over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

_NAME = re.compile(r"[a-z0-9-]{1,30}")
_LINK = re.compile(r"[a-z0-9]{1,15}")
_PATH = re.compile(r"/[A-Za-z0-9/._-]+")
_LOOK = "/usr/sbin/start-stop-daemon --status"
_LOOK_SECONDS = 1
_LOOK_AT_MOST = 3
"""Seconds that a look may take on a busy host: what lasts longer counts as one that found nothing."""
_MISSED = 2
"""So many looks in a row that find nothing: a program that its own host has again at once costs no takeover."""
_IPV6 = 6
_PRIORITIES = range(1, 255)
"""Those that VRRP leaves to choose: 0 says farewell, 255 is the owner's, who would preempt."""
_NUMBERS = range(1, 256)
_TICKS = 100
"""Adverts are timed in hundredths of a second."""


@dataclass(frozen=True, order=True)
class VirtualAddress:
    """An address that the leader has, alone: 203.0.113.2, on a link; it is announced there when it comes."""

    link: str
    address: str

    def __post_init__(self) -> None:
        _check(_LINK, self.link, "an interface name")
        ip_address(self.address)


@dataclass(frozen=True, order=True)
class VirtualRule:
    """A policy rule of the leader alone: which table is asked for all of a family, from an address or to some."""

    preference: int
    table: int
    source: str = ""
    family: int = 4
    destination: str = ""

    def __post_init__(self) -> None:
        if self.source and ip_address(self.source).version != self.family:
            raise ValueError(f"{self.source} is no address of IPv{self.family}")
        if self.destination and ip_network(self.destination).version != self.family:
            raise ValueError(f"{self.destination} is no network of IPv{self.family}")


@dataclass(frozen=True)
class Tracked:
    """A program without which a member does not lead, whoever else looks after it.

    Attributes:
        pid_file: where it says which process it is.
        program: what that process executes; another one that has its number by now is not it.
    """

    pid_file: Path
    program: Path

    def __post_init__(self) -> None:
        for path in (self.pid_file, self.program):
            _check(_PATH, str(path), "a path without blanks and quotes")


@dataclass(frozen=True)
class Instance:
    """One member's part of a VRRP instance.

    Attributes:
        interface: the link to the other members, in the namespace where keepalived runs.
        source: this member's address there; link-local IPv6, which no router passes on, keeps others out.
        peers: the other members' addresses there.
        priority: 1 … 254, another for each member.
        addresses: those of the leader. One of the family of `source` on `interface` is needed: for that adverts speak,
            and members that know of others there would not hear each other.
        rules: those of the leader.
        router_id: 1 … 255, for all members the same.
        advert_seconds: how often the leader is heard of, 0.01 … 40.95; after three that are missed, and up to one more
            by priority, another leads.
        delay_seconds: how long a member that has just started waits before it may lead.
        refresh_seconds: how often the leader announces its addresses again.
        tracked: what has to run; looked at each second.
    """

    interface: str
    source: str
    peers: tuple[str, ...]
    priority: int
    addresses: frozenset[VirtualAddress]
    rules: frozenset[VirtualRule] = frozenset()
    router_id: int = 1
    advert_seconds: float = 1.0
    delay_seconds: int = 0
    refresh_seconds: int = 5
    tracked: Tracked | None = None

    def __post_init__(self) -> None:
        _check(_LINK, self.interface, "an interface name")
        if self.priority not in _PRIORITIES or self.router_id not in _NUMBERS:
            raise ValueError(f"priority {self.priority} is not within 1 and 254, or router id {self.router_id} not 255")
        if not 1 <= round(self.advert_seconds * _TICKS) <= 4095:
            raise ValueError(f"adverts every {self.advert_seconds} s are not within 0.01 and 40.95")
        if not self.peers or {ip_address(peer).version for peer in self.peers} != {self.family}:
            raise ValueError(f"peers {self.peers} of {self.source} are none, or not of its family")
        if not list(self.of_family(own=True)):
            raise ValueError(f"{self.source} speaks for no address of its family on its link, which VRRP needs")

    @property
    def family(self) -> int:
        """4 or 6: of the members' own addresses."""
        return ip_address(self.source).version

    def of_family(self, *, own: bool) -> Iterator[VirtualAddress]:
        """Yield the addresses of the members' family on their link, or all others."""
        for address in sorted(self.addresses):
            spoken = ip_address(address.address).version == self.family and address.link == self.interface
            if spoken is own:
                yield address


@dataclass(frozen=True)
class Files:
    """Where a keepalived has its files."""

    directory: Path

    @property
    def config(self) -> Path:
        """What it is told; it reads this again at a SIGHUP."""
        return self.directory / "keepalived.conf"

    @property
    def fifo(self) -> Path:
        """Where it says that its state is another: INSTANCE "gateway" MASTER 100."""
        return self.directory / "notify.fifo"

    @property
    def role(self) -> Path:
        """What it said last."""
        return self.directory / "role"

    def argv(self) -> tuple[str, ...]:
        """Give the command line; its namespace is chosen by who starts it."""
        pids = (f"--pid={self.directory / 'keepalived.pid'}", f"--vrrp_pid={self.directory / 'vrrp.pid'}")
        return ("keepalived", "--dont-fork", "--vrrp", "--log-console", f"--use-file={self.config}", *pids)


def render(name: str, instance: Instance, files: Files) -> str:
    """Give the text of keepalived's file.

    Args:
        name: of the instance, for its log and its notices.
        instance: this member's part.
        files: where it tells of its state.
    """
    _check(_NAME, name, "a name of lower-case letters, digits and hyphens")
    return "\n".join([*_global(instance, files), *_track(instance.tracked), *_instance(name, instance), ""])


def _global(instance: Instance, files: Files) -> Iterator[str]:
    yield "global_defs {"
    yield "    vrrp_version 3"
    yield f"    vrrp_notify_fifo {files.fifo}"
    yield f"    vrrp_garp_master_refresh {instance.refresh_seconds}"
    if instance.delay_seconds:
        yield f"    vrrp_startup_delay {instance.delay_seconds}"
    if instance.tracked is not None:
        yield "    enable_script_security"
        yield "    script_user root"
    yield "}"


def _track(tracked: Tracked | None) -> Iterator[str]:
    """Look at a process by its number and what it executes: what only waits to be noticed as ended executes nothing.

    keepalived's own way to hear of processes works in the host's own namespace alone; pgrep reads about all of them.
    """
    if tracked is None:
        return
    yield "vrrp_script program {"
    yield f'    script "{_LOOK} --pidfile {tracked.pid_file} --exec {tracked.program}"'
    yield f"    interval {_LOOK_SECONDS}"
    yield f"    timeout {_LOOK_AT_MOST}"
    yield f"    fall {_MISSED}"
    yield "    rise 1"
    yield "}"


def _instance(name: str, instance: Instance) -> Iterator[str]:
    yield f"vrrp_instance {name} {{"
    yield "    state BACKUP"
    yield "    nopreempt"
    yield f"    interface {instance.interface}"
    yield f"    virtual_router_id {instance.router_id}"
    yield f"    priority {instance.priority}"
    yield f"    advert_int {instance.advert_seconds:g}"
    if instance.family == _IPV6:
        yield "    native_ipv6"
    yield f"    unicast_src_ip {instance.source}"
    yield from _block("unicast_peer", sorted(instance.peers))
    yield from _block("virtual_ipaddress", map(_address, instance.of_family(own=True)))
    yield from _block("virtual_ipaddress_excluded", map(_address, instance.of_family(own=False)))
    yield from _block("virtual_rules", map(_rule, sorted(instance.rules)))
    yield from _block("track_script", ["program"] if instance.tracked is not None else [])
    yield "}"


def _block(keyword: str, lines: Iterable[str]) -> Iterator[str]:
    found = list(lines)
    if found:
        yield f"    {keyword} {{"
        yield from (f"        {line}" for line in found)
        yield "    }"


def _address(item: VirtualAddress) -> str:
    address = ip_address(item.address)
    if isinstance(address, IPv4Address):
        return f"{address}/32 dev {item.link}"
    # By itself keepalived would have other addresses preferred to one without a network, as sources.
    return f"{address}/128 dev {item.link}{'' if address.is_link_local else ' preferred_lft forever'}"


def _rule(rule: VirtualRule) -> str:
    every = "::/0" if rule.family == _IPV6 else "0.0.0.0/0"
    to = f" to {rule.destination}" if rule.destination else ""
    return f"from {rule.source or every}{to} lookup {rule.table} preference {rule.preference}"


def _check(pattern: re.Pattern[str], value: str, what: str) -> None:
    if not pattern.fullmatch(value):
        raise ValueError(f"{value!r} is not {what}")
