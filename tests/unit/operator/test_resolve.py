"""What a Server refers to: found, or refused by a sentence that names it."""

from types import SimpleNamespace

import pytest

from kumulus_api import Flavor, Image, KeyPair, Network, Port, SecurityGroup, Server, Volume
from kumulus_operator.refusal import Refused
from kumulus_operator.servers.plan import scheduled_status, silent_status, waiting_status
from kumulus_operator.servers.resolve import interests, resolve
from kumulus_operator.views import View
from kumulus_runtime.conditions import set_condition

READY = set_condition([], "Ready", True, "Fine", "", 1)


def make_catalog(**left_out):
    """Give a project with one of everything; `network=False` leaves the network out, and so on."""
    bodies = {
        "flavor": (Flavor, "", "small", {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"}, None),
        "image": (
            Image,
            "demo",
            "tiny",
            {"source": {"url": "http://images.test/tiny"}, "format": "qcow2"},
            {"digest": "sha256:" + "0" * 64, "virtualSize": 2**30, "conditions": READY},
        ),
        "network": (
            Network,
            "demo",
            "net",
            {"subnets": [{"name": "v4", "cidr": "10.0.0.0/24"}]},
            {"vni": 5000, "conditions": READY},
        ),
        "secret_image": (
            Image,
            "other",
            "secret",
            {"source": {"url": "http://images.test/secret"}, "format": "qcow2"},
            {"digest": "sha256:" + "0" * 64, "virtualSize": 1, "conditions": READY},
        ),
    }
    kinds = {"flavors": Flavor, "images": Image, "key_pairs": KeyPair, "networks": Network, "ports": Port}
    views = {name: View(kind) for name, kind in (kinds | {"volumes": Volume, "security_groups": SecurityGroup}).items()}
    by_kind = {view.kind: view for view in views.values()}
    for label, (kind, namespace, name, spec, status) in bodies.items():
        if left_out.get(label, True):
            metadata = {"name": name, "namespace": namespace or None, "uid": label, "resourceVersion": "1"}
            by_kind[kind].put({"metadata": metadata, "spec": spec, "status": status})
    return SimpleNamespace(**views)


def make_server(**spec):
    """Give a server of the project."""
    wanted = {"flavor": {"name": "small"}, "image": {"name": "tiny"}} | spec
    metadata = {"name": "web", "namespace": "demo", "uid": "u", "generation": 1}
    return Server.model_validate({"metadata": metadata, "spec": wanted})


def test_a_server_is_put_on_no_external_network_unasked():
    """A network that routers and floating IPs take addresses from is not the one that is meant when none is named."""
    catalog = make_catalog()
    spec = {"external": True, "subnets": [{"name": "v4", "cidr": "203.0.113.0/24"}]}
    metadata = {"name": "public", "namespace": "demo", "uid": "public", "resourceVersion": "1"}
    catalog.networks.put({"metadata": metadata, "spec": spec, "status": {"vni": 5001, "conditions": READY}})
    resolved = resolve(make_server(), catalog)
    assert [item.network.metadata.name for item in resolved.interfaces] == ["net"]


def refusal_of(server, catalog):
    """Give the refusal that resolving ends with."""
    with pytest.raises(Refused) as caught:
        resolve(server, catalog)
    return caught.value.refusal


def test_the_only_network_is_the_default():
    """A server without networks gets one interface on the namespace's only network."""
    found = resolve(make_server(), make_catalog())
    assert [(item.name, item.port_name) for item in found.interfaces] == [("default", "web-default")]


@pytest.mark.parametrize(
    ("left_out", "spec", "reason"),
    [
        ("flavor", {}, "FlavorNotFound"),
        ("image", {}, "ImageNotFound"),
        ("network", {}, "NetworkNotFound"),
        (None, {"keyPair": {"name": "mine"}}, "KeyPairNotFound"),
        (None, {"volumes": [{"name": "d", "volume": {"name": "data"}}]}, "VolumeNotFound"),
        (None, {"networks": [{"name": "a", "port": {"name": "p"}}]}, "PortNotFound"),
        (None, {"networks": [{"name": "a", "network": {"name": "net"}, "address": "10.0.0.255"}]}, "AddressInvalid"),
        (None, {"networks": [{"name": "a", "network": {"name": "net", "namespace": "other"}}]}, "NetworkNotFound"),
        (
            None,
            {"networks": [{"name": "a", "network": {"name": "net"}, "securityGroups": [{"name": "web"}]}]},
            "SecurityGroupNotFound",
        ),
    ],
)
def test_each_missing_reference_is_named(left_out, spec, reason):
    """What is missing or invalid is refused with its own reason, and the server waits for what it refers to."""
    server = make_server(**spec)
    refusal = refusal_of(server, make_catalog(**({left_out: False} if left_out else {})))
    assert refusal.reason == reason
    assert all(need in interests(server) for need in refusal.needs if need[1] != "other")


def test_a_foreign_image_looks_absent():
    """An image of another project and one that does not exist are refused with the same words."""
    texts = [
        refusal_of(make_server(image={"name": "secret", "namespace": "other"}), make_catalog(secret_image=there))
        for there in (True, False)
    ]
    assert texts[0] == texts[1]
    assert texts[0].reason == "ImageNotFound"


def test_a_status_is_written_once():
    """A waiting server that says so already causes no further write, nor does a silent or a placed one."""
    from datetime import UTC, datetime  # noqa: PLC0415

    now = datetime(2026, 1, 1, tzinfo=UTC)
    server, refusal = make_server(), refusal_of(make_server(), make_catalog(image=False))
    body = {"metadata": server.metadata.dump(), "spec": server.spec.dump()}

    def after(status):
        return Server.model_validate(body | {"status": status})

    waiting = after(waiting_status(server, refusal, now))
    assert waiting_status(waiting, refusal, now) is None
    silent = after(silent_status(server, "h1", now))
    assert silent_status(silent, "h1", now) is None
    assert scheduled_status(server, "Assigned", "", now) is None
    placed = after(scheduled_status(waiting, "Assigned", "", now))
    assert scheduled_status(placed, "Assigned", "", now) is None


@pytest.mark.parametrize(("field", "kind"), [("secret", "Secret"), ("configMap", "ConfigMap")])
def test_a_change_of_user_data_is_of_interest_at_any_time(field, kind):
    """A server that is looked at again is woken by its user data, too: a change in between is not lost."""
    assert (kind, "demo", "boot") in interests(make_server(userData={field: {"name": "boot"}}))
