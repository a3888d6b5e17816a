"""What volumes of a class are promised is bounded by the class's ratio, on hosts and on shares."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import Host, Server, Volume, VolumeClass
from kumulus_api.tenancy import Quota
from kumulus_api.testing import make_object
from kumulus_api.volume import VolumeAssignment
from kumulus_operator.ledger.ledger import Ledger
from kumulus_operator.ledger.plan import Request
from kumulus_operator.ledger.shares import Share
from kumulus_operator.placement.facts import Amounts, HostFacts, Wish
from kumulus_operator.placement.filters import candidates, has_room, lacking
from kumulus_operator.placement.inventory import host_facts
from kumulus_operator.placement.tuning import Tuning
from kumulus_operator.placement.usage import attached_amounts, bytes_of, volume_amounts
from kumulus_operator.volumes.class_status import class_status
from kumulus_runtime.conditions import set_condition

GIB = 2**30
SHARED = {"driver": "Shared", "shared": {"folder": "/srv/fast"}}


def make_class(name: str = "thin", **spec: Any) -> VolumeClass:
    return VolumeClass.model_validate(make_object(VolumeClass, name, **({"driver": "Local", "shared": None} | spec)))


def make_host(name: str = "h1", *, free: str = "", shares: tuple[dict[str, str], ...] = (), **spec: Any) -> Host:
    """Give a Ready Host with a disk of 100 GiB."""
    storage = [{"name": "Volumes", "capacity": "100Gi", "free": free, "allocated": "0", "provisioned": "0"}]
    status = {
        "inventory": {"vcpus": 64, "memory": "64Gi", "disk": "100Gi"},
        "tunnelAddress": "192.0.2.1",
        "storage": storage if free else [],
        "shares": list(shares),
        "conditions": set_condition([], "Ready", True, "AgentReady", "", 1),
    }
    return Host.model_validate({"metadata": {"name": name}, "spec": spec, "status": status})


def facts(host: Host | None = None, *classes: VolumeClass, **tuning: float) -> HostFacts:
    return host_facts(host or make_host(), (), Tuning(**tuning), fresh=True, classes=classes)


def make_volume(name: str, size: str = "10Gi", **place: Any) -> Volume:
    given = {"volumeID": "00000000-0000-4000-8000-000000000003", "host": "h1", "volumeClass": "thin", "size": size}
    body = make_object(Volume, name, size=size, source=None, assignment=given | place)
    return Volume.model_validate(body)


def room_for(host: HostFacts, used: Amounts, asked: Amounts) -> bool:
    (candidate,) = candidates([host], {host.name: used}, {})
    assert has_room(candidate, Wish(asked)) is (lacking(candidate, Wish(asked)) is None)
    return has_room(candidate, Wish(asked))


@pytest.mark.parametrize("own", [1.0, 2.5])
def test_volumes_are_promised_by_their_ratio_and_no_further(own: float) -> None:
    """Whatever the host's ratio is, volumes alone are promised the disk times the ratio of their class."""
    host = facts(None, make_class(overcommit="3"), disk_overcommit=own)
    used = bytes_of("thin", 290 * GIB)
    assert room_for(host, used, bytes_of("thin", 10 * GIB))
    assert not room_for(host, used, bytes_of("thin", 10 * GIB + 1))


def test_promises_share_one_disk() -> None:
    """Each takes of the disk its size through its ratio: root disks of half of it leave volumes half of theirs."""
    host = facts(None, make_class(overcommit="4"), make_class("gold", overcommit="1"), disk_overcommit=2)
    roots = Amounts(disk=100 * GIB)
    assert room_for(host, roots, bytes_of("thin", 200 * GIB))
    assert not room_for(host, roots, bytes_of("thin", 201 * GIB))
    assert room_for(host, roots.plus(bytes_of("thin", 100 * GIB)), bytes_of("gold", 25 * GIB))
    assert not room_for(host, roots.plus(bytes_of("thin", 100 * GIB)), bytes_of("gold", 26 * GIB))
    assert room_for(host, roots.plus(bytes_of("gold", 25 * GIB)), Amounts(disk=50 * GIB))
    assert not room_for(host, roots.plus(bytes_of("gold", 25 * GIB)), Amounts(disk=51 * GIB))


