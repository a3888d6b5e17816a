"""What a server's host is told of its image."""

from __future__ import annotations

import pytest

from kumulus_agent.servers.desired import read_image
from kumulus_agent.storage.inspection import source_format
from kumulus_api import Image
from kumulus_api.image import ImageFormat
from kumulus_api.server_assignment import AssignedImage
from kumulus_api.testing import make_object
from kumulus_operator.servers.plan import assigned_image

DIGEST = "sha256:" + "1" * 64
MIRRORS = ("https://one.example/a", "https://two.example/a")


@pytest.mark.parametrize("mirrors", [(), MIRRORS])
def test_hosts_know_the_mirrors(mirrors: tuple[str, ...]) -> None:
    """Each host that needs an image may fetch it from where its import was able to."""
    source = {"url": "https://images.example/a"} | ({"mirrors": list(mirrors)} if mirrors else {})
    status = {"digest": DIGEST, "virtualSize": 7, "conditions": []}
    image = Image.model_validate(make_object(Image, source=source, format="vmdk") | {"status": status})
    given = assigned_image(image)
    assert ("mirrors" in given) == bool(mirrors)
    found = read_image(AssignedImage.model_validate(given))
    assert found is not None
    assert (found.url, found.mirrors, found.format) == (source["url"], mirrors, "vmdk")


def test_each_format_is_judged_as_what_it_is() -> None:
    """A CD is a raw disk; all other formats are what they are called."""
    given = {item.value: source_format(item.value) for item in ImageFormat}
    assert given.pop("iso") == "raw"
    assert all(name == judged for name, judged in given.items())
