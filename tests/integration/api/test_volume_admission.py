"""What the API server takes of volumes, their classes and snapshots, and from whom."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import FINALIZER, Volume, VolumeClass, VolumeSnapshot, VolumeTransfer
from kumulus_api.testing import VOLUME_ID, make_assigned, make_object
from kumulus_runtime.errors import Forbidden, Invalid

RESTORER = "restorer/system:masters/kumulus:restorers"


async def test_a_volume_grows_and_keeps_what_it_is(connect: Any) -> None:
    """Its size grows; the source stays, and is exactly one; another class can be asked for."""
    admin = await connect("admin")
    source = {"snapshot": {"name": "snap"}}
    await admin.create(Volume, make_object(Volume, "grows", size="1Gi", source=source, volumeClass={"name": "fast"}))
    await admin.patch_merge(Volume, "grows", {"spec": {"size": "2Gi"}}, "demo")
    for spec, said in (
        ({"size": "1Gi"}, "size can only grow"),
        ({"source": None}, "source cannot change"),
        ({"source": {"snapshot": {"name": "other"}}}, "source cannot change"),
    ):
        with pytest.raises(Invalid, match=said):
            await admin.patch_merge(Volume, "grows", {"spec": spec}, "demo")
    await admin.patch_merge(Volume, "grows", {"spec": {"volumeClass": {"name": "slow"}}}, "demo")
    for wrong in ({}, {"snapshot": {"name": "a"}, "volume": {"name": "b"}}):
        with pytest.raises(Invalid, match="exactly one of snapshot, volume, image, transfer or volumeBackup"):
            await admin.create(Volume, make_object(Volume, "wrong", source=wrong))


@pytest.mark.parametrize(("kind", "what"), [(Volume, "volume"), (VolumeSnapshot, "volume snapshot")])
async def test_what_is_protected_is_not_deleted(connect: Any, kind: type[Volume | VolumeSnapshot], what: str) -> None:
    """Nobody deletes a volume or a snapshot until its protection is taken away."""
    admin = await connect("admin")
    await admin.create(kind, make_object(kind, "guarded", protected=True))
    with pytest.raises(Forbidden, match=f"{what} guarded is protected"):
        await admin.delete(kind, "guarded", "demo")
    await admin.patch_merge(kind, "guarded", {"spec": {"protected": False}}, "demo")
    await admin.delete(kind, "guarded", "demo")


async def test_an_offer_is_of_one_volume_to_one_project(connect: Any) -> None:
    """Neither can change, and only the operator says which volume it is, and that it was given."""
    admin, operator = await connect("admin"), await connect("operator")
    await admin.create(VolumeTransfer, make_object(VolumeTransfer, "offer"))
    for spec in ({"volume": {"name": "another"}}, {"project": "third"}):
        with pytest.raises(Invalid, match="cannot change"):
            await admin.patch_merge(VolumeTransfer, "offer", {"spec": spec}, "demo")
    of = {"spec": {"assignment": {"volumeID": VOLUME_ID}}}
    with pytest.raises(Forbidden, match="written by the operator only"):
        await admin.patch_merge(VolumeTransfer, "offer", of, "demo")
    await operator.patch_merge(VolumeTransfer, "offer", of, "demo")
    with pytest.raises(Invalid, match="keeps its volume"):
        await operator.patch_merge(VolumeTransfer, "offer", {"spec": {"assignment": None}}, "demo")
    await (await connect(RESTORER)).create(Volume, make_assigned(Volume, "given", "h1"))
    given = {"spec": {"assignment": {"givenTo": {"namespace": "other", "name": "mine"}}}}
    for user in (admin, await connect("agent@h1")):
        with pytest.raises(Forbidden):
            await user.patch_merge(Volume, "given", given, "demo")
    await operator.patch_merge(Volume, "given", given, "demo")
    await operator.delete(Volume, "given", "demo")
    await operator.delete(VolumeTransfer, "offer", "demo")


async def test_a_class_keeps_its_driver(connect: Any) -> None:
    """Parameters go with their driver and stay; users read classes, and agents and users write none."""
    admin = await connect("admin")
    await admin.create(VolumeClass, make_object(VolumeClass, "kept"))
    for spec in ({"driver": "Local", "shared": None}, {"shared": {"folder": "/srv/other"}}):
        with pytest.raises(Invalid, match="cannot change"):
            await admin.patch_merge(VolumeClass, "kept", {"spec": spec})
    for wrong in ({"driver": "Shared", "shared": None}, {"driver": "Local"}):
        with pytest.raises(Invalid, match="driver Shared"):
            await admin.create(VolumeClass, make_object(VolumeClass, "wrong", **wrong))
    with pytest.raises(Invalid):
        await admin.create(VolumeClass, make_object(VolumeClass, "wrong", shared={"folder": "/srv/../etc"}))
    with pytest.raises(Forbidden):
        await (await connect("agent@h1")).create(VolumeClass, make_object(VolumeClass, "forged"))
    await admin.patch_merge(VolumeClass, "kept", {"spec": {"default": True}})
    await admin.delete(VolumeClass, "kept")


async def test_a_shared_volume_changes_its_host_and_another_does_not(connect: Any) -> None:
    """What lies on one host stays there while no server has it; what is shared is worked on by any."""
    restorer, operator = await connect(RESTORER), await connect("operator")
    for name, folder in (("stays", None), ("moves", "/srv/fast")):
        body = make_assigned(Volume, name, "h1")
        if folder is not None:
            body["spec"]["assignment"]["folder"] = folder
        await restorer.create(Volume, body)
    await operator.patch_merge(Volume, "moves", {"spec": {"assignment": {"host": "h2"}}}, "demo")
    with pytest.raises(Invalid, match="keeps its identity, and its host"):
        await operator.patch_merge(Volume, "stays", {"spec": {"assignment": {"host": "h2"}}}, "demo")


async def test_a_snapshot_is_its_hosts(connect: Any) -> None:
    """It bears the finalizer, the operator places it, its host tells of it and lets it go, and no other host does."""
    admin, operator = await connect("admin"), await connect("operator")
    own, other = await connect("agent@h1"), await connect("agent@h2")
    made = await admin.create(VolumeSnapshot, make_object(VolumeSnapshot, "snap"))
    uid = made["metadata"]["uid"]
    assert made["metadata"]["finalizers"] == [FINALIZER]
    given = make_assigned(VolumeSnapshot, "snap", "h1")["spec"]["assignment"]
    for user in (admin, own):
        with pytest.raises(Forbidden):
            await user.patch_merge(VolumeSnapshot, "snap", {"spec": {"assignment": given}}, "demo")
    await operator.patch_merge(VolumeSnapshot, "snap", {"spec": {"assignment": given}}, "demo")
    body = {"spec": {"assignment": given | {"volumeID": VOLUME_ID[:-1] + "9"}}}
    with pytest.raises(Invalid, match="keeps its volume"):
        await operator.patch_merge(VolumeSnapshot, "snap", body, "demo")
    with pytest.raises(Invalid, match="volume cannot change"):
        await admin.patch_merge(VolumeSnapshot, "snap", {"spec": {"volume": {"name": "other"}}}, "demo")
    status = {"metadata": {"name": "snap", "namespace": "demo"}, "status": {"restoreSize": 1}}
    with pytest.raises(Forbidden, match="snapshot snap is not assigned to host h2"):
        await other.apply_status(VolumeSnapshot, status, manager="kumulus-agent")
    await own.apply_status(VolumeSnapshot, status, manager="kumulus-agent")
    with pytest.raises(Forbidden):
        await own.remove_finalizer(VolumeSnapshot, "snap", FINALIZER, "demo", uid=uid)
    await admin.delete(VolumeSnapshot, "snap", "demo")
    for user in (other, admin):
        with pytest.raises(Forbidden):
            await user.remove_finalizer(VolumeSnapshot, "snap", FINALIZER, "demo", uid=uid)
    await own.remove_finalizer(VolumeSnapshot, "snap", FINALIZER, "demo", uid=uid)
    assert await admin.get(VolumeSnapshot, "snap", "demo") is None


async def test_limits_are_whole_and_do_not_contradict_each_other(connect: Any) -> None:
    """A total excludes its parts, a burst needs what it goes beyond, and nothing is limited to nothing."""
    admin = await connect("admin")
    for qos, said in (
        ({"iops": {"total": 5, "read": 5}}, "give total, or read and write"),
        ({"bytes": {"total": "1Mi", "write": "1Mi"}}, "give total, or read and write"),
        ({"iops": {}}, "give total, or read and write"),
        ({"bytes": {"total": "10"}}, "at least 1k"),
        ({"iopsBurst": {"total": 5}}, "iopsBurst goes beyond iops"),
        ({"bytes": {"read": "1Mi"}, "bytesBurst": {"total": "2Mi"}}, "bytesBurst goes beyond bytes"),
        ({"iops": {"total": 5}, "burstSeconds": 5}, "burstSeconds is for"),
        ({"iops": {"total": 5}, "iopsPerGiB": {"read": 5}}, "limit the same"),
        ({"iops": {"total": 0}}, "greater than or equal to 1"),
    ):
        with pytest.raises(Invalid, match=said):
            await admin.create(VolumeClass, make_object(VolumeClass, "wrong", qos=qos))
    right = {"iops": {"read": 5, "write": 5}, "iopsBurst": {"read": 9}, "bytes": {"total": "1Mi"}, "burstSeconds": 5}
    await admin.create(VolumeClass, make_object(VolumeClass, "limited", qos=right))
    await admin.patch_merge(VolumeClass, "limited", {"spec": {"qos": {"iops": {"read": 7}}}})


async def test_how_a_volume_is_encrypted_does_not_change(connect: Any) -> None:
    """A key of one's own is given at the beginning and stays, and a copy has none; classes know some key sizes."""
    admin = await connect("admin")
    own = {"secret": {"name": "mine"}}
    await admin.create(Volume, make_object(Volume, "sealed", encryption=own))
    for changed in (None, {"secret": {"name": "other"}}):
        with pytest.raises(Invalid, match="encryption cannot change"):
            await admin.patch_merge(Volume, "sealed", {"spec": {"encryption": changed}}, "demo")
    with pytest.raises(Invalid, match="a copy has the key"):
        await admin.create(Volume, make_object(Volume, "copy", encryption=own, source={"volume": {"name": "sealed"}}))
    with pytest.raises(Invalid, match="keySize"):
        await admin.create(VolumeClass, make_object(VolumeClass, "odd", encryption={"keySize": 40}))


