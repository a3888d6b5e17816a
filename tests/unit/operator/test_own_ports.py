"""Which ports of a placed server the operator keeps."""

from kumulus_api import Server
from kumulus_operator.servers.plan import own_ports

ASSIGNED = {
    "portID": "33333333-3333-4333-8333-333333333333",
    "network": "net",
    "networkNamespace": "demo",
    "vni": 5000,
    "mac": "02:00:00:00:00:01",
    "addresses": ["10.0.0.2"],
}


def test_only_ports_made_for_the_server_are_its_own() -> None:
    """A port that the user made and named is not made anew by the operator; one made for the server is."""
    spec = {
        "flavor": {"name": "small"},
        "image": {"name": "tiny"},
        "networks": [{"name": "a", "network": {"name": "net"}}, {"name": "b", "port": {"name": "mine"}}],
        "assignment": {
            "instanceID": "22222222-2222-4222-8222-222222222222",
            "host": "h1",
            "epoch": 1,
            "resources": {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"},
            "ports": [{"name": "a", "port": "web-a"} | ASSIGNED, {"name": "b", "port": "mine"} | ASSIGNED],
        },
    }
    metadata = {"name": "web", "namespace": "demo", "uid": "u", "resourceVersion": "1", "generation": 1}
    server = Server.model_validate({"metadata": metadata, "spec": spec})
    assert [port.port for port in own_ports(server)] == ["web-a"]
    waiting = Server.model_validate({"metadata": metadata, "spec": spec | {"assignment": None}})
    assert own_ports(waiting) == []
