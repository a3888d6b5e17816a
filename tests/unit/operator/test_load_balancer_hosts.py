"""Which hosts a load balancer has when the two of them decide by themselves."""

from __future__ import annotations

from kumulus_api.load_balancer import LoadBalancerAssignment
from kumulus_operator.load_balancers.hosts import Hosts, Seen, choose_hosts, moved_takeover, priority_of, standing
from kumulus_operator.refusal import Refusal

ID = "11111111-1111-4111-8111-111111111111"
TUNNELS = {f"h{number}": f"192.0.2.{number}" for number in (1, 2, 3)}
ALL = ("h1", "h2", "h3")


def given(host: str = "h1", standby: str = "h2", priority: int = 100) -> LoadBalancerAssignment:
    """An assignment to two hosts that decide by themselves."""
    own = {"port": "lb-own", "portID": ID, "mac": "02:00:00:00:00:31", "addresses": ["10.0.0.31/24"]}
    how = own | {"priority": priority, "tunnelAddress": "192.0.2.1", "standbyTunnelAddress": "192.0.2.2"}
    body = {
        "loadBalancerID": ID,
        "port": "lb-vip",
        "portID": ID,
        "mac": "02:00:00:00:00:30",
        "addresses": ["10.0.0.30/24"],
        "network": "private",
        "networkNamespace": "red",
        "vni": 1,
        "host": host,
        "standby": standby,
        "takeover": how,
    }
    return LoadBalancerAssignment.model_validate(body)


def test_a_silent_host_keeps_it_while_its_standby_waits() -> None:
    """It serves though its agent says nothing, as long as the standby hears it."""
    seen = Seen(["h2", "h3"], tunnels=TUNNELS, silent=frozenset({"h1"}))
    assert choose_hosts(given(), seen) == Hosts("h1", "h2", by_itself=True)


def test_who_has_taken_over_is_the_host() -> None:
    """The former one is the standby if it is able, else another; where there is no other it may come back."""
    silent = frozenset({"h1"})
    assert choose_hosts(given(), Seen(ALL, tunnels=TUNNELS, taken_over=True)) == Hosts("h2", "h1", by_itself=True)
    seen = Seen(["h2", "h3"], tunnels=TUNNELS, silent=silent, taken_over=True)
    assert choose_hosts(given(), seen) == Hosts("h2", "h3", by_itself=True)
    seen = Seen(["h2"], tunnels=TUNNELS, silent=silent, taken_over=True)
    assert choose_hosts(given(), seen) == Hosts("h2", "h1", by_itself=True)


def test_a_host_in_maintenance_leaves_it() -> None:
    """The standby has it, and one that is not able does not wait for it."""
    assert choose_hosts(given(), Seen(["h2", "h3"], tunnels=TUNNELS)) == Hosts("h2", "h3", by_itself=True)
    assert choose_hosts(given(), Seen(["h2"], tunnels=TUNNELS)) == Hosts("h2")


def test_a_standby_without_keepalived_gives_way_to_one_with_it() -> None:
    """Where no other has it, the operator moves the load balancer."""
    without = {name: TUNNELS[name] for name in ("h1", "h3")}
    assert choose_hosts(given(), Seen(ALL, tunnels=without)) == Hosts("h1", "h3", by_itself=True)
    assert choose_hosts(given(), Seen(["h1", "h2"], tunnels=without)) == Hosts("h1", "h2")


def test_priorities_grow_so_that_a_former_host_gives_way() -> None:
    """Of all that present and former hosts believe theirs, that of the one that serves is the greatest."""
    assert priority_of(None, Hosts("h1", "h2", by_itself=True)) == 100
    assert priority_of(given(), Hosts("h1", "h2", by_itself=True)) == 100
    assert priority_of(given(), Hosts("h2", "h1", by_itself=True)) == 101
    assert priority_of(given(), Hosts("h1", "h3", by_itself=True)) == 102


def test_a_move_keeps_the_standbys_port() -> None:
    """Without its network's help only hosts, tunnels and priority change; without a second host nothing is left."""
    moved = moved_takeover(given(), Hosts("h2", "h3", by_itself=True), TUNNELS)
    assert moved is not None
    assert (moved.tunnel_address, moved.standby_tunnel_address, moved.priority) == ("192.0.2.2", "192.0.2.3", 101)
    assert moved.mac == "02:00:00:00:00:31"
    assert moved_takeover(given(), Hosts("h2"), TUNNELS) is None


def test_it_is_told_why_nobody_takes_over() -> None:
    """Each of the reasons, and none if somebody does."""
    pair = Hosts("h1", "h2", by_itself=True)
    told = [standing(Hosts("h1"), None), standing(Hosts("h1", "h2"), None), standing(pair, Refusal("x", "full"))]
    assert [item.reason.value for item in told] == ["NoStandby", "KeepalivedMissing", "NoAddressForStandby"]
    assert not any(item.holds for item in told)
    assert standing(pair, None).holds
