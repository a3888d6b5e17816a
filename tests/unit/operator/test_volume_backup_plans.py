"""Which parent, host and moment a backup gets, and that adding to a chain and removing from it exclude each other."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kumulus_api import BackupPolicy, Server, Volume, VolumeBackup, VolumeSnapshot
from kumulus_api.testing import make_assigned, make_object
from kumulus_api.volume_backup import POLICY_LABEL, RUN_LABEL
from kumulus_operator.refusal import Refusal
from kumulus_operator.volume_backups.plan import World, backup_status, being_made, plan, verify_due
from kumulus_operator.volume_backups.policy_plan import (
    InvalidSchedule,
    backup_for,
    backups_of,
    going_on,
    outdated,
    policy_conditions,
    times_of,
)
from kumulus_operator.volume_backups.selection import Source, selected

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
ID = "00000000-0000-4000-8000-0000000000{:02x}".format
GIB = 1 << 30
LOCKED = {"encryption": {"cipher": "aes-xts-plain64", "keySize": 512, "secret": {"name": "volume-key-1"}, "made": True}}


def make_volume(name="data", volume_id=None, *, host="h1", made=True, **assignment):
    given = {"volumeID": volume_id or ID(1), "host": host, "size": "1Gi"} | assignment
    body = make_object(Volume, name, assignment=given)
    return Volume.model_validate(body | {"status": {"sizeBytes": GIB} if made else {}})


def make_backup(name, number=0, *, whole=False, deleting=False, labels=None, status=None, **spec):
    """Give a backup that has an id if it has a number."""
    assignment = spec.pop("assignment", {})
    if number:
        own = {"backupID": ID(number), "volumeID": ID(1), "host": "h1", "chain": ID(number)}
        spec["assignment"] = own | assignment
    body = make_object(VolumeBackup, name, verify=None, **spec)
    body["metadata"] |= {"uid": name, "labels": labels or {}, "finalizers": ["kumulus.dev/agent"]}
    body["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleting else {}
    told = {"digest": "sha256:" + "0" * 64, "size": GIB, "takenAt": f"2026-01-01T00:00:{number:02}Z"} if whole else {}
    return VolumeBackup.model_validate(body | {"status": told | (status or {})})


def world(**parts):
    return World(**({"volume": make_volume(), "able": ["h1", "h2"]} | parts))


def refused(found, reason):
    assert isinstance(found, Refusal)
    assert found.reason == reason
    assert found.needs, "it waits for something"


def test_a_full_backup_begins_a_chain():
    """It is made where the volume is, and its chain is its own."""
    found = plan(make_backup("b"), world())
    assert (found.host, found.volume_id, found.parent) == ("h1", ID(1), None)
    assert found.chain == found.backup_id != ID(1)


def test_an_incremental_backup_follows_the_newest_whole_one():
    """Its parent is the newest that is whole and stays; without one it waits."""
    asks = make_backup("b", incremental=True)
    refused(plan(asks, world()), "NoEarlierBackup")
    others = [
        make_backup("full", 2, whole=True),
        make_backup("second", 3, whole=True, assignment={"chain": ID(2)}),
        make_backup("going", 4, whole=True, deleting=True, assignment={"chain": ID(2)}),
        make_backup("failed", 5, status={"failed": True}),
        make_backup("of another", 6, whole=True, assignment={"volumeID": ID(9)}),
    ]
    found = plan(asks, world(others=others))
    assert (found.chain, found.parent) == (ID(2), ID(3))


def test_one_backup_of_a_volume_at_a_time():
    """Another one waits until it has ended, whichever way."""
    refused(plan(make_backup("b"), world(others=[make_backup("a", 2)])), "Waiting")
    for ended in (make_backup("a", 2, whole=True), make_backup("a", 2, status={"failed": True})):
        assert not isinstance(plan(make_backup("b"), world(others=[ended])), Refusal)


def test_adding_and_removing_exclude_each_other():
    """Objects go when nobody adds to their chain, and nobody adds while they go."""
    full = make_backup("full", 2, whole=True)
    going = make_backup("old", 3, whole=True, deleting=True, assignment={"chain": ID(2)})
    adding = make_backup("new", 4, assignment={"chain": ID(2)})
    refused(plan(going, world(others=[full, adding])), "Waiting")
    allowed = plan(going, world(others=[full]))
    assert allowed.remove
    removing = going.model_copy(update={"spec": going.spec.model_copy(update={"assignment": allowed})})
    refused(plan(make_backup("b", incremental=True), world(others=[full, removing])), "Waiting")
    assert plan(make_backup("b"), world(others=[full, removing])).chain not in (None, ID(2))
    assert plan(removing, world(others=[full])) is None


def may_go(backup):
    return backup.spec.assignment is None or backup.spec.assignment.remove


STEPS = st.tuples(st.sampled_from(["full", "more", "end", "delete", "gone"]), st.integers(0, 2))


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, min_size=15, max_size=40))
def test_whatever_is_asked_in_whatever_order(steps):
    """At no moment is something added to a chain from which something is removed."""
    backups: dict[int, VolumeBackup] = {}
    for at, (step, which) in enumerate(steps):
        known = backups.get(which)
        if step in ("full", "more") and known is None:
            backups[which] = make_backup(f"b{which}", incremental=step == "more")
        elif known is not None and step == "end" and known.spec.assignment is not None and not known.deleting:
            status = {"digest": "sha256:" + "0" * 64, "size": GIB, "takenAt": f"2026-01-01T00:{at:02}:00Z"}
            backups[which] = VolumeBackup.model_validate(known.dump() | {"status": status})
        elif known is not None and step == "delete":
            body = known.dump()
            body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            backups[which] = VolumeBackup.model_validate(body)
        elif known is not None and step == "gone" and known.deleting and may_go(known):
            del backups[which]
        for key, backup in list(backups.items()):
            found = plan(backup, world(others=[item for other, item in backups.items() if other != key]))
            if found is not None and not isinstance(found, Refusal):
                spec = backup.spec.model_copy(update={"assignment": found})
                backups[key] = backup.model_copy(update={"spec": spec})
        places = [(item, item.spec.assignment) for item in backups.values() if item.spec.assignment is not None]
        adds = {place.chain for item, place in places if not item.deleting and item.status.digest is None}
        assert not adds & {place.chain for _, place in places if place.remove}


def test_a_backup_that_is_restored_from_stays():
    """Its objects go when the volume is made, or deleted."""
    origin = {"backup": {"backupID": ID(2), "chain": ID(2), "digest": "sha256:" + "0" * 64}}
    going = make_backup("full", 2, whole=True, deleting=True)
    refused(plan(going, world(volumes=[make_volume("new", ID(7), made=False, origin=origin)])), "InUse")
    assert plan(going, world(volumes=[make_volume("new", ID(7), origin=origin)])).remove


def test_what_cannot_be_backed_up_waits():
    """A volume that is absent, has no data or is on its way, and a snapshot that is not Ready."""
    for volume, reason in ((None, "VolumeNotFound"), (make_volume(made=False), "VolumeNotReady")):
        refused(plan(make_backup("b"), world(volume=volume)), reason)
    body = make_assigned(Server, "web", "h1")
    body["spec"]["assignment"]["target"] = "h2"
    moving = Server.model_validate(body)
    refused(plan(make_backup("b"), world(volume=make_volume(attachedTo="web"), holder=moving)), "ServerMigrating")
    refused(plan(make_backup("b", source={"volumeSnapshot": {"name": "s"}}), world(volume=None)), "SnapshotNotFound")


@pytest.mark.parametrize(
    "place",
    [{"givenTo": {"namespace": "other", "name": "data"}}, {"moving": {"request": ID(9), "volumeClass": "fast"}}],
)
def test_a_volume_that_goes_elsewhere_is_not_read(place):
    """What another project has by now is not told to this one, and what is copied elsewhere is read there."""
    refused(plan(make_backup("b"), world(volume=make_volume(**place))), "VolumeNotReady")


@pytest.mark.parametrize("source", [{"volume": {"name": "data"}}, {"volumeSnapshot": {"name": "s"}}])
def test_what_has_a_key_that_goes_with_it_is_not_backed_up(source):
    """Nobody could read the backup then; a policy's next run does not wait for such a one."""
    body = make_object(VolumeSnapshot, "s", assignment={"snapshotID": ID(8), "volumeID": ID(1), "host": "h2"})
    snapshot = VolumeSnapshot.model_validate(body | {"status": {"restoreSize": GIB}})
    backup, parts = make_backup("b", source=source), world(volume=make_volume(**LOCKED), snapshot=snapshot)
    found = plan(backup, parts)
    assert isinstance(found, Refusal)
    assert found.reason == "VolumeEncrypted"
    told = backup_status(backup, None, found, parts, NOW)
    assert going_on([VolumeBackup.model_validate(backup.dump() | {"status": told})]) == []


