"""Inspection, root disks and seeds."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import pycdlib
import pytest

from kumulus_agent.host.boot_sector import GREETING, SECTOR_BYTES, boot_sector
from kumulus_agent.host.inventory import missing_packages
from kumulus_agent.storage.config_drive import config_drive_files
from kumulus_agent.storage.direct_io import cache_mode
from kumulus_agent.storage.errors import CorruptImage, DiskTooSmall, FormatMismatch, TooLarge, UnsafeImage
from kumulus_agent.storage.image_cache import CachedImage
from kumulus_agent.storage.inspect_apart import inspect_apart
from kumulus_agent.storage.inspection import inspect_image
from kumulus_agent.storage.iso9660 import iso_files, iso_image
from kumulus_agent.storage.qemu_img import check_whole, qemu_img
from kumulus_agent.storage.root_disk import (
    delete_root_disk,
    ensure_root_disk,
    grow_root_disk,
    replace_root_disk,
    root_disk_info,
)
from kumulus_agent.storage.seed import (
    Seed,
    SeedNic,
    SeedRoute,
    meta_data,
    network_config,
    read_seed,
    seed_files,
    seed_iso,
)

LIMIT = 1 << 30

needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")


def _create(path: Path, *options: str, size: str = "64M") -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), size], check=True, timeout=20)
    return path


@needs_qemu_img
def test_a_plain_qcow2_passes(tmp_path: Path) -> None:
    """A self-contained qcow2 is accepted with the size its guest sees."""
    assert inspect_image(_create(tmp_path / "a"), "qcow2", LIMIT).virtual_size == 64 << 20


@needs_qemu_img
@pytest.mark.parametrize("options", [("-b", "/etc/passwd", "-F", "raw"), ("-o", "data_file=/etc/shadow-copy")])
def test_references_to_other_files_are_refused(tmp_path: Path, options: tuple[str, str]) -> None:
    """An image that names a backing or data file of the host never reaches QEMU."""
    options = tuple(option.replace("/etc/shadow-copy", str(tmp_path / "data")) for option in options)
    with pytest.raises(UnsafeImage):
        inspect_image(_create(tmp_path / "a", *options), "qcow2", LIMIT)


@needs_qemu_img
def test_a_disguised_qcow2_is_refused(tmp_path: Path) -> None:
    """A qcow2 that is declared raw is refused, as is raw that is declared qcow2."""
    with pytest.raises(FormatMismatch):
        inspect_image(_create(tmp_path / "a"), "raw", LIMIT)
    (tmp_path / "b").write_bytes(os.urandom(1 << 20))
    with pytest.raises(FormatMismatch):
        inspect_image(tmp_path / "b", "qcow2", LIMIT)


@needs_qemu_img
def test_the_virtual_size_counts(tmp_path: Path) -> None:
    """A small file of a huge disk is refused."""
    with pytest.raises(TooLarge):
        inspect_image(_create(tmp_path / "a", size="2G"), "qcow2", LIMIT)


@needs_qemu_img
def test_an_inspection_apart_says_the_same(tmp_path: Path) -> None:
    """A process of its own gives the same sizes and the same refusals, and refuses what it cannot open."""
    assert inspect_apart(_create(tmp_path / "a"), "qcow2", LIMIT) == inspect_image(tmp_path / "a", "qcow2", LIMIT)
    with pytest.raises(TooLarge, match="are allowed"):
        inspect_apart(_create(tmp_path / "b", size="2G"), "qcow2", LIMIT)
    with pytest.raises(UnsafeImage, match="refused"):
        inspect_apart(_create(tmp_path / "c", "-b", "/etc/passwd", "-F", "raw"), "qcow2", LIMIT)
    with pytest.raises(UnsafeImage, match="could not be inspected"):
        inspect_apart(tmp_path / "absent", "qcow2", LIMIT)


@needs_qemu_img
@pytest.mark.parametrize("share", [1, 0.9, 0.5, 0.01])
async def test_a_cut_qcow2_is_refused(tmp_path: Path, share: float) -> None:
    """A qcow2 of which a part is missing is not taken for whole, wherever it was cut."""
    (tmp_path / "raw").write_bytes(os.urandom(1 << 20))
    await qemu_img("convert", "-f", "raw", "-O", "qcow2", str(tmp_path / "raw"), str(tmp_path / "a"))
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "b").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CorruptImage) if share < 1 else contextlib.nullcontext():
        await check_whole(tmp_path / "b")


@pytest.mark.parametrize("content", [b"", boot_sector(power_off=True), boot_sector(power_off=True) + bytes(1 << 20)])
def test_raw_disks_pass(tmp_path: Path, content: bytes) -> None:
    """A raw disk with or without a boot sector is accepted."""
    (tmp_path / "a").write_bytes(content)
    assert inspect_image(tmp_path / "a", "raw", LIMIT).virtual_size == len(content)


@needs_qemu_img
async def test_root_disks_are_overlays(tmp_path: Path) -> None:
    """The overlay has the asked size and base, is left alone when asked for again, and goes without complaint."""
    base = tmp_path / "base"
    base.write_bytes(bytes(1 << 20))
    image = CachedImage(base, "sha256:x", "raw", 1 << 20, 1 << 20)
    path = tmp_path / "root.qcow2"
    await ensure_root_disk(path, image, 8 << 20)
    before = path.stat()
    await ensure_root_disk(path, image, 16 << 20)
    assert path.stat().st_ino == before.st_ino
    info = await root_disk_info(path)
    assert (info["virtual-size"], info["backing-filename"], info["backing-filename-format"]) == (
        8 << 20,
        str(base),
        "raw",
    )
    await delete_root_disk(path)
    await delete_root_disk(path)
    assert not path.exists()


@needs_qemu_img
async def test_a_root_disk_grows_and_is_replaced(tmp_path: Path) -> None:
    """An overlay grows and never shrinks; a replaced one lies on its new base and nothing is left of the old one."""
    images = []
    for name in ("old", "new"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
        images.append(CachedImage(tmp_path / name, "sha256:x", "raw", 1 << 20, 1 << 20))
    path = tmp_path / "root.qcow2"
    await ensure_root_disk(path, images[0], 8 << 20)
    for asked in (16 << 20, 4 << 20):
        await grow_root_disk(path, asked)
        assert (await root_disk_info(path))["virtual-size"] == 16 << 20
    await replace_root_disk(path, images[1], 8 << 20)
    info = await root_disk_info(path)
    assert (info["virtual-size"], info["backing-filename"]) == (8 << 20, str(tmp_path / "new"))
    left = await asyncio.to_thread(lambda: sorted(item.name for item in tmp_path.iterdir()))
    assert left == ["new", "old", "root.qcow2"]


async def test_a_root_disk_holds_its_image(tmp_path: Path) -> None:
    """A disk smaller than the image is refused with both sizes."""
    image = CachedImage(tmp_path / "base", "sha256:x", "raw", 2, 2 << 20)
    with pytest.raises(DiskTooSmall, match="2097152"):
        await ensure_root_disk(tmp_path / "root", image, 1 << 20)


def test_the_seed_is_read_back(tmp_path: Path) -> None:
    """The ISO has cloud-init's label and gives every file back byte by byte."""
    user_data = b"#!/bin/sh\necho \xff\n"
    files = seed_files(Seed("id-1", "web", ssh_keys=("ssh-ed25519 AAAA",), user_data=user_data))
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(seed_iso(files)))
    assert iso.pvd.volume_identifier.strip() == b"cidata"
    for name, content in files.items():
        found = io.BytesIO()
        iso.get_file_from_iso_fp(found, rr_path=f"/{name}")
        assert found.getvalue() == content
        found = io.BytesIO()
        iso.get_file_from_iso_fp(found, joliet_path=f"/{name}")
        assert found.getvalue() == content
    iso.close()
    assert files["user-data"] == user_data


