"""What an agent lets start beside what is there: its own last word after the operator's placement."""

from dataclasses import replace

import pytest

from kumulus_agent.servers.capacity import Capacity, capacity_of, refusal
from kumulus_agent.servers.desired import read_desired
from kumulus_api import Server
from kumulus_api.testing import make_assigned

MIB = 1 << 20


@pytest.mark.parametrize(
    ("spec", "capacity"),
    [
        (None, Capacity(1024, 300)),
        ({}, Capacity(1024, 300)),
        ({"overcommit": {"memory": "1.5"}}, Capacity(1536, 300)),
        ({"overcommit": {"memory": "1.5"}, "reserved": {"memory": "24", "disk": "40"}}, Capacity(1500, 180)),
        ({"reserved": {"disk": "1Gi"}}, Capacity(1024, 0)),
    ],
)
def test_a_host_gives_out_what_it_does_not_keep(spec: dict[str, object] | None, capacity: Capacity) -> None:
    """Own ratios go before those of the settings and are of what is not reserved, as the operator counts."""
    host = None if spec is None else {"spec": spec}
    assert capacity_of(host, 1024, 100, (1.0, 3.0)) == capacity


def test_an_instance_starts_only_beside_what_leaves_it_room() -> None:
    """Memory is taken by others in memory, disk by all; the instance itself does not count twice."""
    found = read_desired(make_assigned(Server, "web", "h1"))
    assert found is not None
    wanted = replace(found, memory=512 * MIB, root_disk=10 * MIB, volumes=())
    other = replace(wanted, instance_id="another")
    assert refusal(wanted, [wanted], Capacity(512 * MIB, 10 * MIB)) == ""
    assert refusal(wanted, [other], Capacity(1024 * MIB, 20 * MIB)) == ""
    assert refusal(wanted, [other], Capacity(1023 * MIB, 20 * MIB)).startswith("512 MiB of memory are asked for, 511")
    assert refusal(wanted, [other], Capacity(1024 * MIB, 19 * MIB)).startswith("10 MiB of disk are asked for, 9")


def test_volumes_that_count_by_their_class_are_left_to_the_operator() -> None:
    """The host's ratio says nothing of them; of a volume that has no such mark all counts."""
    body = make_assigned(Server, "web", "h1")
    volume = {"name": "a", "volume": "a", "volumeID": "00000000-0000-4000-8000-000000000003", "size": "90Mi"}
    attached = [{"name": "a", "volume": {"name": "a"}}]
    body["spec"] |= {"volumes": attached}
    for more, fits in (({}, False), ({"volumeClass": "thin"}, True)):
        body["spec"]["assignment"]["volumes"] = [volume | more]
        found = read_desired(body)
        assert found is not None
        assert len(found.volumes) == 1
        wanted = replace(found, memory=MIB, root_disk=10 * MIB)
        assert (refusal(wanted, [], Capacity(MIB, 50 * MIB)) == "") is fits