@pytest.mark.parametrize("source", [{"volume": {"name": "data"}}, {"volumeSnapshot": {"name": "s"}}])
def test_what_has_a_key_of_the_users_own_is_sealed(source):
    """The host is told where the volume's key lies."""
    body = make_object(VolumeSnapshot, "s", assignment={"snapshotID": ID(8), "volumeID": ID(1), "host": "h2"})
    snapshot = VolumeSnapshot.model_validate(body | {"status": {"restoreSize": GIB}})
    own = {"encryption": LOCKED["encryption"] | {"secret": {"name": "mine"}, "made": False}}
    found = plan(make_backup("b", source=source), world(volume=make_volume(**own), snapshot=snapshot))
    assert (found.seal.volume, found.seal.encryption.secret.name) == ("data", "mine")
    assert plan(make_backup("b"), world()).seal is None


def test_who_reads_a_volume_is_known():
    """From its assignment until it has ended a backup reads its volume."""
    backups = [make_backup("waits"), make_backup("reads", 2), make_backup("of another", 3)]
    assert being_made(ID(1), backups) == "reads"
    for ended in (make_backup("a", 2, whole=True), make_backup("a", 2, status={"failed": True})):
        assert being_made(ID(1), [ended]) == ""


def test_of_a_snapshot():
    """The host of the snapshot reads it."""
    body = make_object(VolumeSnapshot, "s", assignment={"snapshotID": ID(8), "volumeID": ID(1), "host": "h2"})
    snapshot = VolumeSnapshot.model_validate(body | {"status": {"restoreSize": GIB}})
    found = plan(make_backup("b", source={"volumeSnapshot": {"name": "s"}}), world(snapshot=snapshot))
    assert (found.host, found.snapshot_id, found.volume_id) == ("h2", ID(8), ID(1))


