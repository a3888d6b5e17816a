"""How a volume comes to another class, step by step, and why it does not."""

from datetime import UTC, datetime

import pytest

from kumulus_api import Server, Volume, VolumeBackup, VolumeClass, VolumeSnapshot
from kumulus_operator.seen import Seen
from kumulus_operator.volume_snapshots.plan import place_of
from kumulus_operator.volumes.binding import work_on
from kumulus_operator.volumes.exporting import volume_moves, with_sizes
from kumulus_operator.volumes.plan import Refusals, volume_status
from kumulus_operator.volumes.retyping import retyping

ID = "00000000-0000-4000-8000-00000000000{}".format
PLACE = {"volumeID": ID(1), "host": "h1", "size": "1Gi", "volumeClass": "slow"}
LOCKED = {"encryption": {"cipher": "aes-xts-plain64", "keySize": 512, "secret": {"name": "volume-key-1"}, "made": True}}
MADE = {"sizeBytes": 1 << 30, "usedBytes": 4096}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def metadata(name, namespace="demo"):
    return {"name": name, "namespace": namespace, "uid": name, "generation": 1, "resourceVersion": "1"}


def make_volume(wanted="fast", status=None, **place):
    """A volume of class slow that is to be of another."""
    spec = {"size": "1Gi", "volumeClass": {"name": wanted}, "assignment": PLACE | place}
    status = MADE if status is None else status
    return Volume.model_validate({"metadata": metadata("data"), "spec": spec, "status": status})


def make_cloud(volume, *bodies):
    """A cloud with a Local class, one of the same folder, and a Shared one."""
    cloud = Seen()
    shared = {"driver": "Shared", "shared": {"folder": "/srv/fast"}}
    classes = (
        ("slow", {"driver": "Local"}),
        ("cheap", {"driver": "Local"}),
        ("sealed", {"driver": "Local", "encryption": {}}),
        ("fast", shared),
    )
    for name, spec in classes:
        cloud.views[VolumeClass].put({"metadata": metadata(name, None), "spec": spec})
    for kind, body in ((Volume, volume.model_dump(by_alias=True, exclude_none=True, mode="json")), *bodies):
        cloud.views[kind].put(body)
    return cloud


def step(volume, *bodies):
    return retyping(make_cloud(volume, *bodies), volume)


def test_it_is_copied_then_switched_then_cleared():
    """Each step waits for the host's word; in the assignment it lies in one place at any moment."""
    begun, refusal = step(make_volume())
    assert refusal is None
    assert (begun.volume_class, begun.folder, begun.moving.folder) == ("slow", None, "/srv/fast")
    moving = begun.dump()
    assert step(make_volume(**moving)) == (None, None)
    request = begun.moving.request
    assert step(make_volume(status=MADE | {"moved": ID(9)}, **moving)) == (None, None)
    switched, _ = step(make_volume(status=MADE | {"moved": request}, **moving))
    assert (switched.volume_class, switched.folder, switched.moving) == ("fast", "/srv/fast", None)
    assert (switched.left.volume_class, switched.left.folder) == ("slow", None)
    assert step(make_volume(**switched.dump())) == (None, None)
    done, _ = step(make_volume(status=MADE | {"cleared": request}, **switched.dump()))
    assert (done.volume_class, done.left, done.moving) == ("fast", None, None)


@pytest.mark.parametrize("place", [{}, {"attachedTo": "web"}])
def test_who_thinks_better_of_it_keeps_what_was(place):
    """Asked back to its class while it is copied, it stays; that the copy is gone is its host's word."""
    begun, _ = step(make_volume(**place))
    request = begun.moving.request
    asked, _ = step(make_volume(wanted="slow", **begun.dump()))
    assert (asked.volume_class, asked.folder, asked.moving.cancelled) == ("slow", None, True)
    assert step(make_volume(wanted="slow", **asked.dump())) == (None, None)
    assert step(make_volume(wanted="fast", **asked.dump())) == (None, None)
    back, _ = step(make_volume(wanted="slow", status=MADE | {"cleared": request}, **asked.dump()))
    assert (back.volume_class, back.folder, back.moving, back.left) == ("slow", None, None, None)


def test_who_thinks_better_of_it_too_late_gets_it_back():
    """What a guest writes to already is the volume: it is switched, and goes back as it came."""
    begun, _ = step(make_volume(attachedTo="web"))
    asked, _ = step(make_volume(wanted="slow", **begun.dump()))
    late = MADE | {"moved": begun.moving.request}
    switched, _ = step(make_volume(wanted="slow", status=late, **asked.dump()))
    assert (switched.volume_class, switched.folder, switched.left.folder) == ("fast", "/srv/fast", None)
    cleared = late | {"cleared": begun.moving.request}
    home, _ = step(make_volume(wanted="slow", status=cleared, **switched.dump()))
    back, _ = step(make_volume(wanted="slow", status=cleared, **home.dump()))
    assert (back.moving.volume_class, back.moving.folder) == ("slow", None)


