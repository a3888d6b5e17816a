"""What an Image may say of where it comes from."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import Image
from kumulus_api.image import ImageFormat
from kumulus_api.testing import INSTANCE_ID, make_object
from kumulus_runtime.errors import Forbidden, Invalid

URL = "https://images.example/tiny.vmdk"
MIRRORS = ["https://one.example/tiny.vmdk", "http://two.example/tiny.vmdk"]


@pytest.mark.parametrize("image_format", [item.value for item in ImageFormat])
async def test_each_format_can_be_declared(connect: Any, image_format: str) -> None:
    """An Image of each format that hosts take is admitted."""
    admin = await connect("admin")
    made = await admin.create(Image, make_object(Image, f"format-{image_format}", format=image_format))
    assert made["spec"]["format"] == image_format


async def test_mirrors_go_with_a_checksum(connect: Any) -> None:
    """Further addresses need a URL and a checksum, and cannot change."""
    admin, operator = await connect("admin"), await connect("operator")
    source = {"url": URL, "mirrors": MIRRORS}
    made = await admin.create(Image, make_object(Image, "mirrored", source=source))
    assert made["spec"]["source"]["mirrors"] == MIRRORS
    with pytest.raises(Invalid, match="mirrors need a checksum"):
        await admin.create(Image, make_object(Image, "mirrored-unknown", source=source, checksum=None))
    held = {"name": "web", "instanceID": INSTANCE_ID, "action": INSTANCE_ID, "host": "h1"}
    with pytest.raises(Invalid, match="mirrors are of a url"):
        await operator.create(Image, make_object(Image, "mirrored-held", source={"server": held, "mirrors": MIRRORS}))
    for wrong in ([], ["ftp://one.example/a"], MIRRORS * 5):
        with pytest.raises(Invalid, match="mirrors"):
            await admin.create(Image, make_object(Image, "mirrored-wrong", source=source | {"mirrors": wrong}))
    fewer = {"spec": {"source": {"mirrors": MIRRORS[:1]}}}
    with pytest.raises(Invalid, match="cannot change"):
        await admin.patch_merge(Image, "mirrored", fewer, "demo")


async def test_an_image_of_a_volume_is_of_one_thing_and_qcow2(connect: Any) -> None:
    """A volume or a snapshot is the whole source; format and checksum are not the user's to choose."""
    admin = await connect("admin")
    for name, source in (
        ("of-volume", {"volume": {"name": "data"}}),
        ("of-snapshot", {"volumeSnapshot": {"name": "s"}}),
    ):
        whole = {"source": source, "format": "qcow2", "checksum": None}
        await admin.create(Image, make_object(Image, name, **whole))
        for wrong in ({"format": "raw"}, {"checksum": "sha256:" + "0" * 64}):
            with pytest.raises(Invalid, match="an image of a volume is qcow2"):
                await admin.create(Image, make_object(Image, f"{name}-wrong", **whole | wrong))
        with pytest.raises(Invalid, match="exactly one of url, s3, upload"):
            await admin.create(Image, make_object(Image, f"{name}-wrong", **whole | {"source": source | {"url": URL}}))
        given = {"volumeID": INSTANCE_ID, "copyID": INSTANCE_ID}
        with pytest.raises(Forbidden, match="written by the operator only"):
            await admin.patch_merge(Image, name, {"spec": {"original": {"volume": given}}}, "demo")


async def test_a_signature_cannot_change(connect: Any) -> None:
    """A signature comes with its image, in the form of a public key and a value, and stays."""
    admin = await connect("admin")
    signature = {"publicKey": f"-----BEGIN PUBLIC KEY-----\n{'A' * 124}\n-----END PUBLIC KEY-----\n", "value": "A" * 96}
    await admin.create(Image, make_object(Image, "signed", signature=signature))
    await admin.create(Image, make_object(Image, "unsigned"))
    for name, change in (("signed", None), ("signed", signature | {"value": "B" * 96}), ("unsigned", signature)):
        with pytest.raises(Invalid, match="cannot change"):
            await admin.patch_merge(Image, name, {"spec": {"signature": change}}, "demo")
    wrong = signature | {"publicKey": "x" * 100}
    with pytest.raises(Invalid, match="publicKey"):
        await admin.create(Image, make_object(Image, "signed-wrong", signature=wrong))


async def test_an_agent_tells_how_far_it_is(connect: Any) -> None:
    """Progress and the file that hosts use are told by the agent that imports, and kept."""
    admin, operator, agent = await connect("admin"), await connect("operator"), await connect("agent@h1")
    made = await admin.create(Image, make_object(Image, "told", format="vdi"))
    metadata = {"name": "told", "namespace": "demo", "uid": made["metadata"]["uid"]}
    named = {"metadata": metadata, "status": {"importHost": "h1"}}
    await operator.apply_status(Image, named, manager="kumulus-operator")
    stored = {"digest": made["spec"]["checksum"], "size": 300, "format": "qcow2"}
    status = {"progress": 40, "downloadedBytes": 1 << 40, "stored": stored}
    told = await agent.apply_status(Image, {"metadata": metadata, "status": status}, manager="kumulus-agent")
    assert told["status"] == {"importHost": "h1", **status}
