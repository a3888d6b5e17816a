"""An operator that ends after any of its writes: the next one brings devices to where they should be."""

from __future__ import annotations

import copy
import itertools
import time
from typing import Any

import pytest

from kumulus_api import FINALIZER, AddressClaim, Host, Kind, Network, Port, Project, SecurityGroup, Server, Volume
from kumulus_api.testing import VOLUME_ID, make_assigned, make_object
from kumulus_operator.cloud import Cloud
from kumulus_operator.servers.devices import change_devices
from kumulus_operator.settings import OperatorSettings
from kumulus_runtime.conditions import set_condition
from kumulus_runtime.errors import AlreadyExists, Conflict

Object = dict[str, Any]
READY = {"conditions": set_condition([], "Ready", True, "Ready", "", 1)}
ETH0 = {"name": "eth0", "network": {"name": "private"}, "address": "10.0.0.10"}
ETH1 = {"name": "eth1", "network": {"name": "private"}}
DATA = {"name": "data", "volume": {"name": "data"}}


class Killed(BaseException):
    """The process has ended."""


class Api:
    """Objects and their versions, and how many more writes the operator lives to make."""

    def __init__(self, writes: int | None = None) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.left = writes
        self._numbers = itertools.count(1)

    def put(self, kind: type[Kind], body: Object) -> Object:
        """Store an object anew, whoever asks."""
        metadata = {"uid": f"{kind.__name__}-{body['metadata']['name']}", "generation": 1} | body["metadata"]
        metadata["resourceVersion"] = str(next(self._numbers))
        stored = {**copy.deepcopy(body), "metadata": metadata}
        self.objects[kind.__name__, metadata["name"]] = stored
        return copy.deepcopy(stored)

    def _write(self) -> None:
        if self.left is not None:
            if not self.left:
                raise Killed
            self.left -= 1

    async def get(self, kind: type[Kind], name: str, namespace: str | None = None) -> Object | None:
        """Give an object."""
        return copy.deepcopy(self.objects.get((kind.__name__, name)))

    async def create(self, kind: type[Kind], body: Object) -> Object:
        """Store a new object."""
        self._write()
        if (kind.__name__, body["metadata"]["name"]) in self.objects:
            raise AlreadyExists(409, "AlreadyExists", "")
        return self.put(kind, body)

    async def apply(self, kind: type[Kind], body: Object, *, manager: str) -> Object:
        """Write the assignment, guarded by the version if that is given."""
        self._write()
        found = self.objects[kind.__name__, body["metadata"]["name"]]
        version = body["metadata"].get("resourceVersion")
        if version not in (None, found["metadata"]["resourceVersion"]):
            raise Conflict(409, "Conflict", "")
        new = copy.deepcopy(found)
        new["spec"]["assignment"] = body["spec"]["assignment"]
        new["metadata"]["generation"] += 1
        return self.put(kind, new)

    async def apply_status(self, kind: type[Kind], body: Object, *, manager: str) -> Object:
        """Write the status."""
        found = self.objects[kind.__name__, body["metadata"]["name"]]
        return self.put(kind, found | {"status": (found.get("status") or {}) | body["status"]})

    async def patch_merge(self, kind: type[Kind], name: str, patch: Object, namespace: str | None = None) -> Object:
        """Write fields of the spec, guarded by the version."""
        self._write()
        found = self.objects[kind.__name__, name]
        if patch["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", "")
        return self.put(kind, found | {"spec": found["spec"] | patch["spec"]})

    async def delete(self, kind: type[Kind], name: str, namespace: str | None = None, uid: str | None = None) -> bool:
        """Remove an object."""
        self._write()
        return self.objects.pop((kind.__name__, name), None) is not None


KINDS: tuple[type[Kind], ...] = (Project, Host, Network, AddressClaim, Volume, SecurityGroup, Port, Server)


def begin(api: Api) -> Cloud:
    """Give a new operator that has seen everything."""
    cloud = Cloud(api, OperatorSettings())  # type: ignore[arg-type]
    cloud.liveness.expect("h1", time.monotonic())
    for kind in KINDS:
        for (name, _), body in api.objects.items():
            if name == kind.__name__:
                cloud.take(kind, copy.deepcopy(body))
    for volume in cloud.volumes:
        cloud.ledger.admit_volume(volume, counted=True)
    return cloud


