"""How guests run on a host, by what its self-test took."""

from __future__ import annotations

import pytest

from kumulus_agent.host.selftest import Virt, faster


@pytest.mark.parametrize(
    ("took", "virt"),
    [
        ({}, None),
        ({"kvm": 0.2}, "kvm"),
        ({"kvm": 4.9}, "kvm"),
        ({"qemu": 0.4}, "qemu"),
        ({"kvm": 2.0, "qemu": 6.0}, "kvm"),
        ({"kvm": 4.2, "qemu": 0.4}, "qemu"),
    ],
)
def test_the_faster_way_is_taken(took: dict[Virt, float], virt: Virt | None) -> None:
    """A KVM under which a guest comes to life later than an emulated one is not used, and any that is faster is."""
    assert faster(took)[0] == virt


def test_a_kvm_that_crawls_is_named() -> None:
    """The reason tells both durations; a KVM that is used, or failed by itself, gets none here."""
    assert faster({"kvm": 4.2, "qemu": 0.4})[1] == {"kvm": "a guest greets after 4.2 s, an emulated one after 0.4 s"}
    assert faster({"kvm": 0.2})[1] == faster({"qemu": 0.4})[1] == {}
