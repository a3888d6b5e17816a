"""What is in a zone file: every type of record, and nothing that a user did not mean."""

from __future__ import annotations

from typing import Any

import dns.rdatatype
import dns.zone
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumulus_api import DNSRecord, DNSZone
from kumulus_api.dns import DNSRecordReason, RecordType
from kumulus_api.testing import make_object
from kumulus_operator.dns.plan import Contents, HostName, absolute, automatic, contents, server_name
from kumulus_operator.dns.values import canonical
from kumulus_operator.dns.zonefile import Authority, Entry, is_name, newer, next_serial, render, serial_of

AUTHORITY = Authority("example.test.", "host.master@example.test", 300, ("ns1.cloud.test.", "ns2.cloud.test."))
GOOD = [
    (RecordType.A, "192.0.2.1", "192.0.2.1"),
    (RecordType.AAAA, "2001:DB8:0::1", "2001:db8::1"),
    (RecordType.CNAME, "other.example.test.", "other.example.test."),
    (RecordType.MX, "10   mail.example.test.", "10 mail.example.test."),
    (RecordType.NS, "ns.example.test.", "ns.example.test."),
    (RecordType.PTR, "web.example.test.", "web.example.test."),
    (RecordType.SRV, "0 5 5060 sip.example.test.", "0 5 5060 sip.example.test."),
    (RecordType.TXT, "v=DKIM1; k=rsa", '"v=DKIM1; k=rsa"'),
    (RecordType.TXT, '"one" "t;wo"', '"one" "t;wo"'),
    (RecordType.TXT, 'say "hi" \\ bye', '"say \\"hi\\" \\\\ bye"'),
    (RecordType.CAA, '0 issue "ca.test; x=1"', '0 issue "ca.test; x=1"'),
    (RecordType.SSHFP, "4 2 " + "ab" * 32, "4 2 " + "ab" * 32),
]
BAD = [
    (RecordType.A, "192.0.2.300", None),
    (RecordType.A, "::1", None),
    (RecordType.A, "192.0.2.1 192.0.2.2", None),
    (RecordType.A, "192.0.2.1 ; comment", "comment"),
    (RecordType.A, "192.0.2.1\n$INCLUDE /etc/passwd", "printable"),
    (RecordType.AAAA, "192.0.2.1", None),
    (RecordType.CNAME, "other", "without the dot"),
    (RecordType.CNAME, "@", "without the dot"),
    (RecordType.MX, "mail.example.test.", None),
    (RecordType.MX, "10 mail", "without the dot"),
    (RecordType.MX, "70000 mail.example.test.", None),
    (RecordType.NS, "ns.example.test. $INCLUDE", None),
    (RecordType.PTR, f"{'a' * 64}.test.", None),
    (RecordType.SRV, "0 5 sip.example.test.", None),
    (RecordType.TXT, '"open', None),
    (RecordType.TXT, "smörgås", "printable"),
    (RecordType.TXT, "a\x00b", "printable"),
    (RecordType.CAA, "0 issue", None),
    (RecordType.SSHFP, "4 2 zz", None),
]
HOSTILE = [
    "www\nevil 60 IN A 192.0.2.66",
    "www\r\nevil",
    "$INCLUDE /etc/passwd",
    "$GENERATE 1-99999999 a$",
    "www 60 IN A 192.0.2.66 ;",
    "www (",
    'www"',
    "www;",
    "w\\010w",
    "www\x00",
    "www\u2028evil",
    "..",
    "",
    "a" * 64,
    ".".join(["a" * 60] * 5),
]


def make_zone(domain: str = "example.test.", name: str = "example", **spec: Any) -> DNSZone:
    """Give a zone."""
    return DNSZone.model_validate(make_object(DNSZone, name, domain=domain, **spec))


def make_record(name: str, kind: str, *values: str, at: str = "", **spec: Any) -> DNSRecord:
    """Give a record of the zone, whose object is called after name and type unless `called` says otherwise."""
    called = spec.pop("called", f"{name.strip('.').replace('*', 'any').replace('@', 'apex')}-{kind.lower()}")
    body = make_object(DNSRecord, called, name=name, type=kind, records=list(values), **spec)
    body["metadata"] |= {"creationTimestamp": at or "2026-01-01T00:00:00Z", "generation": 1}
    return DNSRecord.model_validate(body)


def made_of(*records: DNSRecord, hosts: tuple[HostName, ...] = (), zone: DNSZone | None = None) -> Contents:
    """Give what a zone has of records and servers."""
    return contents(zone or make_zone(), records, hosts, canonical)


def reasons(found: Contents) -> dict[str, str]:
    """Give the reasons of all records by the names of their objects."""
    return {key[1]: str(verdict.reason) for key, verdict in found.verdicts.items()}