def test_a_reserve_stays_unpromised_and_free() -> None:
    """Volumes of the class leave it, promised and written; what has no such class may take it."""
    thin = make_class(overcommit="2", reservedPercent=10)
    host = facts(make_host(), thin)
    assert room_for(host, Amounts(), bytes_of("thin", 180 * GIB))
    assert not room_for(host, Amounts(), bytes_of("thin", 181 * GIB))
    assert room_for(host, Amounts(), Amounts(disk=100 * GIB))
    full = facts(make_host(free="15Gi"), thin)
    assert room_for(full, Amounts(), bytes_of("thin", 10 * GIB))
    assert not room_for(full, Amounts(), bytes_of("thin", 11 * GIB))


def test_the_host_keeps_its_own_too() -> None:
    """The ratio is of what the host does not reserve for itself."""
    host = facts(make_host(reserved={"disk": "40Gi"}), make_class(overcommit="2"))
    assert room_for(host, Amounts(), bytes_of("thin", 120 * GIB))
    assert not room_for(host, Amounts(), bytes_of("thin", 121 * GIB))


def test_a_class_without_ratio_counts_as_before() -> None:
    """By the host's ratio, beside root disks; a shared class has no part in any host's disk."""
    host = facts(None, make_class(), make_class("fast", **SHARED, overcommit="9"), disk_overcommit=2)
    assert host.by_class == {}
    assert room_for(host, Amounts(disk=100 * GIB), bytes_of("thin", 100 * GIB))
    assert not room_for(host, Amounts(disk=100 * GIB), bytes_of("thin", 101 * GIB))


def test_a_refusal_says_what_there_is() -> None:
    """What is asked for, what was promised, capacity, ratio and reserve stand in it."""
    host = facts(None, make_class(overcommit="2", reservedPercent=5))
    (candidate,) = candidates([host], {"h1": bytes_of("thin", 188 * GIB)}, {})
    found = lacking(candidate, Wish(bytes_of("thin", 4 * GIB)))
    assert found is not None
    assert found.why == (
        "without enough disk (4Gi of class thin asked for, 188Gi promised to it, a disk of 100Gi at ratio 2 with 5% "
        "kept free)"
    )


def ledger(*classes: VolumeClass, hosts: tuple[Host, ...] | None = None) -> Ledger:
    found = Ledger(lambda _: Quota(), lambda _: True)
    for item in classes:
        found.shares.class_seen(item.metadata.name, item)
    for host in hosts or (make_host(),):
        found.host_seen(facts(host, *classes))
        found.shares.host_seen(host.metadata.name, host)
    return found


def begin(books: Ledger, volume: Volume, *, admitted: bool = False, **place: Any) -> str:
    """Begin to write a volume; give why it must not be, or nothing."""
    given = volume.spec.assignment
    assert given is not None
    wanted = given.model_copy(update=place)
    unbound = volume.model_copy(update={"spec": volume.spec.model_copy(update={"assignment": None})})
    found = books.promises.begin(volume if place else unbound, wanted, admitted=admitted)
    return found.message if found is not None else ""


@pytest.mark.parametrize("shared", [False, True])
def test_what_is_being_written_counts(shared: bool) -> None:
    """Of many volumes that are decided on before any is written, exactly those that fit are; a failure gives back."""
    spec = SHARED if shared else {}
    share = {"volumeClass": "thin", "capacity": "100Gi", "free": "90Gi"}
    books = ledger(make_class(**spec, overcommit="1.5"), hosts=(make_host(shares=(share,)),))
    where = {"folder": "/srv/fast"} if shared else {}
    volumes = [make_volume(f"v{number}", **where) for number in range(20)]
    refused = [begin(books, volume) for volume in volumes]
    assert [bool(text) for text in refused] == [False] * 15 + [True] * 5
    assert "10Gi" in refused[-1]
    assert "150Gi" in refused[-1]
    assert "ratio 1.5" in refused[-1]
    # What a watch shows meanwhile is older.
    for name in ("v0", "v1"):
        books.volume_seen(make_volume(name, size="1Gi", **where))
    assert begin(books, volumes[15])
    books.promises.end(volumes[0].key, None)
    assert not begin(books, volumes[15])
    books.promises.end(volumes[15].key, volumes[15])
    books.volume_gone(volumes[15])
    assert not begin(books, volumes[16])


