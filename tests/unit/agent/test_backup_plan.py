"""What a VolumeBackup asks of a host, and when how far it is is worth a write."""

from typing import Any

import pytest

from kumulus_agent.backups.plan import Work, head_of, mates_of, shown_progress, status_of, work_of
from kumulus_api import VolumeBackup
from kumulus_api.testing import INSTANCE_ID, PORT_ID, VOLUME_ID, make_assigned
from kumulus_api.volume_backup import POLICY_LABEL, RUN_LABEL

WHOLE = {"digest": "sha256:" + "0" * 64, "size": 1}
GONE = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["kumulus.dev/agent"]}


def body(
    name: str = "b", *, host: str = "h1", metadata: Any = None, status: Any = None, assigned: Any = None, **spec: Any
) -> dict[str, Any]:
    """Give a backup that is assigned to a host."""
    made = make_assigned(VolumeBackup, name, host)
    made["metadata"] |= metadata or {}
    made["spec"] |= {"verify": None} | spec
    made["spec"]["assignment"] |= assigned or {}
    made["spec"] = {part: value for part, value in made["spec"].items() if value is not None}
    return made | {"status": status or {}}


@pytest.mark.parametrize(
    ("seen", "work"),
    [
        (None, Work.NOTHING),
        (body(host="h2"), Work.NOTHING),
        (body(), Work.MAKE),
        (body(source={"existing": PORT_ID}), Work.FIND),
        (body(status={"failed": True}), Work.CLEAR),
        (body(status=WHOLE), Work.CLEAR),
        (body(status=WHOLE, verify="now"), Work.VERIFY),
        (
            body(
                status=WHOLE | {"verified": {"request": "now", "at": "2026-01-01T00:00:00Z", "sound": False}},
                verify="now",
            ),
            Work.CLEAR,
        ),
        (body(metadata=GONE), Work.CLEAR),
        (body(metadata=GONE, assigned={"remove": True}), Work.REMOVE),
        (body(metadata=GONE | {"finalizers": []}, assigned={"remove": True}), Work.NOTHING),
    ],
)
def test_what_is_to_be_done(seen: dict[str, Any] | None, work: Work) -> None:
    """Objects go only when the operator says so, and only while the finalizer is there."""
    assert work_of(seen, "h1") is work


def test_volumes_of_one_moment() -> None:
    """They are those of the same run that this host makes: not ended, of no snapshot, of the same project."""
    run = {"labels": {POLICY_LABEL: "nightly", RUN_LABEL: "20260101T0000Z"}}
    ids = [f"00000000-0000-4000-8000-0000000000{number:02x}" for number in range(1, 8)]
    disk = {"instanceID": INSTANCE_ID, "server": "web"}
    others = [
        body("mate", metadata=run, assigned={"backupID": ids[0]}),
        body("later", metadata={"labels": run["labels"] | {RUN_LABEL: "x"}}, assigned={"backupID": ids[1]}),
        body("whole", metadata=run, status=WHOLE, assigned={"backupID": ids[2]}),
        body("away", host="h2", metadata=run, assigned={"backupID": ids[3]}),
        body("of a snapshot", metadata=run, assigned={"backupID": ids[4], "snapshotID": PORT_ID}),
        body("alone", assigned={"backupID": ids[5]}),
        body("root", metadata=run, assigned={"backupID": ids[6], "volumeID": None, "rootDisk": disk}),
        body(metadata=run),
    ]
    own = VolumeBackup.model_validate(body(metadata=run))
    mates = mates_of(own, others, "h1")
    assert {backup_id: given.volume_id for backup_id, given in mates.items()} == {ids[0]: VOLUME_ID, ids[6]: None}
    assert mates[ids[6]].root_disk is not None, "the root disk of a server is one of them"
    assert mates_of(VolumeBackup.model_validate(body()), others, "h1") == {}
    assert head_of(own)["chain"] == PORT_ID


def test_few_writes() -> None:
    """How far it is is told at each tenth, and what is told already is not told again."""
    writes, told = 0, None
    for done in range(0, 1000, 7):
        now = shown_progress(done, 1000, told)
        writes, told = writes + (now != told), now
    assert writes == 10
    assert shown_progress(5, 1000, told) == {"doneBytes": 5, "totalBytes": 1000}, "it was begun anew"
    seen = body(status={"digest": "d", "conditions": [], "progress": told})
    assert status_of(seen, digest="d") is None
    assert status_of(seen, progress=None) == {"digest": "d"}
