"""What charon is told of tunnels, what its alerts mean, and what is told of it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.vpn.alerts import RECORD, Alert, read
from kumulus_agent.vpn.config import Files, Tunnel, connection, least_mtu, secret, settings
from kumulus_agent.vpn.report import HereTunnel, outcome, tunnel_status
from kumulus_agent.vpn.sessions import Established
from kumulus_api import VPNConnection
from kumulus_api.testing import make_assigned
from kumulus_api.vpn_connection import DHGroup, VPNConnectionReason, VPNEncryption

NOW = datetime(2026, 11, 22, tzinfo=UTC)
UP = Established(frozenset({"net"}), "198.51.100.9:4500", 60)


def make_tunnel(**terms: Any) -> Tunnel:
    """Give a tunnel of the example's terms, changed."""
    body = make_assigned(VPNConnection, "office", "h1")
    body["spec"]["assignment"] |= terms
    found = VPNConnection.model_validate(body).spec.assignment
    assert found is not None
    return Tunnel("demo", "office", found)


def test_a_connection_is_as_its_terms_say() -> None:
    """Addresses, identities, proposals and times are the assignment's; new keys come before the old ones end."""
    found = connection(make_tunnel(ike={"encryption": "AES128", "integrity": "SHA512", "dhGroup": "Group16"}))
    assert found["proposals"] == ["aes128-sha512-modp4096"]
    assert (found["version"], found["local_addrs"], found["remote_addrs"]) == ("2", ["203.0.113.2"], ["198.51.100.9"])
    assert (found["rekey_time"], found["over_time"], found["dpd_delay"]) == ("77760s", "8640s", "30s")
    child = found["children"]["net"]
    assert (child["local_ts"], child["remote_ts"]) == (["10.0.0.0/24"], ["10.20.0.0/16"])
    assert (child["esp_proposals"], child["life_time"]) == (["aes256-sha256-modp2048"], "3600s")
    assert {child[name] for name in ("start_action", "close_action", "dpd_action")} == {"start"}


def test_ikev1_has_a_pair_of_networks_each() -> None:
    """IKEv1 knows one network at each end, and has a time after which a silent peer is dead."""
    found = connection(make_tunnel(ike={"version": "IKEv1"}, peerCIDRs=["10.20.0.0/16", "10.21.0.0/16"]))
    assert [child["remote_ts"] for child in found["children"].values()] == [["10.20.0.0/16"], ["10.21.0.0/16"]]
    assert (found["version"], found["dpd_timeout"]) == ("1", "120s")


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"initiator": "ResponseOnly"}, {"start_action": "none", "close_action": "none", "dpd_action": "none"}),
        ({"dpd": {"action": "Clear"}}, {"start_action": "start", "close_action": "start", "dpd_action": "none"}),
    ],
)
def test_who_begins(terms: dict[str, Any], expected: dict[str, str]) -> None:
    """This end begins only where it is to."""
    (child,) = connection(make_tunnel(**terms))["children"].values()
    assert expected.items() <= child.items()


def test_nobody_asks_whether_a_peer_lives_where_that_is_disabled() -> None:
    """Dead peer detection can be off."""
    assert connection(make_tunnel(dpd={"action": "Disabled"}))["dpd_delay"] == "0s"


def test_each_word_of_the_api_has_one_of_charons() -> None:
    """All ciphers and groups that the schema admits can be asked for."""
    for cipher in VPNEncryption:
        for group in DHGroup:
            found = connection(make_tunnel(esp={"encryption": cipher.value, "pfs": group.value}))
            assert re.fullmatch(r"[a-z0-9-]+", found["children"]["net"]["esp_proposals"][0])


def test_another_content_is_another_name() -> None:
    """What is loaded is known by its name: another term, or another version of the key, gives another."""
    tunnel = make_tunnel()
    others = [make_tunnel(pskVersion="2"), make_tunnel(peerID="b"), make_tunnel(esp={"pfs": "Group15"})]
    assert len({tunnel.label, *(other.label for other in others)}) == 4
    assert tunnel.key_label != others[0].key_label
    assert make_tunnel(host="h2").label == tunnel.label == make_tunnel(mtu=1200).label
    assert {other.stem for other in others} == {tunnel.stem}


