"""Ports and volumes of a placed server: which it keeps, which it lacks, and what the books say."""

from __future__ import annotations

import copy
from typing import Any

from kumulus_api import Server
from kumulus_api.devices import missing_interfaces, missing_volumes, named_ports
from kumulus_api.tenancy import Quota
from kumulus_api.testing import PORT_ID, VOLUME_ID, make_assigned
from kumulus_operator.ledger.ledger import Ledger
from kumulus_operator.ledger.plan import Request
from kumulus_operator.placement.facts import Amounts, HostFacts, Wish
from kumulus_operator.servers.devices import left

GI = 2**30
DATA = {"name": "data", "volume": "data", "volumeID": VOLUME_ID, "size": "1Gi"}


def make_server(detached: tuple[str, ...] = (), seen: int = 3, **spec: Any) -> Server:
    """Give a placed server that was given a port and a volume; `seen` is the generation that its agent has seen."""
    body = copy.deepcopy(make_assigned(Server, "web", "h1"))
    body["metadata"] |= {"generation": 3, "uid": "u"}
    body["spec"]["assignment"]["volumes"] = [DATA]
    body["spec"] |= spec
    body["status"] = {"observedGeneration": seen, "detached": list(detached)}
    return Server.model_validate(body)


def test_what_is_named_stays() -> None:
    """What the spec names is kept whatever the agent says, and nothing is missing."""
    server = make_server((PORT_ID, VOLUME_ID))
    assert left(server) is None
    assert missing_interfaces(server) == []
    assert missing_volumes(server) == []


def test_what_is_taken_away_stays_until_it_is_unplugged() -> None:
    """It leaves the assignment when the agent has said so of the newest spec, and each by itself."""
    assert left(make_server(networks=[], volumes=[])) is None
    assert left(make_server((VOLUME_ID,), seen=2, networks=[], volumes=[])) is None
    one = left(make_server((VOLUME_ID,), networks=[], volumes=[]))
    assert one is not None
    assert (len(one.ports), len(one.volumes)) == (1, 0)
    both = left(make_server((VOLUME_ID, PORT_ID), networks=[], volumes=[]))
    assert both is not None
    assert (both.ports, both.volumes) == ([], [])


def test_an_interface_that_is_another_now_waits_for_the_one_of_its_name() -> None:
    """Under one name first the old port goes, then the new one comes."""
    changed = make_server(networks=[{"name": "eth0", "network": {"name": "other"}}])
    assert named_ports(changed) == []
    assert missing_interfaces(changed) == []
    assert left(make_server((PORT_ID,), networks=[{"name": "eth0", "network": {"name": "other"}}])) is not None


def test_the_choice_that_was_left_open_keeps_its_port() -> None:
    """A server that names no networks keeps the port that was made for it, also once it names that itself."""
    assert len(named_ports(make_server(networks=None))) == 1
    assert len(named_ports(make_server(networks=[{"name": "eth0", "network": {"name": "private"}}]))) == 1
    mine = [{"name": "eth0", "port": {"name": "mine"}}]
    assert named_ports(make_server(networks=mine)) == []


def test_what_is_new_is_missing() -> None:
    """An attachment whose name and volume are free is to be given."""
    more = {"name": "more", "volume": {"name": "more"}}
    nic = {"name": "eth1", "network": {"name": "private"}}
    server = make_server(volumes=[{"name": "data", "volume": {"name": "data"}}, more], networks=[nic])
    assert [item.name for item in missing_volumes(server)] == ["more"]
    assert [item.name for item in missing_interfaces(server)] == ["eth1"]
    renamed = make_server(volumes=[{"name": "other", "volume": {"name": "data"}}])
    assert missing_volumes(renamed) == [], "the volume leaves under its old name first"


def make_ledger(**quota: int) -> Ledger:
    """Give the books with a host of 10 GiB of disk and the server on it."""
    ledger = Ledger(lambda _: Quota(**quota), lambda _: True)
    facts = {"ready": True, "fresh": True, "schedulable": True, "maintenance": False, "decommissioned": False}
    ledger.host_seen(HostFacts("h1", **facts, tunnel=True, total=Amounts(8, 8 * GI, 10 * GI)))
    ledger.server_seen(make_server())
    return ledger


def ask(name: str = "web", disk: int = 0, new: tuple[str, ...] = (), holds: tuple[str, ...] = ()) -> Request:
    """Give a request for devices."""
    wish = Wish(Amounts(disk=disk), only_host="h1", only_reason="where the server is")
    held = frozenset(("Volume", "demo", volume) for volume in holds)
    return Request("demo", name, wish, frozenset(new), held)


def test_a_volume_has_one_holder_while_it_is_being_attached() -> None:
    """Whoever asks second is refused, until the first turns out not to get it, or lets go of it."""
    ledger = make_ledger()
    assert ledger.attach(ask(holds=("new",))) is None
    assert ledger.held_by(("Volume", "demo", "new")) == "web"
    refusal = ledger.attach(ask("db", holds=("new",)))
    assert refusal is not None
    assert refusal.reason == "VolumeInUse"
    assert not ledger.server_seen(make_server()), "older than the decision"
    ledger.not_attached(make_server(), frozenset())
    assert ledger.held_by(("Volume", "demo", "new")) is None


def test_new_ports_count_at_once_and_within_the_quota() -> None:
    """The quota of ports holds for a server that runs, and one that was not made is given back."""
    ledger = make_ledger(ports=1)
    assert ledger.attach(ask(new=("web-eth1",))) is None
    refusal = ledger.attach(ask(new=("web-eth2",)))
    assert refusal is not None
    assert refusal.reason == "QuotaExceeded"
    assert ledger.attach(ask(new=("web-eth1",))) is None, "it is counted already"
    ledger.not_attached(make_server(), frozenset({"web-eth1"}))
    assert ledger.attach(ask(new=("web-eth2",))) is None


def test_a_volume_that_lies_nowhere_yet_needs_room_on_the_host() -> None:
    """A blank volume that its host has no disk for is refused, one that fits is not."""
    ledger = make_ledger()
    refusal = ledger.attach(ask(disk=20 * GI, holds=("huge",)))
    assert refusal is not None
    assert refusal.reason == "NoValidHost"
    assert ledger.attach(ask(disk=GI, holds=("small",))) is None
