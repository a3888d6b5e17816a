"""Proof that guests run here, by running one.

``/dev/kvm`` may exist and QEMU may open it, and yet no guest comes to life, or it crawls: a KVM without the processor's
help carries out a guest's real mode word by word. So a one-sector guest that writes a greeting to its serial port is
started exactly as every other guest, through libvirt, under KVM and, if that stays silent or is slow, under emulation:
the faster one is used. The answer holds until the host boots again or QEMU changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import structlog

from kumulus_agent.compute.domain_spec import Disk, DomainSpec
from kumulus_agent.compute.domain_xml import domain_name, domain_xml
from kumulus_agent.compute.errors import HypervisorError, HypervisorUnavailable
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.host.boot_sector import GREETING, boot_sector
from kumulus_agent.host.inventory import dotted, read_boot_id
from kumulus_agent.storage.atomic import write_file
from kumulus_agent.storage.direct_io import cache_mode

_log = structlog.stdlib.get_logger(__name__)
_POLL_SECONDS: Final = 0.02
_DISK_BYTES: Final = 1 << 20
_MEMORY_BYTES: Final = 64 << 20
_QUICK_SECONDS: Final = 1.0
"""A greeting under KVM that took longer is compared with an emulated one, made at once under the same load."""
KVM_DEVICE: Final = Path("/dev/kvm")
RESULT_FILE: Final = "selftest.json"
SELF_TEST_ID: Final = str(uuid.uuid5(uuid.NAMESPACE_DNS, "selftest.kumulus.dev"))
"""The probe's instance id, the same everywhere, so that the remains of a killed agent's probe are found."""

Virt = Literal["kvm", "qemu"]


@dataclass(frozen=True, slots=True)
class SelfTestResult:
    """What the probe found.

    Attributes:
        virt: how guests run here; None if none does, and then nothing may be placed here.
        seconds: from asking libvirt to the guest's greeting; 0 if it never came.
        failures: why a way that was tried does not work, by ``kvm`` and ``qemu``.
        boot_id: the host's boot for which this holds.
        qemu_version: the QEMU for which this holds.
    """

    virt: Virt | None
    seconds: float
    failures: dict[str, str]
    boot_id: str
    qemu_version: str


async def run_selftest(
    hypervisor: Hypervisor, state_dir: Path, *, deadline: float = 5.0, kvm_device: Path = KVM_DEVICE
) -> SelfTestResult:
    """Return how guests run on this host, probing only if that is not known for this boot and QEMU.

    Args:
        hypervisor: an open connection.
        state_dir: where the result and, while it runs, the probe's disk lie; seen by libvirtd under the same path.
        deadline: seconds that each way of running has for its greeting.
        kvm_device: KVM is not tried if this does not exist.

    Raises:
        HypervisorUnavailable: libvirtd is gone; that says nothing about guests, nothing is stored.
    """
    boot_id, qemu_version = read_boot_id(), dotted((await hypervisor.versions()).qemu)
    stored = await asyncio.to_thread(_read_result, state_dir / RESULT_FILE)
    if stored is not None and (stored.boot_id, stored.qemu_version) == (boot_id, qemu_version):
        return stored
    ways: tuple[Virt, ...] = ("kvm", "qemu") if await asyncio.to_thread(kvm_device.exists) else ("qemu",)
    failures = {} if len(ways) == 2 else {"kvm": f"{kvm_device} does not exist"}
    took: dict[Virt, float] = {}
    for way in ways:
        try:
            took[way] = await _probe(hypervisor, state_dir, way, deadline)
        except HypervisorUnavailable:
            raise
        except (HypervisorError, TimeoutError) as error:
            failures[way] = str(error)
            _log.warning("self-test guest did not run", virt=way, error=str(error))
        else:
            if took[way] <= _QUICK_SECONDS:
                break
    virt, slower = faster(took)
    result = SelfTestResult(virt, round(took[virt], 3) if virt else 0.0, failures | slower, boot_id, qemu_version)
    # A host that runs nothing is probed again at the next start of the agent: someone may have repaired it.
    if virt is not None:
        await asyncio.to_thread(write_file, state_dir / RESULT_FILE, json.dumps(asdict(result)).encode())
    return result


def faster(took: Mapping[Virt, float]) -> tuple[Virt | None, dict[str, str]]:
    """Choose how guests run by the seconds that a greeting took, and say why the other way does not serve."""
    virt = min(took, key=lambda way: took[way], default=None)
    if virt != "qemu" or "kvm" not in took:
        return virt, {}
    return virt, {"kvm": f"a guest greets after {took['kvm']:.1f} s, an emulated one after {took['qemu']:.1f} s"}


async def _probe(hypervisor: Hypervisor, state_dir: Path, virt: Virt, deadline: float) -> float:
    folder = state_dir / "selftest"
    await hypervisor.destroy(SELF_TEST_ID)
    await asyncio.to_thread(_prepare, folder)
    spec = DomainSpec(
        instance_id=SELF_TEST_ID,
        namespace="",
        name="selftest",
        epoch=0,
        vcpus=1,
        memory_bytes=_MEMORY_BYTES,
        virt=virt,
        disks=(Disk(str(folder / "disk.raw"), "raw", "vda", "selftest", cache=cache_mode(folder)),),
        console_log=str(folder / "console.log"),
    )
    started = time.monotonic()
    try:
        async with asyncio.timeout(deadline):
            await hypervisor.run_transient(domain_xml(spec))
            # virtlogd writes the file and tells nobody.
            while GREETING not in await asyncio.to_thread(_read, folder / "console.log"):  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)
        return time.monotonic() - started
    except TimeoutError as error:
        raise TimeoutError(f"{domain_name(SELF_TEST_ID)} under {virt} said nothing within {deadline} s") from error
    finally:
        # Shielded: the probe goes also if the agent is being stopped.
        await asyncio.shield(_clean(hypervisor, folder))


async def _clean(hypervisor: Hypervisor, folder: Path) -> None:
    with contextlib.suppress(HypervisorError):
        await hypervisor.destroy(SELF_TEST_ID)
    await asyncio.to_thread(_remove, folder)


def _prepare(folder: Path) -> None:
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    (folder / "console.log").unlink(missing_ok=True)
    (folder / "disk.raw").write_bytes(boot_sector(power_off=False).ljust(_DISK_BYTES, b"\0"))


def _remove(folder: Path) -> None:
    # virtlogd rotates into console.log.0 and so on.
    for file in (*folder.glob("console.log*"), folder / "disk.raw"):
        file.unlink(missing_ok=True)
    folder.rmdir()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _read_result(path: Path) -> SelfTestResult | None:
    try:
        return SelfTestResult(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
