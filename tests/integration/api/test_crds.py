"""What a real API server makes of the CustomResourceDefinitions."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from kumulus_api import (
    KINDS,
    AddressClaim,
    DNSRecord,
    DNSZone,
    DNSZoneClaim,
    Flavor,
    Host,
    HostAggregate,
    Image,
    KeyPair,
    Kind,
    Network,
    NetworkEndpoints,
    NetworkIDClaim,
    Port,
    Project,
    Server,
    ServerGroup,
    Volume,
)
from kumulus_api.testing import INSTANCE_ID, make_assigned, make_object
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import Invalid

OPERATORS = (AddressClaim, NetworkIDClaim, DNSZoneClaim, NetworkEndpoints)
CRDS = Path(__file__).parents[3] / "crds"
REFERENCE = {"name": "private"}
RESTORER = "restorer/system:masters/kumulus:restorers"


def nic(**fields: Any) -> dict[str, Any]:
    """Give a Server's only interface."""
    return {"networks": [{"name": "eth0", **fields}]}


def subnet(**fields: Any) -> dict[str, Any]:
    """Give a Network's only subnet."""
    return {"subnets": [{"name": "v4", "cidr": "10.0.0.0/24", **fields}]}


def label(value: object) -> str | None:
    """Give a parameter's part of a test's name; a spec has none."""
    if isinstance(value, type):
        return value.__name__
    return value if isinstance(value, str) else None


async def create_dry(client: KubeClient, kind: type[Kind], body: dict[str, Any]) -> dict[str, Any]:
    """Ask whether an object would be accepted, and give it as it would be stored."""
    resource = kind.resource()
    namespace = f"/namespaces/{body['metadata']['namespace']}" if resource.namespaced else ""
    path = f"/apis/{resource.group}/{resource.version}{namespace}/{resource.plural}"
    return await client.request("POST", path, body, query={"dryRun": "All", "fieldValidation": "Strict"})


async def test_every_definition_is_established(admin: KubeClient, cluster: Any) -> None:
    """The API server serves every kind, and finds no fault with any schema."""
    found = json.loads(cluster.plane.kubectl("get", "crd", "-o", "json").stdout)["items"]
    conditions = {
        crd["metadata"]["name"]: {c["type"]: (c["status"], c["message"]) for c in crd["status"]["conditions"]}
        for crd in found
    }
    assert sorted(conditions) == sorted(f"{kind.definition.plural}.kumulus.dev" for kind in KINDS)
    assert all(c["Established"][0] == "True" for c in conditions.values())
    assert [name for name, c in conditions.items() if "NonStructuralSchema" in c] == []


async def test_plain_folder_is_accepted(cluster: Any) -> None:
    """crds/ can be applied as it is, without Helm."""
    cluster.plane.kubectl("apply", "--dry-run=server", "--server-side", "--force-conflicts", "-f", str(CRDS))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_examples_are_accepted_and_read_back(connect: Any, kind: type[Kind]) -> None:
    """A valid object is stored, and the model reads what the API server has stored."""
    user = await connect("operator" if kind in OPERATORS else "admin")
    stored = await create_dry(user, kind, make_object(kind))
    assert kind.model_validate(stored).metadata.name == "example"


async def test_defaults_are_filled_in(admin: KubeClient) -> None:
    """What a user leaves out is in the stored object, so that every reader sees the same."""
    least = make_object(Server, networks=None, volumes=None, keyPair=None, userData=None)
    server = await create_dry(admin, Server, least)
    assert server["spec"]["powerState"] == "Running"
    assert server["spec"]["onGuestShutdown"] == "Stop"
    assert (server["spec"]["placement"], server["spec"]["volumes"]) == ({}, [])
    host = make_object(Host)
    del host["spec"]
    stored = await create_dry(admin, Host, host)
    given = {"schedulable": True, "maintenance": False, "decommissioned": False}
    assert stored["spec"] == given | {"revoked": [], "traits": []}


