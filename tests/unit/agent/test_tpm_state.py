"""What the TPM of a guest remembers lies where libvirt keeps it, and nowhere else."""

from pathlib import Path

import pytest

from kumulus_agent.host.tpm_state import tpm_state
from kumulus_api.hardware import TPM, Hardware

_ID = "5f6e1f0a-6d3f-4b2e-9d3e-0c1f2a3b4c5d"


def test_each_version_has_its_file() -> None:
    """The file is that of the instance and of the TPM's version; without a TPM there is none."""
    root = Path("/root-of-host")
    second = tpm_state(_ID, Hardware(tpm=TPM(version="2.0")), root)
    first = tpm_state(_ID, Hardware(tpm=TPM(version="1.2")), root)
    assert second == root / f"var/lib/libvirt/swtpm/{_ID}/tpm2/tpm2-00.permall"
    assert first == root / f"var/lib/libvirt/swtpm/{_ID}/tpm1.2/tpm-00.permall"
    assert tpm_state(_ID, Hardware(), root) is None


def test_an_id_leads_nowhere_else() -> None:
    """What is no UUID names no file."""
    with pytest.raises(ValueError, match="UUID"):
        tpm_state("../../etc", Hardware(tpm=TPM(version="2.0")))