@pytest.mark.parametrize("sizes", [(0, 1), (2047, 2048, 2049), (65536, 3, 0, 5)])
def test_an_iso_of_any_sizes_is_read_back(sizes: tuple[int, ...]) -> None:
    """Files that are empty, or fill a sector exactly, are given back whole; equal files are equal images."""
    files = {f"file-{number}": os.urandom(size) for number, size in enumerate(sizes)}
    image = iso_image("cidata", files)
    assert image == iso_image("cidata", files)
    assert len(image) % 2048 == 0
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(image))
    for name, content in files.items():
        found = io.BytesIO()
        iso.get_file_from_iso_fp(found, rr_path=f"/{name}")
        assert found.getvalue() == content
    iso.close()


def test_an_iso_has_directories() -> None:
    """Files in directories of any depth are read back by either kind of name."""
    files = {"a/b/c": b"deep", "a/b/d.json": b"{}", "a/top": b"", "root": b"x", "z/c": b"other"}
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(iso_image("config-2", files)))
    for path, content in files.items():
        for kind in ("rr_path", "joliet_path"):
            found = io.BytesIO()
            iso.get_file_from_iso_fp(found, **{kind: f"/{path}"})
            assert found.getvalue() == content
    assert {child.rock_ridge.name() for child in iso.list_children(rr_path="/a")} >= {b"b", b"top"}
    iso.close()


