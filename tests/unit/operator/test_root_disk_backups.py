"""Which servers' root disks are backed up, where, in which chain, and under which name."""

from datetime import UTC, datetime

import pytest

from kumulus_api import BackupPolicy, Server, VolumeBackup
from kumulus_api.testing import INSTANCE_ID, make_assigned, make_object
from kumulus_operator.refusal import Refusal
from kumulus_operator.volume_backups.plan import World, being_made, plan
from kumulus_operator.volume_backups.policy_plan import backup_for, outdated
from kumulus_operator.volume_backups.root_disks import has_root_disk, root_disk_size
from kumulus_operator.volume_backups.selection import Source, selected

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
ID = "00000000-0000-4000-8000-0000000000{:02x}".format
OTHER = ID(0x50)
GIB = 1 << 30
CACHED = {"conditions": [{"type": "ImageReady", "status": "True", "reason": "Cached", "lastTransitionTime": "x"}]}
IMAGE = {
    "name": "debian",
    "namespace": "kumulus-public",
    "url": "https://images.example/debian.qcow2",
    "format": "qcow2",
    "digest": "sha256:" + "0" * 64,
    "virtualSize": GIB,
    "properties": {"hw_firmware_type": "uefi", "os_type": "linux"},
    "minMemory": "256Mi",
}


def make_server(name="web", *, status=CACHED, labels=None, deleting=False, boots=None, **assignment):
    body = make_assigned(Server, name, "h1")
    body["spec"]["assignment"] |= {"flavor": "small", "image": IMAGE} | assignment
    if boots is not None:
        body["spec"] |= {"bootVolume": boots, "volumes": [{"name": boots, "volume": {"name": boots}}]}
    body["metadata"] |= {"labels": labels or {}}
    body["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleting else {}
    return Server.model_validate(body | {"status": status})


def make_backup(name="b", number=0, *, whole=False, deleting=False, instance=INSTANCE_ID, **spec):
    """Give a backup of the server's root disk, which has an id if it has a number."""
    if number:
        disk = {"instanceID": instance, "server": "web"}
        own = {"backupID": ID(number), "host": "h1", "chain": ID(number), "rootDisk": disk}
        spec["assignment"] = own | spec.pop("assignment", {})
    body = make_object(VolumeBackup, name, **({"source": {"server": {"name": "web"}}, "verify": None} | spec))
    body["metadata"] |= {"uid": name} | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleting else {})
    told = {"digest": "sha256:" + "0" * 64, "size": GIB, "takenAt": f"2026-01-01T00:00:{number:02}Z"} if whole else {}
    return VolumeBackup.model_validate(body | {"status": told})


def world(**parts):
    return World(**({"server": make_server(), "able": ["h1", "h2"]} | parts))


def test_it_is_read_where_the_server_is():
    """The backup keeps what a machine that starts from the disk is to be made of, also when the image has gone."""
    found = plan(make_backup(), world())
    assert (found.host, found.volume_id, found.chain) == ("h1", None, found.backup_id)
    assert found.backup_id != INSTANCE_ID
    assert found.root_disk.dump() == {
        "instanceID": INSTANCE_ID,
        "server": "web",
        "flavor": "small",
        "image": {"name": "debian", "namespace": "kumulus-public"},
        "imageProperties": {"hw_firmware_type": "uefi", "os_type": "linux"},
        "minMemory": "256Mi",
    }
    assert root_disk_size(make_server()) == GIB


@pytest.mark.parametrize(
    ("server", "reason", "waits"),
    [
        (None, "ServerNotFound", True),
        (make_server(deleting=True), "ServerNotFound", True),
        (make_server(status={}), "ServerNotReady", True),
        (make_server(target="h2"), "ServerMigrating", True),
        (make_server(boots="system"), "BootsFromVolume", False),
    ],
)
def test_what_has_no_root_disk_is_refused(server, reason, waits):
    """What passes by itself is waited for; a server that boots from a volume never gets one."""
    found = plan(make_backup(), world(server=server))
    assert isinstance(found, Refusal)
    assert found.reason == reason
    assert found.needs == (frozenset({("Server", "demo", "web")}) if waits else frozenset())


