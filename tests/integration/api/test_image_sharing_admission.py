"""What users may say of their images, and what is refused with a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import Image, ImageAcceptance
from kumulus_api.testing import DIGEST, make_object
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import ApiError, Forbidden, Invalid

URL = {"url": "https://images.example/tiny.qcow2"}
OTHER = {"image": {"name": "golden", "namespace": "other"}}


@pytest.fixture
async def tenant(connect: Any, cluster: Any) -> KubeClient:
    """Give a member of the project demo."""
    bind = ["create", "rolebinding", "sharers", "--clusterrole=kumulus-project-member", "--group=sharers", "-n", "demo"]
    cluster.plane.kubectl(*bind, check=False)
    client: KubeClient = await connect("carol/sharers")
    return client


async def test_only_administrators_make_an_image_public(tenant: KubeClient, connect: Any, cluster: Any) -> None:
    """A tenant's image is not made Public by its own word, nor becomes so; its owner goes on to describe it."""
    refused = r"spec\.visibility: a Public image is for those who may update hosts"
    with pytest.raises(Forbidden, match=refused):
        await tenant.create(Image, make_object(Image, "sharing-public", visibility="Public"))
    made = await tenant.create(Image, make_object(Image, "sharing-public"))
    assert (made["spec"]["visibility"], made["spec"]["active"]) == ("Private", True)
    public = {"spec": {"visibility": "Public"}}
    with pytest.raises(Forbidden, match=refused):
        await tenant.patch_merge(Image, "sharing-public", public, "demo")
    bind = ["create", "clusterrolebinding", "image-ops", "--clusterrole=kumulus-cloud-admin", "--group=image-ops"]
    cluster.plane.kubectl(*bind)
    operations = await connect("dave/image-ops")
    await operations.patch_merge(Image, "sharing-public", public, "demo")
    await tenant.patch_merge(Image, "sharing-public", {"spec": {"minDisk": "2Gi"}}, "demo")
    await tenant.patch_merge(Image, "sharing-public", {"spec": {"visibility": "Private"}}, "demo")
    with pytest.raises(Forbidden, match=refused):
        await tenant.patch_merge(Image, "sharing-public", public, "demo")


async def test_a_backup_brings_public_images_back(connect: Any) -> None:
    """Who restores makes an image as it was, with what it was made of."""
    restorer = await connect("restorer/system:masters/kumulus:restorers")
    original = {"digest": DIGEST}
    spec = {"source": OTHER, "checksum": None, "visibility": "Public", "original": original}
    made = await restorer.create(Image, make_object(Image, "sharing-restored", **spec))
    assert made["spec"]["original"] == original


async def test_a_protected_image_is_not_deleted(tenant: KubeClient, connect: Any) -> None:
    """Neither alone nor with all others, by nobody but the operator; unprotected, it goes."""
    await tenant.create(Image, make_object(Image, "sharing-protected", protected=True))
    admin, operator = await connect("admin"), await connect("operator")
    words = r"image sharing-protected is protected from deletion: set its spec\.protected to false first"
    for client in (tenant, admin):
        with pytest.raises(Forbidden, match=words):
            await client.delete(Image, "sharing-protected", "demo")
    await tenant.patch_merge(Image, "sharing-protected", {"spec": {"protected": False}}, "demo")
    await tenant.delete(Image, "sharing-protected", "demo")
    found = await tenant.get(Image, "sharing-protected", "demo")
    assert found is not None
    assert "deletionTimestamp" in found["metadata"]
    uid = found["metadata"]["uid"]
    await operator.remove_finalizer(Image, "sharing-protected", "kumulus.dev/agent", "demo", uid=uid)
    assert await tenant.get(Image, "sharing-protected", "demo") is None
    await tenant.create(Image, make_object(Image, "sharing-nothing", protected=True))
    await operator.delete(Image, "sharing-nothing", "demo")


