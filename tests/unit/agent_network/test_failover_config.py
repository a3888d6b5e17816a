"""What keepalived is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kumulus_agent.failover.config import Files, Instance, Tracked, VirtualAddress, VirtualRule, render
from kumulus_agent.failover.notices import Role, last_role

FILES = Files(Path("/run/kumulus/vrrp/0"))
MEMBER = Instance(
    interface="kr0",
    source="fe80::1",
    peers=("fe80::2",),
    priority=100,
    addresses=frozenset({VirtualAddress("kr0", "fe80::ff"), VirtualAddress("kr1", "203.0.113.2")}),
    rules=frozenset({VirtualRule(34000, 10), VirtualRule(33000, 10, "10.0.0.5")}),
)

TEXT = """\
global_defs {
    vrrp_version 3
    vrrp_notify_fifo /run/kumulus/vrrp/0/notify.fifo
    vrrp_garp_master_refresh 5
    vrrp_startup_delay 10
}
vrrp_instance gateway {
    state BACKUP
    nopreempt
    interface kr0
    virtual_router_id 1
    priority 100
    advert_int 1
    native_ipv6
    unicast_src_ip fe80::1
    unicast_peer {
        fe80::2
    }
    virtual_ipaddress {
        fe80::ff/128 dev kr0
    }
    virtual_ipaddress_excluded {
        203.0.113.2/32 dev kr1
    }
    virtual_rules {
        from 10.0.0.5 lookup 10 preference 33000
        from 0.0.0.0/0 lookup 10 preference 34000
    }
}
"""


def test_the_whole_file() -> None:
    """A member is told all of its part, and never to preempt."""
    assert render("gateway", replace(MEMBER, delay_seconds=10), FILES) == TEXT


def test_members_of_ipv4() -> None:
    """Members that speak IPv4 share IPv4 addresses, and carry others besides."""
    member = replace(MEMBER, interface="kr1", source="10.0.0.1", peers=("10.0.0.2", "10.0.0.3"))
    text = render("vip", member, FILES)
    assert "native_ipv6" not in text
    assert "    virtual_ipaddress {\n        203.0.113.2/32 dev kr1\n    }" in text
    assert "    virtual_ipaddress_excluded {\n        fe80::ff/128 dev kr0\n    }" in text


def test_adverts_speak_of_nothing_that_may_differ() -> None:
    """Trap: members whose adverts name other addresses do not hear each other; so those of IPv6 are besides, too."""
    more = MEMBER.addresses | {VirtualAddress("kr1", "2001:db8::2")}
    rules = frozenset({VirtualRule(34000, 10, family=6), VirtualRule(33000, 10, "2001:db8::5", 6)})
    text = render("vip", replace(MEMBER, addresses=more, rules=rules), FILES)
    assert "    virtual_ipaddress {\n        fe80::ff/128 dev kr0\n    }" in text
    assert "        2001:db8::2/128 dev kr1 preferred_lft forever\n" in text
    assert "        from 2001:db8::5 lookup 10 preference 33000\n        from ::/0 lookup 10 preference 34000" in text
    with pytest.raises(ValueError, match="IPv4"):
        VirtualRule(33000, 10, "2001:db8::5")


@pytest.mark.parametrize(
    "change",
    [
        {"interface": "kr0\n}"},
        {"source": "fe80::1 }"},
        {"peers": ()},
        {"peers": ("10.0.0.2",)},
        {"priority": 255},
        {"router_id": 256},
        {"advert_seconds": 0.001},
        {"addresses": frozenset({VirtualAddress("kr1", "203.0.113.2")})},
    ],
)
def test_what_keepalived_would_not_take_or_take_otherwise_is_refused(change) -> None:
    """No value brings a line of its own into the file, and none is out of VRRP's bounds."""
    with pytest.raises(ValueError, match=r"."):
        replace(MEMBER, **change)


def test_names_and_addresses_are_such() -> None:
    """What is not an address, an interface or a name is refused."""
    with pytest.raises(ValueError, match="interface"):
        VirtualAddress("eth0 ", "10.0.0.1")
    with pytest.raises(ValueError, match="IPv4"):
        VirtualAddress("eth0", "10.0.0.1/32 dev lo")
    with pytest.raises(ValueError, match=r"0\.0\.0\.0"):
        VirtualRule(1, 1, "0.0.0.0/0")
    with pytest.raises(ValueError, match="name"):
        render("gate way", MEMBER, FILES)


def test_the_last_notice_counts() -> None:
    """Of several notices, also cut ones, the last whole one tells the state."""
    told = 'INSTANCE "gateway" BACKUP 100\nINSTANCE "gateway" MASTER 100\nINSTANCE "gate'
    assert last_role(told) is Role.MASTER
    assert last_role('INSTANCE "gateway" DELETED 0\n') is None
    assert last_role("") is None


def test_a_rule_may_be_for_a_network_of_destinations(tmp_path: Path) -> None:
    """The word `to` tells keepalived of it; what is no network is refused."""
    text = render(
        "gateway", replace(MEMBER, rules=frozenset({VirtualRule(7, 10, destination="10.20.0.0/16")})), Files(tmp_path)
    )
    assert "from 0.0.0.0/0 to 10.20.0.0/16 lookup 10 preference 7" in text
    with pytest.raises(ValueError, match="bad"):
        VirtualRule(7, 10, destination="bad")


def test_a_member_without_its_program_does_not_lead() -> None:
    """A program is looked at by its number and name, and by nothing that a shell would read."""
    text = render(
        "lb", replace(MEMBER, tracked=Tracked(Path("/run/kumulus/lb/0/pid"), Path("/usr/sbin/haproxy"))), FILES
    )
    found = "--pidfile /run/kumulus/lb/0/pid --exec /usr/sbin/haproxy"
    script = f"/usr/sbin/start-stop-daemon --status {found}"
    assert (
        f'vrrp_script program {{\n    script "{script}"\n    interval 1\n    timeout 3\n    fall 2\n    rise 1\n}}\n'
        in text
    )
    assert "    track_script {\n        program\n    }\n" in text
    assert "    enable_script_security\n    script_user root\n" in text
    assert "script" not in render("lb", MEMBER, FILES)


@pytest.mark.parametrize(
    ("path", "program"), [("/run/a b", "/bin/x"), ('/run/"', "/bin/x"), ("run", "/bin/x"), ("/a", "/bin/$x")]
)
def test_what_would_be_read_otherwise_is_no_program(path: str, program: str) -> None:
    """Paths with blanks or quotes and relative ones are refused."""
    with pytest.raises(ValueError, match="is not"):
        Tracked(Path(path), Path(program))
