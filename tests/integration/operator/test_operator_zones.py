"""Zones and records: who holds a domain, what is published, and how few writes that takes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from kumulus_api import DNSRecord, DNSZone, DNSZoneClaim, Network, Project, Server
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.testing.audit import AuditLog
from kumulus_lab.testing.site import OperatorProcess, Site
from kumulus_operator.dns.zonefile import newer
from kumulus_runtime.resources import CONFIGMAP, POD

SYSTEM = "kumulus-system"
ZONES = "kumulus.dev/zones=true"
MANY = 1000


async def zone_file(site: Site, domain: str, holds: Callable[[str], bool]) -> str:
    """Watch the ConfigMaps until a domain's zone file (empty if there is none) is as wanted, and give it."""
    key = f"{domain.removesuffix('.')}.zone"
    maps: dict[str, dict[str, str]] = {}
    synced = False
    async with asyncio.timeout(60):
        async for event, body in site.client.watch(CONFIGMAP, namespace=SYSTEM, label_selector=ZONES):
            if event == "SYNCED":
                synced = True
            elif event == "DELETED":
                maps.pop(body["metadata"]["name"], None)
            else:
                maps[body["metadata"]["name"]] = body.get("data") or {}
            found = [data[key] for data in maps.values() if key in data]
            if synced and holds("".join(found)):
                return "".join(found)
    raise AssertionError("the watch has ended")


def lines(text: str) -> set[str]:
    """Give the records of a zone file, without those that every zone has."""
    return {line for line in text.splitlines() if " IN SOA " not in line and "ns.kumulus.internal." not in line}


def has(*wanted: str) -> Callable[[str], bool]:
    """Give whether a zone file has exactly these records."""
    return lambda text: bool(text) and lines(text) == set(wanted)


async def project(site: Site, **quota: int) -> str:
    """Make a project with a domain of its own; give the domain."""
    await site.client.create(Project, {"metadata": {"name": site.name}, "spec": {"quota": quota}})
    await site.condition(Project, site.name, "Ready", "True")
    return f"{site.name}.test."


async def make_zone(site: Site, name: str, domain: str, **spec: Any) -> None:
    """Make a zone."""
    await site.create(DNSZone, name, {"domain": domain, "email": "hostmaster@example.test", "ttl": 300} | spec)


async def make_record(site: Site, called: str, name: str, kind: str, *values: str, zone: str = "zone") -> None:
    """Make a record."""
    await site.create(DNSRecord, called, {"zone": {"name": zone}, "name": name, "type": kind, "records": list(values)})


async def test_a_zone_is_published_with_its_records(site: Site) -> None:
    """Records come into the zone file, change there, and go from it; each change has a newer serial."""
    domain = await project(site)
    await make_record(site, "early", "early", "A", "192.0.2.1")
    await site.condition(DNSRecord, "early", "Ready", "False", "ZoneUnknown")
    await make_zone(site, "zone", domain)
    await site.condition(DNSZone, "zone", "Ready", "True", "Published")
    await site.condition(DNSRecord, "early", "Ready", "True", "Published")
    text = await zone_file(site, domain, has(f"early.{domain} 300 IN A 192.0.2.1"))
    assert f"{domain} 300 IN NS ns.kumulus.internal." in text
    first = (await site.get(DNSZone, "zone"))["status"]
    assert (first["records"], first["nameservers"]) == (1, ["ns.kumulus.internal."])
    assert f" hostmaster.example.test. {first['serial']} " in text
    await make_record(site, "mail", "@", "MX", "10 mail.example.test.", "20 other.example.test.")
    await site.client.patch_merge(DNSRecord, "early", {"spec": {"records": ["192.0.2.2"], "ttl": 60}}, site.name)
    mail = [f"{domain} 300 IN MX {value}" for value in ("10 mail.example.test.", "20 other.example.test.")]
    await zone_file(site, domain, has(f"early.{domain} 60 IN A 192.0.2.2", *mail))
    second = (await site.until(DNSZone, "zone", lambda body: body["status"]["records"] == 3))["status"]
    assert newer(second["serial"], first["serial"])
    await site.client.delete(DNSRecord, "early", site.name)
    await zone_file(site, domain, has(*mail))
    await site.client.delete(DNSZone, "zone", site.name)
    await zone_file(site, domain, lambda text: not text)
    await site.condition(DNSRecord, "mail", "Ready", "False", "ZoneUnknown")


