"""Keys and limits of volumes: what the operator makes, copies, refuses and deletes, by as few writes as can be."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from kumulus_api import FINALIZER, Flavor, Server, Volume, VolumeClass, VolumeSnapshot
from kumulus_api.volume_encryption import KEY_FINALIZER
from kumulus_lab.testing.site import AGENT, Site
from kumulus_runtime.resources import SECRET

Object = dict[str, Any]
GIB = 1 << 30


async def has_class(site: Site, name: str, **spec: Any) -> None:
    """Have a class of local volumes, for this project."""
    given = {"driver": "Local", "public": False, "projects": [site.name]} | spec
    await site.client.create(VolumeClass, {"metadata": {"name": f"{name}-{site.name}"}, "spec": given})


async def made(site: Site, name: str, **status: Any) -> None:
    """Tell that an agent has a volume."""
    told = {"usedBytes": 4096, "sizeBytes": GIB} | status
    body = {"metadata": {"name": name, "namespace": site.name}, "status": told}
    await site.client.apply_status(Volume, body, manager=AGENT)


async def key(site: Site, name: str) -> bytes | None:
    """Give what a Secret holds."""
    body = await site.client.get(SECRET, name, site.name)
    return base64.b64decode(body["data"]["key"]) if body is not None else None


async def held_by(site: Site, name: str, server: str, **spec: Any) -> Object:
    """Have a volume that a server has; give its assignment."""
    await site.create(Volume, name, {"size": "1Gi"} | spec, (FINALIZER,))
    await site.server(server, volumes=[{"name": name, "volume": {"name": name}}])
    return await site.assigned(Volume, name)


async def test_a_key_is_made_copied_and_goes_with_its_volume(site: Site) -> None:
    """A Secret holds what nobody can guess; a copy of the volume has the same in its own; each goes last of all."""
    await site.host("vp1", memory="16Gi")
    await site.basics()
    await has_class(site, "sealed", encryption={})
    mine = {"name": f"sealed-{site.name}"}
    place = await held_by(site, "data", "web", volumeClass=mine)
    where = place["encryption"]["secret"]["name"]
    assert place["encryption"] | {"secret": {}} == {
        "cipher": "aes-xts-plain64",
        "keySize": 512,
        "secret": {},
        "made": True,
    }
    content = await key(site, where)
    assert content is not None
    assert len(base64.b64decode(content)) == 32
    assigned = await site.assigned(Server, "web")
    assert assigned["volumes"][0]["encrypted"] is True
    body = await site.get(Volume, "data")
    assert KEY_FINALIZER in body["metadata"]["finalizers"]
    assert content.decode() not in str(body)

    await made(site, "data")
    await site.create(VolumeSnapshot, "early", {"volume": {"name": "data"}}, (FINALIZER,))
    await site.assigned(VolumeSnapshot, "early")
    status = {"metadata": {"name": "early", "namespace": site.name}, "status": {"restoreSize": GIB}}
    await site.client.apply_status(VolumeSnapshot, status, manager=AGENT)
    await site.create(Volume, "copy", {"size": "1Gi", "source": {"snapshot": {"name": "early"}}}, (FINALIZER,))
    copy = (await site.assigned(Volume, "copy"))["encryption"]
    assert copy["secret"]["name"] != where
    assert await key(site, copy["secret"]["name"]) == content

    await site.client.delete(Volume, "copy", site.name)
    assert await key(site, copy["secret"]["name"]) == content, "its data is there as long as its host says so"
    uid = (await site.get(Volume, "copy"))["metadata"]["uid"]
    await site.client.remove_finalizer(Volume, "copy", FINALIZER, site.name, uid=uid)
    await site.gone(Volume, "copy")
    assert await key(site, copy["secret"]["name"]) is None
    assert await key(site, where) == content

    await site.client.delete(SECRET, where, site.name)
    await site.create(Volume, "late", {"size": "1Gi", "source": {"snapshot": {"name": "early"}}}, (FINALIZER,))
    told = await site.condition(Volume, "late", "Ready", "False", "EncryptionKeyMissing")
    assert where in told["message"]
    assert content.decode() not in told["message"]


async def test_a_key_of_ones_own(site: Site) -> None:
    """It is waited for, it must be long enough, it is left alone; a class that does not encrypt refuses one."""
    await site.host("vp2", memory="16Gi")
    await site.basics()
    await has_class(site, "sealed", encryption={"keySize": 256})
    own = {"volumeClass": {"name": f"sealed-{site.name}"}, "encryption": {"secret": {"name": "mine"}}}
    await site.create(Volume, "data", {"size": "1Gi"} | own, (FINALIZER,))
    await site.server("web", volumes=[{"name": "data", "volume": {"name": "data"}}])
    assert "Secret mine was not found" in await site.refused("web", "EncryptionKeyMissing")
    metadata = {"name": "mine", "namespace": site.name}
    short = base64.b64encode(b"short").decode()
    await site.client.create(SECRET, {"metadata": metadata, "data": {"key": short}})
    assert "has 5 bytes" in await site.refused("web", "EncryptionKeyInvalid")
    content = b"a passphrase of thirty-two bytes!"
    given = base64.b64encode(content + b"\n").decode()
    await site.client.patch_merge(SECRET, "mine", {"data": {"key": given}}, site.name)
    place = await site.assigned(Volume, "data")
    assert place["encryption"] == {
        "cipher": "aes-xts-plain64",
        "keySize": 256,
        "secret": {"name": "mine", "key": "key"},
        "made": False,
    }
    assert KEY_FINALIZER not in (await site.get(Volume, "data"))["metadata"]["finalizers"]
    await site.create(Volume, "other", {"size": "1Gi", "encryption": {"secret": {"name": "mine"}}}, (FINALIZER,))
    await site.condition(Volume, "other", "Ready", "False", "ClassNotEncrypted")


async def test_a_copy_waits_for_a_key_of_ones_own(site: Site) -> None:
    """A copy that no server has goes on when the Secret is there, and when what is in it is a key, without polling."""
    await site.host("vp9", memory="16Gi")
    await site.basics()
    await has_class(site, "sealed", encryption={})
    key_of = {
        "metadata": {"name": "mine", "namespace": site.name},
        "data": {"key": base64.b64encode(b"k" * 32).decode()},
    }
    await site.client.create(SECRET, key_of)
    own = {"volumeClass": {"name": f"sealed-{site.name}"}, "encryption": {"secret": {"name": "mine"}}}
    await held_by(site, "data", "web", **own)
    await made(site, "data")
    await site.create(VolumeSnapshot, "early", {"volume": {"name": "data"}}, (FINALIZER,))
    await site.assigned(VolumeSnapshot, "early")
    status = {"metadata": {"name": "early", "namespace": site.name}, "status": {"restoreSize": GIB}}
    await site.client.apply_status(VolumeSnapshot, status, manager=AGENT)
    await site.client.delete(SECRET, "mine", site.name)
    await site.create(Volume, "copy", {"size": "1Gi", "source": {"snapshot": {"name": "early"}}}, (FINALIZER,))
    await site.condition(Volume, "copy", "Ready", "False", "EncryptionKeyMissing")
    await site.client.create(SECRET, key_of | {"data": {"key": base64.b64encode(b"short").decode()}})
    async with asyncio.timeout(10):
        await site.condition(Volume, "copy", "Ready", "False", "EncryptionKeyInvalid")
        await site.client.patch_merge(SECRET, "mine", {"data": key_of["data"]}, site.name)
        await site.assigned(Volume, "copy")


async def test_limits_follow_class_and_size(site: Site) -> None:
    """What a class allows is told for each volume; a change reaches those that servers have, by one write each."""
    await site.host("vp3", memory="16Gi")
    await site.basics()
    qos = {"iopsPerGiB": {"total": 100}, "iops": {"total": 150}, "iopsBurst": {"total": 400}, "bytes": {"read": "10M"}}
    await has_class(site, "tiered", qos=qos)
    name = f"tiered-{site.name}"
    place = await held_by(site, "data", "web", volumeClass={"name": name})
    expected = {"totalIops": 100, "totalIopsBurst": 400, "readBytes": 10_000_000}
    assert place["limits"] == expected
    await site.create(Volume, "idle", {"size": "1Gi", "volumeClass": {"name": name}}, (FINALIZER,))
    await made(site, "data")
    await site.client.patch_merge(Volume, "data", {"spec": {"size": "2Gi"}}, site.name)
    body = await site.until(Volume, "data", lambda v: v["spec"]["assignment"]["size"] == "2Gi")
    assert body["spec"]["assignment"]["limits"] == expected | {"totalIops": 150}
    await made(site, "data", sizeBytes=2 * GIB)
    before = await site.condition(Volume, "data", "Resized", "True")
    assert before
    generation = (await site.get(Volume, "data"))["metadata"]["generation"]
    await site.client.patch_merge(VolumeClass, name, {"spec": {"qos": None}})
    body = await site.until(Volume, "data", lambda v: "limits" not in v["spec"]["assignment"])
    assert body["metadata"]["generation"] == generation + 1
    assert "encryption" not in body["spec"]["assignment"]


async def test_a_volume_has_limits_of_its_own(site: Site) -> None:
    """Where its class allows it and within the class's; changes of either reach the server, and the volume says so."""
    await site.host("vp4", memory="16Gi")
    await site.basics()
    await has_class(site, "own", qos={"iops": {"total": 100}}, qosPerVolume=True)
    name = f"own-{site.name}"
    place = await held_by(site, "data", "web", volumeClass={"name": name}, qos={"iops": {"total": 40}})
    assert place["limits"] == {"totalIops": 40}
    await site.client.patch_merge(Volume, "data", {"spec": {"qos": {"iops": {"total": 400}}}}, site.name)
    told = await site.condition(Volume, "data", "Limited", "False", "QoSBeyondClass")
    assert "total_iops is 400, of the class 100" in told["message"]
    await site.until(Volume, "data", lambda v: v["spec"]["assignment"]["limits"] == {"totalIops": 100})
    await site.client.patch_merge(VolumeClass, name, {"spec": {"qos": {"iops": {"total": 900}}}})
    await site.until(Volume, "data", lambda v: v["spec"]["assignment"]["limits"] == {"totalIops": 400})
    await site.condition(Volume, "data", "Limited", "True", "Limited")
    await site.client.patch_merge(VolumeClass, name, {"spec": {"qosPerVolume": False}})
    await site.until(Volume, "data", lambda v: v["spec"]["assignment"]["limits"] == {"totalIops": 900})
    await site.condition(Volume, "data", "Limited", "False", "QoSNotAllowed")
    await site.client.patch_merge(Volume, "data", {"spec": {"qos": None}}, site.name)
    await site.condition(Volume, "data", "Limited", "True")