def test_an_iso_is_large_enough_to_be_found_by_its_label() -> None:
    """Even of little content it has the 68 KiB that busybox reads of a disk before it looks for a label there."""
    assert len(iso_image("cidata", {"meta-data": b""})) >= 68 << 10


def test_an_iso_of_too_many_names_is_refused() -> None:
    """What one sector of directory cannot hold is an error and not a broken image."""
    with pytest.raises(ValueError, match="do not fit"):
        iso_image("cidata", {f"file-{number}": b"" for number in range(100)})


@pytest.mark.parametrize("user_data", [b"", b"#!/bin/sh\n\xff\0", bytes(2047), bytes(2048), b"x" * 70000])
def test_a_seed_reads_back(user_data: bytes) -> None:
    """What the metadata service reads of a guest's seed is what was written, NICs in their order."""
    nics = tuple(SeedNic(f"eth{number}", f"02:00:00:00:00:{number:02x}", 1450) for number in range(12))
    seed = Seed("id-1", "web", nics, ("ssh-ed25519 AAAA", "ssh-rsa BBBB"), user_data, {"role": "db", "ü": "√"})
    assert read_seed(seed_iso(seed_files(seed))) == seed
    assert read_seed(seed_iso(seed_files(Seed("id-1", "web")))) == Seed("id-1", "web")


@pytest.mark.parametrize("length", [0, 2048, 17 * 2048, 18 * 2048, 26 * 2048, 60 * 2048])
def test_what_is_cut_is_no_seed(length: int) -> None:
    """A seed of which a part is missing is refused, not read as one that says less."""
    image = seed_iso(seed_files(Seed("id-1", "web", user_data=b"x" * 100000)))
    with pytest.raises(ValueError, match=r"."):
        read_seed(image[:length])
    with pytest.raises(ValueError, match="lacks"):
        read_seed(iso_image("cidata", {"meta-data": b"{}", "user-data": b"", "network-config": b"{}"}))
    with pytest.raises(ValueError, match=r"."):
        read_seed(bytes(length))


def test_an_iso_reads_back() -> None:
    """The files of the root directory come back by name; folders are passed over."""
    files = {"a": b"", "B-long.name": b"x" * 5000, "folder/inner": b"y"}
    assert iso_files(iso_image("label", files)) == {"a": b"", "B-long.name": b"x" * 5000}


def test_network_config_is_static_or_dhcp() -> None:
    """A NIC with addresses gets them; one without asks by DHCP; each is matched by its MAC."""
    nics = (
        SeedNic("eth0", "02:00:00:00:00:01", 1450),
        SeedNic(
            "eth1",
            "02:00:00:00:00:02",
            1450,
            ("10.0.0.5/24",),
            dns=("1.1.1.1",),
            routes=(SeedRoute("0.0.0.0/0", "10.0.0.1"),),
        ),
    )
    config = network_config(nics)
    assert config["version"] == 2
    assert config["ethernets"]["eth0"] == {
        "match": {"macaddress": "02:00:00:00:00:01"},
        "set-name": "eth0",
        "mtu": 1450,
        "dhcp4": True,
    }
    assert config["ethernets"]["eth1"]["addresses"] == ["10.0.0.5/24"]
    assert config["ethernets"]["eth1"]["routes"] == [{"to": "0.0.0.0/0", "via": "10.0.0.1"}]