async def test_a_class_has_a_ratio_and_a_reserve(connect: Any) -> None:
    """A ratio is a number above 0, a reserve a part of the disk; the operator alone tells what there is."""
    admin = await connect("admin")
    await admin.create(VolumeClass, make_object(VolumeClass, "thin", overcommit="1.5", reservedPercent=10))
    for wrong, said in (
        ({"overcommit": "0"}, "a ratio is more than 0"),
        ({"overcommit": "-1"}, "overcommit"),
        ({"overcommit": "two"}, "overcommit"),
        ({"reservedPercent": 100}, "reservedPercent"),
        ({"reservedPercent": -1}, "reservedPercent"),
    ):
        with pytest.raises(Invalid, match=said):
            await admin.patch_merge(VolumeClass, "thin", {"spec": wrong})
    status = {"metadata": {"name": "thin"}, "status": {"capacity": "1Ti", "free": "1Gi", "provisioned": "1500Gi"}}
    operator, agent = await connect("operator"), await connect("agent@h1")
    await operator.apply_status(VolumeClass, status, manager="kumulus-operator")
    with pytest.raises(Forbidden):
        await agent.apply_status(VolumeClass, status, manager="kumulus-agent")
    assert await agent.get(VolumeClass, "thin") is not None
    with pytest.raises(Forbidden):
        await operator.patch_merge(VolumeClass, "thin", {"spec": {"overcommit": "9"}})


