"""Objects as users write them are read by the models."""

from pathlib import Path

import pytest
import yaml

from kumulus_api import KINDS, Kind
from kumulus_api.testing import make_assigned, make_object

EXAMPLES = Path(__file__).parents[3] / "examples"
BY_NAME = {kind.__name__: kind for kind in KINDS}


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid(path: Path) -> None:
    """Every object under examples/ is one that the models know, and loses no field when it is read."""
    for body in yaml.safe_load_all(path.read_text()):
        if body["apiVersion"].startswith("kumulus.dev/"):
            spec = BY_NAME[body["kind"]].model_validate(body).dump()["spec"]
            assert body["spec"].keys() <= spec.keys()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_wire_form_survives_the_model(kind: type[Kind]) -> None:
    """Reading and writing an object keeps every field that it had."""
    body = make_object(kind)
    spec = kind.model_validate(body).dump()["spec"]
    assert spec | body["spec"] == spec | {key: spec[key] for key in body["spec"]}
    assert kind.model_validate(body | {"spec": spec}).dump()["spec"] == spec


@pytest.mark.parametrize("name", ["Server", "Volume"])
def test_assigned_examples_are_valid(name: str) -> None:
    """What tests take for an assigned object is one."""
    made = BY_NAME[name].model_validate(make_assigned(BY_NAME[name], "a", "h1")).dump()
    assert made["spec"]["assignment"]["host"] == "h1"
