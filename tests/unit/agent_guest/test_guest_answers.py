"""What of a guest's word comes into a status."""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kumulus_agent.guest.answers import is_whole, plain, read_answer
from kumulus_api.server_status import GuestAgent

MAC = "52:54:00:12:34:56"
DEBIAN: dict[str, Any] = {
    "os.id": "debian",
    "os.name": "Debian GNU/Linux",
    "os.pretty-name": "Debian GNU/Linux 12 (bookworm)",
    "os.version": "12 (bookworm)",
    "os.version-id": "12",
    "os.kernel-release": "6.1.0-32-cloud-amd64",
    "os.machine": "x86_64",
    "hostname": "web",
    "if.count": 3,
    "if.0.name": "lo",
    "if.0.hwaddr": "00:00:00:00:00:00",
    "if.0.addr.count": 1,
    "if.0.addr.0.type": "ipv4",
    "if.0.addr.0.addr": "127.0.0.1",
    "if.0.addr.0.prefix": 8,
    "if.1.name": "docker0",
    "if.1.hwaddr": "02:42:00:00:00:01",
    "if.1.addr.count": 1,
    "if.1.addr.0.addr": "172.17.0.1",
    "if.1.addr.0.prefix": 16,
    "if.2.name": "eth0",
    "if.2.hwaddr": MAC.upper(),
    "if.2.addr.count": 3,
    "if.2.addr.0.addr": "fe80::5054:ff:fe12:3456",
    "if.2.addr.0.prefix": 64,
    "if.2.addr.1.addr": "2001:DB8::5",
    "if.2.addr.1.prefix": 64,
    "if.2.addr.2.addr": "10.0.0.5",
    "if.2.addr.2.prefix": 24,
}


def test_a_debian_is_told() -> None:
    """System, name and addresses come out, the server's own interface first, without loopback and link-local ones."""
    answer = read_answer(DEBIAN, {MAC})
    assert answer == {
        "os": {
            "id": "debian",
            "name": "Debian GNU/Linux 12 (bookworm)",
            "version": "12",
            "kernel": "6.1.0-32-cloud-amd64",
            "machine": "x86_64",
        },
        "hostname": "web",
        "addresses": [
            {"interface": "eth0", "mac": MAC, "address": "10.0.0.5", "prefix": 24},
            {"interface": "eth0", "mac": MAC, "address": "2001:db8::5", "prefix": 64},
            {"interface": "docker0", "mac": "02:42:00:00:00:01", "address": "172.17.0.1", "prefix": 16},
        ],
    }
    assert is_whole(answer, {MAC})


def test_a_guest_that_boots_has_not_said_all() -> None:
    """Without an address of a NIC that the guest has, an answer is not whole; a guest without NICs needs none."""
    early = read_answer({name: value for name, value in DEBIAN.items() if not name.startswith("if.2")}, {MAC})
    assert not is_whole(early, {MAC})
    assert is_whole(early, set())
    assert not is_whole(read_answer({}, set()), set())


def test_the_order_of_a_guests_words_says_nothing() -> None:
    """The same addresses in another order make the same answer, so that it is not written again."""
    other = dict(DEBIAN)
    for name in ("addr", "prefix"):
        other[f"if.2.addr.1.{name}"], other[f"if.2.addr.2.{name}"] = (
            DEBIAN[f"if.2.addr.2.{name}"],
            DEBIAN[f"if.2.addr.1.{name}"],
        )
    assert read_answer(other, {MAC}) == read_answer(DEBIAN, {MAC})


def test_what_deceives_the_eye_is_left_out() -> None:
    """Escapes, ends of lines, changed direction and invisible letters do not reach a terminal; the rest is readable."""
    assert plain("\x1b[31mred\x1b[0m\r\nReady  True", 64) == "[31mred[0m Ready True"
    assert plain("a\u202eb\u200bc\u2066d\ud800e\x00", 64) == "abcde"
    assert plain("Grüße", 64) == "Grüße"
    assert plain("x" * 1000, 64) == "x" * 64
    assert (plain(None, 64), plain(7, 64), plain("\u200b\n", 64)) == ("", "", "")


_TEXT = st.text(max_size=400) | st.sampled_from(["::1", "10.0.0.1", "fe80::1%eth0", "ff02::1", "1.2.3.4/24", MAC, "-1"])
_VALUES = (
    _TEXT
    | st.integers(min_value=-(2**63), max_value=2**64)
    | st.none()
    | st.booleans()
    | st.floats()
    | st.lists(_TEXT, max_size=2)
)
_KEYS = st.sampled_from([*DEBIAN, "os", "if", "if.-1.name", "users.count"]) | st.text(max_size=30)


@given(hostile=st.dictionaries(_KEYS, _VALUES, max_size=40), macs=st.frozensets(st.just(MAC)))
def test_whatever_a_guest_says_fits_into_the_status(hostile: dict[str, Any], macs: frozenset[str]) -> None:
    """An answer of any shape ends in a status that the API takes, bounded and printable, or in less of it."""
    answer = read_answer(DEBIAN | hostile, macs)
    told = GuestAgent.model_validate({"connectedSince": "2026-01-01T00:00:00Z"} | answer)
    assert told.dump() == {"connectedSince": "2026-01-01T00:00:00Z", "addresses": []} | answer
    words = [told.hostname, *(told.os.dump().values() if told.os else ()), *(a.interface for a in told.addresses)]
    assert all(word is None or (word.isprintable() and word == word.strip() and word) for word in words)
    for item in told.addresses:
        assert str(ipaddress.ip_address(item.address)) == item.address
    assert read_answer(DEBIAN | hostile, macs) == answer


@given(interfaces=st.integers(0, 3000), each=st.integers(0, 3000))
def test_more_than_anybody_reads_is_cut_off(interfaces: int, each: int) -> None:
    """However many interfaces and addresses a guest claims, no more than a screenful is told."""
    values: dict[str, Any] = {"if.count": interfaces}
    for number in range(min(interfaces, 300)):
        values |= {f"if.{number}.name": f"eth{number}", f"if.{number}.addr.count": each}
        for place in range(min(each, 3)):
            address = f"10.{number // 256}.{number % 256}.{place + 1}"
            values |= {f"if.{number}.addr.{place}.addr": address, f"if.{number}.addr.{place}.prefix": 24}
    assert len(read_answer(values, set()).get("addresses", [])) <= 32