async def test_a_volume_asks_for_limits(connect: Any) -> None:
    """Total, or reading and writing; minima belong to what goes by the GiB; they may change and go."""
    admin = await connect("admin")
    await admin.create(Volume, make_object(Volume, "limited", qos={"iops": {"total": 5}}))
    for wrong, said in (
        ({"iops": {"total": 5, "read": 3}}, "give total, or read and write"),
        ({"iops": None, "iopsBurst": {"total": 9}}, "iopsBurst goes beyond iops"),
        ({"iops": None, "iopsMinimum": {"total": 9}}, "iopsMinimum is for what iopsPerGiB gives"),
        ({"iops": None, "iopsPerGiB": {"read": 9}, "iopsMinimum": {"write": 9}}, "iopsMinimum is for what"),
        ({"bytes": {"total": "1"}}, "bytes are at least 1k"),
    ):
        with pytest.raises(Invalid, match=said):
            await admin.patch_merge(Volume, "limited", {"spec": {"qos": wrong}}, "demo")
    good = {"iops": None, "iopsPerGiB": {"total": 3}, "iopsMinimum": {"total": 9}}
    await admin.patch_merge(Volume, "limited", {"spec": {"qos": good}}, "demo")
    await admin.patch_merge(Volume, "limited", {"spec": {"qos": None}}, "demo")