@pytest.mark.parametrize("shared", [False, True])
def test_growth_is_bounded(shared: bool) -> None:
    """The last byte that the ratio allows is given, the next is not; of two that grow at once only one is."""
    share = {"volumeClass": "thin", "capacity": "20Gi", "free": "20Gi"}
    books = ledger(
        make_class(**(SHARED if shared else {}), overcommit="1.5" if shared else "0.3"),
        hosts=(make_host(shares=(share,)),),
    )
    where = {"folder": "/srv/fast"} if shared else {}
    one, two = make_volume("one", **where), make_volume("two", **where)
    for volume in (one, two):
        books.volume_seen(volume)
        books.admit_volume(volume, counted=True)
    refusal = books.grow_volume(one, 20 * GIB + 1)
    assert refusal is not None
    assert "promised" in refusal.message
    assert books.grow_volume(one, 20 * GIB) is None
    assert not begin(books, one, size="20Gi")
    assert books.grow_volume(two, 10 * GIB + 1) is not None


def test_what_takes_no_more_is_never_refused() -> None:
    """A class whose ratio is lowered refuses what is new; what is there is attached, reverted and moves."""
    books = ledger(make_class(overcommit="1"))
    volume = make_volume("v")
    books.volume_seen(volume)
    books.host_seen(facts(None, make_class(overcommit="0.01")))
    assert not begin(books, volume, attached_to="web")
    books.promises.end(volume.key, volume)
    assert begin(books, make_volume("new"))


@pytest.mark.parametrize("shared", [False, True])
def test_what_has_gone_since_it_was_read_asks_for_nothing(shared: bool) -> None:
    """A volume that went, and whose room another one has, is not refused when its holder goes."""
    share = {"volumeClass": "thin", "capacity": "10Gi", "free": "10Gi"}
    spec = SHARED if shared else {}
    books = ledger(make_class(**spec, overcommit="1" if shared else "0.1"), hosts=(make_host(shares=(share,)),))
    where = {"folder": "/srv/fast"} if shared else {}
    gone, new = make_volume("gone", **where), make_volume("new", **where)
    books.volume_seen(gone)
    books.volume_gone(gone)
    books.volume_seen(new)
    assert not begin(books, gone, attached_to=None, revert=None)
    books.promises.end(gone.key, None)
    assert begin(books, gone)


def test_a_move_counts_in_both_places() -> None:
    """A volume that is copied to another class takes room there before, and here until it is removed."""
    share = {"volumeClass": "fast", "capacity": "10Gi", "free": "10Gi"}
    books = ledger(make_class(), make_class("fast", **SHARED, overcommit="1"), hosts=(make_host(shares=(share,)),))
    place = {"request": "00000000-0000-4000-8000-000000000009", "volumeClass": "fast", "folder": "/srv/fast"}
    volume = make_volume("v", size="10Gi")
    books.volume_seen(volume)
    moving = VolumeAssignment.model_validate(volume.spec.assignment.dump() | {"moving": place})
    assert books.promises.begin(volume, moving, admitted=False) is None
    assert books.shares.promised == {"thin": 10 * GIB, "fast": 10 * GIB}
    other = make_volume("w", size="1Gi", volumeClass="fast", folder="/srv/fast")
    assert "10Gi are promised" in begin(books, other)
    moved = make_volume("v", volumeClass="fast", folder="/srv/fast", left={"request": place["request"]})
    assert volume_amounts(moved) == Amounts(disk=10 * GIB)


def test_another_class_of_the_same_disk() -> None:
    """What goes from one Local class to another needs no room for both; what a project takes over needs none at all."""
    books = ledger(make_class(overcommit="1"), make_class("gold", overcommit="1"))
    volume = make_volume("v", size="90Gi")
    books.volume_seen(volume)
    assert not begin(books, volume, volume_class="gold")
    books.promises.end(volume.key, make_volume("v", size="90Gi", volumeClass="gold"))
    assert begin(books, make_volume("w", size="11Gi"))
    body = make_object(Volume, "taken", size="90Gi", source={"transfer": {"namespace": "other", "name": "offer"}})
    place = make_volume("w", size="90Gi").spec.assignment
    assert place is not None
    assert books.promises.begin(Volume.model_validate(body), place, admitted=False) is None


def test_an_unknown_share_is_promised_to_nobody() -> None:
    """Where a ratio is asked for, the share must be known; where none is, nothing is counted."""
    books = ledger(make_class(**SHARED, overcommit="2"))
    assert "no host has told" in begin(books, make_volume("v", folder="/srv/fast"))
    assert not begin(ledger(make_class(**SHARED)), make_volume("v", folder="/srv/fast"))


