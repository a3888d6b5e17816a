"""What is given out is bounded by what disks have left, beside what was promised of them."""

from math import inf

import pytest

from kumulus_api import Host, Server
from kumulus_api.tenancy import Quota
from kumulus_operator.images.replicas import Keeper, Wanted, name_hosts
from kumulus_operator.ledger.ledger import Ledger
from kumulus_operator.ledger.plan import Request
from kumulus_operator.placement.facts import Amounts, Candidate, HostFacts, Wish
from kumulus_operator.placement.filters import has_room, lacking
from kumulus_operator.placement.inventory import disk_free, host_facts
from kumulus_operator.placement.tuning import Tuning
from kumulus_runtime.conditions import set_condition

GIB = 2**30


def folder(name, free, *, allocated="0", capacity="100Gi"):
    """Give what a host says of a folder."""
    return {"name": name, "capacity": capacity, "free": free, "allocated": allocated, "provisioned": allocated}


def make_host(*storage, **spec):
    """Give a Ready Host with a disk of 100 GiB."""
    status = {
        "inventory": {"vcpus": 8, "memory": "64Gi", "disk": "100Gi"},
        "tunnelAddress": "192.0.2.1",
        "storage": list(storage),
        "conditions": set_condition([], "Ready", True, "AgentReady", "", 1),
    }
    return Host.model_validate({"metadata": {"name": "h1"}, "spec": spec, "status": status})


@pytest.mark.parametrize(
    ("storage", "free"),
    [
        ((), None),
        ((folder("Images", "5Gi"),), None),
        ((folder("RootDisks", "5Gi"), folder("Volumes", "5Gi")), 5 * GIB),
        ((folder("RootDisks", "5Gi"), folder("Volumes", "3Gi", capacity="50Gi")), 3 * GIB),
        ((folder("RootDisks", "5Gi"), folder("Images", "5Gi", allocated="20Gi")), 25 * GIB),
        ((folder("RootDisks", "5Gi"), folder("Images", "9Gi", allocated="20Gi", capacity="30Gi")), 5 * GIB),
    ],
)
def test_what_is_free(storage, free):
    """Images count as free where they share the disk, since what nothing needs goes. What is not told is not known."""
    assert disk_free(make_host(*storage)) == free


@pytest.mark.parametrize(
    ("spec", "tuning", "left"),
    [
        ({}, Tuning(), 40 * GIB),
        ({}, Tuning(disk_overcommit=3), 120 * GIB),
        ({"overcommit": {"disk": "2"}}, Tuning(disk_overcommit=3), 80 * GIB),
        ({}, Tuning(disk_overcommit=3, disk_reserved_percent=10), 90 * GIB),
        ({}, Tuning(disk_reserved_percent=50), 0),
    ],
)
def test_what_may_be_given_out_of_what_is_free(spec, tuning, left):
    """What is free less the reserve, times the ratio: the Host's own before the settings'."""
    host = make_host(folder("RootDisks", "40Gi"), **spec)
    assert host_facts(host, [], tuning, fresh=True).disk_left == left
    assert host_facts(make_host(**spec), [], tuning, fresh=True).disk_left == inf


def facts(**overrides):
    """Give a host with room for 100 GiB of promises."""
    fields = dict.fromkeys(("ready", "fresh", "schedulable", "tunnel"), True)
    fields |= {"maintenance": False, "decommissioned": False, "total": Amounts(8, 64 * GIB, 100 * GIB)}
    return HostFacts("h1", **(fields | overrides))


def test_a_full_disk_takes_nothing_more():
    """However little was promised of it, a full disk is no place for more, and says so; what lies there already may."""
    host = facts(disk_left=GIB)
    candidate = Candidate(host, host.total)
    assert has_room(candidate, Wish(Amounts(1, GIB, GIB)))
    large = Wish(Amounts(1, GIB, 2 * GIB))
    assert not has_room(candidate, large)
    objection = lacking(candidate, large)
    assert objection is not None
    assert objection.why == "with too full a disk"
    assert has_room(candidate, Wish(Amounts(1, GIB, 2 * GIB), lying=GIB))
    assert has_room(candidate, Wish(Amounts(1, GIB, 0)))


def test_a_server_on_a_full_disk_gets_more_memory():
    """A resize that asks for no more disk is no matter of what is free; one that does is."""
    ledger = Ledger(lambda _: Quota(), lambda _: True)
    ledger.host_seen(facts(disk_left=0))
    resources = {"vcpus": 1, "memory": "1Gi", "rootDisk": "40Gi"}
    assignment = {"instanceID": "11111111-2222-4333-8444-555555555555", "host": "h1", "epoch": 1}
    spec = {"flavor": {"name": "s"}, "image": {"name": "i"}, "assignment": assignment | {"resources": resources}}
    ledger.server_seen(Server.model_validate({"metadata": {"name": "web", "namespace": "demo"}, "spec": spec}))
    more = Wish(Amounts(1, 2 * GIB, 40 * GIB), only_host="h1")
    assert ledger.amend(Request("demo", "web", more)) is None
    refusal = ledger.amend(Request("demo", "web", Wish(Amounts(1, 2 * GIB, 41 * GIB), only_host="h1")))
    assert refusal is not None
    assert "too full a disk" in refusal.message


def test_an_image_is_kept_where_it_fits():
    """A host whose disk the image does not fit on is named last, whatever its zone; who has it keeps it."""
    hosts = [Keeper("a", zone="x"), Keeper("b", zone="y", full=True), Keeper("c", zone="x", load=9)]
    assert name_hosts((), (), hosts, Wanted(2)) == ("a", "c")
    assert name_hosts(("a", "b"), ("a", "b"), hosts, Wanted(2)) == ("a", "b")
    assert name_hosts((), (), hosts, Wanted(3)) == ("a", "c", "b")
