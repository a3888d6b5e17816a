"""HAProxy's configuration for a load balancer (pure).

What users write was checked by the API's schema; nothing here needs quotes, and what would is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from ipaddress import ip_address
from pathlib import Path

from kumulus_api.load_balancer import (
    AssignedListener,
    AssignedMember,
    BalancingAlgorithm,
    HealthCheck,
    HealthCheckType,
    ListenerProtocol,
)

_ALGORITHMS = {
    BalancingAlgorithm.ROUND_ROBIN: "roundrobin",
    BalancingAlgorithm.LEAST_CONNECTIONS: "leastconn",
    BalancingAlgorithm.SOURCE_IP: "source",
}
_WORD = re.compile(r"[A-Za-z0-9/._~%?=&:@,;+\[\]-]+")
THREADS = 2
_FILES = 1000
"""Besides two for each connection, and one for each member that is checked; HAProxy does not begin with very few."""
_MOST_FILES = 262_144
GRACE = "12h"
"""So long a former configuration's connections may last after it was replaced."""


@dataclass(frozen=True)
class Files:
    """Where a load balancer's files are; its folder is read by nobody else."""

    directory: Path

    @property
    def config(self) -> Path:
        """What HAProxy reads."""
        return self.directory / "haproxy.cfg"

    @property
    def draft(self) -> Path:
        """The next configuration, while it is being checked."""
        return self.directory / "haproxy.cfg.draft"

    @property
    def socket(self) -> Path:
        """Where HAProxy is asked for its state."""
        return self.directory / "s"

    @property
    def pid(self) -> Path:
        """Where HAProxy says which process it is."""
        return self.directory / "pid"

    @property
    def root(self) -> Path:
        """An empty folder: all that HAProxy sees of the host's files."""
        return self.directory / "root"


def argv(files: Files) -> tuple[str, ...]:
    """Give the command: a master that re-executes itself at SIGUSR2, and workers that it replaces."""
    return ("haproxy", "-W", "-f", str(files.config))


def check_argv(files: Files) -> tuple[str, ...]:
    """Give the command that checks the draft, and binds nothing."""
    return ("haproxy", "-c", "-q", "-f", str(files.draft))


def digest_of(text: str) -> str:
    """Give what tells a configuration from others; HAProxy tells it by its socket."""
    return blake2s(text.encode(), digest_size=16).hexdigest()


def render(
    listeners: Sequence[AssignedListener],
    addresses: Sequence[str],
    files: Files,
    certificates: Mapping[str, Path] | None = None,
) -> str:
    """Give the configuration.

    Args:
        listeners: with their members.
        addresses: that each of them listens on.
        files: of the load balancer.
        certificates: by the names of listeners whose TLS ends here; one without a certificate is left out.
    """
    known = certificates or {}
    served = [item for item in listeners if (item.tls is None or item.name in known) and needs_haproxy([item])]
    lines = (line for item in served for line in _listen(item, addresses, known.get(item.name)))
    body = "\n".join([*_global(served, files), *lines])
    return f"# Written by the Kumulus agent.\nglobal\n    description {digest_of(body)}\n{body}\n"


def needs_haproxy(listeners: Iterable[AssignedListener]) -> bool:
    """Whether HAProxy has something to do: datagrams it does not pass on, but may check who gets them."""
    return any(item.protocol is not ListenerProtocol.UDP or checked_by_haproxy(item) for item in listeners)


def checked_by_haproxy(listener: AssignedListener) -> bool:
    """Whether HAProxy asks a listener's members how they are."""
    check = listener.health_check
    return check is not None and check.type is not HealthCheckType.UDP_CONNECT


def description_of(text: str) -> str:
    """Give the digest that a configuration of `render` says of itself."""
    return text.split("description ", 1)[1].split("\n", 1)[0]


def _global(listeners: Sequence[AssignedListener], files: Files) -> Iterator[str]:
    # Without a limit of its own HAProxy takes as many connections as it may have files, and memory for all of them.
    taken = (0 if item.protocol is ListenerProtocol.UDP else 2 * item.connection_limit for item in listeners)
    needed = sum(taken) + sum(len(item.members) for item in listeners)
    yield f"    fd-hard-limit {min(_MOST_FILES, _FILES + needed)}"
    yield f"    nbthread {THREADS}"
    yield "    user haproxy"
    yield "    group haproxy"
    yield f"    chroot {files.root}"
    yield f"    pidfile {files.pid}"
    yield f"    stats socket {files.socket} mode 600 level operator expose-fd listeners"
    yield f"    hard-stop-after {GRACE}"
    yield "    ssl-default-bind-options ssl-min-ver TLSv1.2"
    yield "    spread-checks 5"
    if not listeners:
        # A configuration without any proxy is refused.
        yield "frontend none"
        yield "    mode tcp"
        yield "    timeout client 1s"
        yield "    bind 127.0.0.1:1"