@pytest.mark.parametrize(("kind", "text", "written"), GOOD)
def test_every_type_is_written_in_one_way(kind: RecordType, text: str, written: str) -> None:
    """A value is written as a zone file has it, and writing what was written changes nothing."""
    assert canonical(kind, text) == written
    assert canonical(kind, written) == written


@pytest.mark.parametrize(("kind", "text", "told"), BAD)
def test_what_is_no_value_is_refused(kind: RecordType, text: str, told: str | None) -> None:
    """What a type does not have, and what would be read otherwise than it looks, is refused with a reason."""
    with pytest.raises(ValueError, match=told):
        canonical(kind, text)


@given(st.sampled_from(list(RecordType)), st.text(max_size=80))
def test_no_value_leaves_its_line(kind: RecordType, text: str) -> None:
    """Whatever a user writes becomes one printable line, which dnspython reads as that one record, or is refused."""
    try:
        written = canonical(kind, text)
    except ValueError:
        return
    text = render(AUTHORITY, [Entry("x.example.test.", kind.value, 60, (written,))], 1)
    zone = dns.zone.from_text(text, "example.test.")
    found = [(str(name), rdataset.rdtype) for name, rdataset in zone.iterate_rdatasets()]
    wanted = [("@", dns.rdatatype.SOA), ("@", dns.rdatatype.NS), ("x", dns.rdatatype.from_text(kind.value))]
    assert sorted(found) == sorted(wanted)


@given(st.text(max_size=300))
def test_a_long_text_stays_what_it_is(text: str) -> None:
    """A plain TXT value comes back as it was written, in strings of at most 255 bytes."""
    if not text or text.startswith('"') or not (text.isascii() and text.isprintable()):
        return
    written = canonical(RecordType.TXT, text)
    zone = dns.zone.from_text(render(AUTHORITY, [Entry("x.example.test.", "TXT", 60, (written,))], 1), "example.test.")
    (value,) = zone.find_rdataset("x", "TXT")
    assert b"".join(value.strings) == text.encode()


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leaves_its_line(name: str) -> None:
    """A name that the schema would refuse, and that got in all the same, is told of and written nowhere."""
    assert absolute(name, "example.test.") is None
    record = make_record("www", "A", "192.0.2.1").model_copy(deep=True)
    spoilt = record.model_copy(update={"spec": record.spec.model_copy(update={"name": name})})
    found = made_of(spoilt)
    assert found.entries == ()
    assert reasons(found) == {"www-a": "NameInvalid"}
    with pytest.raises(ValueError, match="no name"):
        render(AUTHORITY, [Entry(name, "A", 60, ("192.0.2.1",))], 1)


def test_the_renderer_trusts_nobody() -> None:
    """A value or type with a line break or anything unprintable stops the zone file rather than gets into it."""
    for value in ("192.0.2.1\nevil 60 IN A 192.0.2.66", "a\tb", "ü"):
        with pytest.raises(ValueError, match="does not stay in its line"):
            render(AUTHORITY, [Entry("x.example.test.", "A", 60, (value,))], 1)
    with pytest.raises(ValueError, match="does not stay in its line"):
        render(AUTHORITY, [Entry("x.example.test.", "A\n", 60, ("192.0.2.1",))], 1)


def test_a_zone_says_who_answers_for_it() -> None:
    """Start of authority and name servers come from zone and cloud; dots before the @ are not those of the domain."""
    text = render(AUTHORITY, [], 7)
    zone = dns.zone.from_text(text, "example.test.", relativize=False)
    (soa,) = zone.find_rdataset("example.test.", "SOA")
    assert soa.rname.labels == (b"host.master", b"example", b"test", b"")
    assert (str(soa.mname), soa.serial, soa.minimum) == ("ns1.cloud.test.", 7, 300)
    assert [str(item) for item in zone.find_rdataset("example.test.", "NS")] == ["ns1.cloud.test.", "ns2.cloud.test."]
    assert serial_of(text) == 7
    assert serial_of("; something else\n") is None


def test_the_order_of_records_does_not_matter() -> None:
    """Equal contents give equal text, so that nothing is written when only the order was another."""
    records = [make_record("a", "A", "192.0.2.2", "192.0.2.1"), make_record("b", "A", "192.0.2.3")]
    again = [records[1], make_record("a", "A", "192.0.2.1", "192.0.2.2")]
    assert render(AUTHORITY, made_of(*records).entries, 1) == render(AUTHORITY, made_of(*again).entries, 1)


def test_names_are_in_their_zone() -> None:
    """A name is relative, the zone itself, or in full; what is in full must lie in the zone."""
    assert absolute("@", "example.test.") == "example.test."
    assert absolute("*.apps", "example.test.") == "*.apps.example.test."
    assert absolute("www.example.test.", "example.test.") == "www.example.test."
    for name in ("www.other.test.", "notexample.test.", "test."):
        assert absolute(name, "example.test.") is None


