"""What the agent writes, and when it writes nothing."""

from dataclasses import replace
from pathlib import Path

from kumulus_agent.consoles.log import carried, console_log, earlier
from kumulus_agent.hosts.plan import (
    Facts,
    Machine,
    SelfTest,
    acknowledged,
    differs,
    host_status,
    proven,
    remembered_self_test,
)
from kumulus_agent.images.controller import needs_import
from kumulus_agent.networks.plan import Here, network_desired
from kumulus_agent.servers.desired import Desired
from kumulus_agent.servers.status import Found, same, server_status, started_parts
from kumulus_api.server_status import ObservedPowerState, ReadyReason

INSTANCE = "22222222-2222-4222-8222-222222222222"
DESIRED = Desired(("demo", "web"), "u", 3, INSTANCE, 2, 1, 1, 1, None, (), (), True, False, "", "", False, False, True)
FACTS = Facts(
    Machine("boot", "x86_64", 2, 1 << 30, 1 << 40, "6.1", "0.1.0"), "10.0.0.1", "9.0.0", "7.2.0", (),
    SelfTest("qemu"), "", (), (),
)  # fmt: skip


def test_equal_server_status_is_not_written_again() -> None:
    """A status made again from the same facts equals the one that was written."""
    found = Found(ObservedPowerState.RUNNING, ReadyReason.RUNNING, "", started_parts(), {"total": 5})
    written = server_status(DESIRED, {}, found)
    again = Found(ObservedPowerState.RUNNING, ReadyReason.RUNNING, "", started_parts())
    assert same(server_status(DESIRED, written, again), written)
    off = Found(ObservedPowerState.STOPPED, ReadyReason.STOPPED)
    assert not same(server_status(DESIRED, written, off), written)


def test_what_others_write_is_left_alone() -> None:
    """Floating addresses, which the operator writes, neither are removed nor have the agent write again."""
    found = Found(ObservedPowerState.RUNNING, ReadyReason.RUNNING)
    written = server_status(DESIRED, {}, found)
    seen = written | {"floatingIPs": [{"address": "203.0.113.9"}]}
    assert same(server_status(DESIRED, seen, found), seen)
    assert "floatingIPs" not in server_status(DESIRED, seen, found)


def test_what_a_guest_says_is_told_while_it_runs() -> None:
    """A guest's word is kept while nothing is known, replaced by news with the time of the first, and dropped."""
    running = Found(ObservedPowerState.RUNNING, ReadyReason.RUNNING)
    said = {"connectedSince": "2026-01-01T00:00:00Z", "hostname": "web"}
    told = server_status(DESIRED, {}, replace(running, guest_agent=said))
    assert told["guestAgent"] == said
    assert same(server_status(DESIRED, told, replace(running, guest_agent=None)), told)
    later = {"connectedSince": "2026-02-02T00:00:00Z", "hostname": "web"}
    assert same(server_status(DESIRED, told, replace(running, guest_agent=later)), told)
    news = server_status(DESIRED, told, replace(running, guest_agent=later | {"hostname": "db"}))
    assert news["guestAgent"] == said | {"hostname": "db"}
    gone = server_status(DESIRED, told, running)
    assert "guestAgent" not in gone
    assert not same(gone, told)
    assert "guestAgent" not in server_status(DESIRED, {}, replace(running, guest_agent=None))


def test_host_status_is_stable_and_survives_a_new_agent() -> None:
    """The Host's status is rewritten only for news, and a new agent knows the self-test's result of the same boot."""
    status = host_status(1, {}, FACTS)
    assert not differs(host_status(1, status, FACTS), status)
    assert remembered_self_test(status, "boot") == SelfTest("qemu")
    assert remembered_self_test(status, "another boot") is None


def test_a_host_without_keepalived_says_so_and_serves() -> None:
    """What only takeovers or VPNs need is named as missing, and keeps the host from nothing else."""
    for missing, ready in (
        (("keepalived",), "True"),
        (("charon-systemd", "keepalived", "libcharon-extra-plugins"), "True"),
        (("charon-systemd", "dnsmasq-base"), "False"),
        (("dnsmasq-base", "keepalived"), "False"),
    ):
        status = host_status(1, {}, replace(FACTS, missing_packages=missing))
        found = {item["type"]: item["status"] for item in status["conditions"]}
        assert status["missingPackages"] == list(missing)
        assert (found["PackagesPresent"], found["Ready"]) == ("False", ready)