def test_nothing_is_copied_where_nothing_need_be():
    """A class of the same folder, or a volume that has no data yet, changes at once."""
    same, _ = step(make_volume(wanted="cheap"))
    assert (same.volume_class, same.folder, same.moving) == ("cheap", None, None)
    unmade, _ = step(make_volume(status={}))
    assert (unmade.volume_class, unmade.folder, unmade.moving) == ("fast", "/srv/fast", None)


SNAPSHOT = {
    "metadata": metadata("snap"),
    "spec": {"volume": {"name": "data"}, "assignment": {"snapshotID": ID(2), "volumeID": ID(1), "host": "h1"}},
    "status": {"restoreSize": 1},
}


def server(shared=False, **more):
    """The server that has it, on its host."""
    image = {"name": "i", "namespace": "demo", "url": "http://h/i", "format": "raw", "digest": "sha256:" + "0" * 64}
    volume = {"name": "data", "volume": "data", "volumeID": ID(1), "size": "1Gi", "shared": shared}
    given = {
        "instanceID": ID(5),
        "host": "h1",
        "epoch": 1,
        "resources": {"vcpus": 1, "memory": "64Mi", "rootDisk": "1Gi"},
        "image": image | {"virtualSize": 1},
        "ports": [],
        "volumes": [volume],
    }
    spec = {"flavor": {"name": "f"}, "image": {"name": "i"}, "assignment": given | more}
    return {"metadata": metadata("web"), "spec": spec}


BACKUP = {
    "metadata": metadata("backup"),
    "spec": {
        "source": {"volume": {"name": "data"}},
        "assignment": {"backupID": ID(3), "volumeID": ID(1), "host": "h1", "chain": ID(3)},
    },
}


@pytest.mark.parametrize(
    ("volume", "bodies", "reason"),
    [
        (make_volume(attachedTo="web", exportedTo=["h2"]), (), "InUse"),
        (make_volume(attachedTo="web"), ((Server, server(target="h2")),), "Retyping"),
        (make_volume(attachedTo="web"), ((VolumeSnapshot, SNAPSHOT),), "HasSnapshots"),
        (make_volume(), ((VolumeSnapshot, SNAPSHOT),), "HasSnapshots"),
        (make_volume(wanted="none"), (), "VolumeClassNotFound"),
        (make_volume(size="2Gi"), (), "Retyping"),
        (make_volume(), ((VolumeBackup, BACKUP),), "Retyping"),
        (make_volume(**LOCKED), (), "Encrypted"),
        (make_volume(wanted="sealed"), (), "Encrypted"),
        (make_volume(wanted="sealed", status={}), (), "Encrypted"),
    ],
)
def test_what_keeps_it_is_said(volume, bodies, reason):
    """In use, with snapshots, at work, read, encrypted, or without such a class it stays, and the condition says so."""
    place, refusal = step(volume, *bodies)
    assert place is None
    assert refusal.reason == reason
    told = volume_status(volume, None, NOW, refusals=Refusals(retype=refusal))
    assert next(item for item in told["conditions"] if item["type"] == "Retyped")["reason"] == reason


def test_a_server_that_has_it_goes_on_and_stays():
    """It begins in use; its server migrates when it is there, cleared, and known to be where any host finds it."""
    begun, refusal = step(make_volume(attachedTo="web"), (Server, server()))
    assert refusal is None
    request = begun.moving.request
    switched, _ = step(make_volume(status=MADE | {"moved": request}, **begun.dump()))
    done = switched.model_copy(update={"left": None})
    held = Server.model_validate(server())
    for place in (begun, switched, done):
        assert volume_moves(make_cloud(make_volume(**place.dump())), held).reason == "VolumeMoves"
    told = with_sizes(held.spec.assignment, {}, {ID(1): True})
    now = Server.model_validate(server(shared=True))
    assert told == now.spec.assignment
    assert with_sizes(told, {}, {ID(1): True}) is None
    assert volume_moves(make_cloud(make_volume(**done.dump())), now) is None


def test_a_migration_decided_on_at_the_same_moment_comes_first():
    """What was begun as its server began to migrate is given up, and begun anew when that is over."""
    begun, _ = step(make_volume(attachedTo="web"), (Server, server()))
    given_up, _ = step(make_volume(**begun.dump()), (Server, server(target="h2")))
    assert given_up.moving.cancelled
    cleared = MADE | {"cleared": begun.moving.request}
    still, _ = step(make_volume(status=cleared, **given_up.dump()), (Server, server(target="h2")))
    assert still.moving is None
    assert step(make_volume(status=cleared, **still.dump()), (Server, server(target="h2")))[1].reason == "Retyping"
    assert step(make_volume(status=cleared, **still.dump()), (Server, server(host="h2")))[0].moving is not None


def test_nobody_gets_it_meanwhile():
    """A volume on its way is at work, and is not snapshotted."""
    begun, _ = step(make_volume())
    volume = make_volume(**begun.dump())
    assert "moves" in work_on(make_cloud(volume), volume)
    body = {"metadata": metadata("snap"), "spec": {"volume": {"name": "data"}}}
    assert place_of(VolumeSnapshot.model_validate(body), volume, None).reason == "ServerMigrating"
