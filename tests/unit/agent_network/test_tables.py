"""The kernel's tables that tenants share are made large enough, or it is said which are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from kumulus_agent.network.limits import CONNECTIONS
from kumulus_agent.network.tables import NEIGHBOURS, enlarge, wanted
from kumulus_agent.routers.asking import BURST, PER_SECOND

CONNTRACK = "netfilter/nf_conntrack_max"
GIB = 1 << 30


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A kernel's settings, as it begins."""
    for name, value in (
        (CONNTRACK, 262144),
        ("netfilter/nf_conntrack_buckets", 262144),
        *((f"{family}/neigh/default/gc_thresh{n}", 128 << n) for family in ("ipv4", "ipv6") for n in (2, 3)),
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
    return tmp_path


def test_the_table_of_connections_holds_those_of_a_port_for_each_96_mib() -> None:
    """At their bound all ports of a host fit in, if there are not more than that; it takes a 32nd of the memory."""
    for memory, ports in ((16 * GIB, 170), (64 * GIB, 682)):
        assert wanted(memory)[CONNTRACK] // CONNECTIONS == ports
        assert wanted(memory)[CONNTRACK] * 384 <= memory // 32
    assert NEIGHBOURS // (BURST + 3 * PER_SECOND) == 436


def test_what_is_smaller_is_raised_and_nothing_is_lowered(settings: Path) -> None:
    """What somebody has made larger stays; a second look writes nothing."""
    (settings / CONNTRACK).write_text("99999999\n")
    least = wanted(64 * GIB)
    assert enlarge(least, settings) == ()
    assert (settings / CONNTRACK).read_text() == "99999999\n"
    for name, value in least.items():
        assert int((settings / name).read_text()) >= value
    before = {name: (settings / name).stat().st_mtime_ns for name in least}
    assert enlarge(least, settings) == ()
    assert {name: (settings / name).stat().st_mtime_ns for name in least} == before


def test_what_cannot_be_raised_is_said(settings: Path) -> None:
    """Each setting is named as sysctl(8) takes it, with what it is."""
    (settings / "ipv4/neigh/default/gc_thresh3").unlink()
    (settings / CONNTRACK).unlink()
    (settings / CONNTRACK).mkdir()
    small = enlarge({CONNTRACK: 2097152, "ipv4/neigh/default/gc_thresh3": 65536, "ipv6/none": 100}, settings)
    assert "net.netfilter.nf_conntrack_max=2097152 (it is not seen)" in small
    assert "net.ipv6.none=100 (it is not seen)" in small
