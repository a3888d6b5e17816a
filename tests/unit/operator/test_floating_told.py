"""Which floating addresses a server is told of."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import FloatingIP, Server
from kumulus_api.testing import make_assigned
from kumulus_operator.floating_ips.told import leading_to

ID = "00000000-0000-4000-8000-000000000001"


def make_floating(name: str, fixed: str | None, port: str | None, **metadata: Any) -> FloatingIP:
    assignment = {
        "floatingIPID": ID,
        "address": f"203.0.113.{len(name)}",
        "mac": "02:00:00:00:00:09",
        "network": "public",
        "networkNamespace": "kumulus-public",
        "vni": 9,
        "fixedAddress": fixed,
    }
    spec = {"network": {"name": "public"}, "port": {"name": port} if port else None, "assignment": assignment}
    return FloatingIP.model_validate({"metadata": {"name": name, "namespace": "demo"} | metadata, "spec": spec})


SERVER = Server.model_validate(make_assigned(Server, "web", "h1"))
assert SERVER.spec.assignment is not None
OWN, PORT = SERVER.spec.assignment.ports[0].addresses[0], SERVER.spec.assignment.ports[0].port


@pytest.mark.parametrize(
    ("floating", "told"),
    [
        (make_floating("f", OWN, PORT), ["f"]),
        (make_floating("f", "10.99.0.1", PORT), []),
        (make_floating("f", None, PORT), []),
        (make_floating("f", OWN, "other"), []),
        (make_floating("f", OWN, None), []),
        (make_floating("f", OWN, PORT, deletionTimestamp="2026-01-01T00:00:00Z"), []),
    ],
)
def test_what_leads_there_is_told(floating, told):
    """Only what is translated to an address of one of the server's own ports, as a whole, is its floating address."""
    assert [found.name for found in leading_to(SERVER, [floating])] == told


def test_the_order_is_fixed():
    """Whatever order the watches have shown them in, they are told by their names."""
    items = [make_floating(name, OWN, PORT) for name in ("b", "a")]
    assert leading_to(SERVER, items) == leading_to(SERVER, items[::-1])
