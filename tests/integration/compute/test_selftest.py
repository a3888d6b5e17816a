"""The self-test against a real libvirtd."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.host.inventory import read_inventory
from kumulus_agent.host.selftest import RESULT_FILE, run_selftest


async def test_emulation_proves_itself(hypervisor: Hypervisor, tmp_path: Path) -> None:
    """Without KVM the guest greets under emulation, and nothing of the probe remains."""
    result = await run_selftest(hypervisor, tmp_path, kvm_device=tmp_path / "no-kvm")
    assert result.virt == "qemu"
    assert result.failures == {"kvm": f"{tmp_path / 'no-kvm'} does not exist"}
    assert (await hypervisor.observe()).unknown == ()
    assert await asyncio.to_thread(lambda: [path.name for path in tmp_path.iterdir()]) == [RESULT_FILE]


async def test_kvm_is_believed_only_if_a_guest_greets(hypervisor: Hypervisor, tmp_path: Path) -> None:
    """Some way of running is found within the deadlines, and a KVM that is absent, fails or crawls is named."""
    began = time.monotonic()
    result = await run_selftest(hypervisor, tmp_path, deadline=5.0)
    assert time.monotonic() - began < 15
    assert result.virt == ("qemu" if "kvm" in result.failures else "kvm")
    assert await hypervisor.list_instances() == {}


async def test_the_result_holds_for_this_boot_and_qemu(hypervisor: Hypervisor, tmp_path: Path) -> None:
    """A stored result is used again, and a result of another boot is not."""
    first = await run_selftest(hypervisor, tmp_path, kvm_device=tmp_path / "no-kvm")
    file = tmp_path / RESULT_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "seconds": 99.0}))
    assert (await run_selftest(hypervisor, tmp_path)).seconds == 99.0
    file.write_text(json.dumps({**json.loads(file.read_text()), "boot_id": "another"}))
    again = await run_selftest(hypervisor, tmp_path, kvm_device=tmp_path / "no-kvm")
    assert again.boot_id == first.boot_id
    assert again.seconds != 99.0


async def test_a_silent_guest_ends_with_the_deadline(hypervisor: Hypervisor, tmp_path: Path) -> None:
    """A host on which no guest greets in time is reported as such and asked again next time."""
    result = await run_selftest(hypervisor, tmp_path, deadline=0.05, kvm_device=tmp_path / "no-kvm")
    assert result.virt is None
    assert "said nothing" in result.failures["qemu"]
    assert not (tmp_path / RESULT_FILE).exists()
    assert await hypervisor.list_instances() == {}


async def test_inventory_is_of_this_host(hypervisor: Hypervisor, tmp_path: Path) -> None:
    """The inventory has sizes above zero, versions, and misses no package of a host that runs guests."""
    inventory = await read_inventory(hypervisor, tmp_path, host_root=Path("/"))
    assert min(inventory.vcpus, inventory.memory_bytes, inventory.disk_bytes) > 0
    assert inventory.qemu_version.count(".") == inventory.libvirt_version.count(".") == 2
    assert {"qemu-system-x86", "libvirt-daemon"}.isdisjoint(inventory.missing_packages)
