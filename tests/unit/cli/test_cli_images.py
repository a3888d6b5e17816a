"""What `kubectl kumulus image list` shows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kumulus_api import API_VERSION
from kumulus_cli.main import app
from kumulus_runtime.conditions import set_condition

READY = {"size": 1500 << 10, "conditions": set_condition([], "Ready", True, "Imported", "", 1)}
KUBECTL = """#!{python}
import sys
asked = sys.argv[1:]
if {forbidden!r} and "kumulus-public" in asked:
    sys.exit('images.kumulus.dev is forbidden')
print(open({folder!r} + ("/public" if "kumulus-public" in asked else "/own")).read())
"""


def image(name: str, namespace: str, status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """Give an Image."""
    wanted = {"source": {"url": "https://images.test/a"}, "format": "qcow2"} | spec
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": "Image", "metadata": metadata, "spec": wanted, "status": status or {}}


def acceptance(name: str, namespace: str, told: dict[str, Any] | None) -> dict[str, Any]:
    """Give an ImageAcceptance of an image of `owner`."""
    spec = {"image": {"name": name, "namespace": "owner"}}
    status = {"conditions": []} | ({"image": told} if told is not None else {})
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": "ImageAcceptance", "metadata": metadata, "spec": spec, "status": status}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where kubectl is looked for; a project with images of all kinds."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    told = {"ready": True, "format": "raw", "size": 1 << 30, "minDisk": "2Gi", "visibility": "Shared"}
    own = [
        image("web", "demo", READY, minMemory="1Gi"),
        image("coming", "demo", {"conditions": set_condition([], "Ready", False, "Importing", "", 1)}),
        image("old", "demo", READY, active=False, hidden=True),
        acceptance("golden", "demo", told),
        acceptance("taken-back", "demo", None),
        acceptance("debian", "demo", told | {"active": False, "visibility": "Public"}),
    ]
    public = [
        image("tiny", "kumulus-public", READY),
        acceptance("debian", "kumulus-public", told),
        acceptance("other", "kumulus-public", told),
    ]
    for name, items in (("own", own), ("public", public)):
        (tmp_path / name).write_text(json.dumps({"items": items}))
    write(tmp_path)
    return tmp_path


def write(folder: Path, *, forbidden: bool = False) -> None:
    """Put a kubectl there."""
    program = folder / "kubectl"
    program.write_text(KUBECTL.format(python=sys.executable, folder=str(folder), forbidden=forbidden))
    program.chmod(0o755)


def test_all_that_may_be_used_is_listed_once(folder: Path) -> None:
    """Own, accepted and public images stand there with what a Server has to say of them; hidden ones do not."""
    done = CliRunner().invoke(app, ["image", "list", "-n", "demo"])
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "NAME    NAMESPACE       VISIBILITY  STATE        FORMAT  SIZE  MIN-DISK  MIN-MEMORY",
        "web     demo            Private     Ready        qcow2   2Mi   -         1Gi",
        "coming  demo            Private     Importing    qcow2   -     -         -",
        "golden  owner           Shared      Ready        raw     1Gi   2Gi       -",
        "debian  owner           Public      Deactivated  raw     1Gi   2Gi       -",
        "tiny    kumulus-public  Public      Ready        qcow2   2Mi   -         -",
    ]


def test_hidden_ones_come_on_request(folder: Path) -> None:
    """With --hidden they are there, and -o json has all of each."""
    done = CliRunner().invoke(app, ["image", "list", "--hidden", "-o", "json"])
    old = next(item for item in json.loads(done.output) if item["name"] == "old")
    assert (old["state"], old["hidden"], old["size"]) == ("Deactivated", True, 1500 << 10)


def test_what_cannot_be_read_is_told(folder: Path) -> None:
    """A cloud without public images, or without leave to read them, leaves the project's own, and says so."""
    write(folder, forbidden=True)
    done = CliRunner().invoke(app, ["image", "list"])
    assert done.exit_code == 0
    assert "tiny" not in done.output
    assert "note: images of kumulus-public cannot be read: images.kumulus.dev is forbidden" in done.output
    assert CliRunner().invoke(app, ["image", "list", "-o", "xml"]).exit_code == 1
