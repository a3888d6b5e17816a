"""Placement: each demand of a server has its filter, and each refusal says what would change it."""

import pytest

from kumulus_api import Flavor, Host, HostAggregate, Image, Server, ServerGroup, Volume
from kumulus_api.server_group import GroupPolicy
from kumulus_operator.ledger.plan import no_valid_host
from kumulus_operator.placement.choice import choose, judge
from kumulus_operator.placement.facts import Amounts, Candidate, Group, HostFacts, Terms, Weights, Wish
from kumulus_operator.placement.filters import has_room, passing, refusal_text
from kumulus_operator.placement.inventory import host_facts
from kumulus_operator.placement.tuning import Tuning, tuning_of
from kumulus_operator.placement.usage import allocation_of, amounts_of
from kumulus_operator.placement.wish import wish_for
from kumulus_operator.refusal import Refused
from kumulus_runtime.conditions import set_condition

GIB = 2**30
SMALL = Amounts(1, GIB, GIB)


def facts(name="h1", **overrides):
    """Give the facts of a host for many servers."""
    fields = {"fresh": True, "schedulable": True, "maintenance": False, "decommissioned": False, "tunnel": True}
    fields |= {"ready": True, "total": Amounts(64, 64 * GIB, 640 * GIB)}
    return HostFacts(name, **(fields | overrides))


def group(policy, limit=1):
    """Give a group `web` of that policy."""
    return Group("web", policy, limit)


@pytest.mark.parametrize(
    ("host", "terms", "why"),
    [
        ({"zones": frozenset({"a"})}, Terms(zone="a"), None),
        ({}, Terms(zone="a"), "outside zone a"),
        ({"zones": frozenset({"b"})}, Terms(zone="a"), "outside zone a"),
        ({"zones": frozenset({"a", "b"})}, Terms(zone="a"), "in several zones at once (a, b)"),
        ({"zones": frozenset({"a", "b"})}, Terms(), None),
        ({"traits": frozenset({"X", "Y"})}, Terms(required=frozenset({"X"})), None),
        ({"traits": frozenset({"X"})}, Terms(required=frozenset({"X", "Z", "Y"})), "without trait Y, Z"),
        ({"traits": frozenset({"X"})}, Terms(forbidden=frozenset({"X"})), "with forbidden trait X"),
        ({"traits": frozenset({"X"})}, Terms(forbidden=frozenset({"Y"})), None),
        ({"architecture": "x86_64"}, Terms(architecture="x86_64"), None),
        ({"architecture": "x86_64"}, Terms(architecture="i686"), None),
        ({"architecture": "x86_64"}, Terms(architecture="aarch64"), "of x86_64, the image is for aarch64"),
        ({}, Terms(architecture="aarch64"), "of unknown architecture, the image is for aarch64"),
        ({"metadata": {"ssd": frozenset({"true"})}}, Terms(specs=frozenset({("ssd", "true")})), None),
        ({}, Terms(specs=frozenset({("ssd", "true")})), "in no aggregate with ssd=true"),
        ({"numa_nodes": 2}, Terms(numa_nodes=2), None),
        ({}, Terms(numa_nodes=2), "with 1 of the 2 NUMA nodes asked for"),
        ({"huge_pages": {2048: GIB}}, Terms(huge_pages=GIB, page_size=2048), None),
        ({"huge_pages": {2048: GIB}}, Terms(huge_pages=GIB), None),
        ({"huge_pages": {2048: GIB}}, Terms(huge_pages=GIB + 1, page_size=2048), "without enough huge pages of 2Mi"),
        ({"huge_pages": {2048: GIB}}, Terms(huge_pages=GIB, page_size=1 << 20), "without enough huge pages of 1Gi"),
        ({}, Terms(huge_pages=GIB), "without enough huge pages"),
        ({"segments": {("phys", "Flat"): 1500}}, Terms(segments=frozenset({("phys", "Flat", 1500)})), None),
        (
            {"segments": {("phys", "Flat"): 1500}},
            Terms(segments=frozenset({("phys", "Flat", 9000)})),
            "without physical network phys (Flat: MTU 1500 of 9000)",
        ),
        (
            {"segments": {("phys", "Flat"): 1500}, "unreached": {("phys", "VLAN"): "VLANUnsupported"}},
            Terms(segments=frozenset({("phys", "VLAN", 1500)})),
            "without physical network phys (VLAN: VLANUnsupported)",
        ),
        (
            {},
            Terms(segments=frozenset({("phys", "Flat", 1500)})),
            "without physical network phys (Flat: NotMapped)",
        ),
    ],
)
def test_a_host_meets_all_terms_or_is_refused_by_name(host, terms, why):
    """What is asked of a host beside room is there, or the host is no candidate and the words say why."""
    _, refused = passing([facts(**host)], {}, Wish(SMALL, terms=terms))
    assert [objection.why for objection in refused] == ([why] if why else [])