def test_a_host_whose_tables_are_small_says_so_and_serves() -> None:
    """What the machine's owner is to set is named; the host is Ready, and nothing is said before that is known."""
    small = ("net.netfilter.nf_conntrack_max=2097152 (it is 262144)",)
    for tables, large in ((small, "False"), ((), "True"), (None, None)):
        status = host_status(1, {}, replace(FACTS, small_tables=tables))
        found = {item["type"]: item for item in status["conditions"]}
        assert found.get("TablesLarge", {}).get("status") == large
        assert found["Ready"]["status"] == "True"
        if tables:
            assert small[0] in found["TablesLarge"]["message"]
            assert not differs(host_status(1, status, FACTS), status)


def test_a_self_test_says_how_guests_run() -> None:
    """Guests run as they were seen to; where KVM is asked for, emulation is a failure that says why."""
    failures = {"kvm": "silent", "qemu": "no binary"}
    assert proven("kvm", {}, "auto") == SelfTest("kvm")
    assert proven("qemu", failures, "auto") == SelfTest("qemu")
    assert proven(None, failures, "auto") == SelfTest("", "kvm: silent; qemu: no binary")
    assert "kvm: silent" in proven("qemu", failures, "kvm").failure


def test_revoked_instance_is_acknowledged_when_nothing_is_left() -> None:
    """A revocation is acknowledged only without a domain of its epoch or a lower one, and without files."""
    revoked = [{"instanceID": INSTANCE, "epoch": 2}]
    assert acknowledged(revoked, {INSTANCE: 2}, ()) == ()
    assert acknowledged(revoked, {INSTANCE: 1}, ()) == ()
    assert acknowledged(revoked, {}, (INSTANCE,)) == ()
    assert len(acknowledged(revoked, {}, ())) == 1


def test_image_that_can_never_be_imported_is_left_alone() -> None:
    """A terminal failure is not tried again, a failed download is."""

    def image(reason: str) -> dict[str, object]:
        ready = {"type": "Ready", "status": "False", "reason": reason, "observedGeneration": 1}
        return {"metadata": {"generation": 1}, "status": {"importHost": "h1", "conditions": [ready]}}

    assert not needs_import(image("ChecksumMismatch"), "h1")
    assert needs_import(image("DownloadFailed"), "h1")
    assert not needs_import(image("DownloadFailed"), "h2")


def test_network_knows_other_hosts_and_not_itself() -> None:
    """Peers and neighbours are those endpoints that are on other hosts."""

    def endpoint(host: str, number: int) -> dict[str, object]:
        return {
            "port": f"p{number}", "mac": f"0e:00:00:00:00:0{number}", "addresses": [f"10.5.0.1{number}"],
            "host": host, "tunnelAddress": f"10.99.0.{number}", "hostname": f"s{number}",
        }  # fmt: skip

    endpoints = [endpoint("h1", 1), endpoint("h2", 2)]
    slices = [{"metadata": {}, "spec": {"network": {"name": "net"}, "vni": 4097, "endpoints": endpoints}}]
    desired = network_desired(4097, None, slices, (), Here("h1", "10.99.0.1", 1450))
    assert desired.peers == {"10.99.0.2"}
    assert desired.neighbours == {("0e:00:00:00:00:02", "10.99.0.2")}
    assert [record.name for record in desired.records] == ["s1", "s2"]


def test_console_log_reaches_back_into_the_rotated_part(tmp_path: Path) -> None:
    """The last lines are given across the rotation."""
    log = tmp_path / "console.log"
    log.with_name("console.log.0").write_bytes(b"a\nb\n")
    log.write_bytes(b"c\nd\n")
    assert console_log(log, 3) == b"b\nc\nd\n"
    assert console_log(log, 0) == b"a\nb\nc\nd\n"
    assert console_log(log, 1) == b"d\n"


def test_console_log_goes_on_where_the_guest_came_from(tmp_path: Path) -> None:
    """What was said on other hosts comes first, a line that the switch has cut is one, and no hole is passed over."""
    log = tmp_path / "console.log"
    earlier(log).write_bytes(b"a\nb")
    log.write_bytes(b"c\nd\n")
    assert console_log(log, 0) == carried(log) == b"a\nbc\nd\n"
    assert console_log(log, 2) == b"bc\nd\n"
    log.with_name("console.log.0").write_bytes(b"-\n")
    assert console_log(log, 0) == b"a\nb-\nc\nd\n"
    log.with_name("console.log.1").write_bytes(b"more than is shown\n")
    assert console_log(log, 0) == b"-\nc\nd\n"
