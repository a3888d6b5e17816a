"""Who may use an image of another project, and what is told of one that may not be used."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from kumulus_api import Flavor, Image, ImageAcceptance, KeyPair, Network, Port, Reference, SecurityGroup, Server, Volume
from kumulus_operator.images.acceptance import acceptance_status, accepted_by
from kumulus_operator.images.sharing import Acceptances, needs_of, still_usable, usable_image, visible_image
from kumulus_operator.refusal import Refusal, Refused
from kumulus_operator.servers.resolve import bootable_image, interests
from kumulus_operator.views import View
from kumulus_operator.waiting import Waiters
from kumulus_runtime.conditions import set_condition

NOW = datetime(2026, 1, 1, tzinfo=UTC)
READY = set_condition([], "Ready", True, "Imported", "", 1)
GOLDEN = Reference(name="golden", namespace="owner")
DIGEST = "sha256:" + "7" * 64


def make_image(namespace: str = "owner", name: str = "golden", **spec: Any) -> Image:
    """Give an imported image."""
    wanted = {"source": {"url": "https://images.test/golden"}, "format": "qcow2"} | spec
    status = {"digest": DIGEST, "size": 1024, "virtualSize": 2**20, "importHost": "h1", "conditions": READY}
    metadata = {"name": name, "namespace": namespace, "uid": f"{namespace}-{name}", "resourceVersion": "1"}
    return Image.model_validate({"metadata": metadata, "spec": wanted, "status": status})


def make_acceptance(project: str = "demo", name: str = "golden", image: Reference = GOLDEN) -> ImageAcceptance:
    """Give a project's acceptance."""
    metadata = {"name": name, "namespace": project, "uid": f"{project}-{name}", "generation": 1}
    return ImageAcceptance.model_validate({"metadata": metadata, "spec": {"image": image.dump()}})


def make_catalog(*images: Image, accepted: tuple[ImageAcceptance, ...] = ()) -> Any:
    """Give what is looked into."""
    kinds = {"flavors": Flavor, "images": Image, "key_pairs": KeyPair, "networks": Network, "ports": Port}
    views: dict[str, View[Any]] = {name: View(kind) for name, kind in kinds.items()}
    views |= {"volumes": View(Volume), "security_groups": View(SecurityGroup)}
    for image in images:
        views["images"].put(image.dump())
    acceptances = Acceptances()
    for acceptance in accepted:
        acceptances.seen(None, acceptance)
    return SimpleNamespace(**views, acceptances=acceptances)


def refusal_of(catalog: Any, reference: Reference = GOLDEN, project: str = "demo") -> Refusal:
    """Give the refusal of an image."""
    with pytest.raises(Refused) as caught:
        usable_image(project, reference, catalog)
    return caught.value.refusal


@pytest.mark.parametrize(
    ("spec", "accepted", "usable"),
    [
        ({}, True, False),
        ({"visibility": "Shared", "members": ["demo"]}, True, True),
        ({"visibility": "Shared", "members": ["demo"]}, False, False),
        ({"visibility": "Shared", "members": ["third"]}, True, False),
        ({"visibility": "Public"}, False, True),
    ],
)
def test_an_image_is_for_who_was_given_it_and_took_it(spec: dict[str, Any], accepted: bool, usable: bool) -> None:
    """Of another project's image it takes both words, the owner's and one's own; a Public one takes neither."""
    taken = (make_acceptance(),) if accepted else ()
    found = visible_image("demo", GOLDEN, make_catalog(make_image(**spec), accepted=taken))
    assert (found is not None) is usable


@pytest.mark.parametrize("namespace", ["demo", "kumulus-public"])
def test_own_and_public_images_need_no_word(namespace: str) -> None:
    """What lies in one's own project, or in kumulus-public, may be used as it is."""
    catalog = make_catalog(make_image(namespace))
    assert visible_image("demo", Reference(name="golden", namespace=namespace), catalog) is not None


def test_what_may_not_be_used_is_not_told_apart() -> None:
    """Absent, private, not accepted and accepted but taken back give the same refusal, which wakes by both words."""
    shared = make_image(visibility="Shared", members=["demo"])
    catalogs = (
        make_catalog(),
        make_catalog(make_image()),
        make_catalog(shared),
        make_catalog(make_image(visibility="Shared", members=["third"]), accepted=(make_acceptance(),)),
        make_catalog(make_image(active=False)),
        make_catalog(accepted=(make_acceptance(),)),
    )
    refusals = {refusal_of(catalog) for catalog in catalogs}
    assert len(refusals) == 1
    refusal = refusals.pop()
    assert refusal.reason == "ImageNotFound"
    assert refusal.needs == {("Image", "owner", "golden"), ("ImageAcceptance", "demo", "owner/golden")}


def make_server(**spec: Any) -> Server:
    """Give a server of the shared image."""
    wanted = {"flavor": {"name": "small"}, "image": GOLDEN.dump()} | spec
    return Server.model_validate({"metadata": {"name": "web", "namespace": "demo", "uid": "u"}, "spec": wanted})


def test_a_waiting_server_hears_of_both_words() -> None:
    """A server of another project's image is woken by that image and by its own project's acceptance only."""
    waiters = Waiters()
    waiters.wait(("demo", "web"), interests(make_server()))
    for need in needs_of("demo", GOLDEN):
        assert waiters.woken_by(need) == [("demo", "web")]
    for need in needs_of("third", GOLDEN) - needs_of("demo", GOLDEN):
        assert waiters.woken_by(need) == []
    own = interests(make_server(image={"name": "golden"}))
    assert not [need for need in own if need[0] == "ImageAcceptance"]


