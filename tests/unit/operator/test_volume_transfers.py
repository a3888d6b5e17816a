"""Volumes given to other projects: whenever the operator dies, one Volume has the data, and none is lost."""

from __future__ import annotations

import contextlib
import copy
import itertools
from typing import Any

import pytest

from kumulus_api import (
    FINALIZER,
    Kind,
    Project,
    Server,
    Volume,
    VolumeBackup,
    VolumeClass,
    VolumeSnapshot,
    VolumeTransfer,
)
from kumulus_api.testing import VOLUME_ID, make_object
from kumulus_operator.cloud import Cloud
from kumulus_operator.refusal import Refused
from kumulus_operator.servers.volumes import give_volumes
from kumulus_operator.settings import OperatorSettings
from kumulus_operator.volume_transfers.controller import VolumeTransferController
from kumulus_operator.volumes.controller import VolumeController
from kumulus_runtime.conditions import get_condition
from kumulus_runtime.errors import Conflict, NotFound

GIVER, TAKER = ("owner", "data"), ("demo", "mine")
OFFER = ("owner", "offer")
LOCKED = {"encryption": {"cipher": "aes-xts-plain64", "keySize": 512, "secret": {"name": "volume-key-1"}, "made": True}}
NEAR = {"volumeClass": "near"}
TAKES = {"transfer": {"namespace": "owner", "name": "offer"}}
MADE = {"sizeBytes": 2**30, "usedBytes": 4096}
Object = dict[str, Any]
Id = tuple[str, str, str]


class Died(Exception):
    """The operator did."""