async def test_a_class_for_several_servers_is_shared_and_stays_so(connect: Any) -> None:
    """It is of the driver Shared and without encryption; whether it is for several is said once."""
    admin = await connect("admin")
    shared = {"driver": "Shared", "shared": {"folder": "/srv/several"}}
    for wrong in ({"driver": "Local"}, shared | {"encryption": {}}):
        spec = {"metadata": {"name": "wrong"}, "spec": wrong | {"multiAttach": True}}
        with pytest.raises(Invalid, match="multiAttach is for the driver Shared without encryption"):
            await admin.create(VolumeClass, spec)
    await admin.create(VolumeClass, {"metadata": {"name": "several"}, "spec": shared | {"multiAttach": True}})
    await admin.create(VolumeClass, {"metadata": {"name": "single"}, "spec": shared})
    for name, several in (("several", False), ("single", True)):
        with pytest.raises(Invalid, match="multiAttach cannot change"):
            await admin.patch_merge(VolumeClass, name, {"spec": {"multiAttach": several}})
        await admin.patch_merge(VolumeClass, name, {"spec": {"default": True}})
        await admin.delete(VolumeClass, name)


async def test_only_the_operator_says_who_has_a_volume(connect: Any) -> None:
    """Neither its user nor a host adds a server to those that have it; they are at most sixteen, each named once."""
    await (await connect(RESTORER)).create(Volume, make_assigned(Volume, "joint", "h1"))
    operator = await connect("operator")
    more: dict[str, Any] = {"spec": {"assignment": {"alsoAttachedTo": ["evil"]}}}
    for user in (await connect("admin"), await connect("agent@h1")):
        with pytest.raises(Forbidden):
            await user.patch_merge(Volume, "joint", more, "demo")
    names = [f"s{number}" for number in range(16)]
    for wrong in (names, ["s1", "s1"]):
        with pytest.raises(Invalid):
            await operator.patch_merge(Volume, "joint", {"spec": {"assignment": {"alsoAttachedTo": wrong}}}, "demo")
    more = {"spec": {"assignment": {"attachedTo": "first", "alsoAttachedTo": names[1:], "multiAttach": True}}}
    await operator.patch_merge(Volume, "joint", more, "demo")
    await operator.delete(Volume, "joint", "demo")