def test_network_config_asks_for_each_family() -> None:
    """A NIC asks by DHCP and DHCPv6 for what they give, and makes itself what follows from its MAC."""
    mac = "02:00:00:00:00:01"
    made, given = "fd00:2::ff:fe00:1", "fd00:1::5"
    for told, asks in (
        (("10.0.0.5",), {"dhcp4": True}),
        (("10.0.0.5", given, made), {"dhcp4": True, "dhcp6": True, "accept-ra": True}),
        ((made,), {"dhcp4": False, "accept-ra": True}),
        ((given,), {"dhcp4": False, "dhcp6": True, "accept-ra": True}),
    ):
        found = network_config((SeedNic("eth0", mac, 1450, told=told),))["ethernets"]["eth0"]
        assert {name: found[name] for name in found.keys() & {"dhcp4", "dhcp6", "accept-ra"}} == asks
    nic = SeedNic("eth0", mac, 1450, told=("10.0.0.5", given, made))
    files = config_drive_files(Seed("id-1", "web", (nic,)))
    networks = json.loads(files["openstack/latest/network_data.json"])["networks"]
    assert [(item["id"], item["type"], item["ip_address"]) for item in networks] == [
        ("eth0-v4", "ipv4_dhcp", "10.0.0.5"),
        ("eth0-v6", "ipv6_dhcpv6-stateful", given),
        ("eth0-v6-2", "ipv6_slaac", made),
    ]


def test_meta_data() -> None:
    """The instance id decides whether cloud-init runs anew; it and the host name are always there."""
    assert meta_data(Seed("id-1", "web")) == {"instance-id": "id-1", "local-hostname": "web"}
    assert json.loads(seed_files(Seed("id-1", "web"))["meta-data"])["instance-id"] == "id-1"


def test_the_boot_sector_is_bootable() -> None:
    """It is one sector with the BIOS signature and our greeting, well before the partition table."""
    for power_off in (True, False):
        sector = boot_sector(power_off=power_off)
        assert len(sector) == SECTOR_BYTES
        assert sector.endswith(b"\x55\xaa")
        assert 0 < sector.index(GREETING) < 400


def test_missing_packages_are_named(tmp_path: Path) -> None:
    """A host without an executable lacks its package, also where the executable is a dangling link."""
    (tmp_path / "usr/sbin").mkdir(parents=True)
    (tmp_path / "usr/sbin/nft").symlink_to("/etc/alternatives/none")
    assert "nftables" not in missing_packages(tmp_path)
    assert "dnsmasq-base" in missing_packages(tmp_path)


def test_the_cache_mode_leaves_no_file(tmp_path: Path) -> None:
    """The probe answers with a mode QEMU knows and leaves the directory empty."""
    assert cache_mode(tmp_path) in ("none", "writeback")
    assert list(tmp_path.iterdir()) == []


def test_a_config_drive_says_what_the_seed_says() -> None:
    """OpenStack's drive has identity, keys, metadata and user data where its readers look for them."""
    nic = SeedNic("eth0", "02:00:00:00:00:01", 1450)
    files = config_drive_files(Seed("id-1", "web", (nic,), ("ssh-ed25519 AAAA",), b"#!/bin/sh\n", {"role": "db"}))
    assert files["openstack/latest/user_data"] == b"#!/bin/sh\n"
    meta = json.loads(files["openstack/latest/meta_data.json"])
    assert (meta["uuid"], meta["name"], meta["meta"]) == ("id-1", "web", {"role": "db"})
    assert meta["public_keys"] == {"key-0": "ssh-ed25519 AAAA"}
    network = json.loads(files["openstack/latest/network_data.json"])
    assert network["links"][0]["ethernet_mac_address"] == nic.mac
    assert network["networks"][0]["type"] == "ipv4_dhcp"
    assert "openstack/latest/user_data" not in config_drive_files(Seed("id-1", "web"))
