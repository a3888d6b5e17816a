"""Who may send an image's bytes, judged by a real API server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kumulus_api import FINALIZER, Image, ImageUpload
from kumulus_api.testing import make_object
from kumulus_lab.commands import wait_until
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import ApiError, Forbidden, Invalid


@pytest.fixture(scope="module")
def roles(cluster: Any) -> None:
    """Uma is a member of the project demo, rob a reader, and otto may update one image alone."""
    plane = cluster.plane
    for user, role in (("uma", "member"), ("rob", "reader")):
        binding = [f"upload-{user}", f"--clusterrole=kumulus-project-{role}", f"--user={user}"]
        plane.kubectl("create", "rolebinding", *binding, "-n", "demo")
    plane.kubectl("create", "role", "uploads", "--verb=create", "--resource=imageuploads.kumulus.dev", "-n", "demo")
    one = ["--verb=update", "--resource=images.kumulus.dev", "--resource-name=one"]
    plane.kubectl("create", "role", "image-one", *one, "-n", "demo")
    for role in ("uploads", "image-one"):
        plane.kubectl("create", "rolebinding", f"{role}-otto", f"--role={role}", "--user=otto", "-n", "demo")
    for question in (
        ["update", "images.kumulus.dev/any", "--as=uma"],
        ["get", "images.kumulus.dev", "--as=rob"],
        ["update", "images.kumulus.dev/one", "--as=otto"],
        ["create", "imageuploads.kumulus.dev", "--as=otto"],
    ):

        def allowed(question: list[str] = question) -> bool:
            return plane.kubectl("auth", "can-i", *question, "-n", "demo", check=False).returncode == 0

        wait_until(allowed, what=f"the right to {question}", limit=30)


async def make(client: KubeClient, name: str, image: str = "golden", **spec: Any) -> dict[str, Any]:
    """Make an upload, or see it refused; for some seconds after a kind's birth the API server cannot mutate it."""
    body = make_object(ImageUpload, name, image={"name": image}, **spec)
    async with asyncio.timeout(30):
        while True:
            try:
                return await client.create(ImageUpload, body)
            except ApiError as error:
                if error.status != 500:
                    raise
                await asyncio.sleep(0.5)


@pytest.mark.usefixtures("roles")
async def test_an_upload_bears_the_name_of_who_made_it(connect: Any) -> None:
    """Whatever name somebody gives, the upload is theirs; and it cannot be changed later."""
    uma, admin = await connect("uma"), await connect("admin")
    made = await make(uma, "theirs", user="admin")
    assert made["spec"]["user"] == "uma"
    with pytest.raises(Forbidden):
        await uma.patch_merge(ImageUpload, "theirs", {"spec": {"user": "admin"}}, "demo")
    with pytest.raises(Invalid, match="cannot change"):
        await admin.patch_merge(ImageUpload, "theirs", {"spec": {"tokenHash": "1" * 64}}, "demo")


@pytest.mark.usefixtures("roles")
async def test_who_may_update_an_image_may_send_its_bytes(connect: Any) -> None:
    """Readers and strangers send nothing; who may update one image sends the bytes of that one alone."""
    for user in ("rob", "nobody"):
        with pytest.raises(Forbidden):
            await make(await connect(user), f"of-{user}")
    otto = await connect("otto")
    await make(otto, "of-otto", image="one")
    with pytest.raises(Forbidden, match="may not send the bytes of image two in demo"):
        await make(otto, "of-otto-too", image="two")


@pytest.mark.usefixtures("roles")
async def test_only_the_proxy_uses_an_upload_up(connect: Any) -> None:
    """That a token was used is said by the console proxy, which also removes what is over; it makes no upload."""
    uma = await connect("uma")
    made = await make(uma, "used")
    body = made | {"status": {"openedAt": "2026-01-01T00:00:00Z", "proxy": "pod-1"}}
    with pytest.raises(Forbidden):
        await uma.update(ImageUpload, body, subresource="status")
    proxy = await connect("console")
    with pytest.raises(Forbidden):
        await make(proxy, "of-the-proxy")
    marked = await proxy.update(ImageUpload, body, subresource="status")
    assert marked["status"]["proxy"] == "pod-1"
    assert await proxy.get(Image, "golden", "demo") is None  # it may look
    await proxy.delete(ImageUpload, "used", "demo", uid=made["metadata"]["uid"])


async def test_an_image_that_is_sent_is_held(connect: Any) -> None:
    """An Image that users make for an upload bears the finalizer of what hosts hold, and has that one source."""
    admin = await connect("admin")
    made = await admin.create(Image, make_object(Image, "sent", source={"upload": {"size": "5Gi"}}, checksum=None))
    assert made["metadata"]["finalizers"] == [FINALIZER]
    assert (await admin.create(Image, make_object(Image, "sent-too", source={"upload": {}})))["spec"]["source"] == {
        "upload": {}
    }
    for source in ({}, {"upload": {}, "url": "https://images.example/tiny"}, {"upload": {}, "image": {"name": "sent"}}):
        with pytest.raises(Invalid, match="a source is exactly one of url, s3, upload"):
            await admin.create(Image, make_object(Image, "sent-wrong", source=source))
    with pytest.raises(Invalid, match=r"upload\.size"):
        await admin.create(Image, make_object(Image, "sent-wrong", source={"upload": {"size": "much"}}))
    with pytest.raises(Invalid, match="cannot change"):
        await admin.patch_merge(Image, "sent", {"spec": {"source": {"upload": {"size": "6Gi"}}}}, "demo")


async def test_the_host_named_tells_of_the_upload(connect: Any) -> None:
    """The agent of the host that takes the bytes says how far they are, and lets go of the Image; no other does."""
    operator, admin = await connect("operator"), await connect("admin")
    own, other = await connect("agent@h1"), await connect("agent@h2")
    image = await admin.create(Image, make_object(Image, "sent-here", source={"upload": {}}, checksum=None))
    identity = {"name": "sent-here", "namespace": "demo", "uid": image["metadata"]["uid"]}
    await operator.apply_status(
        Image, {"metadata": identity, "status": {"importHost": "h1"}}, manager="kumulus-operator"
    )
    condition = {
        "type": "Ready",
        "status": "False",
        "reason": "Uploading",
        "message": "",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    told = {"metadata": identity, "status": {"conditions": [condition]}}
    with pytest.raises(Forbidden, match="not imported by"):
        await other.apply_status(Image, told, manager="kumulus-agent")
    await own.apply_status(Image, told, manager="kumulus-agent")
    await admin.delete(Image, "sent-here", "demo")
    with pytest.raises(Forbidden):
        await other.remove_finalizer(Image, "sent-here", FINALIZER, "demo", uid=identity["uid"])
    await own.remove_finalizer(Image, "sent-here", FINALIZER, "demo", uid=identity["uid"])
    assert await admin.get(Image, "sent-here", "demo") is None
