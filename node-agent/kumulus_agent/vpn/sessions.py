"""Speaking with one charon: what it has loaded, what is established, and hearing of changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kumulus_agent.vpn.alerts import Alert, Alerts
from kumulus_agent.vpn.config import Files, Tunnel, connection, secret
from kumulus_agent.vpn.vici import DaemonRefused, Vici

_EVENTS = ("ike-updown", "child-updown")
_SETTLED = {"ESTABLISHED", "REKEYING"}
_PASSING = {"INSTALLED", "REKEYING", "REKEYED"}
_FAREWELL = "1000"
"""Milliseconds that the peer has to hear that a connection ends."""


@dataclass(frozen=True)
class Established:
    """How a connection is.

    Attributes:
        passing: the names of the pairs of networks that packets pass between.
        peer: where the peer speaks from: 198.51.100.9:4500.
        seconds: for how long it has been established.
    """

    passing: frozenset[str]
    peer: str = ""
    seconds: int = 0


class Session:
    """A connection to a charon.

    Args:
        vici: to tell and ask.
        files: of that charon.
        changed: called when something is established, no more, or failed.
    """

    def __init__(self, vici: Vici, files: Files, changed: Callable[[], None]) -> None:
        self._vici = vici
        self._files = files
        self._changed = changed
        self._heard: Alerts | None = None
        self.alerts: dict[str, Alert] = {}
        """By connections' names, or peers' addresses: why they failed last."""

    @classmethod
    async def open(cls, files: Files, changed: Callable[[], None], closed: Callable[[], None]) -> Session:
        """Begin.

        Args:
            files: of the charon.
            changed: called when something is established, no more, or failed.
            closed: called once when charon has ended the session.

        Raises:
            DaemonUnanswered: it does not listen, or not yet.
        """
        vici = await Vici.connect(files.socket, lambda _name, _message: changed(), closed)
        session = cls(vici, files, changed)
        try:
            session._heard = await Alerts.connect(files.alerts, session._failed)
            for event in _EVENTS:
                await vici.register(event)
        except BaseException:
            await session.close()
            raise
        return session

    @property
    def closed(self) -> bool:
        """Whether charon has ended it."""
        return self._vici.closed

    async def close(self) -> None:
        """End it; charon goes on."""
        await self._vici.close()
        if self._heard is not None:
            await self._heard.close()

    async def ensure(self, tunnels: Collection[Tunnel], keys: Mapping[str, bytes]) -> list[str]:
        """Have charon know these connections and no others; those that are as they were stay established.

        Args:
            tunnels: the connections.
            keys: by `Tunnel.key_label`; those that charon has already need not be there.

        Returns:
            What was done. A connection without key is left out.

        Raises:
            DaemonRefused: it does not take one.
        """
        loaded = frozenset((await self._vici.ask("get-conns")).get("conns", []))
        known = frozenset((await self._vici.ask("get-shared")).get("keys", []))
        wanted = {tunnel.label: tunnel for tunnel in tunnels}
        done = [await self._end(label) for label in sorted(loaded - wanted.keys())]
        for tunnel in wanted.values():
            if tunnel.key_label not in known and tunnel.key_label in keys:
                await self._vici.ask("load-shared", secret(tunnel, keys[tunnel.key_label]))
        for label in sorted(known - {tunnel.key_label for tunnel in tunnels}):
            await self._vici.ask("unload-shared", {"id": label})
        for label, tunnel in sorted(wanted.items()):
            if label not in loaded and (tunnel.key_label in known or tunnel.key_label in keys):
                # It connects by itself where this end begins.
                await self._vici.ask("load-conn", {label: connection(tunnel)})
                done.append(f"loaded {label}")
        return done

    async def keys(self) -> frozenset[str]:
        """Give the names of the keys that it has."""
        return frozenset((await self._vici.ask("get-shared")).get("keys", []))

    async def established(self) -> dict[str, Established | None]:
        """Give the connections that are established, or under way: None."""
        found: dict[str, Established | None] = {}
        for label, state in _sections(await self._vici.gather("list-sas", "list-sa")):
            now = _state(state)
            former = found.get(label)
            if now is not None and former is not None:
                now = Established(now.passing | former.passing, now.peer, max(now.seconds, former.seconds))
            found[label] = now or former
        for label, how in found.items():
            if how is not None and how.passing:
                self.alerts.pop(label, None)
        return found

    async def initiate(self, tunnel: Tunnel, children: Collection[str]) -> None:
        """Have it connect again; how that goes is heard.

        Raises:
            DaemonRefused: it does not know the connection.
        """
        for child in sorted(children):
            await self._vici.ask("initiate", {"ike": tunnel.label, "child": child, "timeout": "-1"})

    def alert(self, tunnel: Tunnel) -> Alert | None:
        """Give why a connection failed last."""
        return self.alerts.get(tunnel.label) or self.alerts.get(tunnel.terms.peer_address)

    async def _end(self, label: str) -> str:
        await self._vici.ask("unload-conn", {"name": label})
        with suppress(DaemonRefused):  # it was not established
            await self._vici.ask("terminate", {"ike": label, "force": "yes", "timeout": _FAREWELL})
        self.alerts.pop(label, None)
        return f"ended {label}"

    def _failed(self, alert: Alert) -> None:
        self.alerts[alert.connection or alert.address] = alert
        self._changed()


def _sections(messages: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for message in messages:
        yield from ((name, found) for name, found in message.items() if isinstance(found, dict))


def _state(state: Mapping[str, Any]) -> Established | None:
    if state.get("state") not in _SETTLED:
        return None
    children = state.get("child-sas", {}).values()
    passing = frozenset(child["name"] for child in children if child.get("state") in _PASSING)
    peer = f"{state.get('remote-host', '')}:{state.get('remote-port', '')}"
    return Established(passing, peer, int(state.get("established", 0)))
