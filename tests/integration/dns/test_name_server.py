"""CoreDNS, configured as in the chart, serves the zone files that the operator writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import pytest
import yaml

from kumulus_api import DNSRecord, DNSZone
from kumulus_api.quantities import parse_quantity
from kumulus_api.testing import make_object
from kumulus_operator.dns.plan import HostName, contents
from kumulus_operator.dns.values import canonical
from kumulus_operator.dns.zonefile import Authority, render

from .conftest import NameServer

SERVERS = ("ns1.cloud.test.", "ns2.cloud.test.")
HOSTS = (HostName("web.example.test.", ("10.0.0.5", "fd00::5")),)
VALUES = Path(__file__).parents[3] / "charts" / "kumulus" / "values.yaml"
REQUESTED = parse_quantity(yaml.safe_load(VALUES.read_text())["dns"]["resources"]["requests"]["memory"])
"""Memory that the chart asks for, in bytes: nine tenths of it are the program, as far as the host has it in memory."""
RECORDS: list[tuple[str, str, list[str]]] = [
    ("@", "MX", ["10 mail.example.test."]),
    ("@", "TXT", ["v=spf1 -all; x"]),
    ("@", "CAA", ['0 issue "ca.test"']),
    ("mail", "A", ["192.0.2.2", "192.0.2.3"]),
    ("mail", "AAAA", ["2001:db8::2"]),
    ("mail", "SSHFP", ["4 2 " + "ab" * 32]),
    ("_sip._udp", "SRV", ["0 5 5060 mail.example.test."]),
    ("www", "CNAME", ["alias.example.test."]),
    ("alias", "CNAME", ["mail.example.test."]),
    ("away", "CNAME", ["elsewhere.invalid."]),
    ("*.apps", "A", ["192.0.2.9"]),
    ("taken.apps", "TXT", ["no address here"]),
    ("sub", "NS", ["ns.sub.example.test."]),
    ("ns.sub", "A", ["192.0.2.53"]),
]


def zone_file(domain: str, serial: int, records: list[tuple[str, str, list[str]]], **spec: Any) -> str:
    """Give the zone file that the operator writes for records as users make them."""
    zone = DNSZone.model_validate(make_object(DNSZone, domain=domain, **spec))
    items = []
    for number, (name, kind, values) in enumerate(records):
        body = make_object(DNSRecord, f"r{number}", name=name, type=kind, records=values)
        items.append(DNSRecord.model_validate(body))
    found = contents(zone, items, HOSTS, canonical)
    assert all(verdict.good for verdict in found.verdicts.values()), found.verdicts
    return render(Authority(domain, zone.spec.email, zone.spec.ttl, SERVERS), found.entries, serial)


@pytest.fixture
def serving(name_server: NameServer) -> NameServer:
    """The name server with one zone and its reverse."""
    name_server.publish(
        {
            "example.test.": zone_file("example.test.", 1, RECORDS),
            "0.0.10.in-addr.arpa.": zone_file("0.0.10.in-addr.arpa.", 1, []),
            "0.0.d.f.ip6.arpa.": zone_file("0.0.d.f.ip6.arpa.", 1, []),
        }
    )
    name_server.start()
    name_server.until("mail.example.test.", "A", lambda answer: answer.rcode() == dns.rcode.NOERROR)
    return name_server


def values(answer: dns.message.Message) -> list[str]:
    """Give the values of an answer, those of a chain one after the other."""
    return [item.to_text() for rrset in answer.answer for item in sorted(rrset, key=str)]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("mail.example.test.", "A", ["192.0.2.2", "192.0.2.3"]),
        ("MAIL.Example.Test.", "AAAA", ["2001:db8::2"]),
        ("web.example.test.", "A", ["10.0.0.5"]),
        ("web.example.test.", "AAAA", ["fd00::5"]),
        ("5.0.0.10.in-addr.arpa.", "PTR", ["web.example.test."]),
        (f"5.{'0.' * 27}0.0.d.f.ip6.arpa.", "PTR", ["web.example.test."]),
        ("www.example.test.", "A", ["alias.example.test.", "mail.example.test.", "192.0.2.2", "192.0.2.3"]),
        ("any.apps.example.test.", "A", ["192.0.2.9"]),
        ("a.b.apps.example.test.", "A", ["192.0.2.9"]),
        ("example.test.", "MX", ["10 mail.example.test."]),
        ("example.test.", "TXT", ['"v=spf1 -all; x"']),
        ("example.test.", "CAA", ['0 issue "ca.test"']),
        ("example.test.", "NS", ["ns1.cloud.test.", "ns2.cloud.test."]),
        ("_sip._udp.example.test.", "SRV", ["0 5 5060 mail.example.test."]),
        ("mail.example.test.", "SSHFP", ["4 2 " + "ab" * 32]),
    ],
)
def test_every_type_is_answered(serving: NameServer, name: str, kind: str, expected: list[str]) -> None:
    """What users and servers have in a zone is what resolvers get, with authority, over UDP and TCP."""
    for tcp in (False, True):
        answer = serving.ask(name, kind, tcp=tcp)
        assert answer.rcode() == dns.rcode.NOERROR
        assert answer.flags & dns.flags.AA
        assert values(answer) == expected


def test_what_is_not_there_is_denied_with_authority(serving: NameServer) -> None:
    """An unknown name is NXDOMAIN, a name without the type is empty, both with the SOA; a wildcard yields to names."""
    for name, kind, code in (
        ("nobody.example.test.", "A", dns.rcode.NXDOMAIN),
        ("mail.example.test.", "MX", dns.rcode.NOERROR),
        ("taken.apps.example.test.", "A", dns.rcode.NOERROR),
    ):
        answer = serving.ask(name, kind)
        assert (answer.rcode(), answer.answer) == (code, [])
        (soa,) = answer.authority
        assert soa.to_text().startswith("example.test. 300 IN SOA ns1.cloud.test. hostmaster.example.test. 1 ")


def test_a_delegation_leads_to_its_servers(serving: NameServer) -> None:
    """Names below an NS record are the other servers', whose address is given along."""
    answer = serving.ask("deep.sub.example.test.", "A")
    assert not answer.flags & dns.flags.AA
    assert [str(item) for rrset in answer.authority for item in rrset] == ["ns.sub.example.test."]
    assert "192.0.2.53" in str(answer)


