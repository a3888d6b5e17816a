"""Generated files are what the models say."""

from pathlib import Path

import pytest
import yaml

from kumulus_api import KINDS
from kumulus_api.generate import differences, main, outputs, write

ROOT = Path(__file__).parents[3]


def test_committed_files_are_current() -> None:
    """crds/, the chart's copy and docs/reference/ are as `make generate` writes them."""
    assert differences(ROOT) == []


def test_written_files_are_current_and_leftovers_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After writing, a check finds nothing; a file of a kind that is gone is removed, one by hand is not."""
    assert main(["--check", "--root", str(tmp_path)]) == 1
    write(tmp_path)
    assert main(["--check", "--root", str(tmp_path)]) == 0
    left = tmp_path / "crds" / "gone.yaml"
    left.write_text((tmp_path / "crds" / "servers.yaml").read_text())
    ours = tmp_path / "docs" / "reference" / "by-hand.md"
    ours.write_text("# By hand\n")
    assert main(["--check", "--root", str(tmp_path)]) == 1
    assert "crds/gone.yaml" in capsys.readouterr().out
    assert write(tmp_path) == ["crds/gone.yaml"]
    assert (left.exists(), ours.exists()) == (False, True)


def test_yaml_has_no_anchors() -> None:
    """A definition is read by people and by tools that know no anchors."""
    for path, text in outputs().items():
        if path.startswith("crds/"):
            assert not any(isinstance(token, yaml.AnchorToken | yaml.AliasToken) for token in yaml.scan(text)), path


def test_every_kind_has_a_page() -> None:
    """The reference names every kind, and each page shows its fields."""
    files = outputs()
    for kind in KINDS:
        page = files[f"docs/reference/{kind.__name__.lower()}.md"]
        assert "`spec." in page
        assert f"[{kind.__name__}]" in files["docs/reference/index.md"]
