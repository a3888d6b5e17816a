"""What is told of a guest: its seed, and what the API says now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.metadata.ec2 import meta_data
from kumulus_agent.servers.desired import read_desired
from kumulus_agent.servers.guest_password import GuestPasswords
from kumulus_agent.servers.instance_files import instance_files
from kumulus_agent.servers.instances import Instances
from kumulus_agent.servers.told import Told, guest_of
from kumulus_agent.settings import AgentSettings
from kumulus_agent.storage.seed import Seed, SeedNic, write_seed
from kumulus_api import Server
from kumulus_api.testing import make_assigned
from kumulus_runtime.store import Store

NO_API: Any = None


def body_of(**spec: Any) -> dict[str, Any]:
    """A Server of this host."""
    body = make_assigned(Server, "web", "h1")
    body["spec"] |= spec
    body["metadata"] |= {"generation": 1, "uid": "u", "resourceVersion": "1"}
    return body


class Site:
    """A host with one instance: its seed, and what the watch has shown."""

    def __init__(self, tmp_path: Path) -> None:
        self.settings = AgentSettings(node_name="h1", state_dir=tmp_path, underlay_mtu=1500)
        self.store = Store()
        self.instances = Instances(changed=lambda: None)
        self.told = Told(self.settings, self.store, self.instances, GuestPasswords(NO_API, self.store))
        desired = read_desired(body_of())
        assert desired is not None
        self.desired = desired
        self.id = desired.instance_id
        self.files = instance_files(self.settings.instances_dir, self.id)
        self.instances.keys[self.id] = desired.key

    async def start(self, user_data: bytes = b"#!/bin/sh\n", **seed: Any) -> None:
        """Write what a start writes."""
        self.files.directory.mkdir(parents=True, exist_ok=True)
        await write_seed(self.files.seed, Seed(self.id, self.desired.key[1], user_data=user_data, **seed))
        await self.files.write_record(self.desired.key, self.desired.ports)

    def see(self, body: dict[str, Any], version: str) -> None:
        """Let the watch show the Server."""
        body["metadata"]["resourceVersion"] = version
        self.store.apply("MODIFIED", {"kind": "Server", **body})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A host."""
    return Site(tmp_path)


async def test_metadata_are_live_and_user_data_are_not(site: Site) -> None:
    """A change of the Server's metadata is told at once; user data and keys are those of the start."""
    await site.start(ssh_keys=("ssh-ed25519 AAAA",), metadata={"role": "old"})
    site.see(body_of(metadata={"role": "db"}, userData={"inline": "another"}), "2")
    found = await site.told.guest(site.id)
    assert found is not None
    assert (found.seed.metadata, found.seed.user_data) == ({"role": "db"}, b"#!/bin/sh\n")
    assert found.seed.ssh_keys == ("ssh-ed25519 AAAA",)
    assert found.seed.project == site.desired.key[0]
    assert found.address == site.desired.ports[0].addresses[0]
    assert [nic.mac for nic in found.seed.nics] == [port.mac for port in site.desired.ports]
    site.see(body_of(metadata={}), "3")
    later = await site.told.guest(site.id)
    assert later is not None
    assert later.seed.metadata == {}


async def test_the_next_start_is_told(site: Site) -> None:
    """What a new start has written replaces what was read before, and a removed instance has nothing."""
    await site.start()
    first = await site.told.guest(site.id)
    assert first is not None
    assert await site.told.guest(site.id) is first
    await site.start(user_data=b"second")
    found = await site.told.guest(site.id)
    assert found is not None
    assert found.seed.user_data == b"second"
    await site.files.remove()
    assert await site.told.guest(site.id) is None


async def test_a_guest_on_its_way_is_told_from_its_seed(site: Site) -> None:
    """Before the watch shows the Server here, as at the end of a migration, seed and record answer."""
    await site.start(metadata={"role": "db"}, nics=(SeedNic("eth0", "02:00:00:00:00:01", 1450),))
    site.instances.keys.clear()
    found = await site.told.guest(site.id)
    assert found is not None
    assert (found.seed.metadata, found.seed.project) == ({"role": "db"}, site.desired.key[0])
    assert found.address == site.desired.ports[0].addresses[0]


async def test_another_server_of_the_same_name_is_not_mixed_in(site: Site) -> None:
    """A Server that was made anew under the name says nothing about the guest of the old one."""
    await site.start(metadata={"role": "old"})
    body = body_of(metadata={"role": "new"})
    body["spec"]["assignment"]["instanceID"] = "00000000-0000-4000-8000-00000000beef"
    site.see(body, "2")
    found = await site.told.guest(site.id)
    assert found is not None
    assert found.seed.metadata == {"role": "old"}


async def test_little_is_kept(site: Site) -> None:
    """A broken seed is not told; and however many guests ask, few answers stay in memory."""
    await site.start()
    site.files.seed.write_bytes(b"broken")
    assert await site.told.guest(site.id) is None
    for number in range(20):
        instance = f"00000000-0000-4000-9000-{number:012d}"
        files = instance_files(site.settings.instances_dir, instance)
        files.directory.mkdir(parents=True)
        await write_seed(files.seed, Seed(instance, "web"))
        assert await site.told.guest(instance) is not None
    assert len(site.told._answers) <= 8


@pytest.mark.parametrize(("bus", "root"), [(None, "vda"), ("scsi", "sda"), ("sata", "sda"), ("ide", "hda")])
def test_the_root_disk_is_named_as_the_guest_names_it(site: Site, bus: str | None, root: str) -> None:
    """The name follows the bus."""
    body = body_of()
    if bus:
        body["spec"]["assignment"]["hardware"] = {"diskBus": bus}
    desired = read_desired(body)
    assert desired is not None
    assert guest_of(Seed(site.id, "web"), desired, 1450).root == root


async def test_a_password_is_told_back(site: Site) -> None:
    """What the status holds is read by the guest and told once; a guest that nobody knows is to try again."""
    await site.start()
    assert await site.told.keep_password(site.id, "QUJD") == 503
    body = body_of()
    body["status"] = {"guestPassword": "QUJD"}
    site.see(body, "2")
    found = await site.told.guest(site.id)
    assert found is not None
    assert found.password == "QUJD"
    assert await site.told.keep_password(site.id, "RUZH") == 409
    assert await site.told.keep_password(site.id, "no base64") == 400
    assert await site.told.keep_password("00000000-0000-4000-8000-00000000beef", "RUZH") == 503


async def test_the_public_address_is_the_floating_one(site: Site) -> None:
    """EC2's public-ipv4 is the first floating address of IPv4, follows the Server's status, and is absent without."""
    await site.start()
    for number, (addresses, wanted) in enumerate(
        (((), None), (("2001:db8::9", "203.0.113.9", "203.0.113.8"), "203.0.113.9"), (("203.0.113.7",), "203.0.113.7"))
    ):
        body = body_of()
        led = {"name": "f", "network": "public", "fixedAddress": "10.0.0.5"}
        body["status"] = {"floatingIPs": [led | {"address": address} for address in addresses]}
        site.see(body, str(number + 2))
        found = await site.told.guest(site.id)
        assert found is not None
        assert meta_data(found).get("public-ipv4") == wanted
