"""The tiny guest's archive and module order."""

from hypothesis import given
from hypothesis import strategies as st

from kumulus_lab.guests import initramfs


def test_a_module_comes_after_what_it_depends_on() -> None:
    """Loading in the given order never meets a module whose dependency is still missing."""
    depends = {"virtio_net": ("net_failover", "virtio"), "net_failover": ("failover",), "failover": (), "virtio": ()}
    assert initramfs.load_order(["virtio_net"], depends) == ("failover", "net_failover", "virtio", "virtio_net")


def test_modules_built_into_the_kernel_are_left_out() -> None:
    """A dependency without a file is part of the kernel and is not loaded."""
    assert initramfs.load_order(["isofs"], {"isofs": ("nls_base",)}) == ("isofs",)


@given(st.permutations(["a", "b", "c", "d"]))
def test_each_module_is_loaded_once(wanted: list[str]) -> None:
    """Whatever is asked for, no module is named twice and none before its dependency."""
    depends = {"a": ("b", "c"), "b": ("c",), "c": (), "d": ("a",)}
    order = initramfs.load_order(wanted, depends)
    assert sorted(order) == ["a", "b", "c", "d"]
    assert all(order.index(needed) < order.index(name) for name in order for needed in depends[name])


def test_dependencies_are_read_from_the_module() -> None:
    """The module's own section names its dependencies, with dashes read as underscores."""
    assert initramfs.module_dependencies(b"x\0depends=virtio_ring,net-failover\0y\0") == ("virtio_ring", "net_failover")
    assert initramfs.module_dependencies(b"x\0depends=\0y\0") == ()


def test_archive_holds_parents_before_their_files() -> None:
    """A directory precedes what lies in it, or the kernel would drop the file."""
    packed = initramfs.archive([initramfs.file("etc/modules/boot", b"virtio\n")])
    places = [packed.index(name) for name in (b"etc\0", b"etc/modules\0", b"etc/modules/boot\0", b"TRAILER!!!\0")]
    assert places == sorted(places)
    assert len(packed) % 512 == 0
    assert packed.startswith(b"070701")


def test_equal_content_makes_an_equal_archive() -> None:
    """The order in which nodes are listed does not show in the result."""
    nodes = [initramfs.file("init", b"#!/bin/sh\n", 0o755), initramfs.link("bin/sh", "busybox")]
    assert initramfs.archive(nodes) == initramfs.archive(reversed(nodes))
