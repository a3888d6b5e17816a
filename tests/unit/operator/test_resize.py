"""What a placed server is given when its flavor changes, when it is shelved, and when it comes back."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import Flavor, Server
from kumulus_api.server_status import ScheduledReason
from kumulus_api.tenancy import Quota
from kumulus_api.testing import make_assigned, make_object
from kumulus_operator.ledger.ledger import Ledger
from kumulus_operator.ledger.plan import Request
from kumulus_operator.placement.facts import Amounts, HostFacts, Wish
from kumulus_operator.placement.usage import server_amounts
from kumulus_operator.refusal import Refused
from kumulus_operator.servers.size import change_of

MI, GI = 2**20, 2**30


def make_flavor(name: str = "large", vcpus: int = 4, memory: str = "512Mi", disk: str = "2Gi") -> Flavor:
    return Flavor.model_validate(make_object(Flavor, name, vcpus=vcpus, memory=memory, rootDisk=disk))


def make_server(
    flavor: str = "tiny", status: dict[str, Any] | None = None, assigned: dict[str, Any] | None = None, **spec: Any
) -> Server:
    body = make_assigned(Server, "web", "h1")
    body["metadata"]["generation"] = 7
    body["spec"]["assignment"] |= {"flavor": "tiny"} | (assigned or {})
    body["spec"] |= {"flavor": {"name": flavor}} | spec
    if status is not None:
        body["status"] = {"observedGeneration": 7} | status
    return Server.model_validate(body)


TINY = make_flavor("tiny", 1, "128Mi", "1Gi")
LARGE = make_flavor()
FORMER = {"flavor": "tiny", "resources": {"vcpus": 1, "memory": "128Mi", "rootDisk": "1Gi"}}


def test_a_server_of_its_flavor_is_left_alone() -> None:
    """Nothing changes where nothing was asked, also of a server that an earlier version has placed."""
    assert change_of(make_server(), TINY) is None
    assert change_of(make_server(assigned={"flavor": None}), TINY) is None
    assert change_of(make_server(), None) is None


def test_a_changed_flavor_is_given_at_once() -> None:
    """A new flavor is in the assignment with all its resources, and the ledger is asked for the most of both."""
    change = change_of(make_server("large"), LARGE)
    assert change is not None
    assert change.assignment["resources"] == {"vcpus": 4, "memory": "512Mi", "rootDisk": "2Gi"}
    assert change.assignment["flavor"] == "large"
    assert "former" not in change.assignment
    assert change.amounts == Amounts(4, 512 * MI, 2 * GI)


def test_devices_are_a_servers_own_until_its_host_has_them_back() -> None:
    """What the agent says that it has counts, also when its flavor has none any more, or it was shelved."""
    gpu = {"resourceClass": "CUSTOM_GPU", "addresses": ["0000:01:00.0"]}
    both = {"devices": [gpu, gpu | {"addresses": ["0000:02:00.0"]}]}
    assert server_amounts(make_server(status=both)).custom == (("CUSTOM_GPU", 2),)
    asked = {"resources": {"vcpus": 1, "memory": "128Mi", "rootDisk": "1Gi", "custom": {"CUSTOM_GPU": 1, "VGPU": 1}}}
    assert server_amounts(make_server(assigned=asked)).custom == (("CUSTOM_GPU", 1), ("VGPU", 1))
    assert server_amounts(make_server(assigned=asked, status=both)).custom == (("CUSTOM_GPU", 2), ("VGPU", 1))
    shelved = asked | {"shelved": True}
    assert server_amounts(make_server(assigned=shelved, status=both)) == Amounts(disk=GI, custom=(("CUSTOM_GPU", 2),))
    assert server_amounts(make_server(assigned=shelved, status={})).custom == ()


def test_a_smaller_flavor_takes_what_the_guest_has_until_it_restarts() -> None:
    """A guest that runs holds its room: only when it has the smaller size is the rest given back."""
    runs = {"powerState": "Running", "resources": {"vcpus": 4, "memory": "512Mi"}}
    assert server_amounts(make_server(status=runs)) == Amounts(4, 512 * MI, GI)
    off = {"powerState": "Stopped"}
    assert server_amounts(make_server(status=off)) == Amounts(1, 128 * MI, GI)
    unknown = runs | {"powerState": "Unknown"}
    assert server_amounts(make_server(status=unknown)) == Amounts(4, 512 * MI, GI)


def test_a_disk_does_not_shrink() -> None:
    """A flavor with a smaller root disk is refused with a reason, as in Nova."""
    server = make_server("small", assigned={"resources": {"vcpus": 1, "memory": "128Mi", "rootDisk": "2Gi"}})
    with pytest.raises(Refused) as caught:
        change_of(server, make_flavor("small", 1, "64Mi", "1Gi"))
    assert caught.value.refusal.reason == ScheduledReason.DISK_TOO_SMALL
    assert "permanent" in caught.value.refusal.message


def test_a_server_keeps_the_memory_that_its_image_needs() -> None:
    """A flavor with less than the image's minMemory at the time of placing is refused with a reason, as in Nova."""
    image = {"name": "tiny", "namespace": "demo", "url": "https://images.test/tiny", "format": "qcow2"}
    image |= {"digest": "sha256:" + "0" * 64, "virtualSize": 1, "minMemory": "96Mi"}
    server = make_server("small", assigned={"image": image})
    with pytest.raises(Refused) as caught:
        change_of(server, make_flavor("small", 1, "64Mi", "1Gi"))
    assert caught.value.refusal.reason == ScheduledReason.MEMORY_TOO_SMALL
    assert "needs 96Mi" in caught.value.refusal.message
    assert change_of(server, make_flavor("small", 2, "96Mi", "1Gi")) is not None


