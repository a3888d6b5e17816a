"""Volumes for several servers: who holds one, who may join, and what the books and the conditions say."""

from datetime import UTC, datetime

import pytest

from kumulus_api import Server, Volume, VolumeClass
from kumulus_api.volume import MOST_HOLDERS, VolumeAssignment
from kumulus_operator.ledger.ledger import entry_of
from kumulus_operator.refusal import Refused
from kumulus_operator.seen import Seen
from kumulus_operator.servers.plan import assigned_volume
from kumulus_operator.volumes.binding import first_place, work_on
from kumulus_operator.volumes.exporting import with_sizes
from kumulus_operator.volumes.holders import is_multi_attach, joined, released, vacancy
from kumulus_operator.volumes.plan import volume_status
from kumulus_operator.volumes.retyping import retyping

ID = "00000000-0000-4000-8000-00000000000{}".format
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLACE = {"volumeID": ID(1), "host": "h1", "size": "1Gi", "volumeClass": "several", "folder": "/srv/several"}
SEVERAL = PLACE | {"multiAttach": True}
MADE = {"sizeBytes": 1 << 30, "usedBytes": 0}


def metadata(name, namespace="demo"):
    return {"name": name, "namespace": namespace, "uid": name, "generation": 1, "resourceVersion": "1"}


def make_place(*holders, **more):
    """A volume for several servers that these have."""
    held = {"attachedTo": holders[0], "alsoAttachedTo": list(holders[1:]) or None} if holders else {}
    return VolumeAssignment.model_validate(SEVERAL | held | more)


def make_volume(place=None, status=None, **spec):
    assignment = {"assignment": place.dump()} if place is not None else {}
    spec = {"size": "1Gi", "volumeClass": {"name": "several"}} | spec | assignment
    return Volume.model_validate({"metadata": metadata("data"), "spec": spec, "status": status or {}})


def make_cloud():
    """A cloud with classes on shares: two for several servers, on one and the same share, and one for one."""
    cloud = Seen()
    shared = {"driver": "Shared", "shared": {"folder": "/srv/several"}, "multiAttach": True}
    classes = {
        "several": shared,
        "single": {"driver": "Shared", "shared": {"folder": "/srv/single"}},
        "mixed": shared | {"multiAttach": False},
        "own": {"driver": "Local"},
    }
    for name, spec in classes.items():
        cloud.views[VolumeClass].put({"metadata": metadata(name, None), "spec": spec})
    return cloud


def test_servers_join_and_leave():
    """Each is named once, the first as ever; who leaves takes no other along, and the volume's host stays."""
    place = joined(make_place(), "a")
    assert (place.holders, place.also_attached_to) == (("a",), None)
    for name in ("b", "c", "b", "a"):
        place = joined(place, name)
    assert (place.attached_to, place.also_attached_to, place.host) == ("a", ["b", "c"], "h1")
    assert released(place, {"b"}).holders == ("a", "c")
    first_gone = released(place, {"a"})
    assert (first_gone.attached_to, first_gone.also_attached_to) == ("b", ["c"])
    assert released(place, {"x"}) == place
    empty = released(place, {"a", "b", "c"})
    assert (empty, empty.holders) == (make_place(), ())


def test_a_volume_has_room_for_so_many():
    """One of a class without multiAttach takes no second server, one for several no seventeenth; each has its own."""
    alone = VolumeAssignment.model_validate(PLACE | {"attachedTo": "a"})
    refused = vacancy(make_volume(alone), "b")
    assert isinstance(refused, Refused)
    assert refused.refusal.reason == "VolumeInUse"
    assert "in use by server a" in refused.refusal.message
    assert "multiAttach" in refused.refusal.message
    assert vacancy(make_volume(alone), "a") is None
    names = [f"s{number}" for number in range(MOST_HOLDERS)]
    assert vacancy(make_volume(make_place(*names[:-1])), "new") is None
    full = vacancy(make_volume(make_place(*names)), "new")
    assert isinstance(full, Refused)
    assert f"{MOST_HOLDERS} servers" in full.refusal.message
    assert vacancy(make_volume(make_place(*names)), names[-1]) is None
    assert vacancy(make_volume(), "a") is None