async def test_a_resize_brings_other_limits_of_the_root_disk(site: Site) -> None:
    """A flavor that differs in these alone is written into the assignment of a placed server, as it runs."""
    await site.host("vp5", memory="16Gi")
    await site.basics()
    size = {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"}
    specs = {"quota:disk_write_bytes_sec": "1048576", "quota:disk_read_iops_sec": "50"}
    for flavor, extra in (("slow", specs), ("slower", specs | {"quota:disk_read_iops_sec": "5"})):
        body = {"metadata": {"name": f"{flavor}-{site.name}"}, "spec": size | {"extraSpecs": extra}}
        await site.client.create(Flavor, body)
    await site.server("web", flavor={"name": f"slow-{site.name}"})
    given = await site.assigned(Server, "web")
    assert given["hardware"]["rootDiskLimits"] == {"writeBytes": 1 << 20, "readIops": 50}
    for flavor, limits in ((f"slower-{site.name}", {"writeBytes": 1 << 20, "readIops": 5}), ("small", None)):
        await site.client.patch_merge(Server, "web", {"spec": {"flavor": {"name": flavor}}}, site.name)
        body = await site.until(Server, "web", lambda v, name=flavor: v["spec"]["assignment"]["flavor"] == name)
        assert body["spec"]["assignment"].get("hardware", {}).get("rootDiskLimits") == limits