async def test_members_are_of_a_shared_image(tenant: KubeClient) -> None:
    """Members without Shared would have no effect and are refused; each is named once, and may change."""
    with pytest.raises(Invalid, match="only a Shared image has members"):
        await tenant.create(Image, make_object(Image, "sharing-odd", members=["other"]))
    shared = make_object(Image, "sharing-members", visibility="Shared", members=["other"])
    await tenant.create(Image, shared)
    with pytest.raises(ApiError, match="Duplicate value"):
        await tenant.patch_merge(Image, "sharing-members", {"spec": {"members": ["a", "a"]}}, "demo")
    change = {"spec": {"members": ["a", "b"], "hidden": True, "active": False}}
    found = await tenant.patch_merge(Image, "sharing-members", change, "demo")
    assert (found["spec"]["members"], found["spec"]["hidden"]) == (["a", "b"], True)
    with pytest.raises(Invalid, match="only a Shared image has members"):
        await tenant.patch_merge(Image, "sharing-members", {"spec": {"visibility": "Private"}}, "demo")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"source": {}}, "a source is exactly one of url, s3, upload"),
        ({"source": URL | OTHER}, "a source is exactly one of url, s3, upload"),
        ({"source": OTHER}, "bytes of another image need no checksum"),
        ({"source": {"image": {"namespace": "other"}}}, "name"),
    ],
)
async def test_a_source_is_one_thing(tenant: KubeClient, spec: dict[str, Any], words: str) -> None:
    """A source of two kinds, or of none, or a checksum of bytes that are known, is refused by name."""
    with pytest.raises(Invalid, match=words):
        await tenant.create(Image, make_object(Image, "sharing-source", **spec))


async def test_only_the_operator_says_what_a_copy_is_of(tenant: KubeClient, connect: Any) -> None:
    """Nobody else writes the original, by which a host would give out any bytes; once written it stays."""
    body = make_object(Image, "sharing-copy", source=OTHER, checksum=None)
    original = {"digest": DIGEST}
    forged = body | {"spec": body["spec"] | {"original": original}}
    admin, operator, agent = await connect("admin"), await connect("operator"), await connect("agent@h1")
    for client in (tenant, admin):
        with pytest.raises(Forbidden, match="written by the operator only"):
            await client.create(Image, forged)
    made = await tenant.create(Image, body)
    patch = {"spec": {"original": original}}
    for client in (tenant, admin, agent):
        with pytest.raises(Forbidden):
            await client.patch_merge(Image, "sharing-copy", patch, "demo")
    identity = {"name": "sharing-copy", "namespace": "demo", "uid": made["metadata"]["uid"]}
    await operator.apply(Image, {"metadata": identity} | patch, manager="kumulus-operator-copies")
    given = {"spec": {"assignment": {"store": "Hosts", "hosts": ["h1"]}}}
    kept = await operator.apply(Image, {"metadata": identity} | given, manager="kumulus-operator")
    assert kept["spec"]["original"] == original
    for other in ({"digest": "sha256:" + "8" * 64}, None):
        with pytest.raises(Invalid, match="keeps the bytes that it was made of"):
            await operator.patch_merge(Image, "sharing-copy", {"spec": {"original": other}}, "demo")
    told = {"metadata": identity, "status": {"importHost": "h1"}}
    await operator.apply_status(Image, told, manager="kumulus-operator")
    await tenant.delete(Image, "sharing-copy", "demo")
    await agent.remove_finalizer(Image, "sharing-copy", "kumulus.dev/agent", "demo", uid=identity["uid"])
    assert await tenant.get(Image, "sharing-copy", "demo") is None


async def test_an_acceptance_is_of_one_image(tenant: KubeClient, connect: Any) -> None:
    """Members make and delete acceptances in their project, and change none into another; readers read them."""
    made = await tenant.create(ImageAcceptance, make_object(ImageAcceptance, "golden"))
    change = {"spec": {"image": {"name": "other", "namespace": "other"}}}
    with pytest.raises(Invalid, match="make another acceptance"):
        await tenant.patch_merge(ImageAcceptance, "golden", change, "demo")
    operator = await connect("operator")
    metadata = {"name": "golden", "namespace": "demo", "uid": made["metadata"]["uid"]}
    status = {"image": {"format": "qcow2", "visibility": "Shared", "ready": True}}
    await operator.apply_status(ImageAcceptance, {"metadata": metadata, "status": status}, manager="kumulus-operator")
    with pytest.raises(Forbidden):
        await tenant.apply_status(ImageAcceptance, {"metadata": metadata, "status": status}, manager="carol")
    with pytest.raises(Forbidden):
        await (await connect("agent@h1")).get(ImageAcceptance, "golden", "demo")
    await tenant.delete(ImageAcceptance, "golden", "demo")


async def test_what_is_offered_to_all_is_readable_by_all(tenant: KubeClient, connect: Any) -> None:
    """A tenant reads the acceptances of kumulus-public and makes none there: administrators offer to all."""
    admin = await connect("admin")
    body = make_object(ImageAcceptance, "for-all")
    body["metadata"]["namespace"] = "kumulus-public"
    with pytest.raises(Forbidden):
        await tenant.create(ImageAcceptance, body)
    await admin.create(ImageAcceptance, body)
    found, _ = await tenant.list(ImageAcceptance, "kumulus-public")
    assert [item["metadata"]["name"] for item in found] == ["for-all"]
    await admin.delete(ImageAcceptance, "for-all", "kumulus-public")