BAD: list[tuple[type[Kind], dict[str, Any], str]] = [
    (Network, subnet(cidr="10.0.0.0"), "spec.subnets[0].cidr"),
    (Network, subnet(cidr="10.0.0.300/24"), "cidr is not a network"),
    (Network, subnet(cidr="10.0.0.1/24"), "cidr has bits set behind its prefix"),
    (Network, subnet(cidr="10.0.0.0/30"), "prefix is between /8 and /29, or"),
    (Network, subnet(cidr="0.0.0.0/0"), "prefix is between /8 and /29, or"),
    (Network, subnet(cidr="224.0.0.0/24"), "that no guest can use"),
    (Network, subnet(cidr="127.0.0.0/8"), "that no guest can use"),
    (Network, subnet(cidr="169.254.0.0/16"), "that no guest can use"),
    (Network, subnet(cidr="10.0.0.0/024"), "cidr is not a network"),
    (Network, subnet(cidr="10.0.0.0/33"), "cidr is not a network"),
    (Network, subnet(gateway="10.0.1.1"), "spec.subnets[0].gateway"),
    (Network, subnet(gateway="10.0.0.999"), "gateway is not an address inside cidr"),
    (Network, subnet(pools=[{"start": "10.0.1.1", "end": "10.0.1.2"}]), "spec.subnets[0].pools"),
    (Network, subnet(pools=[{"start": "10.0.0.5"}]), "spec.subnets[0].pools[0].end"),
    (Network, subnet(dnsServers=["1:2"]), "spec.subnets[0].dnsServers"),
    (Network, subnet(dnsServers=["192.0.2.1"] * 4), "spec.subnets[0].dnsServers"),
    (Network, {"subnets": []}, "spec.subnets"),
    (Network, {"type": "Carrier"}, "spec.type"),
    (Network, subnet(name="V4"), "spec.subnets[0].name"),
    (DNSZone, {"domain": "example.test"}, "spec.domain"),
    (DNSZone, {"domain": "test."}, "spec.domain"),
    (DNSZone, {"domain": "Example.test."}, "spec.domain"),
    (DNSZone, {"domain": "a b.test."}, "spec.domain"),
    (DNSZone, {"domain": "in-addr.arpa."}, "where all reverse names are"),
    (DNSZone, {"email": "a@b c.test"}, "spec.email"),
    (DNSZone, {"email": "a\n@b.test"}, "spec.email"),
    (DNSZone, {"ttl": -1}, "spec.ttl"),
    (DNSRecord, {"name": "a\nb"}, "spec.name"),
    (DNSRecord, {"name": "$include"}, "spec.name"),
    (DNSRecord, {"name": "a.*.b"}, "spec.name"),
    (DNSRecord, {"type": "SOA"}, "spec.type"),
    (DNSRecord, {"records": []}, "spec.records"),
    (DNSRecord, {"records": ["192.0.2.1"] * 2}, "spec.records[1]"),
    (DNSRecord, {"records": ["192.0.2.1\n192.0.2.2"]}, "spec.records[0]"),
    (DNSRecord, {"records": ["::1"]}, "a value of type A is not an IPv4 address"),
    (DNSRecord, {"type": "AAAA", "records": ["10.0.0.1"]}, "a value of type AAAA is not an IPv6 address"),
    (DNSRecord, {"type": "CNAME", "records": ["a.test.", "b.test."]}, "a CNAME has one value"),
    (Server, {"powerState": "On"}, "spec.powerState"),
    (Server, {"flavor": None}, "spec.flavor"),
    (Server, {"image": {}}, "spec.image.name"),
    (Server, {"unknown": 1}, "spec.unknown"),
    (Server, nic(), "give either network or port"),
    (Server, nic(network=REFERENCE, port=REFERENCE), "give either network or port"),
    (Server, nic(port=REFERENCE, address="10.0.0.5"), "spec.networks[0].address"),
    (Server, nic(network=REFERENCE, address="10.0.0"), "address is not an IP address"),
    (Server, {"networks": [{"name": "a", "network": REFERENCE}] * 2}, "spec.networks[1]"),
    (Server, {"networks": [{"name": f"n{i}", "network": REFERENCE} for i in range(17)]}, "spec.networks"),
    (Server, {"userData": {}}, "exactly one of inline"),
    (Server, {"userData": {"inline": "a", "secret": {"name": "b"}}}, "spec.userData"),
    (Server, {"userData": {"inline": "a" * 4097}}, "spec.userData.inline"),
    (Server, {"userData": {"secret": {"name": "a", "namespace": "other"}}}, "spec.userData.secret.namespace"),
    (Server, {"volumes": [{"name": n, "volume": {"name": "data"}} for n in "ab"]}, "a volume is attached twice"),
    (Server, {"networks": [{"name": "x" * 64, "network": REFERENCE}]}, "spec.networks[0].name"),
    (Flavor, {"vcpus": 0}, "spec.vcpus"),
    (Flavor, {"vcpus": 1.5}, "spec.vcpus"),
    (Flavor, {"vcpus": "1"}, "spec.vcpus"),
    (Flavor, {"memory": "1Mi"}, "memory is at least 16Mi"),
    (Flavor, {"memory": "-1Gi"}, "spec.memory"),
    (Flavor, {"memory": "17Ti"}, "memory is at most 16Ti"),
    (Flavor, {"rootDisk": "0"}, "rootDisk is more than 0"),
    (Flavor, {"rootDisk": "lots"}, "spec.rootDisk"),
    (Flavor, {"extraSpecs": {"trait:HW_CPU_X86_AVX": "yes"}}, "a trait is required or forbidden"),
    (
        Flavor,
        {"extraSpecs": {"colour": "blue"}},
        "an extra spec is trait:NAME, resources:CUSTOM_NAME, resources:VGPU or",
    ),
    (Flavor, {"extraSpecs": {f"trait:T{number}": "required" for number in range(65)}}, "spec.extraSpecs"),
    (Image, {"architecture": "pdp11"}, "spec.architecture"),
    (Image, {"requiredTraits": ["gold"]}, "spec.requiredTraits[0]"),
    (Server, {"placement": {"group": {"name": "Web"}}}, "spec.placement.group.name"),
    (Server, {"placement": {"zone": "a" * 64}}, "spec.placement.zone"),
    (ServerGroup, {"policy": "Near"}, "spec.policy"),
    (ServerGroup, {"policy": None}, "spec.policy"),
    (ServerGroup, {"policy": "Affinity", "maxServersPerHost": 2}, "goes with policy AntiAffinity"),
    (HostAggregate, {"hostSelector": {}}, "give matchLabels, names or both"),
    (HostAggregate, {"hostSelector": {"matchLabels": {}}}, "give matchLabels, names or both"),
    (HostAggregate, {"zone": "Zone 1"}, "spec.zone"),
    (HostAggregate, {"traits": ["ssd"]}, "spec.traits[0]"),
    (Image, {"source": {"url": "file:///etc/shadow"}}, "spec.source.url"),
    (Image, {"checksum": "md5:" + "0" * 32}, "spec.checksum"),
    (Image, {"format": "vmdk3"}, "spec.format"),
    (KeyPair, {"publicKey": "-----BEGIN OPENSSH PRIVATE KEY-----"}, "spec.publicKey"),
    (KeyPair, {"publicKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA a\nssh-rsa b"}, "spec.publicKey"),
    (Port, {"mac": "53:54:00:00:00:01"}, "spec.mac"),
    (Port, {"addresses": ["10.0.0.256"]}, "an address is not an IP address"),
    (Volume, {"size": "1Ki"}, "size is at least 1Mi"),
    (Volume, {"size": "65Ti"}, "size is at most 64Ti"),
    (Project, {"roles": [{"role": "owner", "subjects": []}]}, "spec.roles[0].role"),
    (
        Project,
        {"roles": [{"role": "member", "subjects": [{"kind": "ServiceAccount", "name": "ci"}]}]},
        "a ServiceAccount needs a namespace",
    ),
    (
        Project,
        {"roles": [{"role": "member", "subjects": [{"kind": "User", "name": "a", "namespace": "b"}]}]},
        "a User or Group has none",
    ),
    (Project, {"quota": {"servers": -1}}, "spec.quota.servers"),
    (Host, {"schedulable": "yes"}, "spec.schedulable"),
    (Host, {"overcommit": {"vcpus": "0.0"}}, "a ratio is more than 0"),
    (Host, {"resources": {"VCPU": 4}}, "a resource class is CUSTOM_"),
    (Host, {"resources": {"CUSTOM_LICENSE": 0}}, "spec.resources"),
    (Flavor, {"extraSpecs": {"resources:VCPU": "1"}}, "resources:CUSTOM_NAME"),
    (Flavor, {"extraSpecs": {"pci_passthrough:alias": "gpu:1"}}, "there are no aliases of PCI devices"),
    (Host, {"devices": {"pci": [{"resourceClass": "CUSTOM_GPU"}]}}, "devices are named by vendor, or by address"),
    (Host, {"devices": {"pci": [{"address": "*", "product": "10d3"}]}}, "a product is one of a vendor"),
    (Host, {"devices": {"pci": [{"vendor": "8086", "resourceClass": "VCPU"}]}}, "spec.devices.pci[0].resourceClass"),
    (Host, {"devices": {"mdev": [{"type": "../x"}]}}, "spec.devices.mdev[0].type"),
    (
        Host,
        {"resources": {"CUSTOM_GPU": 1}, "devices": {"pci": [{"vendor": "10de", "resourceClass": "CUSTOM_GPU"}]}},
        "what is a class of devices is counted by the agent",
    ),
    (Flavor, {"extraSpecs": {"resources:CUSTOM_LICENSE": "some"}}, "of a resource a number"),
    (Host, {"overcommit": {"memory": "-1"}}, "spec.overcommit.memory"),
    (Host, {"reserved": {"memory": "lots"}}, "spec.reserved.memory"),
]