class Api:
    """An API server as far as the operator writes to it here; `last` is the write at which the operator dies."""

    def __init__(self, last: int = 0, *, done: bool = False) -> None:
        self.bodies: dict[Id, Object] = {}
        self.numbers = itertools.count(1)
        self.left, self.done, self.writes = last, done, 0

    def put(self, kind: str, body: Object) -> Object:
        """Store an object anew."""
        body = copy.deepcopy(body)
        body["metadata"]["resourceVersion"] = str(next(self.numbers))
        self.bodies[kind, body["metadata"].get("namespace") or "", body["metadata"]["name"]] = body
        return copy.deepcopy(body)

    def _write(self, kind: str, body: Object, change: Object) -> Object:
        self.writes += 1
        self.left -= 1
        if self.left == 0 and not self.done:
            raise Died
        key = (kind, body["metadata"]["namespace"], body["metadata"]["name"])
        found = copy.deepcopy(self.bodies.get(key))
        if found is None:
            raise NotFound("gone")
        for part in ("uid", "resourceVersion"):
            if body["metadata"].get(part, found["metadata"][part]) != found["metadata"][part]:
                raise Conflict(part)
        told = self.put(kind, found | {name: found.get(name, {}) | value for name, value in change.items()})
        self._sweep()
        if self.left == 0:
            raise Died
        return told

    async def get(self, kind: type[Kind], name: str, namespace: str | None = None) -> Object | None:
        """Give an object."""
        return copy.deepcopy(self.bodies.get((kind.__name__, namespace or "", name)))

    async def apply(self, kind: type[Kind], body: Object, **_: Any) -> Object:
        """Write the assignment."""
        return self._write(kind.__name__, body, {"spec": body["spec"]})

    async def apply_status(self, kind: type[Kind], body: Object, **_: Any) -> Object:
        """Write the status."""
        return self._write(kind.__name__, body, {"status": body["status"]})

    async def delete(self, kind: type[Kind], name: str, namespace: str, uid: str) -> bool:
        """Delete an object, or have it wait for its finalizer."""
        body = {"metadata": {"name": name, "namespace": namespace, "uid": uid}}
        self._write(kind.__name__, body, {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
        return True

    async def remove_finalizer(self, kind: type[Kind], name: str, _: str, namespace: str, uid: str) -> None:
        """Let an object go."""
        body = {"metadata": {"name": name, "namespace": namespace, "uid": uid}}
        self._write(kind.__name__, body, {"metadata": {"finalizers": []}})

    def _sweep(self) -> None:
        for key, body in list(self.bodies.items()):
            metadata = body["metadata"]
            if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
                del self.bodies[key]


class World:
    """Two projects: a volume of one on a host, and the Volume of the other that takes it."""

    def __init__(self, api: Api | None = None, quota: Object | None = None, size: str = "1Gi") -> None:
        self.api = api or Api()
        for name, limits in (("owner", {}), ("demo", quota or {})):
            body = make_object(Project, name, quota=limits)
            self.api.put("Project", body | {"metadata": {"name": name, "uid": name, "generation": 1}})
        given = {"volumeID": VOLUME_ID, "host": "h1", "size": "1Gi"}
        self.make(Volume, GIVER, {"size": "1Gi", "assignment": given}, MADE)
        self.make(Volume, TAKER, {"size": size, "source": TAKES})
        self.make(VolumeTransfer, OFFER, {"volume": {"name": "data"}, "project": "demo"})
        self.start()

    def make(self, kind: type[Kind], key: tuple[str, str], spec: Object, status: Object | None = None) -> None:
        """Make an object, as its user does."""
        metadata = {"namespace": key[0], "name": key[1], "uid": "/".join(key), "generation": 1}
        metadata |= {"finalizers": [FINALIZER]} if kind in (Volume, VolumeSnapshot) else {}
        self.api.put(kind.__name__, {"metadata": metadata, "spec": spec, "status": status or {}})

    def start(self) -> None:
        """Start an operator."""
        self.cloud = Cloud(self.api, OperatorSettings())  # type: ignore[arg-type]
        self.cloud.events.post = lambda *_, **__: None  # type: ignore[method-assign]
        self.cloud.host_silent = self.cloud.host_lost = lambda _: False  # type: ignore[method-assign]
        self.known: dict[Id, Object] = {}
        self.see()

    def see(self) -> None:
        """Have it see what is there."""
        kinds = {kind.__name__: kind for kind in self.cloud.views}
        for key, body in self.known.items():
            if key not in self.api.bodies:
                self.cloud.take(kinds[key[0]], body, deleted=True)
        self.known = copy.deepcopy(self.api.bodies)
        for key, body in self.known.items():
            self.cloud.take(kinds[key[0]], copy.deepcopy(body))

    async def settle(self) -> None:
        """Have it work until it has nothing to do."""
        for _ in range(20):
            before = self.api.writes
            for act, kind in ((VolumeTransferController, VolumeTransfer), (VolumeController, Volume)):
                for item in list(self.cloud.views[kind]):
                    await act(self.cloud).reconcile(item.key)  # type: ignore[operator]
                    self.see()
                    assert len(self.owners()) <= 1, "two Volumes have one folder"
            if self.api.writes == before:
                return
        raise AssertionError("it never ends")

    def owners(self) -> list[tuple[str, str]]:
        """Give the Volumes that have the data."""
        bodies = {key: body for key, body in self.api.bodies.items() if key[0] == "Volume"}
        places = {key[1:]: body["spec"].get("assignment") or {} for key, body in bodies.items()}
        return [key for key, place in places.items() if place.get("volumeID") == VOLUME_ID and "givenTo" not in place]

    def condition(self, kind: type[Kind], key: tuple[str, str]) -> Object:
        """Give the condition Ready of an object."""
        status = self.api.bodies[kind.__name__, *key].get("status") or {}
        return get_condition(status.get("conditions") or [], "Ready") or {}

    def change(self, kind: type[Kind], key: tuple[str, str], **spec: Any) -> None:
        """Change an object, as its user does."""
        body = self.api.bodies[kind.__name__, *key]
        self.api.put(kind.__name__, body | {"spec": body["spec"] | spec})
        self.see()

    def delete(self, key: tuple[str, str]) -> None:
        """Ask for the deletion of a Volume."""
        body = self.api.bodies["Volume", *key]
        body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        self.api.put("Volume", body)
        self.see()


def _snapshot(world: World) -> None:
    given = {"volumeID": VOLUME_ID, "snapshotID": VOLUME_ID, "host": "h1"}
    spec = {"volume": {"name": "data"}, "assignment": given}
    world.make(VolumeSnapshot, ("owner", "s1"), spec, {"restoreSize": 2**30})


def _attached(world: World) -> None:
    given = world.api.bodies["Volume", *GIVER]["spec"]["assignment"] | {"attachedTo": "web"}
    world.change(Volume, GIVER, assignment=given)
    resources = {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"}
    placed = {"instanceID": VOLUME_ID, "host": "h1", "epoch": 1, "resources": resources}
    world.make(Server, ("owner", "web"), {"flavor": {"name": "f"}, "image": {"name": "i"}, "assignment": placed})


def _encrypted(world: World) -> None:
    world.change(Volume, GIVER, assignment=world.api.bodies["Volume", *GIVER]["spec"]["assignment"] | LOCKED)


def _backed_up(world: World) -> None:
    given = {"backupID": VOLUME_ID, "volumeID": VOLUME_ID, "host": "h1", "chain": VOLUME_ID}
    world.make(VolumeBackup, ("owner", "b1"), {"source": {"volume": {"name": "data"}}, "assignment": given})


async def test_a_volume_changes_its_project_and_stays_where_it_is() -> None:
    """The taker's Volume has the id, host and data; of the giver's and of the offer nothing is left, quota included."""
    world = World(quota={"volumes": 1, "gigabytes": 1})
    await world.settle()
    assert world.owners() == [TAKER]
    place = world.api.bodies["Volume", *TAKER]["spec"]["assignment"]
    assert (place["volumeID"], place["host"], place["size"]) == (VOLUME_ID, "h1", "1Gi")
    assert place["origin"]["volumeID"] == VOLUME_ID, "no blank volume is made in its place"
    assert {key for key in world.api.bodies if key[0] != "Project"} == {("Volume", *TAKER)}
    assert [world.cloud.usage_of(name).volumes for name in ("owner", "demo")] == [0, 1]
    assert world.condition(Volume, TAKER)["reason"] == "Making", "until its host has told of it"


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("last", range(1, 11))
async def test_whenever_the_operator_dies_one_volume_has_the_data(last: int, *, done: bool) -> None:
    """Before and after each write the next operator goes on to the same end, and never do two Volumes have the data."""
    world = World(Api(last, done=done))
    try:
        await world.settle()
    except Died:
        assert len(world.owners()) <= 1
    world.start()
    await world.settle()
    assert world.owners() == [TAKER]
    assert {key for key in world.api.bodies if key[0] != "Project"} == {("Volume", *TAKER)}


@pytest.mark.parametrize("last", range(1, 11))
async def test_a_taker_that_goes_before_it_has_the_data_loses_nothing(last: int) -> None:
    """What was given to a Volume that is deleted before it has it is the giver's again, and may be taken by another."""
    world = World(Api(last, done=True))
    with contextlib.suppress(Died):
        await world.settle()
    bound = "assignment" in world.api.bodies["Volume", *TAKER]["spec"]
    world.delete(TAKER)
    world.start()
    await world.settle()
    if bound:
        assert world.owners() == [TAKER], "its host removes it"
        return
    assert world.owners() == [GIVER]
    assert world.condition(VolumeTransfer, OFFER)["reason"] == "Offered"
    world.make(Volume, ("demo", "other"), {"size": "1Gi", "source": TAKES})
    world.see()
    await world.settle()
    assert world.owners() == [("demo", "other")]


@pytest.mark.parametrize(
    ("hinder", "reason"),
    [
        (lambda world: world.change(Volume, GIVER, protected=True), "Protected"),
        (_snapshot, "HasSnapshots"),
        (_attached, "InUse"),
        (_encrypted, "Encrypted"),
        (_backed_up, "VolumeNotReady"),
    ],
)
async def test_what_hinders_is_told_to_the_giver_and_nothing_is_given(hinder: Any, reason: str) -> None:
    """A volume that is protected, encrypted, in use or read, or has snapshots stays; the taker learns the word."""
    world = World()
    hinder(world)
    world.see()
    await world.settle()
    assert world.owners() == [GIVER]
    told = world.condition(VolumeTransfer, OFFER)
    assert (told["status"], told["reason"]) == ("False", reason)
    waits = world.condition(Volume, TAKER)
    assert waits["reason"] == "SourceNotReady"
    assert reason in waits["message"]
    assert "server web" not in waits["message"]
    assert "s1" not in waits["message"]
    assert "b1" not in waits["message"]


async def test_who_waits_is_woken_when_nothing_hinders_any_more() -> None:
    """What the giver changes has the offer looked at, and that the Volume which waits for it."""
    world = World()
    world.change(Volume, GIVER, protected=True)
    await world.settle()
    woken: list[Any] = []
    world.cloud.wake = lambda *needs: woken.extend(needs)  # type: ignore[method-assign]
    world.change(Volume, GIVER, protected=False)
    await VolumeTransferController(world.cloud).reconcile(OFFER)
    world.see()
    assert TAKER in {key for need in woken for key in world.cloud.volume_waiters.woken_by(need)}


async def test_the_takers_quota_is_asked_first() -> None:
    """A project that may not have it gets nothing, and the giver keeps it."""
    world = World(quota={"gigabytes": 0})
    await world.settle()
    assert world.owners() == [GIVER]
    assert world.condition(Volume, TAKER)["reason"] == "QuotaExceeded"
    world.change(Project, ("", "demo"), quota={"gigabytes": 1})
    await world.settle()
    assert world.owners() == [TAKER]


async def test_an_offer_to_others_looks_like_none() -> None:
    """A project that is not named hears the same as if there were no offer."""
    world, other = World(), World()
    del world.api.bodies["VolumeTransfer", *OFFER]
    other.api.bodies["VolumeTransfer", *OFFER]["spec"]["project"] = "third"
    for each in (world, other):
        each.start()
        await each.settle()
        assert each.owners() == [GIVER]
    absent, foreign = (each.condition(Volume, TAKER) for each in (world, other))
    assert (absent["reason"], absent["message"]) == (foreign["reason"], foreign["message"])


async def test_the_taker_asks_for_what_there_is() -> None:
    """Too small a Volume, or one of a class that the project may not use, is refused; a larger one grows."""
    small = World(size="512Mi")
    await small.settle()
    assert small.condition(Volume, TAKER)["reason"] == "SizeTooSmall"
    assert small.owners() == [GIVER]
    large = World(size="2Gi")
    await large.settle()
    assert large.api.bodies["Volume", *TAKER]["spec"]["assignment"]["size"] == "2Gi"
    classed = World()
    shared = {"driver": "Shared", "shared": {"folder": "/srv/fast"}, "public": False}
    metadata = {"name": "fast", "uid": "fast", "generation": 1}
    classed.api.put("VolumeClass", {"metadata": metadata, "spec": shared})
    assert VolumeClass in classed.cloud.views
    given = classed.api.bodies["Volume", *GIVER]["spec"]["assignment"] | {"volumeClass": "fast", "folder": "/srv/fast"}
    classed.change(Volume, GIVER, assignment=given)
    await classed.settle()
    assert classed.condition(Volume, TAKER)["reason"] == "SourceOfAnotherClass"
    assert classed.owners() == [GIVER]


async def test_an_offer_is_of_one_volume() -> None:
    """Another volume that has the name later is not given by an old offer."""
    world = World()
    del world.api.bodies["Volume", *TAKER]
    world.start()
    await world.settle()
    assert world.condition(VolumeTransfer, OFFER)["reason"] == "Offered"
    body = world.api.bodies["Volume", *GIVER]
    body["spec"]["assignment"]["volumeID"] = VOLUME_ID[:-1] + "9"
    body["metadata"]["uid"] = "another"
    world.make(Volume, TAKER, {"size": "1Gi", "source": TAKES})
    world.start()
    await world.settle()
    assert world.condition(VolumeTransfer, OFFER)["reason"] == "VolumeNotFound"
    assert "assignment" not in world.api.bodies["Volume", *TAKER]["spec"]


async def test_no_server_gets_what_is_offered() -> None:
    """A server waits while a volume is offered, and is looked at when it is not any more."""
    world = World()
    del world.api.bodies["Volume", *TAKER]
    world.start()
    await world.settle()
    body = make_object(Server, "web", volumes=[{"name": "data", "volume": {"name": "data"}}])
    body["metadata"] |= {"namespace": "owner", "uid": "web", "generation": 1}
    server, volume = Server.model_validate(body), world.cloud.volumes.get(*GIVER)
    assert volume is not None
    with pytest.raises(Refused) as refused:
        await give_volumes(world.cloud, server, (("data", volume),), "h1")
    assert "transfer offer" in refused.value.refusal.message
    need = ("Volume", *GIVER)
    assert refused.value.refusal.needs == {need}
    del world.api.bodies["VolumeTransfer", *OFFER]
    world.cloud.server_waiters.wait(("owner", "web"), {need})
    world.see()
    assert len(world.cloud.queues.servers) > 0
    given = await give_volumes(world.cloud, server, (("data", volume),), "h1")
    assert given[0]["volumeID"] == VOLUME_ID


async def test_what_a_server_has_is_its_own_while_it_is_offered() -> None:
    """An offer that cannot be taken yet keeps no server from the volume that it holds already."""
    world = World()
    del world.api.bodies["Volume", *TAKER]
    world.make(VolumeClass, ("", "near"), {"driver": "Local", "export": True})
    _attached(world)
    world.change(Volume, GIVER, assignment=world.api.bodies["Volume", *GIVER]["spec"]["assignment"] | NEAR)
    world.start()
    await world.settle()
    body = make_object(Server, "web", volumes=[{"name": "data", "volume": {"name": "data"}}])
    body["metadata"] |= {"namespace": "owner", "uid": "web", "generation": 1}
    server, volume = Server.model_validate(body), world.cloud.volumes.get(*GIVER)
    assert volume is not None
    given = await give_volumes(world.cloud, server, (("data", volume),), "h2")
    assert given[0]["exporter"] == "h1"