def make_api(*, given: bool) -> Api:
    """Give a project with a server; `given` says whether it has the volume and the second NIC."""
    api = Api()
    api.put(Project, make_object(Project, "demo"))
    api.put(Host, make_object(Host, "h1"))
    api.put(Network, make_object(Network, "private") | {"status": READY | {"vni": 4096}})
    place = {"volumeID": VOLUME_ID, "host": "h1"} | ({"attachedTo": "web"} if given else {})
    api.put(Volume, make_object(Volume, "data", assignment=place))
    server = make_assigned(Server, "web", "h1")
    server["metadata"]["finalizers"] = [FINALIZER]
    server["spec"] |= {"networks": [ETH0], "volumes": []}
    first = server["spec"]["assignment"]["ports"][0]
    ports = [("web-eth0", first)]
    if given:
        second = first | {"name": "eth1", "port": "web-eth1", "portID": VOLUME_ID.replace("3", "4")}
        second |= {"mac": "52:54:00:00:00:04", "addresses": ["10.0.0.11"]}
        server["spec"]["assignment"]["ports"] = [first, second]
        server["spec"]["assignment"]["volumes"] = [
            {"name": "data", "volume": "data", "volumeID": VOLUME_ID, "size": "1Gi"}
        ]
        ports.append(("web-eth1", second))
    api.put(Server, server)
    owner = {"apiVersion": "kumulus.dev/v1alpha1", "kind": "Server", "name": "web", "uid": "Server-web"}
    for name, item in ports:
        port = make_object(
            Port, name, addresses=None, securityGroups=None, assignment={"host": "h1", **_identity(item)}
        )
        port["metadata"]["ownerReferences"] = [owner | {"controller": True}]
        api.put(Port, port)
    return api


def _identity(item: Object) -> Object:
    return {name: item[name] for name in ("portID", "mac", "addresses")}


def change(api: Api, *, unplugged: bool, **spec: Any) -> None:
    """Change the server's spec as its user does; the agent has done and told its part if `unplugged`."""
    server = copy.deepcopy(api.objects["Server", "web"])
    server["spec"] |= spec
    server["metadata"]["generation"] += 1
    api.put(Server, server)
    if unplugged:
        tell(api)


def tell(api: Api) -> None:
    """Tell what the agent tells as of the newest spec."""
    server = api.objects["Server", "web"]
    named = {item["name"] for item in [*server["spec"]["networks"], *server["spec"]["volumes"]]}
    given = server["spec"]["assignment"]
    items = [*given.get("ports", []), *given.get("volumes", [])]
    gone = [item.get("portID") or item["volumeID"] for item in items if item["name"] not in named]
    status = {"observedGeneration": server["metadata"]["generation"], "detached": gone}
    api.put(Server, server | {"status": status})


def state(api: Api) -> tuple[list[str], list[str], str | None, set[str]]:
    """Give the server's ports and volumes, the volume's holder, and the ports that are there."""
    given = api.objects["Server", "web"]["spec"]["assignment"]
    ports, volumes = ([item["name"] for item in given.get(kind, [])] for kind in ("ports", "volumes"))
    holder = api.objects["Volume", "data"]["spec"]["assignment"].get("attachedTo")
    return ports, volumes, holder, {name for kind, name in api.objects if kind == "Port"}


async def reconcile(api: Api, cloud: Cloud) -> None:
    """Look at the server once."""
    server = cloud.servers.get("demo", "web")
    assert server is not None
    try:
        await change_devices(cloud, server)
    finally:
        given, volume = api.objects["Server", "web"]["spec"]["assignment"], api.objects["Volume", "data"]
        held = volume["spec"]["assignment"].get("attachedTo")
        assert not given.get("volumes") or held == "web", "whoever is given a volume holds it"


ATTACHED = (["eth0", "eth1"], ["data"], "web", {"web-eth0", "web-eth1"})
DETACHED = (["eth0"], [], None, {"web-eth0"})