@pytest.mark.parametrize(
    ("policy", "limit", "crowd", "taken"),
    [
        (GroupPolicy.ANTI_AFFINITY, 1, {}, "h1"),
        (GroupPolicy.ANTI_AFFINITY, 1, {"h1": 1}, "h2"),
        (GroupPolicy.ANTI_AFFINITY, 1, {"h1": 1, "h2": 1, "h3": 1}, None),
        (GroupPolicy.ANTI_AFFINITY, 2, {"h1": 1, "h2": 2, "h3": 2}, "h1"),
        (GroupPolicy.AFFINITY, 1, {}, "h1"),
        (GroupPolicy.AFFINITY, 1, {"h2": 3}, "h2"),
        (GroupPolicy.AFFINITY, 1, {"gone": 1}, None),
        (GroupPolicy.SOFT_AFFINITY, 1, {"h3": 1}, "h3"),
        (GroupPolicy.SOFT_AFFINITY, 1, {"h2": 1, "h3": 2}, "h3"),
        (GroupPolicy.SOFT_AFFINITY, 1, {"gone": 1}, "h1"),
        (GroupPolicy.SOFT_ANTI_AFFINITY, 1, {"h1": 1}, "h2"),
        (GroupPolicy.SOFT_ANTI_AFFINITY, 1, {"h1": 2, "h2": 1, "h3": 2}, "h2"),
    ],
)
def test_a_group_keeps_its_servers_together_or_apart(policy, limit, crowd, taken):
    """A hard policy leaves no other host, a soft one prefers; the crowd decides, not the room."""
    hosts = [facts(name) for name in ("h1", "h2", "h3")]
    wish = Wish(SMALL, group=group(policy, limit))
    assert choose(judge(hosts, {"h3": SMALL}, crowd, wish, Weights())) == taken


def test_a_refusal_names_each_remedy_once():
    """The message counts hosts by reason and says what would have the server placed."""
    hosts = [facts("h1"), facts("h2", zones=frozenset({"a"})), facts("h3", ready=False)]
    wish = Wish(SMALL, terms=Terms(zone="a"), group=group(GroupPolicy.ANTI_AFFINITY))
    _, refused = passing(hosts, {}, wish, {"h2": 1})
    assert no_valid_host(refused).message == (
        "placement: no valid host out of 3: 1 not Ready, 1 outside zone a, 1 with a server of group web (AntiAffinity);"
        " transient: placed as soon as a host has room or a HostAggregate puts a host into zone a"
        " or a server of group web leaves a host that has room"
    )


def test_all_that_speaks_against_a_host_is_told():
    """An explanation lists every objection; the count of a refusal takes the gravest."""
    hosts = [facts(maintenance=True, total=Amounts())]
    judged = judge(hosts, {}, {}, Wish(SMALL, terms=Terms(zone="a")), Weights())
    whys = [objection.why for objection in judged[0].objections]
    room = ["without enough memory", "without enough vCPUs", "without enough disk"]
    assert whys == ["in maintenance", "outside zone a", *room]
    _, refused = passing(hosts, {}, Wish(SMALL))
    assert refusal_text(refused) == "no valid host out of 1: 1 in maintenance"


def test_negative_weights_pack():
    """With negative weights the fullest host that has room is taken."""
    hosts, used = [facts("h1"), facts("h2"), facts("h3")], {"h2": SMALL, "h3": Amounts(64, 64 * GIB, GIB)}
    weights = Weights(-1, -1, -1)
    assert choose(judge(hosts, used, {}, Wish(SMALL), weights)) == "h2"
    assert choose(judge(hosts, used, {}, Wish(SMALL), Weights())) == "h1"


def make_host(name="h1", labels=None, found=(), **spec):
    """Give a Ready Host of 4 CPUs, 8 GiB and 10 GiB."""
    status = {
        "inventory": {"vcpus": 4, "memory": "8Gi", "disk": "10Gi"},
        "tunnelAddress": "192.0.2.1",
        "architecture": "x86_64",
        "traits": list(found),
        "conditions": set_condition([], "Ready", True, "AgentReady", "", 1),
    }
    return Host.model_validate({"metadata": {"name": name, "labels": labels or {}}, "spec": spec, "status": status})


