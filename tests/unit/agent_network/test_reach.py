"""Which physical networks a host reaches: each obstacle has its reason."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_agent.network.state import HostInterface, NetworkDesired, PortDesired, Uplink
from kumulus_agent.networks.plan import Here, network_desired
from kumulus_agent.networks.reach import NetworkUnreached, mappings_of, overlay_obstacle, reached, uplink_of
from kumulus_agent.servers.errors import StepFailed
from kumulus_agent.servers.start import failing_as
from kumulus_agent.services.dnsmasq_files import told_servers
from kumulus_agent.settings import AgentSettings
from kumulus_api import Network
from kumulus_api.provider import Provider, Segment, segment_claim_name
from kumulus_api.server_status import ReadyReason, ServerConditionType

FREE = HostInterface("eth1", 1500, up=True)


def reasons(found: HostInterface | None, *, vlans: bool = True) -> dict[str, str]:
    """Why networks of each type do not reach a host with this interface."""
    (network,) = reached({"physnet1": "eth1"}, {} if found is None else {"eth1": found}, vlans=vlans)
    assert {why.type for why in network.obstacles} | set(network.reaches) == {"Flat", "VLAN"}
    return {why.type.value: why.reason.value for why in network.obstacles}


@pytest.mark.parametrize(
    ("found", "vlans", "why"),
    [
        (FREE, True, {}),
        (FREE, False, {"VLAN": "VLANUnsupported"}),
        (None, True, {"Flat": "InterfaceAbsent", "VLAN": "InterfaceAbsent"}),
        (HostInterface("eth1", 1500, up=False), True, {"VLAN": "InterfaceDown"}),
        # A tag may share the host's own interface: nothing is taken away.
        (HostInterface("eth1", 1500, up=True, used="it has the address 192.0.2.1"), True, {"Flat": "InterfaceInUse"}),
        (HostInterface("eth1", 1500, up=True, taken=True), True, {}),
    ],
)
def test_each_obstacle_has_its_reason(found: HostInterface | None, vlans: bool, why: dict[str, str]) -> None:
    """What an interface cannot carry is said for each type of network, what it can is said, too."""
    assert reasons(found, vlans=vlans) == why


@pytest.mark.parametrize(
    ("provider", "uplink"),
    [
        (Provider(physical_network="physnet1"), Uplink("eth1")),
        (Provider(physical_network="physnet1", type="VLAN", segmentationID=7), Uplink("eth1", 7)),
        (Provider(physical_network="physnet1", mtu=9000), "MTUTooSmall"),
        (Provider(physical_network="physnet2"), "NotMapped"),
        (Provider(physical_network="physnet3"), "InterfaceAbsent"),
    ],
)
def test_a_network_leaves_by_its_interface_or_says_why_not(provider: Provider, uplink: Uplink | str) -> None:
    """A provider network gets the interface of its physical network, or the typed reason for which it gets none."""
    networks = reached({"physnet1": "eth1", "physnet3": "eth3"}, {"eth1": FREE}, vlans=True)
    found = uplink_of(provider, networks)
    assert (found.reason if isinstance(found, NetworkUnreached) else found) == uplink


def test_the_hosts_own_mappings_replace_the_settings() -> None:
    """A Host without mappings has those of the settings; one with mappings, even none, has its own alone."""
    settings = AgentSettings(node_name="h1", bridge_mappings="physnet1:eth1,physnet2:eth2").mappings
    assert mappings_of({}, settings) == {"physnet1": "eth1", "physnet2": "eth2"}
    assert mappings_of({"bridgeMappings": {}}, settings) == {}
    assert mappings_of({"bridgeMappings": {"physnet1": "ens5"}}, settings) == {"physnet1": "ens5"}


@pytest.mark.parametrize("value", ["physnet1", "physnet1:", "a:eth1,a:eth2", "a:eth1,b:eth1", "A:eth1", "a:eth1,"])
def test_bad_mappings_are_refused(value: str) -> None:
    """A mapping names one physical network and one interface, each once."""
    with pytest.raises(ValueError, match="bridge_mappings"):
        AgentSettings(node_name="h1", bridge_mappings=value)


def make_desired(uplink: Uplink | None = None, **subnet: Any) -> NetworkDesired:
    """What a provider network with an endpoint on another host should be here."""
    endpoint = {"port": "p", "mac": "02:00:00:00:00:02", "addresses": ["10.0.0.12"], "host": "h2"}
    endpoint |= {"tunnelAddress": "192.0.2.2", "hostname": "web"}
    slices = [{"metadata": {}, "spec": {"network": {"name": "lan"}, "vni": 42, "endpoints": [endpoint]}}]
    spec = {"type": "Provider", "provider": {"physicalNetwork": "physnet1", "mtu": 1400}}
    network = Network.model_validate({"spec": spec | {"subnets": [{"name": "v4", "cidr": "10.0.0.0/24"} | subnet]}})
    ports: list[PortDesired] = []
    return network_desired(42, network, slices, ports, Here("h1", "192.0.2.1", 1450), uplink=uplink)


def test_no_tunnel_leads_to_a_provider_network() -> None:
    """Other hosts are not its peers, its MTU is its own, and its names are known all the same."""
    desired = make_desired(Uplink("eth1"))
    assert (desired.provider, desired.uplink, desired.mtu) == (True, Uplink("eth1"), 1400)
    assert not desired.peers
    assert not desired.neighbours
    assert [record.name for record in desired.records] == ["web"]


def test_an_overlay_carries_what_its_tunnels_do() -> None:
    """A smaller MTU is told to guests; with a larger one the host refuses, and guests that run have what there is."""
    spec = {"subnets": [{"name": "v4", "cidr": "10.0.0.0/24"}]}
    here = Here("h1", "192.0.2.1", 1450)
    for mtu, told in ((None, 1450), (1400, 1400), (1450, 1450), (1451, 1450)):
        network = Network.model_validate({"spec": spec | ({"mtu": mtu} if mtu else {})})
        assert network_desired(1, network, [], [], here).mtu == told
        assert (overlay_obstacle(mtu, here.mtu) is not None) == (mtu == 1451)


def test_guests_are_told_servers_that_they_reach() -> None:
    """Without DHCP there is no server here; with it, guests ask the subnet's DNS servers, or ours if it has none."""
    assert not make_desired(enableDHCP=False).served
    own, given = make_desired(), make_desired(dnsServers=["9.9.9.9"])
    assert own is not None
    assert given is not None
    assert [str(server) for server in told_servers(own.subnets[0], own)] == ["10.0.0.254"]
    assert [str(server) for server in told_servers(given.subnets[0], given)] == ["9.9.9.9"]


def test_claims_on_segments_have_names_of_their_own() -> None:
    """No two segments share a claim's name, whatever their physical networks are called."""
    segments = [
        Segment(physical_network=name, type=kind, segmentationID=number)
        for name in ("a", "a-vlan", "a-vlan-100", "a-flat", "a-flat-vlan")
        for kind, number in (("Flat", None), ("VLAN", 1), ("VLAN", 100))
    ]
    assert len({segment_claim_name(segment) for segment in segments}) == len(segments)


async def test_a_server_says_by_what_its_network_is_not_reached() -> None:
    """The typed reason reaches the condition NetworkReady, also through the task group that has networks made."""
    error = NetworkUnreached("not reached", "InterfaceAbsent")
    for raised in (error, ExceptionGroup("networks", [error])):
        with pytest.raises(StepFailed) as failed:
            async with failing_as(ReadyReason.NETWORK_FAILED, ServerConditionType.NETWORK_READY):
                raise raised
        assert (failed.value.reason, failed.value.detail) == (ReadyReason.NETWORK_FAILED, "InterfaceAbsent")