@pytest.mark.parametrize(
    ("kind", "spec", "said"), BAD, ids=lambda value: None if isinstance(value, dict) else str(value)
)
async def test_bad_input_is_refused(admin: KubeClient, kind: type[Kind], spec: dict[str, Any], said: str) -> None:
    """Wrong input is refused at once, by a message that names the field or says what is wrong with it."""
    with pytest.raises(Invalid) as refusal:
        await create_dry(admin, kind, make_object(kind, **spec))
    assert said in refusal.value.message


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        (Server, "a" * 64, "at most 63 characters, no dots"),
        (Server, "web.example", "at most 63 characters, no dots"),
        (Server, "Web", "metadata.name"),
        (Network, "a" * 64, "at most 63 characters, no dots"),
        (Port, "a" * 128, "at most 127 characters"),
        (Project, "a" * 64, "at most 63 characters, no dots"),
        (Project, "a.b", "at most 63 characters, no dots"),
    ],
)
async def test_bad_names_are_refused(admin: KubeClient, kind: type[Kind], name: str, said: str) -> None:
    """A name that becomes a hostname or a namespace must be able to be one."""
    with pytest.raises(Invalid) as refusal:
        await create_dry(admin, kind, make_object(kind, name))
    assert said in refusal.value.message


@pytest.mark.parametrize(
    ("kind", "longest"),
    [
        (Server, 63),
        (Network, 63),
        (Project, 63),
        (Port, 127),
        (Image, 253),
        (Flavor, 253),
        (KeyPair, 253),
        (Volume, 253),
    ],
)
async def test_the_longest_names_are_taken(admin: KubeClient, kind: type[Kind], longest: int) -> None:
    """The longest name that each kind can carry is taken, and references to it have room for it."""
    await create_dry(admin, kind, make_object(kind, "a" * longest))


