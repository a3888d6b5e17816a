"""Which volumes serve servers on other hosts, and whom they let in."""

from datetime import UTC, datetime

import pytest

from kumulus_api import Volume, VolumeClass
from kumulus_api.server_assignment import ServerAssignment
from kumulus_api.volume import VolumeAssignment
from kumulus_operator.ledger.fleet import Fleet
from kumulus_operator.placement.facts import Amounts, HostFacts, Weights, Wish
from kumulus_operator.seen import Seen
from kumulus_operator.servers.plan import assigned_volume
from kumulus_operator.volumes.classes import exportable
from kumulus_operator.volumes.exporting import attached, hosts_of, with_sizes
from kumulus_operator.volumes.holders import released
from kumulus_operator.volumes.plan import volume_status

ID = "00000000-0000-4000-8000-000000000001"
GIB = 1 << 30
LOCKED = {"encryption": {"cipher": "aes-xts-plain64", "keySize": 512, "secret": {"name": "volume-key-1"}, "made": True}}


def make_place(**overrides):
    """A place on h1."""
    return VolumeAssignment.model_validate(
        {"volumeID": ID, "host": "h1", "size": "1Gi", "volumeClass": "lent"} | overrides
    )


def make_volume(status=None, **place):
    """A volume on h1."""
    metadata = {"name": "data", "namespace": "demo", "uid": "u", "generation": 1, "resourceVersion": "1"}
    spec = {"size": "1Gi", "assignment": make_place(**place).dump()}
    return Volume.model_validate({"metadata": metadata, "spec": spec, "status": status or {}})


def make_assignment(**overrides):
    """What a server on h2 was given: a volume that h1 exports."""
    volume = {"name": "data", "volume": "data", "volumeID": ID, "size": "1Gi", "shared": True, "exporter": "h1"}
    resources = {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"}
    given = {"instanceID": ID, "host": "h2", "epoch": 1, "resources": resources, "volumes": [volume]}
    return ServerAssignment.model_validate(given | overrides)


@pytest.mark.parametrize(
    ("spec", "place", "expected"),
    [
        ({"driver": "Local", "export": True}, {}, True),
        ({"driver": "Local"}, {}, False),
        ({"driver": "Local", "export": True}, {"folder": "/srv/x"}, False),
        ({"driver": "Local", "export": True}, {"volumeClass": "other"}, False),
        ({"driver": "Local", "export": True}, LOCKED, False),
    ],
)
def test_only_a_class_that_allows_it_exports(spec, place, expected):
    """What lies on one host, in the clear, serves others if its class says so, as it is now; nothing else does."""
    cloud = Seen()
    cloud.views[VolumeClass].put({"metadata": {"name": "lent", "uid": "c", "generation": 1}, "spec": spec})
    assert exportable(make_volume(**place), cloud) is expected


def test_a_volume_stays_where_it_is_and_lets_in_its_server():
    """Attached from elsewhere it keeps its host and names the other; at home it names nobody, nor when released."""
    far = attached(make_place(), "web", "h2", exported=True)
    assert (far.host, far.exported_to, far.attached_to) == ("h1", ["h2"], "web")
    home = attached(far, "web", "h1", exported=True)
    assert (home.host, home.exported_to) == ("h1", None)
    shared = attached(make_place(folder="/srv/x"), "web", "h2", exported=False)
    assert (shared.host, shared.exported_to) == ("h2", None)
    assert released(far, {"web"}) == make_place()


def test_the_server_is_told_who_exports():
    """A volume from elsewhere is to the server's host as a shared one, with the name of its own host."""
    told = assigned_volume("data", make_volume(attachedTo="web", exportedTo=["h2"]))
    assert (told["exporter"], told["shared"]) == ("h1", True)
    assert "exporter" not in assigned_volume("data", make_volume(attachedTo="web"))


def test_hosts_and_sizes_follow_the_server():
    """Both hosts of a migration are let in, and one otherwise; a size is told once it is another."""
    assert hosts_of(make_assignment()) == ["h2"]
    assert hosts_of(make_assignment(target="h3")) == ["h2", "h3"]
    assert with_sizes(make_assignment(), {ID: "1Gi"}) is None
    larger = with_sizes(make_assignment(), {ID: "2Gi"})
    assert larger is not None
    assert [item.size for item in larger.volumes] == ["2Gi"]


@pytest.mark.parametrize(
    ("export", "silent", "expected"),
    [
        (None, False, ("False", "Exporting")),
        ({"port": 9900, "hosts": ["h3"]}, False, ("False", "Exporting")),
        ({"port": 9900, "hosts": ["h2"]}, False, ("True", "InUse")),
        ({"port": 9900, "hosts": ["h2"]}, True, ("False", "HostSilent")),
    ],
)
def test_the_condition_says_whether_the_server_has_it(export, silent, expected):
    """Ready only when exactly the named hosts are let in, and the host where it lies speaks."""
    status = {"sizeBytes": GIB} | ({"export": export} if export else {})
    volume = make_volume(status, attachedTo="web", exportedTo=["h2"])
    told = volume_status(volume, None, datetime.now(UTC), silent=silent)
    assert told is not None
    ready = told["conditions"][0]
    assert (ready["status"], ready["reason"]) == expected


def test_the_volumes_host_is_preferred_while_it_fits():
    """The host of a volume is taken however light it is; when it has no room, another is."""
    fleet = Fleet(Weights())
    facts = dict.fromkeys(("ready", "fresh", "schedulable", "tunnel"), True) | {
        "maintenance": False,
        "decommissioned": False,
    }
    fleet.put(HostFacts("small", total=Amounts(2, 2 * GIB, GIB), **facts))
    fleet.put(HostFacts("large", total=Amounts(64, 64 * GIB, 64 * GIB), **facts))
    wish = Wish(Amounts(2, GIB, 0), near="small")
    assert fleet.choose(wish, {}, lambda _: True) == "small"
    fleet.give("small", Amounts(1, 0, 0))
    assert fleet.choose(wish, {}, lambda _: True) == "large"