async def test_a_bad_record_is_told_and_left_out(site: Site) -> None:
    """What is wrong with a record stands on it, becomes right by a correction, and holds nothing else up."""
    domain = await project(site)
    await make_zone(site, "zone", domain)
    await make_record(site, "good", "good", "TXT", "v=spf1; -all")
    await make_record(site, "bad", "bad", "MX", "10 mail")
    await make_record(site, "elsewhere", "www.elsewhere.test.", "A", "192.0.2.1")
    await site.condition(DNSRecord, "good", "Ready", "True")
    said = await site.condition(DNSRecord, "bad", "Ready", "False", "ValueInvalid")
    assert "without the dot at its end" in said["message"]
    await site.condition(DNSRecord, "elsewhere", "Ready", "False", "NameInvalid")
    good = f'good.{domain} 300 IN TXT "v=spf1; -all"'
    await zone_file(site, domain, has(good))
    await site.client.patch_merge(DNSRecord, "bad", {"spec": {"records": ["10 mail.test."]}}, site.name)
    await site.condition(DNSRecord, "bad", "Ready", "True")
    await make_record(site, "alias", "good", "CNAME", "a.test.")
    await site.condition(DNSRecord, "alias", "Ready", "False", "Conflict")
    await site.client.delete(DNSRecord, "good", site.name)
    await site.condition(DNSRecord, "alias", "Ready", "True")
    await zone_file(site, domain, has(f"bad.{domain} 300 IN MX 10 mail.test.", f"good.{domain} 300 IN CNAME a.test."))


async def test_a_domain_has_one_zone(site: Site) -> None:
    """The second zone of a domain, and another project's above or below it, wait until the first is gone."""
    domain = await project(site)
    other = Site(site.client, f"{site.name}x")
    await project(other)
    await make_zone(site, "first", f"a.{domain}")
    await site.condition(DNSZone, "first", "Ready", "True")
    await make_zone(site, "second", f"a.{domain}")
    said = await site.condition(DNSZone, "second", "Ready", "False", "DomainTaken")
    assert "is held by zone first; transient" in said["message"]
    for name, taken, words in (
        ("same", f"a.{domain}", "is held by a zone of another project"),
        ("below", f"x.a.{domain}", "lies below a zone of another project"),
        ("above", domain, "another project has a zone below"),
    ):
        await make_zone(other, name, taken)
        said = await other.condition(DNSZone, name, "Ready", "False", "DomainTaken")
        assert words in said["message"]
        assert site.name not in said["message"].replace(domain, "")
    await make_record(other, "mine", "mine", "A", "192.0.2.66", zone="same")
    await other.condition(DNSRecord, "mine", "Ready", "False", "ZoneNotReady")
    await make_zone(site, "child", f"x.a.{domain}")
    await site.condition(DNSZone, "child", "Ready", "True")
    text = await zone_file(site, f"a.{domain}", bool)
    assert "192.0.2.66" not in text
    await other.client.delete(DNSZone, "same", other.name)
    await site.client.delete(DNSZone, "first", site.name)
    await site.condition(DNSZone, "second", "Ready", "True")
    claim = await site.client.get(DNSZoneClaim, f"a.{domain}".removesuffix("."))
    assert claim is not None
    assert claim["spec"]["claimRef"]["name"] == "second"
    for name in ("second", "child"):
        await site.client.delete(DNSZone, name, site.name)
    await other.condition(DNSZone, "above", "Ready", "True")


async def test_zones_are_counted(site: Site) -> None:
    """Of two zones at once one is admitted where one is allowed; the other when there is room, or more is allowed."""
    domain = await project(site, dnsZones=1)
    for name in ("a", "b"):
        await make_zone(site, name, f"{name}.{domain}")
    said = [await site.until(DNSZone, name, lambda body: bool(body.get("status"))) for name in ("a", "b")]
    ready = {body["metadata"]["name"]: body["status"]["conditions"][0]["reason"] for body in said}
    assert sorted(ready.values()) == ["Published", "QuotaExceeded"]
    await site.until(Project, site.name, lambda body: body["status"].get("quota", {}).get("dnsZones") == "1/1")
    (first,) = [name for name, reason in ready.items() if reason == "Published"]
    await site.client.delete(DNSZone, first, site.name)
    await site.condition(DNSZone, "b" if first == "a" else "a", "Ready", "True")
    await make_zone(site, "c", f"c.{domain}")
    await site.condition(DNSZone, "c", "Ready", "False", "QuotaExceeded")
    await site.client.patch_merge(Project, site.name, {"spec": {"quota": {"dnsZones": 2}}})
    await site.condition(DNSZone, "c", "Ready", "True")


