"""The comparison of what the API says with what is on the hosts finds every difference and invents none."""

import copy
from dataclasses import replace

import pytest

from kumulus_agent.network.names import tap
from kumulus_lab.testing.agreement import Told, disagreements
from kumulus_lab.testing.sightings import Sighting

ID = "22222222-2222-4222-8222-222222222222"
TAP = tap(ID, "eth0")
PORT = {
    "name": "eth0",
    "port": "web-eth0",
    "portID": "p",
    "vni": 4096,
    "mac": "02:00:00:00:00:01",
    "addresses": ["10.0.0.5"],
}
SERVER = {
    "metadata": {"namespace": "demo", "name": "web"},
    "spec": {"powerState": "Running", "assignment": {"instanceID": ID, "host": "h1", "ports": [PORT]}},
    "status": {
        "powerState": "Running",
        "addresses": [{"address": "10.0.0.5"}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "Running"}],
    },
}
TOLD = Told(
    servers=[SERVER],
    ports=[{"metadata": {"namespace": "demo", "name": "web-eth0"}, "spec": {}, "status": {"wired": True}}],
    hosts=[{"metadata": {"name": name}, "status": {"tunnelAddress": f"192.0.2.{name[1]}"}} for name in ("h1", "h2")],
    claims=[{"metadata": {"name": "vni-4096-10-0-0-5"}, "spec": {"claimRef": {"instance": "p"}}}],
)
SEEN = Sighting(
    domains={f"k-{ID}": True},
    taps={TAP: "kb001000"},
    bridges=frozenset({"kb001000"}),
    tunnels=frozenset({"kx001000"}),
    services={"kd001000": True},
    instances={ID: True},
)


def test_agreement() -> None:
    """Where a running server has exactly what is its own, nothing differs."""
    assert disagreements(TOLD, {"h1": SEEN, "h2": Sighting()}) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"domains": {}}, "libvirt's domain is absent"),
        ({"domains": {f"k-{ID}": False}}, "it is Ready and does not run"),
        ({"domains": {f"k-{ID}": True, "k-other": True}}, "domain k-other belongs to no server"),
        ({"taps": {TAP: ""}}, "is plugged into"),
        ({"taps": {TAP: "kb001000", "kt0": ""}}, "tap kt0 belongs to no server"),
        ({"bridges": frozenset()}, "bridges"),
        ({"tunnels": frozenset({"kx001000", "kx001001"})}, "VXLAN devices"),
        ({"services": {"kd001000": False}}, "DHCP servers"),
        ({"neighbours": frozenset({("kx001000", "02:00:00:00:00:02", "192.0.2.2")})}, "neighbours"),
        ({"instances": {ID: True, "left": False}}, "folder of instance left belongs to no server"),
        ({"instances": {}}, "it has no root disk"),
        ({"volumes": frozenset({"v.raw"})}, "v.raw belongs to no volume"),
    ],
)
def test_difference_on_a_host(change: dict[str, object], said: str) -> None:
    """Whatever is missing or too much on a host is named."""
    found = disagreements(TOLD, {"h1": replace(SEEN, **change), "h2": Sighting()})  # type: ignore[arg-type]
    assert any(said in text for text in found), found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ports": []}, "its port web-eth0 does not exist"),
        ({"claims": []}, "10.0.0.5 is not claimed"),
        ({"servers": []}, f"domain k-{ID} belongs to no server"),
    ],
)
def test_difference_in_the_api(change: dict[str, object], said: str) -> None:
    """Whatever is missing in the API is named."""
    found = disagreements(replace(TOLD, **change), {"h1": SEEN, "h2": Sighting()})  # type: ignore[arg-type]
    assert any(said in text for text in found), found


def test_status_that_lies() -> None:
    """A status with another power state or other addresses than the guest has is named."""
    server = copy.deepcopy(SERVER)
    server["status"] |= {"powerState": "Stopped", "addresses": []}  # type: ignore[operator]
    found = disagreements(replace(TOLD, servers=[server]), {"h1": SEEN, "h2": Sighting()})
    assert any("powerState is Stopped" in text for text in found)
    assert any("status has the addresses []" in text for text in found)