def test_a_flavor_that_is_not_there_is_waited_for() -> None:
    """The server stays as it is, and is looked at again when the flavor is made."""
    with pytest.raises(Refused) as caught:
        change_of(make_server("large"), None)
    assert caught.value.refusal.reason == ScheduledReason.FLAVOR_NOT_FOUND
    assert ("Flavor", "", "large") in caught.value.refusal.needs


def test_a_resize_that_waits_keeps_what_it_may_go_back_to() -> None:
    """With resizePolicy Confirm the former size is kept with its room, and the disk does not grow yet."""
    change = change_of(make_server("large", resizePolicy="Confirm"), LARGE)
    assert change is not None
    assert change.assignment["former"] == FORMER
    assert change.assignment["resources"] == {"vcpus": 4, "memory": "512Mi", "rootDisk": "1Gi"}
    waits = make_server("large", assigned=change.assignment, resizePolicy="Confirm")
    assert change_of(waits, LARGE) is None
    assert server_amounts(waits) == Amounts(4, 512 * MI, GI)


def test_a_confirmed_resize_lets_the_disk_grow() -> None:
    """When the former size is gone the root disk gets its new one."""
    given = {"flavor": "large", "resources": {"vcpus": 4, "memory": "512Mi", "rootDisk": "1Gi"}}
    change = change_of(make_server("large", assigned=given, resizePolicy="Confirm"), LARGE)
    assert change is not None
    assert change.assignment["resources"]["rootDisk"] == "2Gi"
    assert "former" not in change.assignment


def test_going_back_by_hand_is_a_revert() -> None:
    """A spec that names the former flavor again ends the resize with what there was before."""
    given = {"flavor": "large", "resources": {"vcpus": 4, "memory": "512Mi", "rootDisk": "1Gi"}, "former": FORMER}
    change = change_of(make_server("tiny", assigned=given, resizePolicy="Confirm"), TINY)
    assert change is not None
    assert change.assignment["resources"] == FORMER["resources"]
    assert "former" not in change.assignment


def test_shelving_gives_back_when_the_agent_has_told() -> None:
    """VCPUs and memory are given back once the guest is off as of the newest spec, and not before; the disk stays."""
    for status in (None, {"powerState": "Running"}, {"powerState": "Shelved", "observedGeneration": 6}):
        assert change_of(make_server(status=status, powerState="Shelved"), TINY) is None
    change = change_of(make_server(status={"powerState": "Shelved"}, powerState="Shelved"), TINY)
    assert change is not None
    assert (change.assignment["shelved"], change.amounts) == (True, None)
    shelved = make_server(status={"powerState": "Shelved"}, assigned={"shelved": True}, powerState="Shelved")
    assert server_amounts(shelved) == Amounts(0, 0, GI)
    assert change_of(shelved, TINY) is None


