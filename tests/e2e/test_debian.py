"""A distribution's own image, with cloud-init and sshd, as a user brings it."""

import asyncio
import base64
import json
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from kumulus_api import Flavor, Image, KeyPair, SecurityGroup, Server
from kumulus_lab import guests
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.audit import AuditLog
from kumulus_lab.testing.cloud import Cloud, Object, ready
from kumulus_lab.testing.shown import places_with
from kumulus_runtime.resources import EVENT, SECRET

pytestmark = pytest.mark.tenant

BOOT_LIMIT = 420
"""Seconds that cloud-init may take under emulation on a machine that has other things to do."""
USER_DATA = """#cloud-config
write_files:
  - path: /etc/marker
    content: written by cloud-init
runcmd:
  - [sh, -c, 'echo "says hostname=$(hostname)" >/dev/ttyS0']
  - [sh, -c, 'echo "says address=$(ip -4 -o address show dev eth0 | tr -s " " | cut -d " " -f 4)" >/dev/ttyS0']
  - [sh, -c, 'echo "says mtu=$(cat /sys/class/net/eth0/mtu)" >/dev/ttyS0']
  - [sh, -c, 'echo "says dns=$(getent hosts web >/dev/null && echo answered)" >/dev/ttyS0']
"""
MATCHES = """
import crypt, spwd
kept = spwd.getspnam("debian").sp_pwdp
print(crypt.crypt(input(), kept) == kept)
"""
"""Reads a word and says whether it is the user's password."""


@dataclass(frozen=True)
class Login:
    """SSH to a server from where its network's DHCP server stands, on the server's host."""

    hosts: Hosts
    server: Object
    identity: Path

    async def run(self, command: str, limit: float = 120) -> CompletedProcess[str]:
        """Run a command in the guest as the image's user."""
        assignment = self.server["spec"]["assignment"]
        port = assignment["ports"][0]
        known = self.identity.with_name("known_hosts")
        options = {
            "BatchMode": "yes", "ConnectTimeout": "30", "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": str(known), "IdentitiesOnly": "yes",
        }  # fmt: skip
        argv = ["ip", "netns", "exec", f"kd{port['vni']:06x}", "ssh", "-i", str(self.identity)]
        argv += [f"-o{name}={value}" for name, value in options.items()]
        argv += [f"debian@{port['addresses'][0]}", command]
        return await asyncio.to_thread(self.hosts.run, assignment["host"], argv, timeout=limit)


def make_key(private: Path) -> Path:
    """Make a key pair with ssh-keygen and give the private half."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", private], check=True, timeout=30)
    return private


@pytest.fixture(scope="session")
def debian_url(lab: LabSettings) -> str:
    """Where hosts find the Debian image; it is built where the cache lacks it."""
    return guests.ensure_debian(lab)


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    """A private key, with its public half beside it."""
    return make_key(tmp_path / "id")


async def tells_who_it_is(cloud: Cloud, server: Object, audit: AuditLog) -> None:
    """What the guest's agent says is in the status, the server's own address with it, and has cost one write."""
    project, name = server["metadata"]["namespace"], server["metadata"]["name"]
    told = await cloud.until(Server, name, lambda s: "guestAgent" in s["status"], namespace=project, seconds=120)
    said, known = told["status"]["guestAgent"], told["status"]["addresses"][0]
    assert said["os"]["id"] == "debian"
    assert said["os"]["name"].startswith("Debian GNU/Linux 12")
    assert "cloud" in said["os"]["kernel"]
    assert said["hostname"] == name
    own = {"interface": "eth0", "mac": known["mac"], "address": known["address"], "prefix": 24}
    assert said["addresses"] == [own]
    written = [w for w in audit.writes(project) if (w.resource, w.subresource, w.name) == ("servers", "status", name)]
    assert len(written) <= 1, written


async def takes_a_password(cloud: Cloud, login: Login, lab: LabSettings) -> None:
    """The user's password becomes what a Secret holds; the password shows nowhere else, and refusals say why."""
    project, word = login.server["metadata"]["namespace"], f"hush-{uuid.uuid4().hex}"
    data = {"password": base64.b64encode(word.encode()).decode()}
    await cloud.client.create(SECRET, {"metadata": {"name": "mine", "namespace": project}, "data": data})
    wish = {"secret": {"name": "mine"}}
    done = await cloud.act(project, "web", "SetPassword", setPassword=wish | {"user": "debian"})
    assert done["status"]["phase"] == "Succeeded", done["status"]
    refused = await cloud.act(project, "web", "SetPassword", setPassword=wish | {"user": "stranger"})
    assert (refused["status"]["phase"], refused["status"]["reason"]) == ("Failed", "GuestRefused")
    now = await cloud.client.get(Server, "web", project)
    events, _ = await cloud.client.list(EVENT)
    assert word not in json.dumps([done, refused, now, events])
    for shown in (word, data["password"]):
        assert await asyncio.to_thread(places_with, lab, login.server, shown) == []
    for given, matches in ((word, "True"), ("another", "False")):
        assert (await login.run(f"echo {given} | sudo python3 -c '{MATCHES}'")).stdout.strip() == matches


