import gzip
import hashlib
import json
import tarfile

import pytest

from kumulus_lab.containers.layout import Layout

LAYERS = (b"dependencies" * 100, b"source")


def digest_of(content):
    """The name of a blob."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Pushing:
    """Pushes an image as buildah does: a layer is compressed unless its uncompressed form is there already."""

    def __init__(self, layout, reference, layers=LAYERS):
        self.layout, self.reference, self.layers = layout, reference, layers
        self.compressed = []

    def store(self, content):
        """Write a blob and give its digest."""
        digest = digest_of(content)
        path = self.layout.path / "blobs" / digest.replace(":", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return digest

    def __call__(self):
        """Push."""
        listed = []
        self.compressed.append(0)
        for content in self.layers:
            kind, digest = "application/vnd.oci.image.layer.v1.tar", digest_of(content)
            if not (self.layout.path / "blobs" / digest.replace(":", "/")).exists():
                kind, digest = f"{kind}+gzip", self.store(gzip.compress(content, mtime=0))
                self.compressed[-1] += 1
            listed.append({"mediaType": kind, "digest": digest})
        config = self.store(json.dumps({"rootfs": [digest_of(layer) for layer in self.layers]}).encode())
        manifest = self.store(json.dumps({"config": {"digest": config}, "layers": listed}).encode())
        index = self.layout.path / "index.json"
        entries = json.loads(index.read_text())["manifests"] if index.exists() else []
        for entry in entries:
            if entry["annotations"].get("org.opencontainers.image.ref.name") == self.reference:
                entry["annotations"] = {}
        entries.append({"digest": manifest, "annotations": {"org.opencontainers.image.ref.name": self.reference}})
        index.write_text(json.dumps({"manifests": entries}))


@pytest.fixture
def layout(tmp_path):
    """An empty layout."""
    return Layout(tmp_path / "layout")


def test_a_changed_layer_is_the_only_one_written(layout):
    """Layers that an earlier image has brought are not compressed again, and none is left compressed."""
    first = Pushing(layout, "x/operator:1")
    layout.add("x/operator:1", first)
    assert first.compressed == [2, 0]
    second = Pushing(layout, "x/operator:2", (LAYERS[0], b"changed"))
    layout.add("x/operator:2", second)
    assert second.compressed == [1, 0]
    assert layout.has("x/operator:1")
    assert layout.has("x/operator:2")
    assert not layout.has("x/operator:3")


def test_archive_leaves_out_what_the_host_has(layout, tmp_path):
    """The archive of an image holds its name, manifest and configuration, and only the layers that are missing."""
    layout.add("x/operator:1", Pushing(layout, "x/operator:1"))
    layout.write_archive(tmp_path / "a.tar", "x/operator:1", without=frozenset([digest_of(LAYERS[0])]))
    with tarfile.open(tmp_path / "a.tar") as archive:
        names = archive.getnames()
        index = json.load(archive.extractfile("index.json"))
    assert f"blobs/{digest_of(LAYERS[1]).replace(':', '/')}" in names
    assert f"blobs/{digest_of(LAYERS[0]).replace(':', '/')}" not in names
    assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == "x/operator:1"


def test_old_images_go_with_what_only_they_need(layout):
    """The newest of a kind stay, complete; blobs that no image needs are removed."""
    for number in range(4):
        layout.add(f"x/agent:{number}", Pushing(layout, f"x/agent:{number}", (LAYERS[0], str(number).encode())))
    assert layout.prune("x/agent:", 2) == ["x/agent:0", "x/agent:1"]
    assert [layout.has(f"x/agent:{number}") for number in range(4)] == [False, False, True, True]
    assert len(list((layout.path / "blobs" / "sha256").iterdir())) == 1 + 2 * 3
    assert layout.prune("x/operator:", 2) == []
    assert layout.has("x/agent:3")


def test_an_image_with_a_missing_layer_is_not_there(layout):
    """A layout that was damaged, or whose push was interrupted, is written again."""
    layout.add("x/agent:1", Pushing(layout, "x/agent:1"))
    (layout.path / "blobs" / digest_of(LAYERS[1]).replace(":", "/")).unlink()
    assert not layout.has("x/agent:1")
    layout.add("x/agent:1", Pushing(layout, "x/agent:1"))
    assert layout.has("x/agent:1")
