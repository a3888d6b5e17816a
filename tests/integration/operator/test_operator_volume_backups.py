"""Backups, volumes of them and policies: what the operator decides; the agent's word is the test's."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

from kumulus_api import FINALIZER, BackupPolicy, Server, Volume, VolumeBackup, VolumeClass
from kumulus_api.volume_backup import POLICY_LABEL
from kumulus_lab.testing.site import AGENT, Site
from kumulus_runtime.conditions import set_condition
from kumulus_runtime.resources import SECRET

Object = dict[str, Any]
GIB = 1 << 30
DATA = [{"name": "data", "volume": {"name": "data"}}]
DIGEST = "sha256:" + "1" * 64


async def told(site: Site, kind: type, name: str, **status: Any) -> None:
    """Tell what an agent tells."""
    body = {"metadata": {"name": name, "namespace": site.name}, "status": status}
    await site.client.apply_status(kind, body, manager=AGENT)


async def whole(site: Site, name: str, taken_at: str = "2026-01-01T00:00:00Z") -> Object:
    """Tell that a backup is made; give its assignment."""
    given = await site.assigned(VolumeBackup, name)
    status = {"digest": DIGEST, "size": GIB, "storedBytes": 4096, "chain": given["chain"], "takenAt": taken_at}
    await told(site, VolumeBackup, name, **status)
    await site.condition(VolumeBackup, name, "Ready", "True", "Available")
    return given


async def used(site: Site, **metadata: Any) -> Object:
    """Have a volume of one GiB that a server has and its agent has made; give its assignment."""
    await site.create(Volume, "data", {"size": "1Gi"}, (FINALIZER,))
    if metadata:
        await site.client.patch_merge(Volume, "data", {"metadata": metadata}, site.name)
    await site.server("web", volumes=DATA)
    place = await site.assigned(Volume, "data")
    await told(site, Volume, "data", usedBytes=4096, sizeBytes=GIB)
    return place


async def back_up(site: Site, name: str, **spec: Any) -> None:
    """Ask for a backup of the volume."""
    await site.create(VolumeBackup, name, {"source": {"volume": {"name": "data"}}} | spec, (FINALIZER,))


async def test_a_chain_and_its_end(site: Site) -> None:
    """One after the other: an incremental backup follows the newest, and objects go when nobody adds to their chain."""
    await site.host("w1", memory="16Gi")
    await site.basics(quota={"backups": 3, "backupGigabytes": 2})
    await back_up(site, "early")
    await site.condition(VolumeBackup, "early", "Ready", "False", "VolumeNotFound")
    place = await used(site)
    full = await site.assigned(VolumeBackup, "early")
    assert (full["volumeID"], full["host"], full["chain"]) == (place["volumeID"], place["host"], full["backupID"])
    await site.condition(VolumeBackup, "early", "Ready", "False", "Making")
    await back_up(site, "second", incremental=True)
    await site.condition(VolumeBackup, "second", "Ready", "False", "Waiting")
    await whole(site, "early")
    second = await site.assigned(VolumeBackup, "second")
    assert (second["chain"], second["parent"]) == (full["backupID"], full["backupID"])
    await back_up(site, "third")
    await site.client.delete(VolumeBackup, "early", site.name)
    await site.condition(VolumeBackup, "early", "Ready", "False", "Waiting")
    await whole(site, "second", "2026-01-02T00:00:00Z")
    await site.until(VolumeBackup, "early", lambda body: body["spec"]["assignment"].get("remove") is True)
    refused = await site.condition(VolumeBackup, "third", "Ready", "False", "QuotaExceeded")
    assert "2Gi of 2Gi of backups are in use, 1Gi more is asked for" in refused["message"]
    await site.quota_shown("backupGigabytes", "2/2")
    await site.client.remove_finalizer(VolumeBackup, "early", FINALIZER, site.name)  # as the agent does
    await site.gone(VolumeBackup, "early")
    await whole(site, "third", "2026-01-03T00:00:00Z")


async def test_a_volume_of_a_backup(site: Site) -> None:
    """It is put on a host that has room, of the backup that was made; the backup stays while it is restored."""
    await site.host("w1", memory="16Gi")
    await site.basics()
    await used(site)
    source = {"volumeBackup": {"name": "b"}}
    await site.create(Volume, "new", {"size": "1Gi", "source": source}, (FINALIZER,))
    await site.condition(Volume, "new", "Ready", "False", "SourceNotFound")
    await back_up(site, "b")
    await site.condition(Volume, "new", "Ready", "False", "SourceNotReady")
    given = await whole(site, "b")
    there = await site.assigned(Volume, "new")
    assert there["origin"]["backup"] == {"backupID": given["backupID"], "chain": given["chain"], "digest": DIGEST}
    await site.condition(Volume, "new", "Ready", "False", "Making")
    await site.client.delete(VolumeBackup, "b", site.name)
    await site.condition(VolumeBackup, "b", "Ready", "False", "InUse")
    await told(site, Volume, "new", usedBytes=4096, sizeBytes=GIB)
    await site.condition(Volume, "new", "Ready", "True", "Available")
    await site.until(VolumeBackup, "b", lambda body: body["spec"]["assignment"].get("remove") is True)
    await site.client.remove_finalizer(VolumeBackup, "b", FINALIZER, site.name)
    await site.create(Volume, "late", {"size": "1Gi", "source": source}, (FINALIZER,))
    await site.condition(Volume, "late", "Ready", "False", "SourceNotFound")


async def test_a_policy_makes_what_is_due(site: Site) -> None:
    """A missed run is made once, full, of the volumes of selected servers, and it says when the next one comes."""
    await site.host("w1", memory="16Gi")
    await site.basics()
    await used(site)
    await site.client.patch_merge(Server, "web", {"metadata": {"labels": {"tier": "db"}}}, site.name)
    spec = {
        "schedule": "0 0 * * *",
        "servers": {"matchLabels": {"tier": "db"}},
        "retention": {"count": 1},
        "suspend": True,
    }
    await site.create(BackupPolicy, "nightly", spec)
    await site.condition(BackupPolicy, "nightly", "Ready", "True", "Suspended")
    long_ago = (datetime.now(UTC) - timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = {"metadata": {"name": "nightly", "namespace": site.name}, "status": {"lastRun": long_ago}}
    await site.client.apply_status(BackupPolicy, status, manager="kumulus-operator")
    await site.client.patch_merge(BackupPolicy, "nightly", {"spec": {"suspend": False}}, site.name)
    await site.condition(BackupPolicy, "nightly", "Ready", "True", "Running")
    made = await backups(site)
    assert len(made) == 1
    assert made[0]["metadata"]["labels"][POLICY_LABEL] == "nightly"
    first = made[0]["metadata"]["name"]
    assert made[0]["spec"]["incremental"] is False
    await whole(site, first)
    await site.condition(BackupPolicy, "nightly", "Ready", "True", "Scheduled")
    assert (await site.get(BackupPolicy, "nightly"))["status"]["nextRun"] > long_ago


async def test_a_policy_backs_servers_up(site: Site) -> None:
    """A server's root disk is one of what its policy backs up; a volume that a new server boots from is made of it."""
    await site.host("w1", memory="16Gi")
    await site.basics(quota={"backups": 5, "backupGigabytes": 8})
    place = await used(site)
    await site.client.patch_merge(Server, "web", {"metadata": {"labels": {"tier": "db"}}}, site.name)
    given = await site.assigned(Server, "web")
    await site.create(VolumeBackup, "early", {"source": {"server": {"name": "web"}}}, (FINALIZER,))
    await site.condition(VolumeBackup, "early", "Ready", "False", "ServerNotReady")
    cached = set_condition([], "ImageReady", True, "Cached", "", 1)
    status = {"powerState": "Running", "conditions": set_condition(cached, "Ready", True, "Running", "", 1)}
    await told(site, Server, "web", **status)
    early = await site.assigned(VolumeBackup, "early")
    assert (early["host"], early["rootDisk"]["instanceID"]) == (given["host"], given["instanceID"])
    assert early["rootDisk"]["image"] == {"name": "tiny", "namespace": site.name}
    assert "volumeID" not in early
    await site.quota_shown("backupGigabytes", "1/8")
    await whole(site, "early")

    spec = {"schedule": "0 0 * * *", "servers": {"matchLabels": {"tier": "db"}}, "suspend": True}
    await site.create(BackupPolicy, "nightly", spec)
    await site.condition(BackupPolicy, "nightly", "Ready", "True", "Suspended")
    long_ago = (datetime.now(UTC) - timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    ran = {"metadata": {"name": "nightly", "namespace": site.name}, "status": {"lastRun": long_ago}}
    await site.client.apply_status(BackupPolicy, ran, manager="kumulus-operator")
    await site.client.patch_merge(BackupPolicy, "nightly", {"spec": {"suspend": False}}, site.name)
    found = await site.until(BackupPolicy, "nightly", lambda body: body.get("status", {}).get("rootDisks") == 1)
    assert found["status"]["volumes"] == 1
    made = {body["metadata"]["name"]: body for body in await backups(site) if body["metadata"].get("labels")}
    root = next(name for name in made if name.startswith("nightly-web.root-"))
    assert len(made) == 2
    for name in made:
        await whole(site, name, "2026-01-02T00:00:00Z")
    sources = [(await site.assigned(VolumeBackup, name)).get("volumeID") for name in sorted(made)]
    assert sources == [place["volumeID"], None]
    await site.condition(BackupPolicy, "nightly", "Ready", "True", "Scheduled")

    await site.delete_server("web")
    await site.gone(Server, "web")
    source = {"volumeBackup": {"name": root}}
    await site.create(Volume, "system", {"size": "2Gi", "source": source}, (FINALIZER,))
    there = await site.assigned(Volume, "system")
    assert there["origin"]["backup"]["backupID"] == made_id(await site.get(VolumeBackup, root))
    await told(site, Volume, "system", usedBytes=4096, sizeBytes=2 * GIB)
    await site.server("web", volumes=[{"name": "system", "volume": {"name": "system"}}], bootVolume="system")
    again = await site.assigned(Server, "web")
    assert (again["volumes"][0]["boot"], again["instanceID"] == given["instanceID"]) == (True, False)
    await site.create(VolumeBackup, "none", {"source": {"server": {"name": "web"}}}, (FINALIZER,))
    await site.condition(VolumeBackup, "none", "Ready", "False", "BootsFromVolume")


async def test_what_was_backed_up_on_one_host_meets_on_one_host(site: Site) -> None:
    """Restored volumes come to the host of their backups, and when that is silent all to the same other one."""
    await site.host("m1", memory="16Gi")
    await site.basics()
    await used(site)
    await back_up(site, "b")
    await whole(site, "b")
    for name in ("m2", "m3"):
        await site.host(name, memory="16Gi")
    assert await _hosts_of_restored(site, "with") == {"m1"}
    await site.report("web", "m1")
    site.silence("m1")
    await site.condition(Server, "web", "Ready", "Unknown", "HostSilent")
    elsewhere = await _hosts_of_restored(site, "without")
    assert len(elsewhere) == 1
    assert elsewhere != {"m1"}


async def _hosts_of_restored(site: Site, name: str) -> set[str]:
    """Restore five volumes of different sizes; give where they lie."""
    names = [f"{name}-{number}" for number in range(1, 6)]
    for size, volume in enumerate(names, 1):
        source = {"volumeBackup": {"name": "b"}}
        await site.create(Volume, volume, {"size": f"{size}Gi", "source": source}, (FINALIZER,))
    return {(await site.assigned(Volume, volume))["host"] for volume in names}


async def test_an_encrypted_volume(site: Site) -> None:
    """Its backup is sealed with its key, if that is the user's own, and volumes of it are encrypted with that key."""
    await site.host("w1", memory="16Gi")
    await site.basics()
    given = {"driver": "Local", "public": False, "projects": [site.name], "encryption": {}}
    sealed = {"volumeClass": {"name": f"sealed-{site.name}"}}
    await site.client.create(VolumeClass, {"metadata": {"name": f"sealed-{site.name}"}, "spec": given})
    content = base64.b64encode(b"a passphrase of thirty-two bytes!").decode()
    secret = {"metadata": {"name": "mine", "namespace": site.name}, "data": {"key": content}}
    await site.client.create(SECRET, secret)
    own = {"encryption": {"secret": {"name": "mine"}}}
    for name, more in (("data", own), ("other", {})):
        await site.create(Volume, name, {"size": "1Gi"} | sealed | more, (FINALIZER,))
    both = [{"name": name, "volume": {"name": name}} for name in ("data", "other")]
    await site.server("web", volumes=both)
    for name in ("data", "other"):
        await site.assigned(Volume, name)
        await told(site, Volume, name, usedBytes=4096, sizeBytes=GIB)

    await site.create(VolumeBackup, "none", {"source": {"volume": {"name": "other"}}}, (FINALIZER,))
    refused = await site.condition(VolumeBackup, "none", "Ready", "False", "VolumeEncrypted")
    assert "spec.encryption" in refused["message"]
    await back_up(site, "b")
    assert (await site.assigned(VolumeBackup, "b"))["seal"]["encryption"]["secret"]["name"] == "mine"
    chain = (await site.assigned(VolumeBackup, "b"))["chain"]
    status = {"digest": DIGEST, "size": GIB, "chain": chain, "takenAt": "2026-01-01T00:00:00Z", "sealed": True}
    await told(site, VolumeBackup, "b", **status)
    source = {"size": "1Gi", "source": {"volumeBackup": {"name": "b"}}}
    await site.create(Volume, "clear", source, (FINALIZER,))
    assert "that encrypts" in (await site.condition(Volume, "clear", "Ready", "False", "Encrypted"))["message"]
    await site.create(Volume, "without", source | sealed, (FINALIZER,))
    missing = await site.condition(Volume, "without", "Ready", "False", "EncryptionKeyMissing")
    assert "spec.encryption" in missing["message"]
    await site.create(Volume, "again", source | sealed | own, (FINALIZER,))
    assert (await site.assigned(Volume, "again"))["encryption"]["secret"]["name"] == "mine"


def made_id(body: Object) -> str:
    """Give the id of a backup."""
    return str(body["spec"]["assignment"]["backupID"])


async def backups(site: Site) -> list[Object]:
    """Give all backups of the project."""
    return list((await site.client.list(VolumeBackup, site.name))[0])
