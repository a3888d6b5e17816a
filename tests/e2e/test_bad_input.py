"""Input that is wrong, hostile or just at the edge: a clear refusal that leaves nothing, or it works to the end."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kumulus_api import Image, KeyPair, Port, Server, Volume
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console, left, origin
from kumulus_lab.testing.cloud import FLAVOR, Cloud, condition, ready, refused
from kumulus_lab.testing.origin import Origin
from kumulus_runtime.errors import Invalid
from kumulus_runtime.resources import SECRET

MEBIBYTE = 1 << 20
LARGEST_USER_DATA = 64 * 1024
LONG = "x" * 62
"""With one more letter as long as a DNS label can be."""
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKHEMXEf4A7nAm3bmZ3YbXUHs1J1zaXgkqgWxdPdYk6e test"


@pytest.fixture
async def images(lab: LabSettings, tmp_path: Path) -> AsyncIterator[Origin]:
    """A server of bad images on the machine's address."""
    async with origin.serve(lab.gateway, tmp_path) as server:
        yield server


async def bad_images(lab: LabSettings, images: Origin) -> dict[str, tuple[dict[str, Any], str, tuple[str, ...]]]:
    """Give bad images by name: their spec, the reason that they are refused for, and what the message must tell."""
    (images.directory / "zeros").write_bytes(bytes(MEBIBYTE))
    (images.directory / "noise").write_bytes(b"\xa5" * 4 * MEBIBYTE)
    backing = await images.make("backing", "-f", "qcow2", "-u", "-F", "raw", "-b", "/etc/shadow", "NAME", "16M")
    data_file = str(images.directory / "data")
    external = await images.make(
        "external", "-f", "qcow2", "-o", f"data_file={data_file},data_file_raw=on", "NAME", "16M"
    )
    huge = await images.make("huge", "-f", "qcow2", "NAME", "5T")
    small = await images.make("small", "-f", "qcow2", "NAME", "1M")
    vmdk = await images.make("vmdk", "-f", "vmdk", "NAME", "1M")
    flat = await images.make("flat", "-f", "vmdk", "-o", "subformat=monolithicFlat", "NAME", "1M")
    differing = await images.make("vdi", "-f", "vdi", "NAME", "1M")
    with (images.directory / "vdi").open("r+b") as file:
        file.seek(0x4C)
        file.write(b"\4")
    tiny = await asyncio.to_thread((lab.state / "www" / "tiny.qcow2").read_bytes)
    (images.directory / "half").write_bytes(tiny[: len(tiny) // 2])
    half = images.file("half")
    zeros, missing, cut = images.file("zeros"), images.file("missing"), f"{images.url}/cut/noise"
    return {
        "backing-file": (_spec(backing), "UnsafeImage", ("backing_file", "qemu-img convert")),
        "data-file": (_spec(external), "UnsafeImage", ("data_file", "qemu-img convert")),
        "half-of-one": (_spec(half), "CorruptImage", ("cut off or damaged", "mend the source")),
        "five-terabytes": (_spec(huge), "TooLarge", (str(5 << 40), "are allowed", "smaller image")),
        "claims-a-pebibyte": (_spec(f"{images.url}/huge"), "TooLarge", (str(1 << 50), "are allowed", "smaller image")),
        "raw-as-qcow2": (_spec(zeros), "FormatMismatch", ("declared qcow2", "content is raw", "spec.format")),
        "qcow2-as-raw": (_spec(small, "raw"), "FormatMismatch", ("declared raw", "content is qcow2", "spec.format")),
        "vmdk-as-raw": (_spec(vmdk, "raw"), "FormatMismatch", ("declared raw", "content is vmdk", "spec.format")),
        "vmdk-of-two-files": (_spec(flat, "vmdk"), "UnsafeImage", ("names other files", "make one file")),
        "vdi-of-a-parent": (_spec(differing, "vdi"), "UnsafeImage", ("difference to another file", "merge it")),
        "absent": (_spec(missing), "DownloadFailed", (missing, "404", "tried again")),
        "cut-off": (_spec(cut, "raw"), "DownloadFailed", (cut, "tried again")),
        "nobody-listens": (_spec("http://127.0.0.1:1/x"), "DownloadFailed", ("127.0.0.1:1", "tried again")),
        "other-bytes": (
            _spec(zeros, "raw", checksum="sha256:" + "0" * 64),
            "ChecksumMismatch",
            (f"asks for {'0' * 64}", f"has sha256 {hashlib.sha256(bytes(MEBIBYTE)).hexdigest()}", "spec.checksum"),
        ),
    }


async def test_bad_images_are_refused_and_leave_nothing(
    cloud: Cloud, project: str, lab: LabSettings, images: Origin
) -> None:
    """Each bad image names its fault, what was found and the remedy; no byte of it stays on a host once it is gone."""
    bad = await bad_images(lab, images)
    before = await left.holdings(lab)
    for name, (spec, _, _) in bad.items():
        await cloud.make(Image, name, spec, project)
    refusals = await asyncio.gather(*(_refusal(cloud, project, name, reason) for name, (_, reason, _) in bad.items()))
    for message, (name, (_, _, said)) in zip(refusals, bad.items(), strict=True):
        assert [words for words in said if words not in message] == [], f"{name}: {message}"
    await cloud.make_network(project)
    await cloud.make_server(project, "a", image={"name": "backing-file"})
    server = await cloud.until(Server, "a", refused("ImageNotReady"), namespace=project)
    assert "UnsafeImage" in condition(server, "Scheduled")["message"]
    await cloud.delete(Server, "a", project)
    await asyncio.gather(*(cloud.delete(Image, name, project) for name in bad))
    await _nothing_new(lab, before)


async def _refusal(cloud: Cloud, project: str, name: str, reason: str) -> str:
    image = await cloud.until(
        Image, name, lambda i: condition(i, "Ready")["reason"] == reason, namespace=project, seconds=30
    )
    assert condition(image, "Ready")["status"] == "False"
    assert "digest" not in image["status"]
    return str(condition(image, "Ready")["message"])


def _spec(url: str, image_format: str = "qcow2", **fields: str) -> dict[str, Any]:
    return {"source": {"url": url}, "format": image_format, **fields}


async def _nothing_new(lab: LabSettings, before: left.Holdings) -> None:
    """Wait for hosts to hold what they held: an agent learns of a deletion by its watch."""
    async with asyncio.timeout(10):
        while new := await left.beyond(lab, before):  # noqa: ASYNC110 - files have no watch that goes through a mount
            await asyncio.sleep(0.2)
    assert not new


async def test_names_of_63_characters(cloud: Cloud, lab: LabSettings) -> None:
    """With names as long as DNS allows everything works: hostname, DNS in the guest, volume, key, and deletion."""
    label, interface = f"a{LONG}", f"e{LONG}"
    async with cloud.project(f"p{LONG}") as project:
        await cloud.make_network(project, f"n{LONG}")
        tiny = {"url": f"http://{lab.gateway}:8098/tiny.qcow2"}
        await cloud.make(Image, f"i{LONG}", {"source": tiny, "format": "qcow2"}, project)
        await cloud.make(KeyPair, f"k{LONG}", {"publicKey": PUBLIC_KEY}, project)
        await cloud.make(Volume, f"v{LONG}", {"size": "1Mi"}, project)
        await _secret(cloud, project, f"s{LONG}", f"#!/bin/sh\nping -c 1 -W 5 {label} && echo found-myself\n".encode())
        await cloud.make_server(
            project,
            label,
            image={"name": f"i{LONG}"},
            keyPair={"name": f"k{LONG}"},
            networks=[{"name": interface, "network": {"name": f"n{LONG}"}}],
            volumes=[{"name": f"d{LONG}", "volume": {"name": f"v{LONG}"}}],
            userData={"secret": {"name": f"s{LONG}"}},
        )
        server = await cloud.server_ready(project, label)
        log = console.path(lab, server)
        await console.says(log, f"kumulus-guest: hostname={label}$")
        await console.says(log, f"kumulus-guest: disk=vdb bytes={MEBIBYTE}")
        await console.says(log, "^found-myself")
        await cloud.delete(Server, label, project)
        await cloud.gone(Port, f"{label}-{interface}", project)


async def test_user_data_arrives_unchanged(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """User data of any script, and from a Secret 64 KiB of it, is in the guest byte for byte what the user gave."""
    await cloud.make_network(project)
    script = "#!/bin/sh\nsha256sum /run/user-data  # Grüße, 日本語, \U0001f986, e\u0301, \u202e\t\\ \"'`\n"
    whole = script.encode().ljust(LARGEST_USER_DATA - 1, b"#") + b"\n"
    await _secret(cloud, project, "data", whole)
    await cloud.make_server(project, "small", userData={"inline": script})
    await cloud.make_server(project, "large", userData={"secret": {"name": "data"}})
    for name, data in (("small", script.encode()), ("large", whole)):
        server = await cloud.server_ready(project, name)
        await console.says(console.path(lab, server), f"^{hashlib.sha256(data).hexdigest()}  /run/user-data")


async def test_user_data_that_cannot_be_served(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """User data beyond 64 KiB or in another project's Secret is refused with the reason, and the remedy helps."""
    await cloud.make_network(project)
    before = await left.holdings(lab)
    async with cloud.project() as other:
        await _secret(cloud, other, "data", b"#!/bin/sh\n")
        await cloud.make_server(project, "a", userData={"secret": {"name": "data"}})
        server = await cloud.until(Server, "a", refused("UserDataNotFound"), namespace=project)
        assert "Secret data was not found" in condition(server, "Scheduled")["message"]
        with pytest.raises(Invalid, match="namespace"):
            await _create_strictly(cloud, project, {"userData": {"secret": {"name": "data", "namespace": other}}})
    await cloud.delete(Server, "a", project)
    await _secret(cloud, project, "data", bytes(LARGEST_USER_DATA + 1))
    await cloud.make_server(project, "a", userData={"secret": {"name": "data"}})
    server = await cloud.until(Server, "a", refused("UserDataTooLarge"), namespace=project)
    message = condition(server, "Scheduled")["message"]
    assert f"has {LARGEST_USER_DATA + 1} bytes" in message
    assert f"at most {LARGEST_USER_DATA}" in message
    assert await left.ports_of(cloud, project) == []
    await _nothing_new(lab, before)
    await cloud.client.delete(SECRET, "data", project)
    await _secret(cloud, project, "data", b"#!/bin/sh\n")
    await cloud.server_ready(project, "a")


async def test_image_of_another_project(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """Another project's private image looks exactly like one that does not exist, though it is Ready there."""
    await cloud.make_network(project)
    async with cloud.project() as other:
        source = {"url": f"http://{lab.gateway}:8098/tiny.qcow2"}
        await cloud.make(Image, "private", {"source": source, "format": "qcow2"}, other)
        await cloud.until(Image, "private", ready, namespace=other)
        texts = []
        for name in ("private", "absent"):
            await cloud.make_server(project, name, image={"name": name, "namespace": other})
            server = await cloud.until(Server, name, refused("ImageNotFound"), namespace=project)
            texts.append(condition(server, "Scheduled")["message"].replace(name, "NAME"))
    assert texts[0] == texts[1]
    assert await left.ports_of(cloud, project) == []


async def _secret(cloud: Cloud, namespace: str, name: str, content: bytes) -> None:
    data = {"userData": base64.b64encode(content).decode()}
    await cloud.client.create(SECRET, {"metadata": {"name": name, "namespace": namespace}, "data": data})


async def _create_strictly(cloud: Cloud, project: str, spec: dict[str, Any]) -> None:
    """Create as kubectl does: an unknown field is an error."""
    body = {
        "apiVersion": "kumulus.dev/v1alpha1",
        "kind": "Server",
        "metadata": {"name": "strict", "namespace": project},
        "spec": {"flavor": {"name": FLAVOR}, "image": {"name": "tiny"}} | spec,
    }
    path = f"/apis/kumulus.dev/v1alpha1/namespaces/{project}/servers"
    await cloud.client.request("POST", path, body, query={"fieldValidation": "Strict"})
