"""Memory that comes to a real guest as it runs: what is asked for and what the guest's kernel makes of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from kumulus_agent.compute.domain_spec import Disk, DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.storage.seed import Seed, write_seed
from kumulus_lab.guests.tiny import build
from kumulus_lab.settings import LabSettings

MI = 1 << 20
TELLER = b"""#!/bin/sh
(while :; do sed -n 's/^MemTotal: *\\([0-9]*\\).*/guest-has-kib=\\1/p' /proc/meminfo; sleep 1; done) >/dev/ttyS0 2>&1 &
"""


async def test_linux_takes_memory_and_gives_it_back(
    hypervisor: Hypervisor,
    eventually: Callable[..., Awaitable[None]],
    make_domain: Callable[..., DomainSpec],
    tmp_path: Path,
) -> None:
    """A guest with virtio-mem has what it was asked to take a moment later, and less again when that is asked."""
    spec = make_domain()
    disk = tmp_path / "root.qcow2"
    shutil.copyfile(build(LabSettings.from_environment().cache), disk)
    seed = tmp_path / "seed.iso"
    await write_seed(seed, Seed(spec.instance_id, "web", (), (), TELLER))
    spec = replace(
        spec,
        disks=(Disk(str(disk), "qcow2", "vda", "root"),),
        seed_path=str(seed),
        memory_bytes=128 * MI,
        max_memory_bytes=384 * MI,
    )
    await hypervisor.define_and_start(domain_xml(spec))

    def said() -> list[int]:
        text = Path(str(spec.console_log)).read_text(errors="replace")
        return [int(kib) for kib in re.findall(r"guest-has-kib=(\d+)", text)]

    async def told() -> bool:
        return bool(said())

    await eventually(told, 60)
    before = said()[-1]
    for wanted in (256 * MI, 160 * MI):
        await hypervisor.grow(spec.instance_id, 1, wanted)

        async def taken(wanted: int = wanted) -> bool:
            state = await hypervisor.get_instance(spec.instance_id)
            more = (wanted - 128 * MI) >> 10
            # The kernel's own books of each block take a little of it.
            return state is not None and state.memory == wanted and abs(said()[-1] - before - more) < 8 << 10

        await eventually(taken, 30)
