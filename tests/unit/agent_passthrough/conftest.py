"""A sysfs made from what a real Linux has shown (see `record_q35.py`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

RECORDING = Path(__file__).with_name("q35_iommu.json")


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """The recorded machine: an IOMMU, NICs, disks, and an old bus whose devices share a group."""
    found = json.loads(RECORDING.read_text())
    for path, text in found["files"].items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    for path, target in found["links"].items():
        link = tmp_path / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
        link.parent.joinpath(target).resolve().mkdir(parents=True, exist_ok=True)
    return tmp_path
