"""Writes what is made from the models: crds/, the chart's copy of them, docs/reference/.

    python -m kumulus_api.generate           writes
    python -m kumulus_api.generate --check   changes nothing; 1 if a file is not what the models say

PyYAML is needed here and nowhere else in this package, which at run time imports nothing but pydantic.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from kumulus_api import KINDS
from kumulus_api.reference import MARK, pages
from kumulus_api.schema import definition_of

_HEADER = f"# {MARK}\n"

FOLDERS = ("crds", "charts/kumulus/files/crds", "docs/reference")
"""Where generated files lie. One that bears the mark and that no kind needs any more is removed."""


class _Dumper(yaml.SafeDumper):
    """Writes a list that occurs twice twice: the API server's YAML has no use for anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def outputs() -> dict[str, str]:
    """Give the text of every generated file by its path below the repository's root."""
    files: dict[str, str] = {}
    for kind in KINDS:
        body = yaml.dump(definition_of(kind), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
        name = f"{kind.definition.plural}.yaml"
        # Helm cannot read outside of the chart, so the chart has a copy.
        files[f"crds/{name}"] = files[f"charts/kumulus/files/crds/{name}"] = _HEADER + body
    return files | {f"docs/reference/{name}": text for name, text in pages().items()}


def differences(root: Path) -> list[str]:
    """Give the paths below `root` that are missing, differ, or are left over, in order."""
    wanted = outputs()
    found = {
        path.relative_to(root).as_posix(): path.read_text()
        for folder in FOLDERS
        for path in (root / folder).rglob("*")
        if path.is_file()
    }
    ours = {path for path, text in found.items() if MARK in text}
    return sorted(path for path in wanted.keys() | ours if wanted.get(path) != found.get(path))


def write(root: Path) -> list[str]:
    """Bring the files below `root` to what the models say, and give the paths that changed."""
    wanted, changed = outputs(), differences(root)
    for path in changed:
        target = root / path
        if path in wanted:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(wanted[path])
        else:
            target.unlink()
    return changed


def main(arguments: list[str] | None = None) -> int:
    """Write or check the files; give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m kumulus_api.generate", description="Writes CRDs and reference.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail if something would change")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2], help="the repository's root")
    options = parser.parse_args(arguments)
    changed = differences(options.root) if options.check else write(options.root)
    for path in changed:
        sys.stdout.write(f"{'differs' if options.check else 'wrote'}: {path}\n")
    if options.check and changed:
        sys.stderr.write("Generated files are not what the models say: run `make generate`.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