async def test_references_take_the_longest_names(admin: KubeClient) -> None:
    """A server can refer to things by the longest names that they can have."""
    least = {"image": {"name": "i" * 253, "namespace": "p" * 63}, "flavor": {"name": "f" * 253}}
    more = nic(port={"name": "t" * 127}) | {"keyPair": {"name": "k" * 253}, "userData": {"secret": {"name": "s" * 253}}}
    await create_dry(admin, Server, make_object(Server, **least, **more))


HOST_NAMES = ["ip-10-0-0-3.eu-west.compute.internal", ".".join(["m" * 63] * 3 + ["m" * 61]), "m1"]


@pytest.mark.parametrize("host", HOST_NAMES, ids=["with-domain", "longest", "short"])
async def test_hosts_are_called_as_nodes_are(admin: KubeClient, connect: Any, host: str) -> None:
    """Whatever Kubernetes takes as the name of a Node is taken as the name of a Host, and wherever one is named."""
    restorer = await connect(RESTORER)
    await create_dry(admin, Host, make_object(Host, host))
    await create_dry(admin, Server, make_object(Server, placement={"host": host}))
    for kind in (Server, Volume):
        await create_dry(restorer, kind, make_assigned(kind, "there", host))
    moving = make_assigned(Server, "moving", "h1")
    moving["spec"]["assignment"]["target"] = host
    await create_dry(restorer, Server, moving)
    endpoints = make_object(NetworkEndpoints)
    endpoints["spec"]["endpoints"][0]["host"] = host
    await create_dry(restorer, NetworkEndpoints, endpoints)
    for kind, status in ((Port, {"wired": True, "host": host}), (Image, {"importHost": host})):
        name = f"named-{len(host)}"
        await admin.create(kind, make_object(kind, name))
        body = make_object(kind, name)
        del body["spec"]
        stored = await (await connect("operator")).apply_status(kind, body | {"status": status}, manager="test")
        assert stored["status"] == status


