"""Whose a domain is, where zone files are kept, what zones say of themselves."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumulus_api import DNSRecord, DNSZone
from kumulus_api.dns import DNSRecordReason, DNSZoneReason
from kumulus_api.testing import make_object
from kumulus_operator.dns.plan import Published, Verdict, domain_fault, record_status, zone_status
from kumulus_operator.dns.shards import CAPACITY, NoRoom, Placed, plan_shards
from kumulus_operator.settings import OperatorSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make_zone(domain: str, namespace: str = "demo", name: str = "zone") -> DNSZone:
    """Give a zone."""
    body = make_object(DNSZone, name, domain=domain)
    body["metadata"] |= {"namespace": namespace, "generation": 1}
    return DNSZone.model_validate(body)


@pytest.mark.parametrize(
    ("domain", "held", "told"),
    [
        ("a.test.", {}, None),
        ("a.test.", {"a.test.": ("demo", "first")}, "is held by zone first"),
        ("a.test.", {"a.test.": ("other", "first")}, "is held by a zone of another project"),
        ("x.a.test.", {"a.test.": ("demo", "first")}, None),
        ("x.a.test.", {"a.test.": ("other", "first")}, "lies below a zone of another project"),
        ("x.y.a.test.", {"a.test.": ("other", "first")}, "lies below a zone of another project"),
        ("a.test.", {"x.a.test.": ("other", "first")}, "another project has a zone below"),
        ("a.test.", {"x.a.test.": ("demo", "first")}, None),
        ("ba.test.", {"a.test.": ("other", "first")}, None),
        ("a.test.", {"ba.test.": ("other", "first")}, None),
    ],
)
def test_a_domain_and_what_is_below_it_is_one_projects(
    domain: str, held: dict[str, tuple[str, str]], told: str | None
) -> None:
    """As in Designate: no project makes zones above or below another's, and it is not told whose they are."""
    fault = domain_fault(make_zone(domain), held)
    assert (fault is None) if told is None else (fault is not None and told in fault)
    assert "other/" not in str(fault)


def test_a_zone_keeps_its_own_domain() -> None:
    """Asking again for what one holds is no fault."""
    assert domain_fault(make_zone("a.test."), {"a.test.": ("demo", "zone")}) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(1, CAPACITY // 2)), max_size=40))
def test_no_configmap_gets_too_large(steps: list[tuple[int, int | None]]) -> None:
    """Whatever zones come, grow and go: no ConfigMap overflows, and a zone that has room where it is stays there."""
    found: dict[str, Placed] = {}
    for number, size in steps:
        domain = f"z{number}.test."
        try:
            chosen = plan_shards({domain: size}, {name: [placed] for name, placed in found.items()}, 3)
        except NoRoom:
            continue
        before = found.pop(domain, None)
        if size is None:
            assert chosen == {}
            continue
        if before is not None:
            others = sum(item.size for item in found.values() if item.shard == before.shard)
            assert (chosen[domain] == before.shard) == (others + size <= CAPACITY)
        found[domain] = Placed(chosen[domain], size, "", 1)
        for shard in range(3):
            assert sum(item.size for item in found.values() if item.shard == shard) <= CAPACITY


def test_one_that_is_too_large_is_named() -> None:
    """A zone that no ConfigMap can hold is told of by its domain."""
    with pytest.raises(NoRoom) as error:
        plan_shards({"a.test.": 10, "b.test.": CAPACITY + 1}, {}, 2)
    assert error.value.domain == "b.test."


def test_statuses_are_written_once() -> None:
    """What a zone and a record say is not written again; a serial stays known while a zone is not served."""
    zone = make_zone("a.test.")
    status = zone_status(zone, Published(7, 2, ("ns.test.",)), NOW)
    assert status is not None
    assert (status["serial"], status["records"], status["nameservers"]) == (7, 2, ["ns.test."])
    zone = zone.model_validate(make_object(DNSZone, "zone", domain="a.test.") | {"status": status})
    zone.metadata.__dict__["generation"] = 1
    assert zone_status(zone, Published(7, 2, ("ns.test.",)), NOW) is None
    fault = zone_status(zone, (DNSZoneReason.NO_NAME_SERVER, "none"), NOW)
    assert fault is not None
    assert fault["serial"] == 7
    body = make_object(DNSRecord, "www")
    verdict = Verdict(DNSRecordReason.CONFLICT, "taken", 0)
    said = record_status(DNSRecord.model_validate(body), verdict, NOW)
    assert said is not None
    assert said["conditions"][0]["status"] == "False"
    assert record_status(DNSRecord.model_validate(body | {"status": said}), verdict, NOW) is None


def test_name_servers_are_names() -> None:
    """A setting that no zone file could have is refused at the start."""
    assert OperatorSettings(nameservers="ns1.a.test.,ns2.a.test.").nameserver_names == ("ns1.a.test.", "ns2.a.test.")
    for wrong in ("", "ns1.a.test", "ns1.a.test.,", "ns1.a.test. 60 IN A 192.0.2.1", "a\n$INCLUDE x."):
        with pytest.raises(ValueError, match="each with a dot"):
            OperatorSettings(nameservers=wrong)


def test_a_cloud_without_zones_does_not_load_dnspython() -> None:
    """The library for zone files takes memory only where there are zones."""
    code = "import sys, kumulus_operator.main; sys.exit('dns' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