def test_an_existing_backup_is_found_by_any_host_once():
    """Its id is the one that is given, and no other object has it."""
    asks = make_backup("b", source={"existing": ID(5)})
    found = plan(asks, world(volume=None))
    assert (found.backup_id, found.host, found.chain) == (ID(5), "h1", None)
    twice = plan(asks, world(volume=None, others=[make_backup("a", 5, whole=True)]))
    assert isinstance(twice, Refusal)
    assert twice.reason == "BackupKnownAlready"


def test_another_host_does_what_needs_the_bucket_only():
    """It reads back for one that is silent, and removes for one that never returns: else there may be a snapshot."""
    whole = make_backup("b", 2, whole=True)
    due = whole.model_copy(update={"spec": whole.spec.model_copy(update={"verify": "now"})})
    assert verify_due(due)
    assert plan(due, world(able=["h2"])).host == "h2"
    going = make_backup("b", 2, whole=True, deleting=True, assignment={"remove": True})
    assert plan(going, world(able=["h2"])) is None
    assert plan(going, world(able=["h2"], lost=["h1"])).host == "h2"
    follows = plan(make_backup("b", 2), world(volume=make_volume(host="h3")))
    assert follows.host == "h3"


@pytest.mark.parametrize(
    ("backup", "excess", "parts", "said"),
    [
        (make_backup("b"), "1 of 1 backups are in use", {}, (False, "QuotaExceeded")),
        (make_backup("b", 2), None, {}, (False, "Making")),
        (make_backup("b", 2), None, {"lost": ["h1"]}, (False, "HostLost")),
        (make_backup("b", 2, whole=True), None, {}, (True, "Available")),
        (make_backup("b", 2, whole=True, deleting=True), None, {}, (False, "Removing")),
        (
            make_backup("b", 2, status={"fault": {"reason": "ServerBusy", "message": "m"}}),
            None,
            {},
            (False, "ServerBusy"),
        ),
        (
            make_backup(
                "b",
                2,
                whole=True,
                status={
                    "verified": {"request": "a", "at": "2026-01-01T00:00:00Z", "sound": False, "message": "chunk 3"}
                },
            ),
            None,
            {},
            (False, "BackupDamaged"),
        ),
    ],
)
def test_what_it_says(backup, excess, parts, said):
    """One condition says whether it can be restored, and why not."""
    status = backup_status(backup, excess, None, world(**parts), NOW)
    found = status["conditions"][0]
    assert (found["status"] == "True", found["reason"]) == said