def test_a_key_is_for_its_two_ends() -> None:
    """No other connection's peer is let in by it."""
    found = secret(make_tunnel(localID="a", peerID="b"), b"\xff")
    assert (found["owners"], found["data"], found["type"]) == (["a", "b"], b"\xff", "IKE")


def test_settings_name_files_and_plugins_and_no_key() -> None:
    """Each charon has sockets of its own; the least MTU of its tunnels is that of its routes."""
    text = settings(Files(Path("/run/x")), least_mtu([make_tunnel(mtu=1300), make_tunnel(mtu=1200)]))
    assert "unix:///run/x/vici" in text
    assert "mtu = 1200" in text
    assert "kernel-libipsec" in text


def record(number: int, name: str = "", address: str = "") -> bytes:
    """Give a record as charon writes it."""
    parts = ((b"words of charon", 384), (name.encode(), 64), (b"identity", 256), (address.encode(), 60))
    return number.to_bytes(4) + b"".join(text.ljust(size, b"\0") for text, size in parts)


def test_an_alert_says_what_it_is_about() -> None:
    """Connection and address are read, the reason is one of the API's, and nothing of the peer's is in the message."""
    assert len(record(2)) == RECORD
    found = read(record(3, "c1", "198.51.100.9[4500]"))
    assert found is not None
    assert (found.connection, found.address) == ("c1", "198.51.100.9")
    assert found.reason is VPNConnectionReason.AUTHENTICATION_FAILED
    assert "identity" not in found.message
    assert "words" not in found.message
    assert read(record(13)) is None


ALERT = Alert("c", "", VPNConnectionReason.NO_PROPOSAL_CHOSEN, "nothing in common")


@pytest.mark.parametrize(
    ("terms", "state", "facts", "reason"),
    [
        ({}, UP, {}, "Established"),
        ({}, UP, {"alert": ALERT}, "Established"),
        ({}, None, {"alert": ALERT, "connecting": True}, "NoProposalChosen"),
        ({}, None, {"connecting": True}, "Connecting"),
        ({}, None, {}, "Connecting"),
        ({}, None, {"was_up": True}, "PeerGone"),
        ({"initiator": "ResponseOnly"}, None, {}, "WaitingForPeer"),
        ({"ike": {"version": "IKEv1"}, "peerCIDRs": ["10.1.0.0/24", "10.2.0.0/24"]}, None, {}, "Connecting"),
        (
            {"ike": {"version": "IKEv1"}, "peerCIDRs": ["10.1.0.0/24", "10.2.0.0/24"]},
            Established(frozenset({"net0"})),
            {},
            "NotEstablished",
        ),
    ],
)
def test_the_reason_is_what_is_known(
    terms: dict[str, Any], state: Established | None, facts: dict[str, Any], reason: str
) -> None:
    """Established counts only with all networks; else the last failure is told, and before it the attempt."""
    given: dict[str, Any] = {"connecting": False, "alert": None, "was_up": False} | facts
    assert outcome(make_tunnel(**terms), state, **given)[0].value == reason


def test_a_status_is_written_when_it_changes() -> None:
    """`since` stays as long as packets pass, also when keys are renewed; the same again is no write."""
    here = HereTunnel(make_tunnel(), "u", 3)
    up = (VPNConnectionReason.ESTABLISHED, "packets pass")
    first = tunnel_status(here, "h1", {}, up, UP, now=NOW)
    assert first is not None
    assert (first["since"], first["peer"]) == ("2026-11-21T23:59:00Z", "198.51.100.9:4500")
    renewed = Established(UP.passing, UP.peer, 0)
    assert tunnel_status(here, "h1", first, up, renewed, now=NOW) is None
    down = tunnel_status(here, "h1", first, (VPNConnectionReason.PEER_GONE, "gone"), None, now=NOW)
    assert down is not None
    assert "since" not in down
    assert tunnel_status(here, "h2", first, up, renewed, now=NOW) is not None