def aggregate(name, selector, **spec):
    """Give an aggregate."""
    return HostAggregate.model_validate({"metadata": {"name": name}, "spec": {"hostSelector": selector} | spec})


@pytest.mark.parametrize(
    ("selector", "belongs"),
    [
        ({"names": ["h1"]}, True),
        ({"names": ["h2"]}, False),
        ({"names": []}, False),
        ({"matchLabels": {"rack": "a"}}, True),
        ({"matchLabels": {"rack": "a", "row": "1"}}, False),
        ({"matchLabels": {"rack": "a"}, "names": ["h2"]}, False),
        ({"matchLabels": {"rack": "a"}, "names": ["h1", "h2"]}, True),
    ],
)
def test_an_aggregate_has_the_hosts_that_all_of_its_selector_fits(selector, belongs):
    """Labels and names narrow each other; a host that belongs has zone, traits and metadata of the aggregate."""
    given = {"zone": "a", "traits": ["CUSTOM_SSD"], "metadata": {"size": "1, 2"}}
    found = host_facts(make_host(labels={"rack": "a"}), [aggregate("x", selector, **given)], Tuning(), fresh=True)
    assert found.zones == ({"a"} if belongs else frozenset())
    assert found.traits == ({"CUSTOM_SSD"} if belongs else frozenset())
    assert found.metadata == ({"size": {"1", "2"}} if belongs else {})


def test_a_host_has_the_traits_of_its_agent_and_of_its_administrator():
    """What the agent found and what an administrator said count alike; the ratios multiply what there is."""
    host = make_host(found=["HW_CPU_X86_AVX2"], traits=["CUSTOM_GOLD"])
    found = host_facts(host, [], Tuning(vcpu_overcommit=2, memory_overcommit=1.5, disk_overcommit=3), fresh=True)
    assert found.traits == {"HW_CPU_X86_AVX2", "CUSTOM_GOLD"}
    assert found.total == Amounts(8, 12 * GIB, 30 * GIB)
    assert found.architecture == "x86_64"


def test_a_hosts_own_ratios_go_before_the_settings_and_are_of_what_it_does_not_keep():
    """What a host reserves is no server's, its ratios replace the settings' one by one, and nothing is the least."""
    tuning = Tuning(vcpu_overcommit=2, memory_overcommit=1, disk_overcommit=1)
    kept = {"vcpus": 1, "memory": "2Gi"}
    host = make_host(overcommit={"vcpus": "8.5", "disk": "1.5"}, reserved=kept)
    assert host_facts(host, [], tuning, fresh=True).total == Amounts(25.5, 6 * GIB, 15 * GIB)
    host = make_host(reserved={"memory": "9Gi"})
    assert host_facts(host, [], tuning, fresh=True).total == Amounts(8, 0, 10 * GIB)


def test_custom_resources_are_counted():
    """A host without enough of a class is no candidate and says so; what is placed takes it, and gives it back."""
    host = host_facts(make_host(resources={"CUSTOM_LICENSE": 2}), [], Tuning(), fresh=True)
    plain = host_facts(make_host("h2"), [], Tuning(), fresh=True)
    flavor = make_flavor(**{"resources:CUSTOM_LICENSE": "2"})
    taken = amounts_of(allocation_of(flavor.spec), None)
    assert taken.custom == (("CUSTOM_LICENSE", 2),)
    wish = Wish(taken)
    good, refused = passing([host, plain], {}, wish)
    assert [item.name for item in good] == ["h1"]
    assert refusal_text(refused) == "no valid host out of 1: 1 without enough CUSTOM_LICENSE"
    assert passing([host, plain], {"h1": taken}, wish)[0] == []
    assert taken.plus(taken).minus(taken) == taken
    assert taken.minus(taken) == Amounts()
    assert not has_room(Candidate(plain, plain.total), wish)


OFFERED = [{"resourceClass": "CUSTOM_GPU", "total": 1, "traits": ["CUSTOM_BIG"]}, {"resourceClass": "VGPU", "total": 2}]
WITHHELD = [
    {"device": "0000:01:00.0", "resourceClass": "CUSTOM_GPU", "reason": "NoIOMMUGroup"},
    {"device": "0000:02:00.0", "resourceClass": "CUSTOM_GPU", "reason": "HostDisk"},
    {"device": "0000:03:00.0", "resourceClass": "CUSTOM_GPU", "reason": "NoIOMMUGroup"},
]