def test_a_cname_is_alone() -> None:
    """Beside a CNAME nothing has its name; what was there first stays, and the zone itself cannot be one."""
    found = made_of(
        make_record("www", "A", "192.0.2.1"),
        make_record("www", "CNAME", "a.test.", at="2026-01-02T00:00:00Z"),
        make_record("ftp", "CNAME", "a.test."),
        make_record("ftp", "TXT", "x", at="2026-01-02T00:00:00Z"),
        make_record("@", "CNAME", "a.test."),
        make_record("@", "NS", "a.test."),
    )
    assert reasons(found) == {
        "www-a": "Published",
        "www-cname": "Conflict",
        "ftp-cname": "Published",
        "ftp-txt": "Conflict",
        "apex-cname": "NameInvalid",
        "apex-ns": "NameInvalid",
    }


def test_a_name_and_type_has_one_record() -> None:
    """Of two records of one name and type the older stays, in whatever way the name is written."""
    older = make_record("www", "A", "192.0.2.1", called="older")
    younger = make_record("www.example.test.", "A", "192.0.2.2", called="younger", at="2026-01-02T00:00:00Z")
    found = made_of(younger, older)
    assert reasons(found) == {"older": "Published", "younger": "Conflict"}
    assert found.entries == (Entry("www.example.test.", "A", 300, ("192.0.2.1",)),)
    assert "record older" in found.verdicts["demo", "younger"].message


def test_a_wrong_value_keeps_its_record_out() -> None:
    """A record with one bad value is not published by halves, and the others are not held up."""
    found = made_of(make_record("a", "MX", "10 ok.test.", "20 bad"), make_record("b", "A", "192.0.2.1"))
    assert reasons(found) == {"a-mx": "ValueInvalid", "b-a": "Published"}
    assert [entry.name for entry in found.entries] == ["b.example.test."]
    assert found.verdicts["demo", "a-mx"].reason is DNSRecordReason.VALUE_INVALID


def test_servers_have_names_where_users_gave_none() -> None:
    """Automatic records fill what is free; a record of the user's goes before them, also if it is a CNAME."""
    hosts = (
        HostName("web.example.test.", ("10.0.0.5", "fd00::5")),
        HostName("web.example.test.", ("10.0.0.6",)),
        HostName("db.example.test.", ("10.0.0.7",)),
        HostName("mail.example.test.", ("10.0.0.8",)),
    )
    found = made_of(make_record("db", "A", "192.0.2.1"), make_record("mail", "CNAME", "elsewhere.test."), hosts=hosts)
    assert found.entries == (
        Entry("db.example.test.", "A", 300, ("192.0.2.1",)),
        Entry("mail.example.test.", "CNAME", 300, ("elsewhere.test.",)),
        Entry("web.example.test.", "A", 300, ("10.0.0.5", "10.0.0.6")),
        Entry("web.example.test.", "AAAA", 300, ("fd00::5",)),
    )
    assert found.count == 5


def test_addresses_have_names_in_reverse_zones() -> None:
    """A reverse zone has the names of those addresses that lie in it, and no others."""
    hosts = [HostName("web.example.test.", ("10.0.0.5", "10.0.1.5", "fd00::5"))]
    (pointer,) = automatic(make_zone("0.0.10.in-addr.arpa."), hosts)
    assert pointer == Entry("5.0.0.10.in-addr.arpa.", "PTR", 300, ("web.example.test.",))
    (pointer,) = automatic(make_zone("0.0.d.f.ip6.arpa."), hosts)
    assert pointer.name == f"5.{'0.' * 27}0.0.d.f.ip6.arpa."


def test_no_project_takes_the_names_of_another() -> None:
    """On a network that projects share, a server of another project has that project's name in its own."""
    assert server_name(("demo", "web"), ("demo", "net"), "example.test.") == "web.example.test."
    assert server_name(("evil", "web"), ("demo", "net"), "example.test.") == "web.evil.example.test."
    assert is_name(server_name(("p", "w" * 63), ("demo", "net"), "example.test."))


@pytest.mark.parametrize(
    ("serial", "than", "expected"),
    [(2, 1, True), (1, 2, False), (1, 1, False), (0, 2**32 - 1, True), (2**31, 0, False), (2**32 - 1, 0, False)],
)
def test_serials_are_compared_in_a_circle(serial: int, than: int, expected: bool) -> None:
    """RFC 1982: behind the greatest number comes the smallest."""
    assert newer(serial, than) is expected


@given(st.lists(st.none() | st.integers(0, 2**32 - 1), max_size=1), st.integers(0, 2**33))
def test_the_next_serial_is_greater(known: list[int | None], now: int) -> None:
    """Whatever the clock says, the next serial is newer than the one that was served."""
    serial = next_serial(known, now)
    assert 0 <= serial < 2**32
    assert all(newer(serial, than) for than in known if than is not None)
