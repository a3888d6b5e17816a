"""Make `q35_iommu.json`: the sysfs of a real Linux on an emulated machine with an IOMMU.

    python tests/unit/agent_passthrough/record_q35.py > tests/unit/agent_passthrough/q35_iommu.json

QEMU's q35 has an Intel IOMMU here; behind root ports: a NIC with a driver, a disk, a function pair (disk and NIC) and,
on an old PCI bus, two NICs that share a group. The kernel and busybox are those of the lab's tiny guest.
"""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from kumulus_lab.guests import initramfs, tiny
from kumulus_lab.guests.packages import kernel_package, resolve, unpack

CACHE = Path.home() / ".cache/kumulus"
INIT = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
while read -r module; do insmod "/lib/modules/$module.ko" 2>/dev/null; done </etc/modules/boot
link() { [ -L "$1" ] && echo "RECORD L $1 $(readlink "$1")"; }
text() { [ -f "$1" ] && echo "RECORD F $1 $(cat "$1" 2>/dev/null)"; }
for device in /sys/bus/pci/devices/*; do
    link "$device"
    place=$(readlink -f "$device")
    for name in vendor device class sriov_numvfs; do text "$place/$name"; done
    for name in driver iommu_group; do link "$place/$name"; done
done
for driver in /sys/bus/pci/drivers/*; do
    [ -e "$driver/unbind" ] && echo "RECORD F $driver/unbind"
done
for group in /sys/kernel/iommu_groups/*/devices/*; do link "$group"; done
for name in /sys/class/net/* /sys/block/*; do link "$name"; done
poweroff -f
"""
MACHINE = """
-machine q35,kernel-irqchip=split -accel tcg -cpu max -m 256 -nodefaults -display none -serial stdio -no-reboot
-device intel-iommu,intremap=on
-device pcie-root-port,id=p1,chassis=1,addr=4 -device virtio-net-pci,bus=p1
-device pcie-root-port,id=p2,chassis=2,addr=5 -device nvme,bus=p2,serial=a,drive=a
-device pcie-root-port,id=p3,chassis=3,addr=6
-device nvme,bus=p3,addr=0.0,multifunction=on,serial=b,drive=b -device e1000e,bus=p3,addr=0.1
-device pcie-root-port,id=p4,chassis=4,addr=7
-device pcie-pci-bridge,id=old,bus=p4 -device virtio-net-pci,bus=old,addr=1 -device e1000,bus=old,addr=2
-drive if=none,id=a,driver=null-co,size=16M -drive if=none,id=b,driver=null-co,size=16M
"""


def record() -> dict[str, dict[str, str]]:
    """Boot the machine and give links and files by path below /sys."""
    packages = [kernel_package(tiny.KERNEL_META_PACKAGE), "busybox-static", "grub-common", "grub-pc-bin"]
    tree = unpack(resolve(packages), CACHE)
    nodes = [*tiny.guest_nodes(tree), initramfs.Node("init", stat.S_IFREG | 0o755, INIT.encode())]
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "initramfs")
        archive.write_bytes(initramfs.archive(nodes))
        kernel = next((tree / "boot").glob("vmlinuz-*"))
        line = "console=ttyS0 quiet intel_iommu=on"
        argv = ["qemu-system-x86_64", *MACHINE.split(), "-kernel", kernel, "-initrd", archive, "-append", line]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=True)
    found: dict[str, dict[str, str]] = {"links": {}, "files": {}}
    for line in done.stdout.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "RECORD":
            kind, path, value = (*rest.split(" ", 2), "")[:3]
            found["links" if kind == "L" else "files"][path.removeprefix("/sys/")] = value
    return found


if __name__ == "__main__":
    json.dump(record(), sys.stdout, indent=0, sort_keys=True)
    sys.stdout.write("\n")