@pytest.mark.parametrize("writes", [0, 1, 2, 3, None])
async def test_attaching_goes_on_after_any_write(writes: int | None) -> None:
    """Volume, claim, port and assignment: wherever it ends, the next one ends with each of them, once."""
    api = make_api(given=False)
    change(api, unplugged=False, networks=[ETH0, ETH1], volumes=[DATA])
    api.left = writes
    if writes is not None:
        with pytest.raises(Killed):
            await reconcile(api, begin(api))
    api.left = None
    cloud = begin(api)
    await reconcile(api, cloud)
    assert state(api) == ATTACHED
    api.left = 0
    await reconcile(api, cloud)  # nothing is left to be written
    assert len([kind for kind, _ in api.objects if kind == "AddressClaim"]) == 1


@pytest.mark.parametrize("writes", [0, 1, None])
async def test_other_groups_go_on_after_any_write(writes: int | None) -> None:
    """Port and assignment: wherever it ends, the next one ends with both of them saying the groups."""
    api = make_api(given=False)
    group = make_object(SecurityGroup, "db") | {"status": READY}
    api.put(SecurityGroup, group)
    change(api, unplugged=False, networks=[ETH0 | {"securityGroups": [{"name": "db"}]}])
    api.left = writes
    if writes is not None:
        with pytest.raises(Killed):
            await reconcile(api, begin(api))
    api.left = None
    cloud = begin(api)
    await reconcile(api, cloud)
    assert api.objects["Port", "web-eth0"]["spec"]["securityGroups"] == [{"name": "db"}]
    assert api.objects["Server", "web"]["spec"]["assignment"]["ports"][0]["securityGroups"] == ["db"]
    assert [port.key for port in cloud.ports if port.key in cloud.users_of_group["demo", "db"]] == [
        ("demo", "web-eth0")
    ]
    api.left = 0
    await reconcile(api, cloud)  # nothing is left to be written
    api.left = None
    change(api, unplugged=False, networks=[ETH0])
    await reconcile(api, begin(api))
    assert api.objects["Port", "web-eth0"]["spec"]["securityGroups"] == []
    assert "securityGroups" not in api.objects["Server", "web"]["spec"]["assignment"]["ports"][0]


@pytest.mark.parametrize("writes", [0, 1, 2, None])
async def test_detaching_goes_on_after_any_write(writes: int | None) -> None:
    """Assignment, volume and port: wherever it ends, the next one releases what is left."""
    api = make_api(given=True)
    change(api, unplugged=True, networks=[ETH0], volumes=[])
    api.left = writes
    if writes is not None:
        with pytest.raises(Killed):
            await reconcile(api, begin(api))
    api.left = None
    await reconcile(api, begin(api))
    assert state(api) == DETACHED


@pytest.mark.parametrize("writes", [0, 1, 2])
async def test_a_user_who_changes_his_mind_gets_it_back(writes: int) -> None:
    """What is named again while it is being taken back is given again, with one holder all the time."""
    api = make_api(given=True)
    change(api, unplugged=True, networks=[ETH0], volumes=[])
    api.left = writes
    with pytest.raises(Killed):
        await reconcile(api, begin(api))
    api.left = None
    change(api, unplugged=False, networks=[ETH0, ETH1], volumes=[DATA])
    cloud = begin(api)
    await reconcile(api, cloud)
    assert state(api) == ATTACHED


async def test_nothing_is_taken_back_before_it_is_unplugged() -> None:
    """Until the agent has told it, nothing is written."""
    api = make_api(given=True)
    change(api, unplugged=False, networks=[ETH0], volumes=[])
    api.left = 0
    cloud = begin(api)
    await reconcile(api, cloud)
    assert state(api) == ATTACHED


async def test_a_stale_view_meets_a_conflict() -> None:
    """An operator that has not seen that the volume is wanted again cannot take it back."""
    api = make_api(given=True)
    change(api, unplugged=True, networks=[ETH0], volumes=[])
    cloud = begin(api)
    change(api, unplugged=False, networks=[ETH0, ETH1], volumes=[DATA])
    with pytest.raises(Conflict):
        await reconcile(api, cloud)
    assert state(api) == ATTACHED
