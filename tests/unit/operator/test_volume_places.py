"""Where volumes and their snapshots are put, how they grow and go back, and the sentence of each refusal."""

from datetime import UTC, datetime

import pytest

from kumulus_api import Image, ImageAcceptance, Server, Volume, VolumeBackup, VolumeClass, VolumeSnapshot
from kumulus_api.tenancy import Quota
from kumulus_operator.ledger.ledger import Ledger
from kumulus_operator.placement.facts import Amounts, HostFacts
from kumulus_operator.refusal import Refusal, Refused
from kumulus_operator.seen import Seen
from kumulus_operator.servers.volumes import give_volumes
from kumulus_operator.volume_snapshots.plan import place_of, snapshot_status
from kumulus_operator.volumes.binding import copy_place, first_place, given_size, grown, reverting, work_on
from kumulus_operator.volumes.classes import is_shared, unready
from kumulus_operator.volumes.plan import Refusals, volume_status
from kumulus_runtime.conditions import get_condition, set_condition

GIB = 1 << 30
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = "00000000-0000-4000-8000-00000000000{}".format
PLACE = {"volumeID": ID(1), "host": "h1", "size": "1Gi"}
SHARE = PLACE | {"volumeClass": "fast", "folder": "/srv/fast"}
MADE = {"sizeBytes": GIB, "usedBytes": 4096}
READY = set_condition([], "Ready", True, "Fine", "", 1)


def metadata(name, namespace="demo", **more):
    return {"name": name, "namespace": namespace, "uid": name, "generation": 1, "resourceVersion": "1"} | more


def make_volume(name="data", assignment=None, status=None, **spec):
    """Give a volume of one GiB, bound if it has an assignment."""
    spec = {"size": "1Gi"} | spec | ({"assignment": assignment} if assignment else {})
    return {"metadata": metadata(name), "spec": spec, "status": status or {}}


def make_snapshot(name="snap", *, taken=True, volume="data", **assignment):
    """Give a snapshot of a volume that was taken where the volume is."""
    given = {"snapshotID": ID(2), "volumeID": ID(1), "host": "h1"} | assignment
    spec = {"volume": {"name": volume}, "assignment": given}
    return {"metadata": metadata(name), "spec": spec, "status": {"restoreSize": GIB} if taken else {}}


def make_class(name, **spec):
    driver = (
        {"driver": "Shared", "shared": {"folder": f"/srv/{name}"}} if spec.pop("shares", True) else {"driver": "Local"}
    )
    return {"metadata": metadata(name, None), "spec": driver | spec}


def make_cloud(*bodies, quota=None, disk=10 * GIB):
    """Give what the operator has seen, and its books."""
    cloud = Seen()
    for kind, body in bodies:
        cloud.views[kind].put(body)
    cloud.ledger = Ledger(lambda _: quota or Quota(), lambda _: True)
    facts = dict.fromkeys(("ready", "fresh", "schedulable", "tunnel"), True) | {
        "maintenance": False,
        "decommissioned": False,
    }
    cloud.ledger.host_seen(HostFacts("h1", total=Amounts(8, 8 * GIB, disk), **facts))
    for volume in cloud.volumes:
        cloud.ledger.volume_seen(volume)
        cloud.ledger.admit_volume(volume, counted=True)
    return cloud