def with_devices(name, told, **spec):
    """Give the facts of a host whose agent has found devices."""
    body = make_host(name, **spec).dump()
    body["status"]["devices"] = told
    return host_facts(Host.model_validate(body), [], Tuning(), fresh=True)


def test_devices_of_hosts_are_counted_and_bring_their_traits():
    """A class of devices is a resource like any other, its traits are the host's; no devices, no candidate, and why."""
    has = with_devices("h1", {"offered": OFFERED}, devices={}, resources={"CUSTOM_LICENSE": 2})
    lacks = with_devices("h2", {"withheld": WITHHELD}, devices={})
    forbidden = with_devices("h3", {"offered": OFFERED})
    specs = {"resources:CUSTOM_GPU": "1", "resources:VGPU": "2", "trait:CUSTOM_BIG": "required"}
    taken = amounts_of(allocation_of(make_flavor(**specs).spec), None)
    assert has.total.custom == (("CUSTOM_GPU", 1), ("CUSTOM_LICENSE", 2), ("VGPU", 2))
    assert forbidden.total.custom == ()
    wish = Wish(taken, terms=Terms(required=frozenset({"CUSTOM_BIG"})))
    assert [item.name for item in passing([has, lacks, forbidden], {}, wish)[0]] == ["h1"]
    assert passing([has], {"h1": taken}, wish)[0] == []
    _, refused = passing([lacks], {}, Wish(taken))
    assert refusal_text(refused) == (
        "no valid host out of 1: 1 without enough CUSTOM_GPU (devices withheld: HostDisk, NoIOMMUGroup)"
    )


def make_server(**placement):
    """Give a server that waits."""
    spec = {"flavor": {"name": "f"}, "image": {"name": "i"}, "placement": placement}
    return Server.model_validate({"metadata": {"name": "s", "namespace": "demo"}, "spec": spec})


def make_flavor(**specs):
    """Give a flavor of 1 vCPU, 1 GiB and 1 GiB."""
    spec = {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi", "extraSpecs": specs}
    return Flavor.model_validate({"metadata": {"name": "f"}, "spec": spec})


def make_image(**spec):
    """Give an image."""
    wanted = {"source": {"url": "http://images.test/i"}, "format": "raw"} | spec
    return Image.model_validate({"metadata": {"name": "i", "namespace": "demo"}, "spec": wanted})


def test_a_wish_gathers_what_server_flavor_image_and_group_ask():
    """Zone, traits, aggregate specs, architecture and group come from where their users say them."""
    flavor = make_flavor(**{"trait:A": "required", "trait:B": "forbidden", "aggregate_instance_extra_specs:k": "v"})
    image = make_image(architecture="aarch64", requiredTraits=["C"])
    web = ServerGroup.model_validate(
        {"metadata": {"name": "web"}, "spec": {"policy": "AntiAffinity", "maxServersPerHost": 3}}
    )
    wish = wish_for(make_server(zone="z"), flavor, image, web, [])
    assert wish.terms == Terms("z", frozenset("AC"), frozenset("B"), frozenset({("k", "v")}), "aarch64")
    assert wish.group == Group("web", GroupPolicy.ANTI_AFFINITY, 3)
    assert wish.amounts == SMALL


def test_what_no_host_could_ever_meet_is_refused_for_good():
    """A trait that the image needs and the flavor forbids, and volumes of two hosts, are permanent refusals."""
    with pytest.raises(Refused) as refused:
        wish_for(make_server(), make_flavor(**{"trait:A": "forbidden"}), make_image(requiredTraits=["A"]), None, [])
    assert "permanent" in refused.value.refusal.message
    placed = {"volumeID": "00000000-0000-4000-8000-000000000003"}
    volumes = [
        Volume.model_validate(
            {"metadata": {"name": host}, "spec": {"size": "1Gi", "assignment": placed | {"host": host}}}
        )
        for host in ("h1", "h2")
    ]
    with pytest.raises(Refused) as refused:
        wish_for(make_server(), make_flavor(), make_image(), None, volumes)
    assert "volume h2 lies on host h2, the server must run on h1" in refused.value.refusal.message


def test_an_operators_environment_tells_what_it_places_by():
    """The variables of the operator's Deployment give the same tuning as its settings."""
    read = tuning_of({"KUMULUS_WEIGHT_MEMORY": "-2.5", "KUMULUS_VCPU_OVERCOMMIT": "8", "KUMULUS_POD": "x"})
    assert read == Tuning(weight_memory=-2.5, vcpu_overcommit=8.0)
    with pytest.raises(ValueError, match="could not convert"):
        tuning_of({"KUMULUS_WEIGHT_DISK": "much"})