def test_what_was_shelved_is_admitted_again() -> None:
    """A shelved server that shall run asks for its whole size."""
    change = change_of(make_server(status={"powerState": "Shelved"}, assigned={"shelved": True}), TINY)
    assert change is not None
    assert (change.assignment["shelved"], change.amounts) == (False, Amounts(1, 128 * MI, GI))


def make_ledger(total: Amounts, quota: Quota) -> Ledger:
    facts = HostFacts("h1", True, True, True, False, False, True, total)
    ledger = Ledger(lambda _: quota, lambda _: True)
    ledger.host_seen(facts)
    return ledger


def asking(amounts: Amounts) -> Request:
    return Request("demo", "web", Wish(amounts, only_host="h1", only_reason="where its disks lie"))


def test_the_ledger_holds_what_it_has_admitted() -> None:
    """An admitted size counts from the decision on, whatever older state of the server a watch still shows."""
    ledger = make_ledger(Amounts(8, 8 * GI, 100 * GI), Quota())
    ledger.server_seen(make_server())
    assert ledger.amend(asking(Amounts(4, 512 * MI, 2 * GI))) is None
    ledger.server_seen(make_server(tags=["older"]))
    assert ledger.used_on("h1") == Amounts(4, 512 * MI, 2 * GI)
    large = {"flavor": "large", "resources": {"vcpus": 4, "memory": "512Mi", "rootDisk": "2Gi"}}
    ledger.amended(make_server("large", assigned=large))
    assert ledger.used_on("h1") == Amounts(4, 512 * MI, 2 * GI)
    ledger.server_seen(make_server("large", {"powerState": "Shelved"}, large | {"shelved": True}))
    assert ledger.used_on("h1") == Amounts(0, 0, 2 * GI)


@pytest.mark.parametrize(
    ("total", "quota", "reason"),
    [
        (Amounts(2, 8 * GI, 100 * GI), Quota(), ScheduledReason.NO_VALID_HOST),
        (Amounts(8, 256 * MI, 100 * GI), Quota(), ScheduledReason.NO_VALID_HOST),
        (Amounts(8, 8 * GI, GI), Quota(), ScheduledReason.NO_VALID_HOST),
        (Amounts(8, 8 * GI, 100 * GI), Quota(vcpus=3), ScheduledReason.QUOTA_EXCEEDED),
        (Amounts(8, 8 * GI, 100 * GI), Quota(memory="256Mi"), ScheduledReason.QUOTA_EXCEEDED),
    ],
)
def test_a_refused_size_leaves_the_books_as_they_were(total: Amounts, quota: Quota, reason: ScheduledReason) -> None:
    """What host or quota cannot hold is refused, and the server counts as it did; a full servers quota is no matter."""
    ledger = make_ledger(total, quota.model_copy(update={"servers": 1}))
    ledger.server_seen(make_server())
    before = ledger.used_on("h1")
    refusal = ledger.amend(asking(Amounts(4, 512 * MI, 2 * GI)))
    assert refusal is not None
    assert refusal.reason == reason
    assert ledger.used_on("h1") == before
    assert ledger.amend(asking(before)) is None


def test_what_a_guest_may_grow_to_goes_with_its_size() -> None:
    """The limits of the flavor are given with the size, and a flavor that differs in them alone is given too."""
    able = Flavor.model_validate(
        make_object(Flavor, "able", vcpus=1, memory="128Mi", rootDisk="1Gi", maxVcpus=4, maxMemory="1Gi")
    )
    change = change_of(make_server("able"), able)
    assert change is not None
    assert change.assignment["resources"] == {
        "vcpus": 1,
        "memory": "128Mi",
        "rootDisk": "1Gi",
        "maxVcpus": 4,
        "maxMemory": "1Gi",
    }
    given = make_server("able", assigned={"flavor": "able", "resources": change.assignment["resources"]})
    assert change_of(given, able) is None
