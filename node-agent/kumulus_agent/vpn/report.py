"""What is told of a tunnel (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from kumulus_agent.vpn.alerts import Alert
from kumulus_agent.vpn.config import Tunnel
from kumulus_agent.vpn.sessions import Established
from kumulus_api.vpn_connection import VPNConnectionConditionType, VPNConnectionReason
from kumulus_runtime.conditions import get_condition, set_condition, timestamp

Told = tuple[VPNConnectionReason, str]


@dataclass(frozen=True)
class HereTunnel:
    """A VPNConnection whose router this host leads out, or may.

    Attributes:
        tunnel: what was decided.
        uid: of the object, so that a successor of its name is not told of.
        generation: of the object.
    """

    tunnel: Tunnel
    uid: str
    generation: int


def outcome(tunnel: Tunnel, state: Established | None, *, connecting: bool, alert: Alert | None, was_up: bool) -> Told:
    """Say how a connection is, as reason and message.

    Args:
        tunnel: which.
        state: how it is; None if it is not established.
        connecting: whether an attempt is under way.
        alert: why it failed last.
        was_up: packets passed before, and nothing else has been told since.
    """
    passing = len(state.passing & set(tunnel.children)) if state is not None else 0
    if passing == len(tunnel.children):
        return VPNConnectionReason.ESTABLISHED, f"packets pass to {', '.join(tunnel.terms.peer_cidrs)}"
    if alert is not None:
        return alert.reason, f"{alert.message}{_hence(tunnel)}"
    if passing:
        return VPNConnectionReason.NOT_ESTABLISHED, f"{passing} of {len(tunnel.children)} pairs of networks"
    if was_up:
        return (
            VPNConnectionReason.PEER_GONE,
            f"{tunnel.terms.peer_address} has ended it, or died{_hence(tunnel)}",
        )
    if tunnel.begins or connecting:
        return VPNConnectionReason.CONNECTING, f"to {tunnel.terms.peer_address}"
    return VPNConnectionReason.WAITING_FOR_PEER, f"{tunnel.terms.peer_address} is to begin"


def _hence(tunnel: Tunnel) -> str:
    return "; tried again every half minute" if tunnel.begins else "; it is to begin again"


def tunnel_status(
    here: HereTunnel, host: str, old: Mapping[str, Any], told: Told, state: Established | None, *, now: datetime
) -> dict[str, Any] | None:
    """Give the agent's part of the status, or None if it says so already.

    Args:
        here: the connection.
        host: this host.
        old: the status as it is.
        told: reason and message.
        state: how it is; None if it is not established.
        now: the present.
    """
    kind = VPNConnectionConditionType.ESTABLISHED
    own = [item for item in old.get("conditions", []) if item["type"] == kind]
    up = told[0] is VPNConnectionReason.ESTABLISHED
    wanted: dict[str, Any] = {
        "host": host,
        "conditions": set_condition(own, kind, up, *told, here.generation, now),
    }
    if up and state is not None:
        lasts = was_up(old) and old.get("host") == host and old.get("since")
        wanted |= {"peer": state.peer, "since": lasts or timestamp(now - timedelta(seconds=state.seconds))}
    former = {name: old[name] for name in ("host", "peer", "since") if name in old} | {"conditions": own}
    return None if wanted == former else wanted


def was_up(old: Mapping[str, Any]) -> bool:
    """Whether a status says that packets pass."""
    found = _condition(old)
    return found is not None and found["status"] == "True"


def was_up_last(old: Mapping[str, Any]) -> bool:
    """Whether a status says that packets pass, or that they did until the peer was gone."""
    found = _condition(old)
    return was_up(old) or (found is not None and found["reason"] == VPNConnectionReason.PEER_GONE)


def _condition(old: Mapping[str, Any]) -> dict[str, Any] | None:
    return get_condition(list(old.get("conditions", [])), VPNConnectionConditionType.ESTABLISHED)