async def test_servers_have_names(site: Site) -> None:
    """A server's addresses are in its network's zone and their reverse, and go with it and with the link."""
    await site.host("z1", memory="64Gi")
    await site.basics("10.77.0.0/24")
    domain, reverse = f"{site.name}.test.", "0.77.10.in-addr.arpa."
    await make_zone(site, "zone", domain)
    await make_zone(site, "reverse", reverse)
    await site.client.patch_merge(Network, "net", {"spec": {"dnsZone": {"name": "zone"}}}, site.name)
    await site.server("web", networks=[{"name": "eth0", "network": {"name": "net"}, "address": "10.77.0.5"}])
    await zone_file(site, domain, has(f"web.{domain} 300 IN A 10.77.0.5"))
    await zone_file(site, reverse, has(f"5.0.77.10.in-addr.arpa. 300 IN PTR web.{domain}"))
    await site.delete_server("web")
    await zone_file(site, reverse, has())
    await zone_file(site, domain, has())
    await site.server("db", networks=[{"name": "eth0", "network": {"name": "net"}, "address": "10.77.0.6"}])
    await zone_file(site, domain, has(f"db.{domain} 300 IN A 10.77.0.6"))
    await site.client.patch_merge(Network, "net", {"spec": {"dnsZone": None}}, site.name)
    await zone_file(site, domain, has())
    await zone_file(site, reverse, has())


async def test_what_does_not_concern_names_writes_none(site: Site, plane: ControlPlane) -> None:
    """A server that runs, is reported on and changes costs no write of its zone beyond that of its addresses."""
    await site.host("z2", memory="64Gi")
    await site.basics("10.78.0.0/24")
    domain = f"{site.name}.test."
    await make_zone(site, "zone", domain)
    await site.client.patch_merge(Network, "net", {"spec": {"dnsZone": {"name": "zone"}}}, site.name)
    await site.condition(DNSZone, "zone", "Ready", "True")
    await site.server("web", networks=[{"name": "eth0", "network": {"name": "net"}, "address": "10.78.0.5"}])
    await zone_file(site, domain, has(f"web.{domain} 300 IN A 10.78.0.5"))
    await site.until(DNSZone, "zone", lambda body: body["status"].get("records") == 1)
    audit = AuditLog(plane.audit_log)
    await site.report("web", "z2")
    await site.client.patch_merge(Server, "web", {"spec": {"powerState": "Stopped"}}, site.name)
    await site.client.patch_merge(Server, "web", {"metadata": {"labels": {"a": "b"}}}, site.name)
    await site.client.patch_merge(DNSZone, "zone", {"metadata": {"labels": {"a": "b"}}}, site.name)
    await make_record(site, "last", "last", "A", "192.0.2.1")
    await site.condition(DNSRecord, "last", "Ready", "True")
    await site.until(DNSZone, "zone", lambda body: body["status"].get("records") == 2)
    await audit.caught_up(site.client)
    counts = Counter((write.resource, write.subresource) for write in audit.writes(site.name, SYSTEM))
    assert counts["configmaps", ""] == 1
    assert counts["dnszones", "status"] == 1
    assert counts["dnsrecords", "status"] == 1


async def test_a_thousand_records_take_few_writes(site: Site, plane: ControlPlane) -> None:
    """Records that are made together are published together; a change of their zone's TTL is one write of each kind."""
    domain = await project(site)
    await make_zone(site, "zone", domain)
    await site.condition(DNSZone, "zone", "Ready", "True")
    audit = AuditLog(plane.audit_log)
    gate = asyncio.Semaphore(20)

    async def make(number: int) -> None:
        async with gate:
            await make_record(site, f"r{number}", f"r{number}", "A", f"192.0.2.{number % 250 + 1}")

    loop = asyncio.get_running_loop()
    begun = loop.time()
    await asyncio.gather(*(make(number) for number in range(MANY)))
    await site.until(DNSZone, "zone", lambda body: body["status"].get("records") == MANY)
    took = loop.time() - begun
    await zone_file(site, domain, lambda text: len(lines(text)) == MANY)
    counts = Counter((write.resource, write.subresource) for write in audit.writes(site.name, SYSTEM))
    print(took, counts)
    assert counts["configmaps", ""] <= took + 3
    assert counts["dnszones", "status"] <= took + 3
    await site.condition(DNSRecord, f"r{MANY - 1}", "Ready", "True")
    await site.condition(DNSRecord, "r0", "Ready", "True")
    audit = AuditLog(plane.audit_log)
    await site.client.patch_merge(DNSZone, "zone", {"spec": {"ttl": 60}}, site.name)
    await zone_file(site, domain, lambda text: text.count(" 60 IN A ") == MANY)
    await site.until(DNSZone, "zone", lambda body: body["status"]["observedGeneration"] == 2)
    await audit.caught_up(site.client)
    counts = Counter((write.resource, write.subresource) for write in audit.writes(site.name, SYSTEM))
    assert counts["configmaps", ""] == 1