def test_a_start_that_fails_takes_no_disk_away():
    """Once started, the disk is there."""
    failed = {"type": "ImageReady", "status": "False", "reason": "ImageFailed", "lastTransitionTime": "x"}
    assert not has_root_disk(make_server(status={"conditions": [failed]}))
    durations = [{"step": "total", "milliseconds": 9}]
    assert has_root_disk(make_server(status={"conditions": [failed], "startDurations": durations}))


def test_a_chain_is_of_one_instance():
    """An incremental backup follows the newest of the same instance, not that of a former server of the name."""
    former = make_backup("former", 2, whole=True, instance=OTHER)
    asks = make_backup(incremental=True)
    assert plan(asks, world(others=[former])).reason == "NoEarlierBackup"
    own = make_backup("own", 3, whole=True)
    found = plan(asks, world(others=[former, own]))
    assert (found.chain, found.parent) == (ID(3), ID(3))


def test_one_backup_of_a_disk_at_a_time():
    """Another waits; one of another instance does not."""
    assert plan(make_backup(), world(others=[make_backup("a", 2)])).reason == "Waiting"
    assert plan(make_backup(), world(others=[make_backup("a", 2, instance=OTHER)])).host == "h1"
    assert being_made(INSTANCE_ID, [make_backup("a", 2)]) == "a"


def test_it_follows_its_server():
    """It is made where the server has moved to; a server of the same name that is another one moves nothing."""
    asks = make_backup("b", 2)
    assert plan(asks, world(server=make_server(host="h2", epoch=2))).host == "h2"
    assert plan(asks, world(server=make_server(host="h2", instanceID=OTHER))) is None
    assert plan(asks, world()) is None
    assert plan(asks, world(server=None)) is None


def test_its_host_clears_up_before_another_removes():
    """A silent host may still be adding to the chain; one that never returns is not waited for."""
    going = make_backup("b", 2, whole=True, deleting=True, assignment={"remove": True})
    assert plan(going, world(able=["h2"])) is None
    assert plan(going, world(able=["h2"], lost=["h1"])).host == "h2"


def make_policy(**spec):
    body = make_object(
        BackupPolicy, "nightly", **({"volumes": None, "servers": {"matchLabels": {"tier": "db"}}} | spec)
    )
    return BackupPolicy.model_validate(body)


def test_a_policy_of_servers_takes_their_root_disks():
    """Those that were started and stay, and have one."""
    servers = [
        make_server("b", labels={"tier": "db"}, instanceID=OTHER),
        make_server("a", labels={"tier": "db"}),
        make_server("new", labels={"tier": "db"}, status={}),
        make_server("going", labels={"tier": "db"}, deleting=True),
        make_server("boots", labels={"tier": "db"}, boots="system"),
        make_server("other"),
    ]
    assert selected(make_policy(), [], servers) == [Source("server", "a", INSTANCE_ID), Source("server", "b", OTHER)]
    assert selected(make_policy(servers=None, volumes={"matchLabels": {"tier": "db"}}), [], servers) == []


def test_names_of_a_server_and_of_volumes_differ():
    """A root disk's backup has the name of no volume's, whatever that is called, and however long both are."""
    policy = make_policy()
    name = lambda *source: backup_for(policy, Source(*source), NOW, [])["metadata"]["name"]  # noqa: E731
    assert name("server", "web") == "nightly-web.root-20260310t1200z"
    names = {name(field, word) for field in ("server", "volume") for word in ("web", "w" * 60)}
    names |= {name("volume", word) for word in ("web.root", "w" * 60 + ".root")}
    assert len(names) == 6
    assert all(len(item) <= 63 for item in names)
    body = backup_for(policy, Source("server", "web", INSTANCE_ID), NOW, [])
    assert VolumeBackup.model_validate(body).spec.source.server.name == "web"


def test_of_each_the_newest_stays():
    """Retention counts a server's root disk apart from a volume of the same name."""
    runs = {1: "server", 2: "volume", 3: "server"}
    made = []
    for number, field in runs.items():
        backup = make_backup(f"n-{number}", number, whole=True, source={field: {"name": "web"}})
        labels = {"kumulus.dev/backup-policy": "nightly", "kumulus.dev/backup-run": f"202603{number:02}T0200Z"}
        made.append(backup.model_copy(update={"metadata": backup.metadata.model_copy(update={"labels": labels})}))
    gone = outdated(make_policy(retention={"count": 1}), made, NOW)
    assert [item.metadata.name for item in gone] == ["n-1"]
