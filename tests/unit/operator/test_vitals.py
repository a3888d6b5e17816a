"""What the probes are told."""

from __future__ import annotations

from dataclasses import dataclass, field

from kumulus_operator.vitals import Stage, Vitals


@dataclass
class _Lease:
    valid: bool = False
    holder: str | None = ""


@dataclass
class _World:
    lease: _Lease = field(default_factory=_Lease)
    watched: set[str] = field(default_factory=set)

    def vitals(self) -> Vitals:
        return Vitals(self.lease, ("hosts", "servers"), lambda: self.watched)


def test_a_standby_is_ready_and_says_who_leads() -> None:
    """A process without the Lease is healthy and ready, whoever leads."""
    world = _World()
    vitals = world.vitals()
    assert (vitals.health(), vitals.readiness(), vitals.leadership()) == (None, None, "standby, nobody leads")
    world.lease.holder = "other"
    assert (vitals.health(), vitals.readiness(), vitals.leadership()) == (None, None, "standby, other leads")


def test_a_process_that_has_not_seen_the_lease_is_not_ready() -> None:
    """Before its first look at the Lease a process can neither lead nor say who does: a rolling update waits for it."""
    vitals = _World(_Lease(holder=None)).vitals()
    assert (vitals.health(), vitals.readiness()) == (None, "it has not read the Lease yet")


def test_a_leader_is_ready_when_it_watches_everything() -> None:
    """A leader that does not watch all kinds yet is healthy, but not ready."""
    world = _World(_Lease(valid=True, holder="me"))
    vitals = world.vitals()
    vitals.stage = Stage.LEADING
    world.watched = {"hosts", "pods"}
    assert (vitals.health(), vitals.readiness()) == (None, "it does not watch yet: servers")
    world.watched |= {"servers"}
    assert (vitals.health(), vitals.readiness(), vitals.watches()) == (None, None, 2)
    assert vitals.leadership() == "leading as me"


def test_a_leader_whose_watch_has_ended_is_not_healthy() -> None:
    """A watch that was there and is no more, or a Lease that is not valid, is repaired by a restart."""
    world = _World(_Lease(valid=True, holder="me"), {"hosts", "servers"})
    vitals = world.vitals()
    vitals.stage = Stage.LEADING
    assert vitals.health() is None
    world.watched = {"hosts"}
    assert vitals.health() == "its watches have ended: servers"
    world.watched = {"hosts", "servers"}
    world.lease.valid = False
    assert vitals.health() == "it decides though its Lease is not valid any more"
    vitals.stage = Stage.STOPPING
    assert (vitals.health(), vitals.readiness()) == (None, None)