def test_a_reserve_of_a_share() -> None:
    """Without a ratio any number of volumes is promised, until the reserve is being used."""
    share = {"volumeClass": "thin", "capacity": "100Gi", "free": "11Gi"}
    spec = make_class(**SHARED, reservedPercent=10)
    books = ledger(spec, hosts=(make_host(shares=(share,)),))
    assert not begin(books, make_volume("v", size="900Gi", folder="/srv/fast"))
    full = ledger(spec, hosts=(make_host(shares=(share | {"free": "10Gi"},)),))
    assert "10% (10Gi) kept free" in begin(full, make_volume("v", folder="/srv/fast"))


def test_of_several_hosts_the_least_counts() -> None:
    """Of those that speak; what a silent one has told counts where there is no other."""
    fresh = {"h2"}
    books = Ledger(lambda _: Quota(), lambda name: name in fresh)
    for name, free in (("h1", "1Gi"), ("h2", "7Gi"), ("h3", "5Gi")):
        share = {"volumeClass": "thin", "capacity": "10Gi", "free": free}
        assert books.shares.host_seen(name, make_host(name, shares=(share,))) == {"thin"}
    assert books.shares.share_of("thin") == Share(10 * GIB, 7 * GIB)
    fresh.add("h3")
    assert books.shares.share_of("thin") == Share(10 * GIB, 5 * GIB)
    fresh.clear()
    assert books.shares.share_of("thin") == Share(10 * GIB, GIB)


async def test_servers_with_new_volumes_never_pass_the_ratio() -> None:
    """Servers that bring volumes are placed while these fit, and are counted before any is written."""
    books = ledger(make_class(overcommit="0.5"))
    found = [
        books.decide(Request("demo", f"s{number}", Wish(bytes_of("thin", 10 * GIB), only_host="h1")))
        for number in range(20)
    ]
    assert found.count("h1") == 5
    assert "at ratio 0.5" in found[-1].message  # type: ignore[union-attr]


def test_a_server_takes_its_volumes_along_by_their_ratio() -> None:
    """On the target of a migration a volume counts as it does here, if its class says how."""
    volumes = [
        {"name": "a", "volume": "a", "volumeID": "00000000-0000-4000-8000-000000000003", "size": "1Gi"},
        {
            "name": "b",
            "volume": "b",
            "volumeID": "00000000-0000-4000-8000-000000000004",
            "size": "2Gi",
            "volumeClass": "thin",
        },
    ]
    given = Server.model_validate(make_object(Server, "web")).spec.assignment
    if given is None:
        body = make_object(Server, "web")
        assigned = {
            "instanceID": "00000000-0000-4000-8000-000000000001",
            "host": "h1",
            "epoch": 1,
            "resources": {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"},
        }
        body["spec"]["assignment"] = assigned
        given = Server.model_validate(body).spec.assignment
    assert given is not None
    given = type(given).model_validate(given.dump() | {"volumes": volumes})
    assert attached_amounts(given) == Amounts(disk=GIB, volumes=(("thin", 2 * GIB),))


def test_a_class_tells_seldom() -> None:
    """Its status is written when a number moves by a hundredth of the share; a Local class's by one of what it has."""
    fast = make_class("fast", **SHARED)
    told = class_status(fast, Share(100 * GIB, 50 * GIB), 10 * GIB)
    assert told == {"provisioned": "10Gi", "capacity": "100Gi", "free": "50Gi"}
    fast = VolumeClass.model_validate(make_object(VolumeClass, "fast", **SHARED) | {"status": told})
    assert class_status(fast, Share(100 * GIB, 50 * GIB - 1), 11 * GIB - 1) is None
    assert class_status(fast, Share(100 * GIB, 49 * GIB), 10 * GIB) is not None
    assert class_status(make_class(), None, 0) == {"provisioned": "0"}
    told = {"provisioned": "1000Gi"}
    local = VolumeClass.model_validate(make_object(VolumeClass, "thin", driver="Local", shared=None) | {"status": told})
    assert class_status(local, None, 991 * GIB) is None
    assert class_status(local, None, 0) == {"provisioned": "0"}
    assert class_status(local, None, 1011 * GIB) == {"provisioned": "1011Gi"}