def test_an_alias_of_elsewhere_is_told(serving: NameServer) -> None:
    """A CNAME that leaves the zones is answered by itself: the resolver goes on, this server asks nobody."""
    answer = serving.ask("away.example.test.", "A")
    assert (answer.rcode(), values(answer)) == (dns.rcode.NOERROR, ["elsewhere.invalid."])


def test_nobody_gets_a_whole_zone(serving: NameServer) -> None:
    """A transfer is refused, and ANY tells nothing."""
    assert serving.ask("example.test.", "AXFR", tcp=True).rcode() == dns.rcode.REFUSED
    assert "192.0.2.2" not in str(serving.ask("mail.example.test.", "ANY"))


def test_other_domains_are_refused(serving: NameServer) -> None:
    """It is no resolver: what is in no zone is REFUSED, the parents of its zones too."""
    for name in ("example.org.", "test.", "notexample.test.", "."):
        assert serving.ask(name, "A").rcode() == dns.rcode.REFUSED


def test_changes_come_by_their_serial(serving: NameServer) -> None:
    """A new serial brings the new records, a zone that comes is served, one that goes is refused."""

    def at(serial: int) -> Any:
        return lambda answer: any(f" {serial} " in rrset.to_text() for rrset in answer.answer)

    new = {
        "example.test.": zone_file("example.test.", 2**32 - 1, [("new", "A", ["192.0.2.77"])]),
        "second.test.": zone_file("second.test.", 1, [("@", "A", ["192.0.2.1"])]),
    }
    serving.publish(new)
    serving.until("example.test.", "SOA", at(2**32 - 1))
    assert values(serving.ask("new.example.test.", "A")) == ["192.0.2.77"]
    assert serving.ask("mail.example.test.", "A").rcode() == dns.rcode.NXDOMAIN
    serving.until("second.test.", "A", lambda answer: values(answer) == ["192.0.2.1"])
    serving.until("5.0.0.10.in-addr.arpa.", "PTR", lambda answer: answer.rcode() == dns.rcode.REFUSED)
    serving.publish(new | {"example.test.": zone_file("example.test.", 0, [("new", "A", ["192.0.2.78"])])})
    serving.until("example.test.", "SOA", at(0))
    assert values(serving.ask("new.example.test.", "A")) == ["192.0.2.78"]
    serving.publish({})
    for name in ("new.example.test.", "second.test."):
        serving.until(name, "A", lambda answer: answer.rcode() == dns.rcode.REFUSED)


def test_a_zone_below_another_is_its_own(name_server: NameServer) -> None:
    """Of two zones the one that is nearer to a name answers."""
    name_server.publish(
        {
            "example.test.": zone_file("example.test.", 1, [("x.inner", "A", ["192.0.2.1"])]),
            "inner.example.test.": zone_file("inner.example.test.", 1, [("x", "A", ["192.0.2.2"])]),
        }
    )
    name_server.start()
    name_server.until("x.inner.example.test.", "A", lambda answer: values(answer) == ["192.0.2.2"])


def test_it_is_small(serving: NameServer) -> None:
    """With a few zones it takes no more memory than the chart asks for, and it warns of nothing."""
    print(f"{serving.memory / 2**20:.1f} MiB")
    assert serving.memory < REQUESTED
    assert "WARNING" not in serving.log
