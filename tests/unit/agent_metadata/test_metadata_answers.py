"""What guests find at which path, as the readers of cloud-init look for it."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from kumulus_agent.metadata import openstack
from kumulus_agent.metadata.answers import BYTES, JSON, TEXT, answer, is_password, names
from kumulus_agent.metadata.ec2 import Guest
from kumulus_agent.storage.config_drive import config_drive_files
from kumulus_agent.storage.seed import Seed, SeedNic

ID = "7c5f0a3e-52a1-4c7e-9d0e-2f6f5b0d9a11"
USER_DATA = b"#!/bin/sh\necho \xff\r\n"
SEED = Seed(
    ID,
    "web",
    (SeedNic("eth0", "02:00:00:00:00:01", 1450),),
    ("ssh-ed25519 AAAA me@home", "ssh-rsa BBBB"),
    USER_DATA,
    {"role": "db"},
    project="acme",
    zone="north",
)
GUEST = Guest(SEED, "10.0.0.5", "small", "sha256:" + "ab" * 32, "vda")
BARE = Guest(Seed(ID, "web"))


def body(target: str, guest: Guest = GUEST) -> bytes | None:
    """What is at a path."""
    found = answer(guest, names(target), b"\1\2\3")
    return found.body if found is not None else None


def text(target: str, guest: Guest = GUEST) -> str:
    """The same, of a path that has something."""
    found = body(target, guest)
    assert found is not None, target
    return found.decode()


def read_as_openstack(guest: Guest) -> dict[str, Any]:
    """Read as cloud-init's OpenStack reader does: the newest version that it knows, then each of its documents."""
    known = ("2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "2016-10-06", "2017-02-22")
    offered = text("/openstack", guest).splitlines()
    version = next((version for version in reversed((*known, "2018-08-27")) if version in offered), "latest")
    found: dict[str, Any] = {"version": version}
    for name in ("meta_data.json", "vendor_data.json", "vendor_data2.json", "network_data.json"):
        found[name] = json.loads(text(f"/openstack/{version}/{name}", guest))
    found["user_data"] = body(f"/openstack/{version}/user_data", guest)
    return found


def read_as_ec2(guest: Guest, path: str = "/latest/meta-data/") -> dict[str, Any]:
    """Read as cloud-init's EC2 reader does: lists of names, where those with a slash are lists again."""
    found: dict[str, Any] = {}
    for line in text(path, guest).splitlines():
        if line.endswith("/"):
            found[line[:-1]] = read_as_ec2(guest, path + line)
        elif "=" in line:
            number, name = line.split("=", 1)
            found[name] = text(f"{path}{number}/openssh-key", guest)
        else:
            found[line] = text(path + line, guest)
    return found


def test_the_openstack_reader_finds_everything() -> None:
    """Identity, names, keys, metadata, links and user data are where cloud-init looks, in its newest version."""
    found = read_as_openstack(GUEST)
    meta = found["meta_data.json"]
    assert found["version"] == "2018-08-27"
    assert (meta["uuid"], meta["hostname"], meta["name"], meta["launch_index"]) == (ID, "web", "web", 0)
    assert (meta["meta"], meta["project_id"], meta["availability_zone"]) == ({"role": "db"}, "acme", "north")
    assert list(meta["public_keys"].values()) == list(SEED.ssh_keys)
    assert [key["data"] for key in meta["keys"]] == list(SEED.ssh_keys)
    assert base64.b64decode(meta["random_seed"]) == b"\1\2\3"
    assert found["vendor_data.json"] == found["vendor_data2.json"] == {}
    assert found["network_data.json"]["links"][0]["ethernet_mac_address"] == "02:00:00:00:00:01"
    assert found["network_data.json"]["networks"][0]["link"] == found["network_data.json"]["links"][0]["id"]
    assert found["user_data"] == USER_DATA


def test_the_ec2_reader_finds_everything() -> None:
    """Walking the tree from its root gives each value, and keys by number."""
    assert read_as_ec2(GUEST) == {
        "ami-id": "ami-" + "ab" * 8 + "a",
        "ami-launch-index": "0",
        "block-device-mapping": {"ami": "vda", "root": "/dev/vda"},
        "hostname": "web",
        "instance-action": "none",
        "instance-id": "i-7c5f0a3e52a14c7e9",
        "instance-type": "small",
        "local-hostname": "web",
        "local-ipv4": "10.0.0.5",
        "placement": {"availability-zone": "north"},
        "public-hostname": "web",
        "public-keys": {"key-0": SEED.ssh_keys[0], "key-1": SEED.ssh_keys[1]},
        "reservation-id": "r-7c5f0a3e52a14c7e9",
    }
    assert body("/2009-04-04/user-data") == body("/latest/user-data") == USER_DATA
    assert text("/latest").splitlines() == ["meta-data/", "user-data"]
    assert text("/").splitlines()[-2:] == ["2009-04-04", "latest"]
    assert body("/ec2/latest/meta-data/hostname") == b"web"


def test_what_there_is_not_is_not_listed() -> None:
    """A guest without keys, user data, flavor and image finds neither empty values nor their names."""
    found = read_as_ec2(BARE)
    assert set(found) == {
        "ami-launch-index", "hostname", "instance-action", "instance-id", "local-hostname", "public-hostname",
        "reservation-id",
    }  # fmt: skip
    assert body("/latest/user-data", BARE) is None
    assert read_as_openstack(BARE)["user_data"] is None
    assert "user_data" not in text("/openstack/latest", BARE).splitlines()
    assert text("/latest", BARE).splitlines() == ["meta-data/"]


def test_a_version_has_what_it_had() -> None:
    """What came later is not in an earlier version; `latest` has all, and a version that never was has nothing."""
    assert text("/openstack/2012-08-10").split() == ["meta_data.json", "user_data"]
    assert body("/openstack/2013-10-17/network_data.json") is None
    assert body("/openstack/2016-06-30/vendor_data2.json") is None
    assert text("/openstack/latest") == text(f"/openstack/{openstack.VERSIONS[-1]}")
    assert body("/openstack/2011-01-01/meta_data.json") is None
    assert body("/2011-01-01/meta-data") is None


def test_service_and_config_drive_say_the_same() -> None:
    """Each file of the drive is byte by byte what the service answers at its path."""
    files = config_drive_files(SEED, b"\1\2\3")
    assert set(files) == {f"openstack/latest/{name}" for name in text("/openstack/latest").split()} - {
        "openstack/latest/password"
    }
    for path, content in files.items():
        assert body("/" + path) == content


@pytest.mark.parametrize(
    "target",
    [
        "/openstack/../../etc/passwd",
        "/openstack/latest/../../../etc/passwd",
        "/openstack/latest/%2e%2e/meta_data.json",
        "/latest/meta-data/../user-data",
        "/latest/meta-data/hostname/web",
        "/latest/meta-data/__class__",
        "/latest/dynamic/instance-identity/document",
        "/openstack/latest/meta_data.json/uuid",
        "/openstack/content/0000",
        "/latest/api/token",
        "/metrics",
        "http://[::1/openstack",
    ],
)
def test_other_paths_have_nothing(target: str) -> None:
    """There is no way out of the tree, and no way around a value."""
    assert body(target) is None


@pytest.mark.parametrize(
    "target",
    ["/openstack/latest/", "//openstack///latest", "/openstack/latest?a=/b", "http://169.254.169.254/openstack/latest"],
)
def test_paths_are_read_leniently(target: str) -> None:
    """Doubled and trailing slashes, a query, or a whole URL lead to the same."""
    assert body(target) == body("/openstack/latest")


def test_kinds() -> None:
    """JSON is called so, lists and values are text, and user data are bytes."""
    paths = ("/openstack/latest/meta_data.json", "/openstack", "/latest/meta-data/hostname", "/latest/user-data")
    kinds = [found.kind for path in paths if (found := answer(GUEST, names(path), b""))]
    assert kinds == [JSON, TEXT, TEXT, BYTES]


def test_metadata_that_look_like_paths_stay_values() -> None:
    """The user's keys are in a document and never names in the tree."""
    guest = replace(GUEST, seed=replace(SEED, metadata={"../x": "/", "hostname": "evil"}))
    assert text("/latest/meta-data/hostname", guest) == "web"
    assert json.loads(text("/openstack/latest/meta_data.json", guest))["meta"] == {"../x": "/", "hostname": "evil"}


def test_a_guest_reads_the_password_that_it_has_told() -> None:
    """It is empty before, is in no version before Grizzly's, and its path takes what is told."""
    assert body("/openstack/latest/password") == b""
    assert body("/openstack/2013-04-04/password", replace(GUEST, password="QUJD")) == b"QUJD"
    assert body("/openstack/2012-08-10/password") is None
    assert is_password(names("/openstack/latest/password"))
    others = (
        "/openstack/2012-08-10/password",
        "/openstack/password",
        "/latest/password",
        "/openstack/latest/user_data",
    )
    assert not any(is_password(names(other)) for other in others)
