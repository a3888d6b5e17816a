"""Devices given away for good: `given_devices.py` on a machine with an IOMMU, which is emulated where there is none."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.iommu_machine import VIRTIOFSD, run_inside

INSIDE = Path(__file__).with_name("given_devices.py")
SECONDS = 900


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 30)
def test_guests_run_with_devices_of_a_machine_with_an_iommu() -> None:
    """All of `given_devices.py` holds where libvirt, QEMU and the kernel really give devices to guests."""
    if os.geteuid() != 0 or not VIRTIOFSD.exists():
        pytest.skip("needs root and QEMU's virtiofsd: this machine's files in an emulated one")
    program = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "timeout=0", "-q", str(INSIDE)]
    script = f'cd {shlex.quote(str(Path.cwd()))} && CI=true {shlex.join(program)}; echo "tests ended: $?"'
    told = run_inside(script, cache=LabSettings().cache, seconds=SECONDS)
    assert "tests ended: 0" in told, told[-8000:]
