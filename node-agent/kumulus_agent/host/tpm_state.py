"""Where libvirt keeps what the TPM of a guest remembers."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from kumulus_agent.host.inventory import HOST_ROOT
from kumulus_api.hardware import Hardware, TPMVersion

_FOLDER = Path("var/lib/libvirt/swtpm")
_FILES = {TPMVersion.V1_2: Path("tpm1.2/tpm-00.permall"), TPMVersion.V2_0: Path("tpm2/tpm2-00.permall")}


def tpm_state(instance_id: str, hardware: Hardware, host_root: Path = HOST_ROOT) -> Path | None:
    """Give the file of an instance's TPM, as this process sees it; None if it has no TPM.

    libvirt 9 has no word for another place: this one is its own, below its state directory.

    Raises:
        ValueError: the id is no UUID, so it could lead elsewhere.
    """
    if hardware.tpm is None:
        return None
    return host_root / _FOLDER / str(UUID(instance_id)) / _FILES[hardware.tpm.version]