def make_moving():
    """Give a server that migrates."""
    resources = {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"}
    given = {"instanceID": ID(5), "host": "h1", "target": "h2", "epoch": 1, "resources": resources}
    spec = {"flavor": {"name": "f"}, "image": {"name": "i"}, "assignment": given}
    return {"metadata": metadata("web"), "spec": spec}


def volume_in(cloud, name="data"):
    found = cloud.volumes.get("demo", name)
    assert found is not None
    return found


def refusal(act, *arguments):
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value.refusal


def test_the_default_class_is_the_first_that_the_project_may_use():
    """A class that is another project's is passed over; without any, volumes lie in the hosts' own folders."""
    classes = [make_class("a", default=True, public=False, projects=["other"]), make_class("b", default=True)]
    cloud = make_cloud((Volume, make_volume()), *((VolumeClass, body) for body in classes))
    place = first_place(cloud, volume_in(cloud), "h1")
    assert (place.volume_class, place.folder, place.size, place.host) == ("b", "/srv/b", "1Gi", "h1")
    assert is_shared(volume_in(cloud), cloud)
    bare = make_cloud((Volume, make_volume()))
    assert first_place(bare, volume_in(bare), "h1").folder is None
    assert not is_shared(volume_in(bare), bare)


def test_a_class_of_others_and_one_that_is_absent_are_refused_alike():
    """Who may not use a class does not learn whether it is there."""
    body = make_volume(volumeClass={"name": "fast"})
    absent = make_cloud((Volume, body))
    hidden = make_cloud((Volume, body), (VolumeClass, make_class("fast", public=False)))
    found = [refusal(first_place, cloud, volume_in(cloud), "h1") for cloud in (absent, hidden)]
    assert found[0] == found[1]
    assert found[0].reason == "VolumeClassNotFound"
    allowed = make_cloud((Volume, body), (VolumeClass, make_class("fast", public=False, projects=["demo"])))
    assert first_place(allowed, volume_in(allowed), "h1").volume_class == "fast"


def test_a_copy_lies_where_what_it_is_of_does():
    """A copy of a snapshot, or of a volume, gets its host and share; servers wait until it has a place."""
    of_snapshot = make_volume("copy", source={"snapshot": {"name": "snap"}}, size="2Gi")
    of_volume = make_volume("copy", source={"volume": {"name": "data"}})
    share = {"volumeClass": "fast", "folder": "/srv/fast"}
    for body in (of_snapshot, of_volume):
        seen = ((VolumeSnapshot, make_snapshot(**share)), (Volume, make_volume(assignment=SHARE, status=MADE)))
        cloud = make_cloud((Volume, body), *seen)
        copy = volume_in(cloud, "copy")
        assert unready(copy, cloud) is not None
        place = copy_place(cloud, copy)
        assert place is not None
        assert (place.host, place.folder, place.volume_class, place.size) == (
            "h1",
            "/srv/fast",
            "fast",
            body["spec"]["size"],
        )
        assert place.origin is not None
        assert place.origin.volume_id == ID(1)
        assert (place.origin.snapshot_id == ID(2)) == (body is of_snapshot)
        assert place.origin.taken == (body is of_volume)
        cloud.volumes.put(
            make_volume("copy", assignment=place.dump()) | {"metadata": metadata("copy", resourceVersion="2")}
        )
        assert unready(volume_in(cloud, "copy"), cloud) is None
        assert "makes the copy copy" in work_on(cloud, volume_in(cloud))


def test_a_class_that_encrypts_gets_nothing_from_a_backup():
    """What is restored lies in the clear, so it does not lie in a class that says that nothing does."""
    body = make_volume("new", source={"volumeBackup": {"name": "b"}}, volumeClass={"name": "sealed"})
    given = {"backupID": ID(6), "volumeID": ID(1), "host": "h1", "chain": ID(6)}
    spec = {"source": {"volume": {"name": "data"}}, "assignment": given}
    backup = {"metadata": metadata("b"), "spec": spec, "status": {"digest": "sha256:" + "0" * 64, "size": GIB}}
    sealed = make_class("sealed", shares=False, encryption={})
    cloud = make_cloud((Volume, body), (VolumeClass, sealed), (VolumeBackup, backup))
    assert refusal(copy_place, cloud, volume_in(cloud, "new")).reason == "Encrypted"


@pytest.mark.parametrize(
    ("body", "snapshot", "reason"),
    [
        ({"source": {"snapshot": {"name": "none"}}}, {}, "SourceNotFound"),
        ({"source": {"volume": {"name": "none"}}}, {}, "SourceNotFound"),
        ({"source": {"volume": {"name": "blank"}}}, {}, "SourceNotReady"),
        ({"source": {"volume": {"name": "travels"}}}, {}, "SourceNotReady"),
        ({"source": {"snapshot": {"name": "snap"}}}, {"taken": False}, "SourceNotReady"),
        ({"source": {"snapshot": {"name": "snap"}}, "size": "512Mi"}, {}, "SizeTooSmall"),
        ({"source": {"snapshot": {"name": "snap"}}, "volumeClass": {"name": "fast"}}, {}, "SourceOfAnotherClass"),
    ],
)
def test_a_copy_waits_for_what_it_is_of(body, snapshot, reason):
    """Each reason for which a copy cannot be made is told; no place is chosen until then."""
    seen = [
        (Volume, make_volume("copy", **body)),
        (Volume, make_volume("blank")),
        (Volume, make_volume("data", PLACE, MADE)),
    ]
    cloud = make_cloud(*seen, (VolumeSnapshot, make_snapshot(**snapshot)))
    cloud.volumes.put(make_volume("travels", PLACE | {"volumeID": ID(4), "attachedTo": "web"}, MADE))
    cloud.servers.put(make_moving())
    copy = volume_in(cloud, "copy")
    told = refusal(copy_place, cloud, copy)
    assert told.reason == reason
    status = volume_status(copy, None, NOW, refusals=Refusals(making=told))
    assert status is not None
    assert status["conditions"][0]["reason"] == reason


def test_a_volume_of_an_image_waits_until_that_is_ready():
    """The image is noted as it is when the volume gets its place; one that is too large is refused."""
    body = make_volume(source={"image": {"name": "tiny"}})
    spec = {"source": {"url": "http://images.test/tiny"}, "format": "qcow2"}
    status = {"digest": "sha256:" + "0" * 64, "virtualSize": GIB, "conditions": READY}
    cloud = make_cloud((Volume, body))
    assert refusal(first_place, cloud, volume_in(cloud), "h1").reason == "SourceNotFound"
    cloud = make_cloud((Volume, body), (Image, {"metadata": metadata("tiny"), "spec": spec, "status": {}}))
    assert refusal(first_place, cloud, volume_in(cloud), "h1").reason == "SourceNotReady"
    cloud = make_cloud((Volume, body), (Image, {"metadata": metadata("tiny"), "spec": spec, "status": status}))
    place = first_place(cloud, volume_in(cloud), "h1")
    assert place.origin is not None
    assert place.origin.image is not None
    assert place.origin.image.digest == status["digest"]
    cloud = make_cloud(
        (Volume, body),
        (Image, {"metadata": metadata("tiny"), "spec": spec, "status": status | {"virtualSize": 2 * GIB}}),
    )
    assert refusal(first_place, cloud, volume_in(cloud), "h1").reason == "SizeTooSmall"
    wants = (Image, {"metadata": metadata("tiny"), "spec": spec | {"minDisk": "2Gi"}, "status": status})
    cloud = make_cloud((Volume, body), wants)
    said = refusal(first_place, cloud, volume_in(cloud), "h1")
    assert (said.reason, f"needs {2 * GIB} bytes" in said.message) == ("SizeTooSmall", True)


def test_a_volume_of_an_image_that_is_shared():
    """A project's volumes are made of the images that its servers may have, and of the file that a store has."""
    body = make_volume(source={"image": {"name": "tiny", "namespace": "owner"}})
    spec = {"source": {"url": "http://images.test/tiny"}, "format": "vmdk"}
    spec |= {"assignment": {"store": "Hosts", "hosts": ["h1"]}}
    stored = {"digest": "sha256:" + "1" * 64, "size": 5, "format": "qcow2"}
    status = {"digest": "sha256:" + "0" * 64, "virtualSize": GIB, "conditions": READY, "stored": stored}

    def with_image(*, accepted=False, **more):
        image = {"metadata": metadata("tiny", "owner"), "spec": spec | more, "status": status}
        cloud = make_cloud((Volume, body), (Image, image))
        if accepted:
            given = {"metadata": metadata("tiny"), "spec": {"image": {"name": "tiny", "namespace": "owner"}}}
            cloud.acceptances.seen(None, ImageAcceptance.model_validate(given))
        return cloud

    shared = {"visibility": "Shared", "members": ["demo"]}
    absent = refusal(first_place, make_cloud((Volume, body)), volume_in(make_cloud((Volume, body))), "h1")
    assert absent.reason == "SourceNotFound"
    for cloud in (with_image(), with_image(**shared), with_image(accepted=True)):
        assert refusal(first_place, cloud, volume_in(cloud), "h1") == absent
    cloud = with_image(accepted=True, active=False, **shared)
    told = refusal(first_place, cloud, volume_in(cloud), "h1")
    assert (told.reason, "is deactivated" in told.message) == ("SourceNotReady", True)
    assert ("ImageAcceptance", "demo", "owner/tiny") in told.needs
    for cloud in (with_image(accepted=True, **shared), with_image(visibility="Public")):
        given = first_place(cloud, volume_in(cloud), "h1").origin.image
        assert (given.namespace, given.url) == ("owner", "kumulus-image:///owner/tiny")
        assert (given.digest, given.format) == (stored["digest"], "qcow2")


@pytest.mark.parametrize(
    ("quota", "disk", "reason"),
    [(None, 10 * GIB, None), (Quota(gigabytes=2), 10 * GIB, "QuotaExceeded"), (None, 2 * GIB, "HostFull")],
)
def test_growth_is_admitted_as_a_new_volume_is(quota, disk, reason):
    """What a volume grows by counts against the quota and the host's room; refused, it keeps size and Ready."""
    cloud = make_cloud((Volume, make_volume(assignment=PLACE, status=MADE, size="3Gi")), quota=quota, disk=disk)
    volume = volume_in(cloud)
    assert given_size(volume) == GIB
    place, told = grown(cloud, volume)
    assert (told.reason if told is not None else None) == reason
    assert (place is None) == (reason is not None)
    assert cloud.ledger.usage("demo").volume_bytes == (GIB if reason else 3 * GIB)
    status = volume_status(volume, None, NOW, refusals=Refusals(growth=told))
    assert status is not None
    ready, resized = (get_condition(status["conditions"], kind) for kind in ("Ready", "Resized"))
    assert (ready["reason"], resized["reason"]) == ("Available", reason or "Growing")


def test_a_shared_volume_grows_whatever_room_its_host_has():
    """What lies on a share takes no room of a host."""
    cloud = make_cloud((Volume, make_volume(assignment=SHARE, status=MADE, size="30Gi")))
    place, told = grown(cloud, volume_in(cloud))
    assert told is None
    assert place is not None
    assert place.size == "30Gi"
    assert cloud.ledger.used_on("h1").disk == 0


def test_growth_before_the_first_use_counts_too():
    """A volume that nobody has used, and that has grown beyond the quota, is admitted no more."""
    cloud = make_cloud(quota=Quota(gigabytes=2))
    small, large = (Volume.model_validate(make_volume(size=size)) for size in ("1Gi", "3Gi"))
    assert cloud.ledger.admit_volume(small, counted=False) is None
    assert cloud.ledger.admit_volume(large, counted=True) is not None
    assert not cloud.ledger.volume_admitted(large.key)


def test_a_volume_goes_back_once_for_a_request_and_detached():
    """A revert waits for its snapshot and for the server to let go; what was asked once is not asked again."""
    wanted = {"revert": {"snapshot": {"name": "snap"}, "request": "1"}}
    without = make_cloud((Volume, make_volume(assignment=PLACE, status=MADE, **wanted)))
    assert reverting(without, volume_in(without))[1].reason == "SnapshotNotFound"
    held = make_volume(assignment=PLACE | {"attachedTo": "web"}, status=MADE, **wanted)
    cloud = make_cloud((Volume, held), (VolumeSnapshot, make_snapshot()))
    assert reverting(cloud, volume_in(cloud))[1].reason == "InUse"
    cloud = make_cloud(
        (Volume, make_volume(assignment=PLACE, status=MADE, **wanted)), (VolumeSnapshot, make_snapshot())
    )
    place, told = reverting(cloud, volume_in(cloud))
    assert told is None
    assert place.revert.dump() == {"snapshotID": ID(2), "request": "1"}
    given = PLACE | {"revert": place.revert.dump()}
    cloud = make_cloud(
        (Volume, make_volume(assignment=given, status=MADE, **wanted)), (VolumeSnapshot, make_snapshot())
    )
    assert reverting(cloud, volume_in(cloud)) == (None, None)
    assert work_on(cloud, volume_in(cloud)) == "puts it back to a snapshot"
    done = make_volume(assignment=given, status=MADE | {"reverted": "1"}, **wanted)
    assert work_on(make_cloud((Volume, done)), Volume.model_validate(done)) == ""


def test_a_snapshot_is_taken_where_its_volume_is_and_follows_it():
    """It waits for a volume with data that does not migrate, and moves with a shared one."""
    fresh = VolumeSnapshot.model_validate({"metadata": metadata("snap"), "spec": {"volume": {"name": "data"}}})
    blank, bound = (Volume.model_validate(body) for body in (make_volume(), make_volume(assignment=SHARE, status=MADE)))
    assert place_of(fresh, None, None).reason == "VolumeNotFound"
    assert place_of(fresh, blank, None).reason == "VolumeNotReady"
    held = Volume.model_validate(make_volume(assignment=SHARE | {"attachedTo": "web"}, status=MADE))
    moving = Server.model_validate(make_moving())
    assert place_of(fresh, held, moving).reason == "ServerMigrating"
    place = place_of(fresh, bound, None)
    assert (place.volume_id, place.host, place.folder) == (ID(1), "h1", "/srv/fast")
    taken = VolumeSnapshot.model_validate(make_snapshot())
    assert place_of(taken, bound, None) is None
    moved = Volume.model_validate(make_volume(assignment=SHARE | {"host": "h2"}, status=MADE))
    assert place_of(taken, moved, None).host == "h2"


def test_a_snapshot_says_what_it_is():
    """Quota, a refusal, the agent's fault and the end of it each have their reason; it is written once."""
    waiting = VolumeSnapshot.model_validate(make_snapshot(taken=False))
    for excess, told, reason in (
        ("2 of 2 snapshots are in use", None, "QuotaExceeded"),
        (None, Refusal("VolumeNotReady", "not yet"), "VolumeNotReady"),
        (None, None, "Taking"),
    ):
        status = snapshot_status(waiting, excess, told, NOW)
        assert status is not None
        assert [item["reason"] for item in status["conditions"]] == [reason]
    body = make_snapshot()
    body["status"] |= snapshot_status(VolumeSnapshot.model_validate(body), None, None, NOW)
    assert body["status"]["conditions"][0]["status"] == "True"
    assert snapshot_status(VolumeSnapshot.model_validate(body), None, None, NOW) is None
    body["status"]["fault"] = {"reason": "TooManyLayers", "message": "too many"}
    assert (
        snapshot_status(VolumeSnapshot.model_validate(body), None, None, NOW)["conditions"][0]["reason"]
        == "TooManyLayers"
    )


def test_a_deleted_volume_says_what_it_waits_for():
    """It stays while it has snapshots, and names them."""
    body = make_volume(assignment=PLACE, status=MADE)
    body["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    status = volume_status(Volume.model_validate(body), None, NOW, snapshots=["snap"])
    assert status is not None
    assert (status["conditions"][0]["reason"], "snap" in status["conditions"][0]["message"]) == ("HasSnapshots", True)


@pytest.mark.parametrize(("of_volume", "of_server"), [(False, False), (True, False), (False, True), (True, True)])
async def test_a_server_may_be_the_one_that_only_reads(of_volume, of_server):
    """A volume is read-only for all servers, or for the one whose entry says so."""
    cloud = make_cloud((Volume, make_volume(assignment=PLACE | {"attachedTo": "web"}, readOnly=of_volume)))
    entry = {"name": "data", "volume": {"name": "data"}} | ({"readOnly": True} if of_server else {})
    spec = {"flavor": {"name": "f"}, "image": {"name": "i"}, "volumes": [entry]}
    server = Server.model_validate({"metadata": metadata("web"), "spec": spec})
    given = await give_volumes(cloud, server, (("data", volume_in(cloud)),), "h1")
    assert given[0].get("readOnly", False) is (of_volume or of_server)