async def says_no_more(cloud: Cloud, login: Login) -> None:
    """A guest whose agent was stopped tells nothing of itself any more, and cannot be given a password."""
    project = login.server["metadata"]["namespace"]
    assert (await login.run("sudo systemctl stop qemu-guest-agent")).returncode == 0
    refused = await cloud.act(project, "web", "SetPassword", setPassword={"secret": {"name": "mine"}})
    assert (refused["status"]["phase"], refused["status"]["reason"]) == ("Failed", "NoGuestAgent")
    await cloud.until(Server, "web", lambda s: "guestAgent" not in s["status"], namespace=project, seconds=60)


@pytest.mark.timeout(2400)
async def test_debian_boots_and_lets_its_owner_in(
    cloud: Cloud, project: str, lab: LabSettings, debian_url: str, identity: Path
) -> None:
    """cloud-init finishes with name, network, user-data and key as asked, and the key's owner gets in and is root."""
    public = identity.with_suffix(".pub").read_text().strip()
    flavor = {"metadata": {"name": "debian"}, "spec": {"vcpus": 1, "memory": "512Mi", "rootDisk": "3Gi"}}
    await cloud.client.apply(Flavor, {"apiVersion": "kumulus.dev/v1alpha1", "kind": "Flavor"} | flavor, manager="tests")
    await cloud.make_network(project)
    await cloud.make(SecurityGroup, "ssh", {"ingress": [{"protocol": "TCP", "port": 22}]}, project)
    await cloud.make(KeyPair, "mine", {"publicKey": public}, project)
    await cloud.make(Image, "debian", {"source": {"url": debian_url}, "format": "qcow2"}, project)
    await cloud.until(Image, "debian", ready, namespace=project, seconds=180)
    await cloud.make_server(
        project,
        "web",
        flavor={"name": "debian"},
        image={"name": "debian"},
        networks=[{"name": "default", "network": {"name": "private"}, "securityGroups": [{"name": "ssh"}]}],
        keyPair={"name": "mine"},
        userData={"inline": USER_DATA},
    )
    server = await cloud.server_ready(project, "web", 180)
    audit = AuditLog(lab.audit_log)

    log = console.path(lab, server)
    address = server["status"]["addresses"][0]["address"]
    await console.says(log, "says hostname=web", BOOT_LIMIT)
    await console.says(log, rf"says address={address}/24")
    await console.says(log, "says mtu=1450")
    await console.says(log, "says dns=answered")
    await console.says(log, r"Cloud-init v\. \S+ finished", 120)

    login = Login(Hosts(lab), server, identity)
    assert (await login.run("true")).returncode == 0
    assert (await login.run("hostname")).stdout.strip() == "web"
    assert "status: done" in (await login.run("cloud-init status --wait")).stdout
    assert (await login.run("cat /etc/marker")).stdout.strip() == "written by cloud-init"
    root = await login.run("sudo sh -c 'id -u; df --output=size -B 1M / | tail -n 1'")
    user, size = root.stdout.split()
    assert (user, int(size) > 2700) == ("0", True), "the root filesystem has grown to the flavor's disk"

    await tells_who_it_is(cloud, server, audit)
    await takes_a_password(cloud, login, lab)
    await says_no_more(cloud, login)

    stranger = Login(login.hosts, server, make_key(identity.with_name("other")))
    assert (await stranger.run("true")).returncode != 0, "a key that nobody named lets in"
    await cloud.delete(Server, "web", project)
