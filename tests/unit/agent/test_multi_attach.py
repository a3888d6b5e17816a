"""What guests of a host are told of volumes that several servers may have."""

import asyncio
import contextlib
import os
from dataclasses import replace

import pytest
from lxml import etree

from kumulus_agent.compute.devices_xml import device_xml
from kumulus_agent.compute.domain_spec import Disk
from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.compute.volume_disks import VolumeHolder
from kumulus_agent.servers.desired import read_desired
from kumulus_agent.volumes.controller import removable
from kumulus_agent.volumes.drivers.lock import locked
from kumulus_agent.volumes.multi_attach import MultiAttached
from kumulus_agent.volumes.place import read_place
from kumulus_api import FINALIZER
from kumulus_api.hardware import Hardware

ID = "00000000-0000-4000-8000-00000000000{}".format
GIB = 1 << 30
SAVED = {7}
"""Numbers of guests whose memory is saved."""


def make_volume(size=GIB, **place):
    given = {"volumeID": ID(1), "host": "h9", "size": "2Gi", "multiAttach": True, "folder": "/srv/several"} | place
    metadata = {"name": "data", "namespace": "demo", "uid": "v", "generation": 1, "finalizers": [FINALIZER]}
    return {"metadata": metadata, "spec": {"size": "2Gi", "assignment": given}, "status": {"sizeBytes": size}}