@pytest.mark.parametrize("host", ["H1", "-h1", "h1-", "h1..x", "h1.-x", ".h1", "h1.", "h_1", "a" * 254])
async def test_what_no_node_is_called_is_no_host(admin: KubeClient, host: str) -> None:
    """A name that no Node can have is refused where a host is named."""
    with pytest.raises(Invalid, match=r"spec\.placement\.host"):
        await create_dry(admin, Server, make_object(Server, placement={"host": host}))


FIXED: list[tuple[type[Kind], dict[str, Any], str]] = [
    (Server, {"image": {"name": "other"}}, "spec.image"),
    (Server, {"networks": None}, "spec.networks"),
    (Server, {"keyPair": None}, "spec.keyPair"),
    (Server, {"userData": {"inline": "other"}}, "spec.userData"),
    (Flavor, {"vcpus": 2}, "a flavor cannot change"),
    (DNSZone, {"domain": "other.test."}, "domain cannot change"),
    (DNSRecord, {"name": "other"}, "name cannot change"),
    (DNSRecord, {"type": "AAAA", "records": ["::1"]}, "type cannot change"),
    (DNSRecord, {"zone": {"name": "other"}}, "zone cannot change"),
    (Image, {"format": "raw"}, "cannot change"),
    (Image, {"checksum": None}, "cannot change"),
    (KeyPair, {"publicKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA bob"}, "a key pair cannot change"),
    (Network, subnet(cidr="10.1.0.0/24"), "spec.subnets"),
    (Port, {"network": {"name": "other"}}, "spec.network"),
    (Port, {"addresses": []}, "spec.addresses"),
    (Port, {"mac": "52:54:00:00:00:02"}, "spec.mac"),
    (Volume, {"size": "512Mi"}, "size can only grow"),
    (ServerGroup, {"policy": "Affinity"}, "a server group cannot change"),
    (ServerGroup, {"maxServersPerHost": 2}, "a server group cannot change"),
    (Flavor, {"extraSpecs": {"trait:CUSTOM_GOLD": "required"}}, "a flavor cannot change"),
]


@pytest.mark.parametrize(("kind", "change", "said"), FIXED, ids=label)
async def test_fixed_fields_stay(admin: KubeClient, kind: type[Kind], change: dict[str, Any], said: str) -> None:
    """A field on which something that runs depends cannot be changed, and the refusal names it."""
    name = f"fixed-{kind.definition.plural}"
    stored = await admin.get(kind, name, "demo") or await admin.create(kind, make_object(kind, name))
    with pytest.raises(Invalid) as refusal:
        await admin.patch_merge(kind, name, {"spec": change}, stored["metadata"].get("namespace"))
    assert said in refusal.value.message