def make_policy(last=None, created="2026-03-01T00:00:00Z", **spec):
    body = make_object(BackupPolicy, "nightly", **spec)
    body["metadata"]["creationTimestamp"] = created
    return BackupPolicy.model_validate(body | {"status": {"lastRun": last} if last else {}})


def test_missed_runs_count_as_one():
    """After days without an operator the newest moment is due, and one that is too late is left out."""
    found = times_of(make_policy("2026-03-05T02:00:00Z", startingDeadlineSeconds=None), NOW)
    assert found.due == datetime(2026, 3, 10, 2, 0, tzinfo=UTC), "3:00 in Berlin"
    assert found.next == datetime(2026, 3, 11, 2, 0, tzinfo=UTC)
    assert not found.late
    assert times_of(make_policy("2026-03-05T02:00:00Z"), NOW).late
    assert times_of(make_policy("2026-03-10T02:00:00Z"), NOW).due is None
    assert times_of(make_policy(created="2026-03-10T11:59:00Z"), NOW).due is None, "what was before it is not its"


def test_clocks_that_are_changed():
    """A night has one run, whether its hour comes twice or not at all."""
    for day in (datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 10, 24, tzinfo=UTC)):
        last, runs, at = day, [], day
        for _ in range(72):
            at += timedelta(hours=1)
            policy = make_policy(last.isoformat(), schedule="30 2 * * *", startingDeadlineSeconds=None)
            found = times_of(policy, at)
            if found.due is not None:
                runs.append(found.due)
                last = found.due
        assert len(runs) == 3
        assert len(set(runs)) == 3


@pytest.mark.parametrize(
    "spec",
    [{"schedule": "61 * * * *"}, {"schedule": "0 3 * * mon#9"}, {"timeZone": "Mars/Base"}, {"schedule": "0 0 30 2 *"}],
)
def test_a_schedule_that_cannot_be(spec):
    """It is told, whether nobody can read it or it never comes."""
    with pytest.raises(InvalidSchedule, match="schedule"):
        times_of(make_policy(**spec), NOW)


DATA = Source("volume", "data", ID(1))


def labelled(item, labels):
    return item.model_copy(update={"metadata": item.metadata.model_copy(update={"labels": labels})})


def test_what_is_selected():
    """Volumes by their labels or those of their servers, if they have data and stay."""
    daily = {"backup": "daily", "x": "y"}
    volumes = [
        *(labelled(make_volume("a"), daily), make_volume("b"), make_volume("c")),
        labelled(make_volume("blank", made=False), daily),
        labelled(make_volume("given", givenTo={"namespace": "other", "name": "taken"}), daily),
    ]
    body = make_object(Server, "web", volumes=[{"name": "b", "volume": {"name": "b"}}])
    server = labelled(Server.model_validate(body), {"tier": "db"})
    names = lambda policy: [source.name for source in selected(policy, volumes, [server])]  # noqa: E731
    assert names(make_policy()) == ["a"]
    assert names(make_policy(servers={"matchLabels": {"tier": "db"}})) == ["a", "b"]
    assert names(make_policy(volumes=None, servers={"matchLabels": {"tier": "web"}})) == []


