"""Images made of others, and what a project may have of images: decided once, counted, told with a reason."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest

from kumulus_api import FINALIZER, Host, Image, ImageAcceptance, Project, Reference, Server
from kumulus_api.testing import INSTANCE_ID, make_object
from kumulus_operator.cloud import Cloud
from kumulus_operator.images.book import ImageBook, size_of
from kumulus_operator.images.controller import ImageController
from kumulus_operator.images.copies import find_original, near_original, sources_of
from kumulus_operator.images.held import is_ready
from kumulus_operator.refusal import Refused
from kumulus_operator.seen import Seen
from kumulus_operator.settings import OperatorSettings
from kumulus_runtime.conditions import get_condition, set_condition

DIGEST = "sha256:" + "7" * 64
URL = "https://images.test/golden"
OF_SERVER = {"server": {"name": "web", "instanceID": INSTANCE_ID, "action": INSTANCE_ID, "host": "h1"}}
GOLDEN = {"image": {"name": "golden", "namespace": "owner"}}
NUMBERS = itertools.count(1)
Object = dict[str, Any]


def image_body(namespace: str, name: str, source: Object, *, ready: bool = True, **spec: Any) -> Object:
    """Give an image; `ready` says whether it has been imported by h1."""
    metadata = {"name": name, "namespace": namespace, "uid": f"{namespace}-{name}", "generation": 1}
    metadata["resourceVersion"] = str(next(NUMBERS))
    body: Object = {"metadata": metadata, "spec": {"source": source, "format": "qcow2"} | spec}
    if ready:
        conditions = set_condition([], "Ready", True, "Imported", "", 1)
        body["status"] = {"importHost": "h1", "digest": DIGEST, "size": 2**29, "virtualSize": 2**30}
        body["status"]["conditions"] = conditions
    return body


class Api:
    """Stores images; events and all else go nowhere."""

    def __init__(self) -> None:
        self.cloud: Cloud | None = None
        self.bodies: dict[tuple[str, str], Object] = {}
        self.released: list[str] = []

    def put(self, body: Object) -> Object:
        """Store an image anew."""
        body = copy.deepcopy(body)
        body["metadata"]["resourceVersion"] = str(next(NUMBERS))
        self.bodies[body["metadata"]["namespace"], body["metadata"]["name"]] = body
        return copy.deepcopy(body)

    async def get(self, kind: type, name: str, namespace: str) -> Object | None:
        """Give an image."""
        return copy.deepcopy(self.bodies.get((namespace, name)))

    async def apply(self, kind: type, body: Object, *, manager: str) -> Object:
        """Write a part of the spec."""
        found = copy.deepcopy(self.bodies[body["metadata"]["namespace"], body["metadata"]["name"]])
        found["spec"] |= body["spec"]
        return self.put(found)

    async def apply_status(self, kind: type, body: Object, *, manager: str) -> Object:
        """Write the status."""
        found = copy.deepcopy(self.bodies[body["metadata"]["namespace"], body["metadata"]["name"]])
        return self.put(found | {"status": (found.get("status") or {}) | body["status"]})

    async def remove_finalizer(self, kind: type, name: str, *_: Any, **__: Any) -> None:
        """Note it."""
        self.released.append(name)


@pytest.fixture
async def cloud() -> Cloud:
    """Give an operator with two projects; that of the copies may have two images of 1 GiB together."""
    api = Api()
    cloud = Cloud(api, OperatorSettings())  # type: ignore[arg-type]
    cloud.events.post = lambda *_, **__: None  # type: ignore[method-assign]
    for name, quota in (("owner", {}), ("demo", {"images": 2, "imageGigabytes": 1})):
        body = make_object(Project, name, quota=quota)
        body["metadata"] |= {"uid": name, "resourceVersion": "1"}
        cloud.take(Project, body)
    return cloud


def see(cloud: Cloud, body: Object) -> None:
    """Have the API tell of an image."""
    cloud.take(Image, cloud.client.put(body))  # type: ignore[attr-defined]


async def bring(cloud: Cloud, name: str) -> Image:
    """Reconcile an image of the project, and give it."""
    await ImageController(cloud).reconcile(("demo", name))
    found = cloud.images.get("demo", name)
    assert found is not None
    return found


def reason_of(image: Image) -> str:
    """Give why it is not Ready."""
    assert image.status is not None
    return str((get_condition([item.dump() for item in image.status.conditions], "Ready") or {})["reason"])


def accept(cloud: Cloud) -> None:
    """Have the project accept the image `golden` of the other one."""
    metadata = {"name": "golden", "namespace": "demo", "uid": "acceptance", "resourceVersion": str(next(NUMBERS))}
    cloud.take(ImageAcceptance, {"metadata": metadata, "spec": GOLDEN})


async def test_a_copy_comes_with_the_right_to_it_and_stays_without(cloud: Cloud) -> None:
    """A copy waits like a server until its original may be used; what was found then is kept."""
    see(cloud, image_body("owner", "golden", {"url": URL}))
    see(cloud, image_body("demo", "mine", GOLDEN, ready=False))
    assert reason_of(await bring(cloud, "mine")) == "ImageNotFound"
    shared = image_body("owner", "golden", {"url": URL}, visibility="Shared", members=["demo"])
    see(cloud, shared)
    assert reason_of(await bring(cloud, "mine")) == "ImageNotFound"
    assert ("demo", "mine") in cloud.image_waiters.woken_by(("ImageAcceptance", "demo", "owner/golden"))
    accept(cloud)
    found = await bring(cloud, "mine")
    assert found.spec.original is not None
    assert (found.spec.original.digest, found.expected) == (DIGEST, DIGEST)
    assert found.address == "kumulus-image:///owner/golden"
    assert reason_of(found) == "WaitingForHost"
    other = image_body("owner", "golden", {"url": "https://images.test/other"})
    other["status"]["digest"] = "sha256:" + "8" * 64
    see(cloud, other)
    again = await bring(cloud, "mine")
    assert (again.expected, reason_of(again)) == (DIGEST, "SourceGone")


def host_body(name: str, *images: Object) -> Object:
    """Give a Host that is Ready and says what it keeps."""
    conditions = set_condition([], "Ready", True, "Fine", "", 1)
    metadata = {"name": name, "uid": name, "generation": 1, "resourceVersion": str(next(NUMBERS))}
    return {"metadata": metadata, "spec": {}, "status": {"conditions": conditions, "images": list(images)}}


def keeping(namespace: str, name: str) -> Object:
    """Give the word of a Host that it keeps the bytes of an image."""
    return {"namespace": namespace, "name": name, "digest": DIGEST}


async def test_who_has_the_bytes_takes_the_copy(cloud: Cloud) -> None:
    """A host that keeps the original is told of the copy, and named for it, also where others have less to do."""
    for name, kept in (("h1", ()), ("h2", (keeping("demo", "golden"),)), ("h3", ())):
        cloud.take(Host, host_body(name, *kept))
    cloud.host_fresh = lambda _: True  # type: ignore[method-assign]
    cloud.host_silent = lambda _: False  # type: ignore[method-assign]
    see(cloud, image_body("demo", "golden", OF_SERVER))
    see(cloud, image_body("demo", "mine", {"image": {"name": "golden"}}, ready=False))
    found = await bring(cloud, "mine")
    assert found.status is not None
    assert found.status.import_host == "h2"
    assert found.spec.assignment is not None
    assert found.spec.assignment.hosts[0] == "h2"
    assert found.spec.original is not None


def test_whose_bytes_a_copy_takes() -> None:
    """Those of its own, of the original as long as that is the same, or of a bucket; of nobody is said."""
    cloud = Seen()
    original = image_body("demo", "golden", OF_SERVER)
    body = image_body("demo", "mine", {"image": {"name": "golden"}}, ready=False, original={"digest": DIGEST})
    image = Image.model_validate(body)

    def sources(kept: dict[str, set[str]]) -> set[str] | None:
        return sources_of(image, cloud, lambda of, _: set(kept.get(of.key[1], ())))

    with pytest.raises(Refused) as refused:
        sources({})
    assert refused.value.refusal.reason == "SourceGone"
    assert sources({"mine": {"h3"}}) == {"h3"}
    cloud.images.put(original)
    assert sources({}) == {"h1"}
    assert sources({"golden": {"h2"}, "mine": {"h3"}}) == {"h2", "h3"}
    kept = original | {"spec": original["spec"] | {"assignment": {"store": "S3"}}}
    cloud.images.put(kept | {"metadata": original["metadata"] | {"resourceVersion": str(next(NUMBERS))}})
    assert sources({}) is None


@pytest.mark.parametrize(("holders", "reason"), [((), "HostLost"), (("h2",), "Imported")])
async def test_a_copy_is_lost_with_the_last_that_has_it(cloud: Cloud, holders: tuple[str, ...], reason: str) -> None:
    """A copy whose bytes went with all their hosts says so, and is Ready again if one comes back with them."""
    cloud.host_silent = lambda name: name == "h1"  # type: ignore[method-assign]
    cloud.take(Host, host_body("h1") | {"spec": {"decommissioned": True}})
    for name in holders:
        cloud.take(Host, host_body(name, keeping("demo", "mine")))
    body = image_body("demo", "mine", {"image": {"name": "golden"}}, original={"digest": DIGEST})
    see(cloud, body)
    found = await bring(cloud, "mine")
    assert reason_of(found) == reason
    cloud.take(Host, host_body("h3", keeping("demo", "mine")))
    again = await bring(cloud, "mine")
    assert is_ready(again)
    assert reason_of(again) == "Imported"


@pytest.mark.parametrize(("told", "released"), [(None, ["mine"]), ("h1", [])])
async def test_who_lets_a_copy_go(cloud: Cloud, told: str | None, released: list[str]) -> None:
    """A copy that no host was told of is let go at once, one that a host may hold by that host, silent or not."""
    body = image_body("demo", "mine", {"image": {"name": "golden"}}, ready=False)
    body["spec"]["original"] = {"digest": DIGEST}
    body["metadata"] |= {"finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z"}
    see(cloud, body | ({"status": {"importHost": told}} if told is not None else {}))
    cloud.liveness.expect("h1", 1e12)
    await bring(cloud, "mine")
    assert cloud.client.released == released  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("original", "reason"),
    [
        (image_body("demo", "golden", {"url": URL}, ready=False), "ImageNotReady"),
        (image_body("demo", "golden", {"url": URL}, active=False), "ImageDeactivated"),
        (image_body("demo", "golden", {"url": URL}, format="raw"), "FormatMismatch"),
        (None, "ImageNotFound"),
    ],
)
async def test_what_cannot_be_copied_is_told(cloud: Cloud, original: Object | None, reason: str) -> None:
    """A copy of what is absent, not there yet, deactivated or of another format says so, and is not begun."""
    if original is not None:
        see(cloud, original)
    see(cloud, image_body("demo", "mine", {"image": {"name": "golden"}}, ready=False))
    found = await bring(cloud, "mine")
    assert (reason_of(found), found.spec.original) == (reason, None)
    version = found.metadata.resource_version
    assert (await bring(cloud, "mine")).metadata.resource_version == version


async def test_a_copy_is_of_the_file_that_is_stored(cloud: Cloud) -> None:
    """Of an image that was converted a copy has the file, in its format; of a copy of it the same."""
    made = image_body("demo", "golden", {"url": URL}, format="vmdk", assignment={"store": "Hosts", "hosts": ["h1"]})
    file = "sha256:" + "9" * 64
    made["status"]["stored"] = {"digest": file, "size": 7, "format": "qcow2"}
    see(cloud, made)
    reference = Reference(name="golden")
    for image_format in ("qcow2", "vmdk"):
        body = image_body("demo", "mine", {"image": {"name": "golden"}}, ready=False, format=image_format)
        if image_format == "qcow2":
            assert find_original(Image.model_validate(body), reference, cloud).digest == file
            continue
        with pytest.raises(Refused) as refused:
            find_original(Image.model_validate(body), reference, cloud)
        assert refused.value.refusal.reason == "FormatMismatch"
    second = image_body("demo", "second", {"image": {"name": "golden"}}, original={"digest": file})
    second["status"] |= {"digest": file, "stored": made["status"]["stored"]}
    see(cloud, second)
    third = Image.model_validate(image_body("demo", "third", {"image": {"name": "second"}}, ready=False))
    assert find_original(third, Reference(name="second"), cloud).digest == file
    assert size_of(Image.model_validate(made)) == 7
    load = near_original(third, Reference(name="second"), {"h1": 5, "h2": 0}, cloud)
    assert min(load, key=lambda host: load[host]) == "h1"


async def test_images_are_admitted_by_the_quota(cloud: Cloud) -> None:
    """Neither their number nor their size exceeds it; a deleted image lets the next one in."""
    see(cloud, image_body("demo", "first", {"url": URL}))
    see(cloud, image_body("demo", "of-server", OF_SERVER))
    see(cloud, image_body("demo", "third", {"url": URL}, ready=False))
    found = await bring(cloud, "third")
    assert reason_of(found) == "QuotaExceeded"
    assert found.status is not None
    assert found.status.conditions[0].message == (
        "quota of project demo: 2 of 2 images are in use; "
        "transient: admitted when images of the project are deleted or its quota is raised"
    )
    usage = cloud.usage_of("demo")
    assert (usage.images, usage.image_bytes, usage.snapshots) == (2, 2**30, 1)
    woken: list[tuple[str, str]] = []
    cloud.queues.images.add = woken.append  # type: ignore[method-assign]
    cloud.take(Image, cloud.client.bodies["demo", "first"], deleted=True)  # type: ignore[attr-defined]
    assert ("demo", "third") in woken
    assert reason_of(await bring(cloud, "third")) == "WaitingForHost"


def test_bytes_are_counted_as_they_become_known() -> None:
    """An image of unknown size needs room for a byte; what it turns out to have is counted, whatever the quota."""
    limits = make_object(Project, "demo", quota={"imageGigabytes": 1})
    book = ImageBook(lambda _: Project.model_validate(limits).spec.quota)
    assert book.admit(("demo", "a")) is None
    book.measure(("demo", "a"), 3 * 2**29)
    assert book.used("demo") == (1, 3 * 2**29)
    assert book.admit(("demo", "b")) == "1536Mi of 1Gi of images are in use"
    book.measure(("demo", "a"), 2**29)
    assert book.admit(("demo", "b"), 2**29 + 1) is not None
    assert book.admit(("demo", "b"), 2**29) is None
    assert book.withdraw(("demo", "a"))
    assert not book.withdraw(("demo", "a"))
    assert book.used("demo") == (1, 2**29)


async def test_a_word_taken_back_wakes_who_waits_and_no_other(cloud: Cloud) -> None:
    """An acceptance that comes or goes wakes servers of its project that wait for that image; none that has a host."""
    see(cloud, image_body("owner", "golden", {"url": URL}, visibility="Shared", members=["demo"]))
    waiting: Object = {"flavor": {"name": "small"}, "image": {"name": "golden", "namespace": "owner"}}
    for project in ("demo", "third"):
        metadata = {"name": "web", "namespace": project, "uid": project}
        server = Server.model_validate({"metadata": metadata, "spec": waiting})
        cloud.server_waiters.wait(server.key, {("ImageAcceptance", project, "owner/golden")})
    woken: list[tuple[str, str]] = []
    cloud.queues.servers.add = woken.append  # type: ignore[method-assign]
    accept(cloud)
    assert woken == [("demo", "web")]
    acceptance = cloud.image_acceptances.get("demo", "golden")
    assert acceptance is not None
    cloud.take(ImageAcceptance, acceptance.dump(), deleted=True)
    assert woken == [("demo", "web")] * 2
    assert not cloud.acceptances.accepted("demo", ("owner", "golden"))