def make_server(number=2, size="1Gi", host="h1", **marks):
    """A server of the host that has the volume and another one."""
    several = {"name": "data", "volume": "data", "volumeID": ID(1), "size": size, "multiAttach": True, "shared": True}
    alone = {"name": "own", "volume": "own", "volumeID": ID(8), "size": "1Gi"}
    assignment = {
        "instanceID": ID(number),
        "host": host,
        "epoch": 1,
        "resources": {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"},
        "volumes": [several | marks, alone],
    }
    spec = {"flavor": {"name": "small"}, "image": {"name": "tiny"}, "assignment": assignment}
    return {"metadata": {"name": f"s{number}", "namespace": "demo", "uid": "s", "generation": 1}, "spec": spec}


class Host:
    """An API server with one Volume, and guests that take what they are told."""

    def __init__(self, folder, *holders, size=GIB):
        self.file = folder / "volumes" / ID(1) / "first.raw"
        self.file.parent.mkdir(parents=True)
        self.grown(size)
        holders = [VolumeHolder(ID(number), str(self.file), number in SAVED) for number in holders]
        self.volume, self.present, self.told, self.refuses = make_volume(), list(holders), [], False

    def grown(self, size):
        """Have the file longer."""
        self.file.touch()
        os.truncate(self.file, size)

    async def get(self, _kind, name, namespace):
        """Give the Volume."""
        assert (namespace, name) == ("demo", "data")
        return self.volume

    async def holders(self, volume_id):
        """Give the guests."""
        assert volume_id == ID(1)
        return self.present

    async def grow(self, holder, size):
        """Note it."""
        if self.refuses:
            raise HypervisorError("the monitor does not answer")
        self.told.append((holder.instance_id, size))

    async def tune(self, instance_id, volume_id, limits):
        """Note it."""
        self.told.append((instance_id, volume_id, limits))

    @contextlib.asynccontextmanager
    async def held(self, _volume_ids):
        """Hold nothing."""
        yield


def make(host):
    return MultiAttached("h1", host, host, host.held)


async def test_all_guests_are_told_once_and_again_when_it_has_grown(tmp_path):
    """Each that runs hears of size and limits; it is looked at again when a server is told to have a larger one."""
    host = Host(tmp_path, 2, 3)
    several = make(host)
    for server in (make_server(2), make_server(3)):
        several.server_seen(server)
    assert len(several.queue) == 1
    assert await several.reconcile(ID(1)) is not None
    assert host.told == [(ID(2), GIB), (ID(2), ID(1), None), (ID(3), GIB), (ID(3), ID(1), None)]
    quiet = make(host)
    quiet._told = dict(several._told)
    quiet.server_seen(make_server(2))
    assert len(quiet.queue) == 0
    quiet.server_seen(make_server(2, size="2Gi"))
    assert len(quiet.queue) == 1


async def test_a_guest_is_told_what_the_file_has(tmp_path):
    """QEMU would shorten it to what the Volume said before another host made it larger still."""
    host = Host(tmp_path, 2, size=3 * GIB)
    several = make(host)
    several.server_seen(make_server(2))
    await several.reconcile(ID(1))
    assert host.volume["status"]["sizeBytes"] == GIB
    assert host.told[0] == (ID(2), 3 * GIB)


async def test_nobody_makes_it_larger_while_a_guest_is_told(tmp_path):
    """Whoever has the folder's lock is waited for, so that what is told is what the file has then."""
    host = Host(tmp_path, 2)
    several = make(host)
    several.server_seen(make_server(2))
    async with locked(tmp_path / "volumes"):
        late = asyncio.create_task(several.reconcile(ID(1)))
        done, _ = await asyncio.wait([late], timeout=0.3)
        assert not done, "it waits for the lock"
        host.grown(2 * GIB)
    await late
    assert host.told[0] == (ID(2), 2 * GIB)


async def test_a_saved_guest_is_told_when_it_goes_on(tmp_path):
    """Nothing is asked of one whose memory is saved; its server's next change has it looked at."""
    host = Host(tmp_path, 7)
    several = make(host)
    several.server_seen(make_server(7))
    assert await several.reconcile(ID(1)) is not None
    assert host.told == []
    host.present = [replace(item, saved=False) for item in host.present]
    several.server_seen(make_server(7))
    assert await several.reconcile(ID(1)) is not None
    assert host.told[0] == (ID(7), GIB)


async def test_it_is_tried_again_and_then_forgotten(tmp_path):
    """A guest that cannot be told now is told soon; with its last guest, or its Volume, the volume is forgotten."""
    host = Host(tmp_path, 2)
    several = make(host)
    several.server_seen(make_server(2))
    host.refuses = True
    soon = await several.reconcile(ID(1))
    assert soon is not None
    assert soon < 60
    host.refuses, host.present = False, []
    assert await several.reconcile(ID(1)) is None
    several.server_seen(make_server(2))
    host.volume = None
    assert await several.reconcile(ID(1)) is None
    assert several._volumes == {}


def test_servers_of_other_hosts_are_not_this_ones(tmp_path):
    """A server elsewhere, and a volume of one server, are not looked at."""
    several = make(Host(tmp_path))
    several.server_seen(make_server(host="h2"))
    several.server_seen(make_server(multiAttach=False))
    several.server_seen({})
    assert len(several.queue) == 0


def test_the_disk_is_shareable_raw_and_past_the_page_cache():
    """Libvirt is told so of such a volume only, read-only or not."""
    disk = Disk("/srv/several/volumes/1/first.raw", "raw", "vdb", "data", shareable=True)
    for readonly in (False, True):
        xml = etree.fromstring(device_xml(replace(disk, readonly=readonly), Hardware()))
        driver = xml.find("driver")
        assert (driver.get("type"), driver.get("cache")) == ("raw", "none")
        assert (xml.find("shareable") is not None, xml.find("readonly") is not None) == (True, readonly)
    assert etree.fromstring(device_xml(replace(disk, shareable=False), Hardware())).find("shareable") is None


@pytest.mark.parametrize("held", [{"attachedTo": "a"}, {"attachedTo": "b", "alsoAttachedTo": ["a"]}])
def test_nothing_is_removed_while_one_has_it(held):
    """Its files go when the last server has let go of it, and the Volume is deleted."""
    body = make_volume(host="h1")
    body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert removable(body, "h1") == ID(1)
    body["spec"]["assignment"] |= held
    assert removable(body, "h1") == ""


def test_what_is_read_of_the_api_says_so():
    """Place and instance know that others may have the volume."""
    place = read_place(make_volume(moving={"request": ID(5), "multiAttach": True}))
    assert (place.multi_attach, place.moving.multi_attach) == (True, True)
    desired = read_desired(make_server())
    assert [volume.multi_attach for volume in desired.volumes or desired.leaving_volumes] == [True, False]
