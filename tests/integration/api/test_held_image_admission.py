"""Who may say that a host holds an image, and who lets go of it."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import FINALIZER, Image
from kumulus_api.testing import INSTANCE_ID, make_object
from kumulus_runtime.errors import Forbidden, Invalid

RESTORER = "restorer/system:masters/kumulus:restorers"
SOURCE = {"server": {"name": "web", "instanceID": INSTANCE_ID, "action": INSTANCE_ID, "host": "h1"}}


def held(name: str) -> dict[str, Any]:
    return make_object(Image, name, source=SOURCE, checksum=None)


async def test_only_the_operator_says_what_an_image_is_of(connect: Any) -> None:
    """Users and agents make no image of a server; the operator does, and a backup brings it; each has the finalizer."""
    for user in ("admin", "agent@h1"):
        with pytest.raises(Forbidden):
            await (await connect(user)).create(Image, held("held-forged"))
    made = await (await connect("operator")).create(Image, held("held-made"))
    restored = await (await connect(RESTORER)).create(Image, held("held-restored"))
    assert made["metadata"]["finalizers"] == restored["metadata"]["finalizers"] == [FINALIZER]
    admin = await connect("admin")
    plain = await admin.create(Image, make_object(Image, "held-plain"))
    assert plain["metadata"]["finalizers"] == [FINALIZER]
    found, _ = await admin.list(Image, "demo", field_selector="spec.source.server.instanceID!=")
    names = {item["metadata"]["name"] for item in found}
    assert {"held-made", "held-restored"} <= names
    assert "held-plain" not in names
    operator, both = await connect("operator"), SOURCE | {"url": "https://images.example/tiny"}
    with pytest.raises(Invalid, match="a source is exactly one of"):
        await operator.create(Image, make_object(Image, "held-both", source=both))


async def test_the_holder_lets_go_of_what_is_deleted(connect: Any) -> None:
    """The finalizer goes by the hand of the agent that holds the bytes, and only once deletion was asked for."""
    operator, admin = await connect("operator"), await connect("admin")
    own, other = await connect("agent@h1"), await connect("agent@h2")
    image = await operator.create(Image, held("held-gone"))
    uid = image["metadata"]["uid"]
    told = {"metadata": {"name": "held-gone", "namespace": "demo", "uid": uid}, "status": {"importHost": "h1"}}
    await operator.apply_status(Image, told, manager="kumulus-operator")
    with pytest.raises(Forbidden, match="being deleted"):
        await own.remove_finalizer(Image, "held-gone", FINALIZER, "demo", uid=uid)
    await admin.delete(Image, "held-gone", "demo")
    for user in (other, admin):
        with pytest.raises(Forbidden):
            await user.remove_finalizer(Image, "held-gone", FINALIZER, "demo", uid=uid)
    await own.remove_finalizer(Image, "held-gone", FINALIZER, "demo", uid=uid)
    assert await admin.get(Image, "held-gone", "demo") is None


async def test_the_operator_ends_what_came_to_nothing(connect: Any) -> None:
    """An image that no host will ever hold is deleted and let go by the operator."""
    operator = await connect("operator")
    image = await operator.create(Image, held("held-never"))
    uid = image["metadata"]["uid"]
    await operator.delete(Image, "held-never", "demo", uid=uid)
    await operator.remove_finalizer(Image, "held-never", FINALIZER, "demo", uid=uid)
    assert await operator.get(Image, "held-never", "demo") is None


async def test_who_keeps_an_image_is_the_operators_word(connect: Any) -> None:
    """Users and agents name no hosts; an agent says of no host, not even its own, that enough others have the bytes."""
    operator, admin, own = await connect("operator"), await connect("admin"), await connect("agent@h1")
    given = {"assignment": {"store": "Hosts", "hosts": ["h1"]}}
    with pytest.raises(Forbidden, match=r"spec\.assignment"):
        await admin.create(Image, make_object(Image, "kept-forged", **given))
    image = await admin.create(Image, make_object(Image, "kept"))
    with pytest.raises(Forbidden, match=r"spec\.assignment"):
        await admin.patch_merge(Image, "kept", {"spec": given}, "demo")
    await operator.patch_merge(Image, "kept", {"spec": given}, "demo")
    metadata = {"name": "kept", "namespace": "demo", "uid": image["metadata"]["uid"]}
    await operator.apply_status(
        Image, {"metadata": metadata, "status": {"importHost": "h1"}}, manager="kumulus-operator"
    )
    for status in ({"replicas": ["h1", "h2"]}, {"prePulled": "2/2"}):
        with pytest.raises(Forbidden, match="written by the operator only"):
            await own.apply_status(Image, {"metadata": metadata, "status": status}, manager="kumulus-agent")
    await own.apply_status(Image, {"metadata": metadata, "status": {"size": 1}}, manager="kumulus-agent")


async def test_administrators_have_images_pulled(connect: Any, cluster: Any) -> None:
    """Hosts pull beforehand what an administrator says, not a member of a project."""
    bind = ["create", "rolebinding", "pullers", "--clusterrole=kumulus-project-member", "--group=pullers", "-n", "demo"]
    cluster.plane.kubectl(*bind)
    admin, user = await connect("admin"), await connect("pia/pullers")
    await admin.create(Image, make_object(Image, "pulled", prePull={}))
    with pytest.raises(Forbidden, match=r"spec\.prePull"):
        await user.create(Image, make_object(Image, "pulled-2", prePull={}))
    await user.patch_merge(Image, "pulled", {"metadata": {"labels": {"a": "b"}}}, "demo")
    with pytest.raises(Forbidden, match=r"spec\.prePull"):
        await user.patch_merge(Image, "pulled", {"spec": {"prePull": {"hostSelector": {"names": ["h1"]}}}}, "demo")
