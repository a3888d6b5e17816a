"""What becomes of a packet: a NetworkTrace is made, waited for, shown and removed."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from kumulus_api import FloatingIP, Kind, NetworkTrace, Port, Server
from kumulus_api.base import API_VERSION, GROUP
from kumulus_api.network_trace import TraceHop, TraceVerdict
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
_HEAD = ("HOST", "WHAT", "NAME", "VERDICT")
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
    """Give 0 if packet and answer pass, 1 if one of them is dropped, 2 if that is not known."""
    status = trace.status
    if status is None or status.verdict is None:
        return _FAILED
    answer = status.answer.verdict if status.answer is not None else None
    passed = status.verdict is TraceVerdict.PASSED
    return EXIT_CODES.get(answer if passed and answer is not None else status.verdict, _FAILED)


def text_of(trace: NetworkTrace) -> str:
    """Write the hops as a table, those of the answer below, and the verdicts (pure)."""
    status = trace.status
    if status is None or status.verdict is None:
        return f"The packet could not be traced: {status.message if status is not None else 'nobody has looked'}\n"
    answer = status.answer
    back = answer.hops if answer is not None else []
    widths = [max(map(len, column)) for column in zip(*map(_cells, [*status.hops, *back]), _HEAD, strict=True)]
    lines = [*_table(status.hops, widths), "", f"The packet {_fate(status.verdict, status.hops)}."]
    if answer is not None and answer.verdict is not None:
        lines += ["", "THE WAY BACK", *_table(back, widths), "", f"The answer {_fate(answer.verdict, back)}."]
    last = next(iter((back or status.hops)[-1:]), None)
    verdict = answer.verdict if answer is not None and answer.verdict is not None else status.verdict
    if last is not None and last.remedy and verdict is not TraceVerdict.PASSED:
        lines.append(f"To do: {last.remedy}.")
    return "\n".join(lines) + "\n"


def _cells(hop: TraceHop) -> tuple[str, str, str, str]:
    return hop.host or "-", hop.what.value, hop.name or "-", hop.verdict.value


def _table(hops: Sequence[TraceHop], widths: Sequence[int]) -> list[str]:
    rows = [(_HEAD, "WHY"), *((_cells(hop), hop.message) for hop in hops)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), why]).rstrip()
        for cells, why in rows
    ]


def _fate(verdict: TraceVerdict, hops: Sequence[TraceHop]) -> str:
    """Say what becomes of a packet, and where, if it does not pass."""
    last = hops[-1] if hops else None
    if verdict is TraceVerdict.PASSED or last is None:
        return _LEVELS[verdict]
    at = f" on {last.host}" if last.host else ""
    return f"{_LEVELS[verdict]} at {last.what.value}{f' {last.name}' if last.name else ''}{at}"


def json_of(trace: NetworkTrace) -> dict[str, Any]:
    """Give what programs read: the question, the verdict, the hops in the packet's order, and the answer (pure)."""
    status = trace.status.dump() if trace.status is not None else {}
    told: dict[str, Any] = {name: status[name] for name in ("verdict", "message", "hops", "answer") if name in status}
    return {"spec": trace.spec.dump(), **told}