@pytest.mark.parametrize(("name", "several"), [("several", True), ("single", False), ("mixed", False), ("own", False)])
def test_the_class_says_it_once(name, several):
    """What is bound stays what it was made as; what is not asks its class."""
    cloud, volume = make_cloud(), make_volume(volumeClass={"name": name})
    assert is_multi_attach(volume, cloud) is several
    assert bool(first_place(cloud, volume, "h2").multi_attach) is several
    assert is_multi_attach(make_volume(make_place(), volumeClass={"name": name}), cloud) is True


def test_a_server_is_told_that_others_have_it_too():
    """The assignment marks it, so the books give it to nobody alone; a volume of one server is held as before."""
    several = assigned_volume("data", make_volume(make_place("a", "b")))
    assert (several["multiAttach"], several["shared"]) == (True, True)
    alone = assigned_volume("own", make_volume(VolumeAssignment.model_validate(PLACE)))
    assert "multiAttach" not in alone
    alone["volume"] = "own"
    resources = {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"}
    given = {"instanceID": ID(2), "host": "h1", "epoch": 1, "resources": resources, "volumes": [several, alone]}
    spec = {"flavor": {"name": "small"}, "image": {"name": "tiny"}, "assignment": given}
    server = Server.model_validate({"metadata": metadata("a"), "spec": spec})
    entry = entry_of(server)
    assert entry is not None
    assert entry.holds == {("Volume", "demo", "own")}
    larger = with_sizes(server.spec.assignment, {ID(1): "2Gi"})
    assert [item.size for item in larger.volumes] == ["2Gi", "2Gi"]


@pytest.mark.parametrize(
    ("place", "status", "ready", "reason", "words"),
    [
        (make_place(), {}, "False", "Making", "host h1"),
        (make_place(), MADE, "True", "Available", "several servers at once"),
        (make_place("a"), MADE, "True", "InUse", "attached to server a"),
        (make_place("b", "c", "a"), MADE, "True", "InUse", "attached to servers a, b, c"),
    ],
)
def test_it_says_who_has_it(place, status, ready, reason, words):
    """Its condition names all, in an order that does not change with who came first."""
    said = volume_status(make_volume(place, status), None, NOW)
    assert said is not None
    (found,) = said["conditions"]
    assert (found["status"], found["reason"]) == (ready, reason)
    assert words in found["message"]


def test_its_host_alone_makes_it():
    """Until it is made no server elsewhere gets it: two hosts would make it at once."""
    cloud = make_cloud()
    assert work_on(cloud, make_volume(make_place("a"))) == "makes it"
    assert work_on(cloud, make_volume(make_place("a"), MADE)) == ""


def test_it_changes_its_class_off_only_and_never_in_its_folder():
    """Held it stays, and until it is made; copied it is of the other kind; one folder has no room for both kinds."""
    cloud = make_cloud()

    def step(place, wanted, status=MADE):
        volume = make_volume(place, status, volumeClass={"name": wanted})
        cloud.views[Volume].put(volume.model_dump(by_alias=True, exclude_none=True, mode="json"))
        return retyping(cloud, volume)

    for holders, who in ((("a",), "server a has"), (("a", "b"), "servers a, b have")):
        wanted, refusal = step(make_place(*holders), "single")
        assert wanted is None
        assert (refusal.reason, refusal.message.startswith(who)) == ("InUse", True)
    begun, _ = step(make_place(), "single")
    assert (begun.multi_attach, begun.moving.multi_attach, begun.moving.folder) == (True, None, "/srv/single")
    done, _ = step(begun, "single", MADE | {"moved": begun.moving.request})
    assert (done.multi_attach, done.folder, done.left.folder) == (None, "/srv/single", "/srv/several")
    back, _ = step(done.model_copy(update={"left": None}), "several")
    assert (back.multi_attach, back.moving.multi_attach) == (None, True)
    wanted, refusal = step(make_place(), "mixed")
    assert (wanted, refusal.reason) == (None, "MultiAttach")
    wanted, refusal = step(make_place(), "own", {})
    assert (wanted, refusal.reason) == (None, "Retyping")
    assert "host h1 makes it" in refusal.message
