"""What `kubectl kumulus volume transfer` writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kumulus_api import Volume, VolumeTransfer
from kumulus_api.testing import make_object
from kumulus_cli.main import app

KUBECTL = """#!{python}
import sys
if "get" in sys.argv:
    print(open({folder!r} + "/volume").read())
else:
    open({folder!r} + "/made", "w").write(sys.stdin.read())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where kubectl is looked for; a volume that it gives, and a file for what it makes."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "volume").write_text(json.dumps(make_object(Volume, "data")))
    (tmp_path / "kubectl").write_text(KUBECTL.format(python=sys.executable, folder=str(tmp_path)))
    (tmp_path / "kubectl").chmod(0o755)
    return tmp_path


def made(folder: Path) -> dict[str, Any]:
    """Give what was made."""
    body: dict[str, Any] = json.loads((folder / "made").read_text())
    return body


def test_the_command_that_is_printed_takes_what_is_offered(folder: Path) -> None:
    """One project runs the first command, the other what it prints: the second names the offer of the first."""
    done = CliRunner().invoke(app, ["volume", "transfer", "create", "data", "--to", "other", "-n", "demo"])
    assert done.exit_code == 0, done.output
    offer = VolumeTransfer.model_validate(made(folder))
    assert (offer.key, offer.spec.volume.name, offer.spec.project) == (("demo", "data"), "data", "other")
    done = CliRunner().invoke(app, done.output.split()[2:])
    assert done.exit_code == 0, done.output
    taken = Volume.model_validate(made(folder))
    assert taken.spec.source is not None
    assert taken.spec.source.transfer is not None
    assert (taken.key, taken.spec.size) == (("other", "data"), "1Gi")
    assert (taken.spec.source.transfer.namespace, taken.spec.source.transfer.name) == offer.key


@pytest.mark.parametrize("offer", ["data", "demo/", "/data", "a/b/c"])
def test_an_offer_is_named_with_its_project(folder: Path, offer: str) -> None:
    """What names no offer is refused with the form that does, and nothing is made."""
    options = ["--name", "data", "--size", "1Gi"]
    done = CliRunner().invoke(app, ["volume", "transfer", "accept", offer, *options])
    assert (done.exit_code, "NAMESPACE/NAME" in done.output) == (1, True)
    assert not (folder / "made").exists()