@pytest.mark.parametrize("change", [{"group": {"name": "other"}}, {"zone": "south"}, {"zone": None}, {"group": None}])
async def test_group_and_zone_stay_once_a_server_is_placed(connect: Any, admin: KubeClient, change: Any) -> None:
    """A server that waits may be given another group or zone; one that is placed keeps what it was placed by."""
    placement = {"group": {"name": "web"}, "zone": "north"}
    for name, body in (
        ("zoned", make_object(Server, "waits")),
        ("zoned-placed", make_assigned(Server, "zoned-placed", "h1")),
    ):
        if await admin.get(Server, name, "demo") is None:
            body["metadata"]["name"] = name
            body["spec"]["placement"] = placement
            await (await connect(RESTORER)).create(Server, body)
    with pytest.raises(Invalid, match="group and zone cannot change once the server is placed"):
        await admin.patch_merge(Server, "zoned-placed", {"spec": {"placement": change}}, "demo")
    await admin.patch_merge(Server, "zoned", {"spec": {"placement": change}}, "demo")
    found, _ = await admin.list(Server, "demo", field_selector="spec.placement.group.name=web")
    assert "zoned-placed" in {body["metadata"]["name"] for body in found}


async def test_decommissioned_is_for_ever(admin: KubeClient) -> None:
    """A host whose instances may have been started elsewhere never comes back under its name."""
    await admin.create(Host, make_object(Host, "lost", decommissioned=True))
    with pytest.raises(Invalid, match="does not return"):
        await admin.patch_merge(Host, "lost", {"spec": {"decommissioned": False}})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"host": "h2"}, "a new host needs a higher epoch"),
        ({"epoch": 1}, "epoch never falls"),
        ({"instanceID": INSTANCE_ID.replace("1", "9")}, "instanceID cannot change"),
        (None, "assignment cannot be taken away"),
    ],
)
async def test_assignment_moves_forward_only(connect: Any, change: dict[str, Any] | None, said: str) -> None:
    """Not even the operator, in error, gives a server a second identity, or a host without a new epoch."""
    operator, name = await connect("operator"), "forward"
    if await operator.get(Server, name, "demo") is None:
        body = make_assigned(Server, name, "h1")
        body["spec"]["assignment"]["epoch"] = 2
        await (await connect(RESTORER)).create(Server, body)
    with pytest.raises(Invalid) as refusal:
        await operator.patch_merge(Server, name, {"spec": {"assignment": change}}, "demo")
    assert said in refusal.value.message


async def test_selectable_fields(connect: Any) -> None:
    """An agent's watch can be narrowed by the server to what is assigned to its host."""
    restorer = await connect(RESTORER)
    for host in ("s1", "s2"):
        await restorer.create(Server, make_assigned(Server, f"on-{host}", host))
    found, _ = await restorer.list(Server, field_selector="spec.assignment.host=s1")
    assert [server["metadata"]["name"] for server in found] == ["on-s1"]


async def test_model_and_schema_agree_on_status(admin: KubeClient, connect: Any) -> None:
    """A status that the model writes is stored without losing a field."""
    await admin.create(Image, make_object(Image, "whole"))
    status = {
        "importHost": "h1",
        "digest": "sha256:" + "1" * 64,
        "size": 4 << 30,
        "virtualSize": 8 << 40,
        "observedGeneration": 1,
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Imported",
                "message": "",
                "lastTransitionTime": "2026-11-21T00:00:00Z",
                "observedGeneration": 1,
            }
        ],
    }
    body = make_object(Image, "whole")
    del body["spec"]
    operator = await connect("operator")
    stored = await operator.apply_status(Image, body | {"status": copy.deepcopy(status)}, manager="kumulus-operator")
    assert stored["status"] == status
    assert Image.model_validate(stored).dump()["status"] == status
