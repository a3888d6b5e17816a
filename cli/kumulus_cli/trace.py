"""What becomes of a packet: a NetworkTrace is made, waited for, shown and removed."""

from __future__ import annotations

import contextlib
import secrets
from ipaddress import ip_address
from typing import Any

from kumulus_api import FloatingIP, Kind, NetworkTrace, Port, Server
from kumulus_api.base import API_VERSION, GROUP
from kumulus_api.network_trace import TraceVerdict
from kumulus_cli import kubectl

EXIT_CODES = {TraceVerdict.PASSED: 0, TraceVerdict.DROPPED: 1}
"""By verdict; any other ends with 2."""
_FAILED = 2
_SECONDS = 45
_KINDS: dict[str, tuple[str, type[Kind]]] = {
    "server": ("server", Server),
    "port": ("port", Port),
    "floatingip": ("floatingIP", FloatingIP),
}
"""What is written before a slash: the field of a NetworkTrace, and the kind."""
_LEVELS = {TraceVerdict.PASSED: "passes", TraceVerdict.DROPPED: "is dropped", TraceVerdict.UNKNOWN: "is lost from view"}


class TraceError(Exception):
    """What is asked cannot be asked."""


def run(source: str, destination: str, protocol: str | None, port: int | None, namespace: str | None) -> NetworkTrace:
    """Have a packet traced; the trace is removed then, also if it is given up.

    Args:
        source: a Server or Port: its name, or server/NAME or port/NAME.
        destination: the same, or floatingip/NAME, or an address.
        protocol: tcp, udp or icmp; None for tcp where a port is given, else icmp.
        port: of the destination.
        namespace: None for that of the current context.

    Raises:
        TraceError: something is not there, or makes no sense.
        KubectlError: the API server refuses, or the trace does not end in time.
    """
    body = wanted(end_of(source, namespace, ("server", "port")), end_of(destination, namespace), protocol, port)
    name = f"trace-{secrets.token_hex(5)}"
    scope = ["--namespace", namespace] if namespace else []
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    kubectl.create({"apiVersion": API_VERSION, "kind": "NetworkTrace", "metadata": metadata, "spec": body})
    plural = f"{NetworkTrace.definition.plural}.{GROUP}"
    try:
        waited = ["--for=condition=Complete", f"--timeout={_SECONDS}s"]
        kubectl.run("wait", f"{plural}/{name}", *scope, *waited)
        return NetworkTrace.model_validate(kubectl.get(plural, name, namespace))
    finally:
        # It goes by itself minutes later.
        with contextlib.suppress(kubectl.KubectlError):
            kubectl.run("delete", plural, name, *scope, "--wait=false", "--ignore-not-found")


def end_of(text: str, namespace: str | None, allowed: tuple[str, ...] = tuple(_KINDS)) -> dict[str, Any]:
    """Give an end of the way as a NetworkTrace names it.

    Raises:
        TraceError: it is no kind of end that is allowed there, or nothing has that name.
    """
    kind, slash, name = text.partition("/")
    if slash:
        if kind.lower() not in allowed or not name:
            raise TraceError(f"{text!r} is none of {', '.join(f'{word}/NAME' for word in allowed)}")
        return {_KINDS[kind.lower()][0]: {"name": name}}
    if "floatingip" in allowed:
        with contextlib.suppress(ValueError):
            return {"address": str(ip_address(text))}
    for word in ("server", "port"):
        field, of = _KINDS[word]
        scope = ["--namespace", namespace] if namespace else []
        found = kubectl.run(
            "get", f"{of.definition.plural}.{GROUP}", text, *scope, "--ignore-not-found", "--output", "name"
        )
        if found.strip():
            return {field: {"name": text}}
    raise TraceError(f"there is neither a Server nor a Port {text!r}")


def wanted(source: dict[str, Any], target: dict[str, Any], protocol: str | None, port: int | None) -> dict[str, Any]:
    """Give the spec of a NetworkTrace (pure).

    Raises:
        TraceError: protocol and port do not go together.
    """
    chosen = (protocol or ("tcp" if port is not None else "icmp")).upper()
    if chosen not in ("TCP", "UDP", "ICMP"):
        raise TraceError(f"{protocol!r} is none of tcp, udp, icmp")
    if (port is None) != (chosen == "ICMP"):
        raise TraceError("tcp and udp need --port, icmp has none")
    return {"source": source, "destination": target, "protocol": chosen} | ({"port": port} if port is not None else {})


def exit_code(trace: NetworkTrace) -> int:
    """Give 0 if the packet passes, 1 if it is dropped, 2 if that is not known."""
    verdict = trace.status.verdict if trace.status is not None else None
    return EXIT_CODES.get(verdict, _FAILED) if verdict is not None else _FAILED


def text_of(trace: NetworkTrace) -> str:
    """Write the hops as a table, and the verdict below (pure)."""
    status = trace.status
    if status is None or status.verdict is None:
        return f"The packet could not be traced: {status.message if status is not None else 'nobody has looked'}\n"
    rows = [("HOST", "WHAT", "NAME", "VERDICT", "WHY")]
    rows += [(hop.host or "-", hop.what.value, hop.name or "-", hop.verdict.value, hop.message) for hop in status.hops]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join([*(row[i].ljust(widths[i]) for i in range(4)), row[4]]).rstrip() for row in rows]
    lines += ["", f"The packet {_LEVELS[status.verdict]}."]
    last = status.hops[-1] if status.hops else None
    if last is not None and last.remedy and status.verdict is not TraceVerdict.PASSED:
        lines.append(f"To do: {last.remedy}.")
    return "\n".join(lines) + "\n"


def json_of(trace: NetworkTrace) -> dict[str, Any]:
    """Give what programs read: the question, the verdict, the hops in the packet's order (pure)."""
    status = trace.status.dump() if trace.status is not None else {}
    told: dict[str, Any] = {name: status[name] for name in ("verdict", "message", "hops") if name in status}
    return {"spec": trace.spec.dump(), **told}