def _listen(listener: AssignedListener, addresses: Sequence[str], certificate: Path | None) -> Iterator[str]:
    if listener.protocol is ListenerProtocol.UDP:
        yield from _check_alone(listener)
        return
    spans = listener.timeouts
    http = listener.protocol is not ListenerProtocol.TCP
    yield f"listen {_word(listener.name)}"
    yield f"    mode {'http' if http else 'tcp'}"
    for address in addresses:
        yield f"    bind {_at(address, listener.port)}{_tls(certificate)}"
    yield f"    maxconn {listener.connection_limit}"
    yield f"    timeout client {spans.client_seconds}s"
    yield f"    timeout connect {spans.connect_seconds}s"
    yield f"    timeout server {spans.member_seconds}s"
    yield f"    timeout queue {spans.connect_seconds}s"
    yield f"    balance {_ALGORITHMS[listener.algorithm]}"
    if listener.algorithm is BalancingAlgorithm.SOURCE_IP:
        # A member that comes or goes moves its own clients, and nobody else's.
        yield "    hash-type consistent"
    yield "    option redispatch"
    yield "    option allbackups"
    if http:
        yield "    option forwardfor"
        yield "    option http-keep-alive"
        yield f"    timeout http-request {min(10, spans.client_seconds)}s"
        yield f"    http-request set-header X-Forwarded-Proto {'https' if certificate is not None else 'http'}"
        yield f"    http-request set-header X-Forwarded-Port {listener.port}"
        kept = listener.session_persistence
        if kept is not None:
            secure = " secure" if certificate is not None else ""
            yield f"    cookie {_word(kept.cookie_name)} insert indirect nocache httponly{secure}"
    else:
        yield "    option clitcpka"
        yield "    option srvtcpka"
    check = listener.health_check
    if check is not None:
        yield from _check(check)
    for member in listener.members:
        if member.address is not None:
            yield _server(member, member.address, check, known=listener.session_persistence is not None)


def _check_alone(listener: AssignedListener) -> Iterator[str]:
    """Check members that others pass datagrams on to."""
    spans = listener.timeouts
    yield f"backend {_word(listener.name)}"
    yield "    mode tcp"
    yield f"    timeout connect {spans.connect_seconds}s"
    yield f"    timeout server {spans.member_seconds}s"
    check = listener.health_check
    if check is not None:
        yield from _check(check)
    for member in listener.members:
        if member.address is not None:
            yield _server(member, member.address, check, known=False)


def _tls(certificate: Path | None) -> str:
    return f" ssl crt {_word(str(certificate))} alpn h2,http/1.1" if certificate is not None else ""


def _check(check: HealthCheck) -> Iterator[str]:
    yield f"    timeout check {check.timeout_seconds}s"
    if check.type is not HealthCheckType.HTTP:
        return
    yield "    option httpchk"
    version = f" ver HTTP/1.1 hdr Host {_word(check.host)}" if check.host else ""
    yield f"    http-check send meth GET uri {_word(check.path or '/')}{version}"
    yield f"    http-check expect status {_word(check.expected_codes or '200')}"


def _server(member: AssignedMember, address: str, check: HealthCheck | None, *, known: bool) -> str:
    parts = [f"    server {_word(member.name)} {_at(address, member.port)} weight {member.weight}"]
    if check is not None:
        # Towards a member that is down, or about to be, the timeout is the pace.
        parts.append(f"check inter {check.interval_seconds}s rise {check.rise} fall {check.fall}")
    if known:
        parts.append(f"cookie {_word(member.name)}")
    if member.backup:
        parts.append("backup")
    return " ".join(parts)


def _at(address: str, port: int) -> str:
    found = ip_address(address)
    return f"{found}:{port}" if found.version == 4 else f"ipv6@[{found}]:{port}"


def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        raise ValueError(f"{text!r} cannot stand in a configuration of HAProxy")
    return text