async def test_zone_files_are_kept_over_a_restart_and_repaired(
    site: Site, operator: OperatorProcess, plane: ControlPlane
) -> None:
    """A restart writes nothing anew, takes away what was deleted meanwhile, and puts right what others have changed."""
    domain = await project(site)
    await make_zone(site, "zone", domain)
    await make_zone(site, "gone", f"other-{domain}")
    await make_record(site, "www", "www", "A", "192.0.2.1")
    await site.condition(DNSRecord, "www", "Ready", "True")
    await site.condition(DNSZone, "gone", "Ready", "True")
    before = await zone_file(site, domain, has(f"www.{domain} 300 IN A 192.0.2.1"))
    audit = AuditLog(plane.audit_log)
    await asyncio.to_thread(operator.stop)
    await site.client.delete(DNSZone, "gone", site.name)
    operator.start()
    await zone_file(site, f"other-{domain}", lambda text: not text)
    assert await zone_file(site, domain, bool) == before
    await audit.caught_up(site.client)
    ours = [write.verb for write in audit.writes() if write.resource == "configmaps" and "zones" in write.name]
    assert ours == ["patch"]
    key = f"{domain.removesuffix('.')}.zone"
    for body in (await site.client.list(CONFIGMAP, SYSTEM, label_selector=ZONES))[0]:
        if key in body["data"]:
            spoilt = {"data": {key: before + f"evil.{domain} 60 IN A 192.0.2.66\n"}}
            await site.client.patch_merge(CONFIGMAP, body["metadata"]["name"], spoilt, SYSTEM)
    repaired = await zone_file(site, domain, lambda text: lines(text) == lines(before) and text != before)
    other = {"metadata": {"name": "kumulus-zones-3", "namespace": SYSTEM, "labels": {"kumulus.dev/zones": "true"}}}
    await site.client.create(CONFIGMAP, other | {"data": {key: before}})
    text = await zone_file(site, domain, lambda text: text.count(" IN SOA ") == 1 and text not in (before, repaired))
    assert lines(text) == lines(before)
    told = await site.until(DNSZone, "zone", lambda body: f" {body['status']['serial']} " in text)
    assert f" {told['status']['serial']} " not in before
    for body in (await site.client.list(CONFIGMAP, SYSTEM, label_selector=ZONES))[0]:
        await site.client.delete(CONFIGMAP, body["metadata"]["name"], SYSTEM)
    await zone_file(site, domain, has(f"www.{domain} 300 IN A 192.0.2.1"))


async def test_name_servers_are_told_of_changes(site: Site, operator: OperatorProcess, plane: ControlPlane) -> None:
    """Each change of zone files is another annotation of the name servers' pods, and a restart of the operator none."""
    domain = await project(site)
    labels = {"app.kubernetes.io/name": "kumulus", "app.kubernetes.io/component": "dns"}
    spec = {"containers": [{"name": "dns", "image": "none"}]}
    pod = {"metadata": {"name": site.name, "namespace": SYSTEM, "labels": labels}, "spec": spec}
    await site.client.create(POD, pod)

    async def told(unlike: str = "") -> str:
        async with asyncio.timeout(60):
            async for _, body in site.client.watch(POD, namespace=SYSTEM, field_selector=f"metadata.name={site.name}"):
                state: str = (body.get("metadata", {}).get("annotations") or {}).get("kumulus.dev/zones", "")
                if state not in ("", unlike):
                    return state
        raise AssertionError("the watch has ended")

    await make_zone(site, "zone", domain)
    first = await told()
    await make_record(site, "www", "www", "A", "192.0.2.1")
    second = await told(unlike=first)
    await site.condition(DNSRecord, "www", "Ready", "True")
    audit = AuditLog(plane.audit_log)
    await asyncio.to_thread(operator.stop)
    operator.start()
    await make_record(site, "ftp", "ftp", "A", "192.0.2.1")
    await told(unlike=second)
    await audit.caught_up(site.client)
    assert [write.verb for write in audit.writes() if write.resource == "pods"] == ["patch"]
    await site.client.delete(POD, site.name, SYSTEM)