def ran(number, *, whole=True, incremental=False, day=None, volume="data", **more):
    labels = {POLICY_LABEL: "nightly", RUN_LABEL: f"202603{day or number:02}T0200Z"}
    source = {"volume": {"name": volume}}
    return make_backup(
        f"n-{volume}-{number}", number, whole=whole, labels=labels, incremental=incremental, source=source, **more
    )


def test_one_of_so_many_is_full():
    """Full, then incremental ones, then full again; a full one that failed or was deleted does not count."""
    policy, made = make_policy(fullEvery=3), []
    kinds = []
    for number in range(1, 8):
        body = backup_for(policy, DATA, NOW + timedelta(days=number), made)
        kinds.append(body["spec"]["incremental"])
        made.append(ran(number, incremental=kinds[-1]))
    assert kinds == [False, True, True, False, True, True, False]
    assert not backup_for(policy, DATA, NOW, [ran(1, whole=False, status={"failed": True})])["spec"]["incremental"]
    anew = Source("volume", "data", ID(9))
    assert not backup_for(policy, anew, NOW, made)["spec"]["incremental"], "another volume of the same name"
    assert not backup_for(make_policy(incremental=False), DATA, NOW, made)["spec"]["incremental"]


def test_names_say_whose_and_when():
    """The same run has the same name, another volume's another one, however long both are."""
    policy = make_policy()
    body = backup_for(policy, DATA, NOW, [])
    assert body["metadata"]["name"] == "nightly-data-20260310t1200z"
    long = [backup_for(policy, Source("volume", "v" * 200 + end), NOW, [])["metadata"]["name"] for end in ("a", "b")]
    assert long[0] != long[1]
    assert all(len(name) <= 63 and name.endswith("-20260310t1200z") for name in long)
    VolumeBackup.model_validate(body)


def test_what_is_old_goes():
    """Kept is what one limit keeps; the newest whole one always is, also when all are old."""
    made = [ran(number) for number in (1, 5, 8, 9)] + [ran(2, volume="other")]
    names = lambda policy: [item.metadata.name for item in outdated(policy, backups_of(policy, made), NOW)]  # noqa: E731
    assert names(make_policy(retention={"count": 3})) == ["n-data-1"]
    assert sorted(names(make_policy(retention={"days": 3}))) == ["n-data-1", "n-data-5"]
    assert names(make_policy(retention={"count": 1, "days": 30})) == []
    assert names(make_policy(retention=None)) == []
    made = [ran(1), ran(2, whole=False, status={"failed": True}), ran(3), ran(4, whole=False)]
    assert sorted(names(make_policy(retention={"count": 1}))) == ["n-data-1", "n-data-2"]


def test_what_still_runs():
    """Neither what has ended nor what cannot begin holds the next run up."""
    made = [ran(1), ran(2, whole=False, status={"failed": True}), ran(3, whole=False)]
    assert going_on(made) == ["n-data-3"]
    gone = backup_status(make_backup("x"), None, plan(make_backup("x"), world(volume=None)), world(), NOW)
    assert going_on([ran(4, whole=False, status=gone)]) == []


@pytest.mark.parametrize(
    ("policy", "made", "fault", "none", "reason"),
    [
        (make_policy(), [], "", False, "Scheduled"),
        (make_policy(), [], "", True, "NothingSelected"),
        (make_policy(), [ran(1, whole=False)], "", False, "Running"),
        (make_policy(), [ran(1), ran(2, whole=False, status={"failed": True})], "", False, "BackupsFailed"),
        (make_policy(), [ran(1, whole=False, status={"failed": True}), ran(2)], "", False, "Scheduled"),
        (make_policy(suspend=True), [], "", False, "Suspended"),
        (make_policy(), [], "schedule", False, "InvalidSchedule"),
    ],
)
def test_what_a_policy_says(policy, made, fault, none, reason):
    """Whether it runs, and whether its last run has made all that it should."""
    found = policy_conditions(policy, made, fault, none, NOW)
    assert found[0]["reason"] == reason
