"""The guest's machine: firmware, TPM, watchdog, CPUs as flavor and image ask, or a host that says what it lacks."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable

import pytest
from lxml import etree

from kumulus_agent.host.boot_sector import GREETING, boot_sector
from kumulus_api import Flavor, Host, Image, Server, Volume
from kumulus_lab import guests
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.bootable_cd import bootable_cd
from kumulus_lab.testing.cloud import Cloud, Object, condition, ready, refused
from kumulus_lab.testing.plugin import Plugin
from kumulus_lab.testing.travelling import nothing_left, on_host

SIZE = {"vcpus": 1, "memory": "256Mi", "rootDisk": "1Gi"}
UEFI_SECONDS = 240
"""Seconds that UEFI may take under emulation, with secure boot, on a machine that has other things to do."""
SAYS = """#!/bin/sh
[ -d /sys/firmware/efi ] && echo "says firmware=uefi" || echo "says firmware=bios"
[ -e /sys/firmware/acpi/tables/TPM2 ] && echo "says tpm-table=2"
echo "says tpm=$(cat /sys/class/tpm/tpm0/tpm_version_major 2>/dev/null)"
echo "says secure=$(dmesg | grep -ci 'secure boot enabled')"
echo "says board=$(tr ' ' _ </sys/class/dmi/id/product_name)"
echo "says cpus=$(grep -c ^processor /proc/cpuinfo)"
echo "says packages=$(sort -u /sys/devices/system/cpu/cpu*/topology/physical_package_id | wc -l)"
"""
PLUGGED = """
(until grep -qx 16384 /sys/block/*/size 2>/dev/null; do sleep 1; done; echo "says volume=here") >/dev/ttyS0 2>&1 &
"""
"""It tells of a disk of 8 MiB."""
STARVES = """
for device in /sys/bus/pci/devices/*; do
    [ "$(cat $device/device)" = 0x25ab ] || continue
    echo 1 >$device/enable
    read -r bar _ <$device/resource
    unlock() { devmem $((bar + 12)) 16 0x80; devmem $((bar + 12)) 16 0x86; }
    unlock; devmem $((bar)) 32 0x100
    unlock; devmem $((bar + 4)) 32 0x100
    echo "says watchdog=found"
    printf '\\002' | dd of=$device/config bs=1 seek=104 conv=notrunc 2>/dev/null
done
"""
"""It starts the i6300ESB by hand, as the guest's kernel has no driver for it, and does not feed it."""


@pytest.fixture
async def flavor(cloud: Cloud, project: str) -> AsyncIterator["Flavors"]:
    """Flavors of the test's own, gone at its end."""
    made = Flavors(cloud, project)
    yield made
    await cloud.empty(project)
    for name in made.names:
        await cloud.client.delete(Flavor, name)


class Flavors:
    """Makes flavors."""

    def __init__(self, cloud: Cloud, project: str) -> None:
        self._cloud, self._project = cloud, project
        self.names: list[str] = []

    async def __call__(self, name: str, specs: dict[str, str], **size: object) -> dict[str, str]:
        """Make one and give the reference."""
        name = f"{self._project}-{name}"
        await self._cloud.make(Flavor, name, SIZE | size | {"extraSpecs": specs})
        self.names.append(name)
        return {"name": name}


async def image_of(cloud: Cloud, project: str, url: str, name: str, **properties: str) -> dict[str, str]:
    """Make an image of the project with properties, wait until it is imported, and give the reference."""
    await cloud.make(Image, name, {"source": {"url": url}, "format": "qcow2", "properties": properties}, project)
    await cloud.until(Image, name, ready, namespace=project, seconds=120)
    return {"name": name}


def domain_of(lab: LabSettings, server: Object) -> etree._Element:
    """Give the domain of a server as its host's libvirt has it."""
    given = server["spec"]["assignment"]
    argv = ["virsh", "dumpxml", f"k-{given['instanceID']}"]
    return etree.fromstring(Hosts(lab).run(given["host"], argv).stdout.encode())


async def said(lab: LabSettings, server: Object, what: str, seconds: float = 60) -> str:
    """Give what the guest says of something on its console."""
    return (await console.says(console.path(lab, server), rf"says {what}=(\S*)", seconds))[1]


def has_tpm(lab: LabSettings, server: Object) -> bool:
    """Give whether the host of a server has something of its TPM."""
    given = server["spec"]["assignment"]
    return given["instanceID"] in Hosts(lab).run(given["host"], ["ls", "/var/lib/libvirt/swtpm"]).stdout.split()


async def attach_data(cloud: Cloud, project: str) -> None:
    """Give server a, which runs, a new volume."""
    await cloud.make(Volume, "data", {"size": "8Mi"}, project)
    data = [{"name": "data", "volume": {"name": "data"}}]
    await cloud.client.patch_merge(Server, "a", {"spec": {"volumes": data}}, project)


def _volumes_are(reason: str) -> Callable[[Object], bool]:
    return lambda server: condition(server, "VolumesReady")["reason"] == reason


@pytest.mark.tenant
async def test_hosts_tell_what_they_can_give(cloud: Cloud) -> None:
    """Agents report firmware, TPM, machines and CPU models as traits, and NUMA nodes in the inventory."""
    for host in (await cloud.client.list(Host))[0]:
        traits = set(host["status"]["traits"])
        assert {
            "COMPUTE_FIRMWARE_UEFI",
            "COMPUTE_SECURITY_UEFI_SECURE_BOOT",
            "COMPUTE_SECURITY_TPM_2_0",
            "COMPUTE_SECURITY_TPM_CRB",
            "COMPUTE_STORAGE_BUS_SCSI",
            "CUSTOM_MACHINE_Q35",
            "CUSTOM_WATCHDOG_I6300ESB",
            "CUSTOM_CPU_MODEL_NEHALEM",
        } <= traits
        assert host["status"]["inventory"]["numaNodes"] >= 1


@pytest.mark.tenant
async def test_what_no_host_has_is_refused_by_name(
    cloud: Cloud, project: str, lab: LabSettings, flavor: Flavors
) -> None:
    """A server that asks for what no host gives waits, the message counts the hosts, and the plugin says what lacks."""
    await cloud.make_network(project)
    hosts = len((await cloud.client.list(Host))[0])
    asked = {
        "pages": ({"hw:mem_page_size": "1GB"}, "without enough huge pages of 1Gi"),
        "nodes": ({"hw:numa_nodes": "4"}, "of the 4 NUMA nodes asked for"),
        "model": ({"hw:cpu_model": "Pentium-X"}, "without trait CUSTOM_CPU_MODEL_PENTIUM_X"),
        "apart": ({"hw:cpu_policy": "dedicated"}, "without enough dedicated CPUs"),
    }
    for name, (specs, why) in asked.items():
        await cloud.make_server(project, name, flavor=await flavor(name, specs, vcpus=4))
        waiting = await cloud.until(Server, name, refused("NoValidHost"), namespace=project)
        assert f"no valid host out of {hosts}: " in condition(waiting, "Scheduled")["message"]
        assert why in condition(waiting, "Scheduled")["message"]
    status, text, _ = await Plugin(lab, lab.kubeconfig).run("explain-placement", "pages", "--namespace", project)
    assert status == 0
    assert len(re.findall("without enough huge pages of 1Gi", text)) >= hosts


@pytest.mark.tenant
async def test_the_machine_is_what_was_asked_for(cloud: Cloud, project: str, lab: LabSettings, flavor: Flavors) -> None:
    """Machine, CPUs, TPM and random numbers reach the guest, its watchdog acts when it starves, and no TPM stays."""
    await cloud.make_network(project)
    specs = {
        "hw:cpu_sockets": "1",
        "hw:tpm_version": "2.0",
        "hw:tpm_model": "tpm-crb",
        "hw:watchdog_action": "pause",
        "hw_rng:rate_bytes": "4096",
        "hw:cpu_model": "Nehalem",
    }
    wanted = await flavor("rich", specs, vcpus=2)
    base = await cloud.client.get(Image, "tiny", "kumulus-public")
    assert base is not None
    image = await image_of(cloud, project, base["spec"]["source"]["url"], "q35", hw_machine_type="q35")
    await cloud.make_server(project, "a", flavor=wanted, image=image, userData={"inline": SAYS + STARVES})
    server = await cloud.until(Server, "a", lambda body: "assignment" in body["spec"], namespace=project)
    assert await said(lab, server, "watchdog", 120) == "found"
    told = [await said(lab, server, what, 1) for what in ("firmware", "tpm", "cpus", "packages")]
    assert told == ["bios", "2", "2", "1"]
    assert "Q35" in await said(lab, server, "board", 1)
    domain = domain_of(lab, server)
    assert domain.find("devices/watchdog").get("action") == "pause"  # type: ignore[union-attr]
    assert domain.find("devices/tpm").get("model") == "tpm-crb"  # type: ignore[union-attr]
    assert domain.find("devices/rng/rate").get("bytes") == "4096"  # type: ignore[union-attr]
    assert domain.findtext("cpu/model") == "Nehalem"
    assert dict(domain.find("cpu/topology").attrib) == {"sockets": "1", "dies": "1", "cores": "2", "threads": "1"}  # type: ignore[union-attr]
    halted = await cloud.until(
        Server, "a", lambda body: (body.get("status") or {}).get("powerState") == "Paused", namespace=project
    )
    assert "QEMU has paused the guest" in condition(halted, "Ready")["message"]
    await cloud.delete(Server, "a", project)
    assert not has_tpm(lab, server)


@pytest.mark.tenant
async def test_an_iso_is_a_cd_beside_an_empty_disk(
    cloud: Cloud, project: str, lab: LabSettings, flavor: Flavors
) -> None:
    """A server of an ISO image starts from the CD beside an empty disk; on IDE a volume waits for a start."""
    await cloud.make_network(project)
    cd = lab.state / "www" / f"{project}.iso"
    cd.write_bytes(bootable_cd(boot_sector(power_off=False)))
    try:
        source = {"url": f"http://{lab.gateway}:8098/{cd.name}"}
        image = {"source": source, "format": "iso", "properties": {"hw_disk_bus": "ide"}}
        await cloud.make(Image, "installer", image, project)
        await cloud.make_server(project, "a", flavor=await flavor("cd", {}), image={"name": "installer"})
        server = await cloud.server_ready(project, "a", seconds=120)
        await console.says(console.path(lab, server), GREETING.decode().strip())
        disks = domain_of(lab, server).findall("devices/disk")
        assert [disk.find("target").get("dev") for disk in disks] == ["hda", "hdd", "sdx"]  # type: ignore[union-attr]
        argv = ["virsh", "domblkinfo", f"k-{server['spec']['assignment']['instanceID']}", "hda"]
        told = Hosts(lab).run(server["spec"]["assignment"]["host"], argv).stdout
        assert re.search(rf"Capacity: +{1 << 30}$", told, re.MULTILINE)
        await attach_data(cloud, project)
        waits = await cloud.until(Server, "a", _volumes_are("RestartRequired"), namespace=project)
        assert condition(waits, "RestartRequired")["reason"] == "VolumesChanged"
        done = await cloud.act(project, "a", "Reboot", reboot={"type": "Hard"})
        assert done["status"]["phase"] == "Succeeded", done["status"]
        has = await cloud.until(Server, "a", _volumes_are("Attached"), namespace=project)
        assert condition(has, "RestartRequired")["status"] == "False"
        assert "hdb" in Hosts(lab).run(has["spec"]["assignment"]["host"], ["virsh", "domblklist", argv[-2]]).stdout
    finally:
        cd.unlink()


@pytest.mark.long
async def test_a_guest_with_secure_boot_keeps_its_machine(
    cloud: Cloud, project: str, lab: LabSettings, flavor: Flavors
) -> None:
    """UEFI starts what is signed with secure boot on, a volume comes to it as it runs, and all that migrates."""
    await cloud.make_network(project)
    url = await asyncio.to_thread(guests.ensure_uefi, lab)
    image = await image_of(cloud, project, url, "signed", hw_firmware_type="uefi", os_secure_boot="required")
    size = await flavor("secure", {"hw:tpm_version": "2.0"}, memory="384Mi")
    await cloud.make_server(project, "a", flavor=size, image=image, userData={"inline": SAYS + PLUGGED})
    server = await cloud.server_ready(project, "a", seconds=120)
    assert await said(lab, server, "packages", UEFI_SECONDS) == "1"
    assert [await said(lab, server, what, 1) for what in ("firmware", "tpm")] == ["uefi", "2"]
    assert int(await said(lab, server, "secure", 1)) > 0
    assert console.path(lab, server).with_name("nvram.fd").exists()
    await attach_data(cloud, project)
    assert await said(lab, server, "volume") == "here"
    here = server
    for act in ("LiveMigrate", "Migrate"):
        action = await cloud.act(project, "a", act, seconds=240)
        assert action["status"]["phase"] == "Succeeded", action["status"]
        there = await cloud.server_ready(project, "a")
        assert on_host(there) != on_host(here)
        await nothing_left(lab, here, on_host(here))
        assert console.path(lab, there).with_name("nvram.fd").exists()
        assert [has_tpm(lab, body) for body in (here, there)] == [False, True]
        here = there
    await cloud.delete(Server, "a", project)
    assert not console.path(lab, here).with_name("nvram.fd").exists()
    assert not has_tpm(lab, here)


async def test_dedicated_cpus_go_to_one_guest_each(
    cloud: Cloud, project: str, lab: LabSettings, flavor: Flavors
) -> None:
    """A CPU that is set aside goes to one guest; the next waits until that is gone, and who shares stays off it."""
    await cloud.make_network(project)
    host = (await cloud.client.list(Host))[0][0]["metadata"]["name"]
    await cloud.client.patch_merge(Host, host, {"spec": {"dedicatedCPUs": "1"}})
    try:
        await cloud.until(Host, host, lambda body: body["status"]["inventory"].get("dedicatedVcpus") == 1)
        apart = await flavor("apart", {"hw:cpu_policy": "dedicated"})
        await cloud.make_server(project, "a", flavor=apart)
        first = await cloud.server_ready(project, "a", seconds=120)
        assert first["spec"]["assignment"]["host"] == host
        assert condition(first, "LiveMigratable")["reason"] == "DedicatedCPUs"
        domain = domain_of(lab, first)
        assert [pin.get("cpuset") for pin in domain.findall("cputune/vcpupin")] == ["1"]
        await cloud.make_server(project, "b", flavor=apart)
        waiting = await cloud.until(Server, "b", refused("NoValidHost"), namespace=project)
        assert "without enough dedicated CPUs" in condition(waiting, "Scheduled")["message"]
        await cloud.make_server(project, "c", placement={"host": host})
        shared = await cloud.server_ready(project, "c", seconds=120)
        assert domain_of(lab, shared).find("vcpu").get("cpuset") == "0"  # type: ignore[union-attr]
        await cloud.delete(Server, "a", project)
        assert (await cloud.server_ready(project, "b", seconds=120))["spec"]["assignment"]["host"] == host
    finally:
        await cloud.client.patch_merge(Host, host, {"spec": {"dedicatedCPUs": None}})