def test_a_deactivated_image_is_refused_with_its_reason() -> None:
    """Who may use an image is told that it is deactivated, its own project too."""
    shared = make_image(visibility="Shared", members=["demo"], active=False)
    told = refusal_of(make_catalog(shared, accepted=(make_acceptance(),)))
    assert (told.reason, told.message.startswith("image: owner/golden is deactivated")) == ("ImageDeactivated", True)
    own = refusal_of(make_catalog(shared), Reference(name="golden"), "owner")
    assert own.reason == "ImageDeactivated"


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (None, None),
        (make_image("demo"), None),
        (make_image("demo", active=False), "ImageDeactivated"),
    ],
)
def test_a_rebuild_goes_on_with_an_own_image_that_was_deleted(image: Image | None, reason: str | None) -> None:
    """A server's own project may rebuild it from what hosts still know, but not from what it has deactivated."""
    catalog = make_catalog(*([image] if image is not None else []))
    had = Reference(name="golden", namespace="demo")
    if reason is None:
        still_usable("demo", had, catalog)
        return
    with pytest.raises(Refused) as caught:
        still_usable("demo", had, catalog)
    assert caught.value.refusal.reason == reason


def test_a_rebuild_to_what_was_taken_back_is_refused() -> None:
    """Whether another's image was unshared or deleted, it is used no more, and nothing tells which."""
    refusals = set()
    for catalog in (make_catalog(make_image(visibility="Shared", members=["third"])), make_catalog()):
        with pytest.raises(Refused) as caught:
            still_usable("demo", GOLDEN, catalog)
        refusals.add(caught.value.refusal)
    assert len(refusals) == 1


@pytest.mark.parametrize(
    ("spec", "reason", "said"),
    [
        ({"minDisk": "2Gi"}, "FlavorDiskTooSmall", "needs a disk of 2147483648 bytes, flavor small has 1Gi"),
        ({"minMemory": "2Gi"}, "FlavorMemoryTooSmall", "needs 2Gi of memory, flavor small has 1Gi"),
        ({"minDisk": "1Gi", "minMemory": "1Gi"}, None, ""),
    ],
)
def test_a_flavor_has_what_the_image_needs(spec: dict[str, Any], reason: str | None, said: str) -> None:
    """A flavor smaller than an image's minDisk or minMemory is refused with the reason, what is needed and found."""
    body = {"metadata": {"name": "small"}, "spec": {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"}}
    flavor, server = Flavor.model_validate(body), make_server(image={"name": "golden"})
    catalog = make_catalog(make_image("demo", **spec))
    if reason is None:
        assert bootable_image(server, flavor, catalog).key == ("demo", "golden")
        return
    with pytest.raises(Refused) as caught:
        bootable_image(server, flavor, catalog)
    assert caught.value.refusal.reason == reason
    assert said in caught.value.refusal.message


def test_the_index_follows_each_change() -> None:
    """One that goes takes its own word back and no other's; what is empty leaves nothing."""
    index, image = Acceptances(), ("owner", "golden")
    first, second, third = make_acceptance(), make_acceptance(name="again"), make_acceptance("third")
    for acceptance in (first, second, third):
        index.seen(None, acceptance)
    index.seen(first, first)
    assert set(index.of_image(image)) == {first.key, second.key, third.key}
    index.seen(first, None)
    assert index.accepted("demo", image)
    index.seen(second, None)
    assert not index.accepted("demo", image)
    assert index.accepted("third", image)
    index.seen(third, None)
    assert (index.of_image(image), dict(index._of_image), dict(index._of_project)) == ([], {}, {})


def test_an_owner_sees_who_of_the_members_accepted() -> None:
    """Neither a member that has not, nor one that is none, stands in the list; it is empty when nothing is shared."""
    index = Acceptances()
    for project in ("third", "demo", "stranger"):
        index.seen(None, make_acceptance(project))
    members = ["silent", "third", "demo"]
    assert accepted_by(make_image(visibility="Shared", members=members), index) == ["demo", "third"]
    assert accepted_by(make_image(visibility="Public"), index) == []


def test_an_acceptance_tells_what_its_project_may_know() -> None:
    """While it is shared the status has what servers need of the image; else nothing tells whether there is one."""
    image = make_image(visibility="Shared", members=["demo"], minDisk="1Gi", properties={"hw_disk_bus": "scsi"})
    told = acceptance_status(make_acceptance(), image, NOW)
    assert told is not None
    assert told["conditions"][0]["reason"] == "Accepted"
    assert told["image"] == {
        "ready": True,
        "active": True,
        "hidden": False,
        "visibility": "Shared",
        "format": "qcow2",
        "digest": DIGEST,
        "size": 1024,
        "virtualSize": 2**20,
        "minDisk": "1Gi",
        "requiredTraits": [],
        "properties": {"hw_disk_bus": "scsi"},
    }
    again = ImageAcceptance.model_validate(make_acceptance().dump() | {"status": told})
    assert acceptance_status(again, image, NOW) is None
    answers = [acceptance_status(again, other, NOW) for other in (None, make_image(visibility="Private"))]
    assert answers[0] == answers[1]
    assert answers[0] is not None
    assert answers[0].keys() == {"observedGeneration", "conditions"}
    assert answers[0]["conditions"][0]["reason"] == "NotShared"
