"""An emulated machine with an IOMMU on which what is installed here runs, where this machine has no IOMMU.

QEMU's q35 with Intel's, the lab's kernel, and this machine's files by virtiofs: whatever is written there stays in a
layer in its memory. Two NVMe controllers that nobody needs are behind root ports, each in an IOMMU group of its own.
"""

from __future__ import annotations

import socket
import stat
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Final

from kumulus_lab.guests import initramfs, tiny
from kumulus_lab.guests.packages import kernel_package, resolve, unpack

VIRTIOFSD: Final = Path("/usr/lib/qemu/virtiofsd")
_MODULES: Final = ("virtio_pci", "virtiofs", "overlay", "vfio", "vfio_iommu_type1", "vfio_pci", "tun")
_INIT: Final = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
while read -r module; do insmod "/lib/modules/$module.ko"; done </etc/modules/machine
mkdir -p /lower /layer /root
mount -t virtiofs root /lower && mount -t tmpfs layer /layer && mkdir /layer/up /layer/work &&
    mount -t overlay overlay -o lowerdir=/lower,upperdir=/layer/up,workdir=/layer/work /root || poweroff -f
for place in proc sys dev; do mount --move "/$place" "/root/$place"; done
cp /inside /root/inside
exec switch_root /root /bin/bash /inside
"""
_INSIDE: Final = """
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs run /run
{script}
echo "{ended}"
sleep infinity
"""
_ENDED: Final = "kumulus: the script has ended"
_MACHINE: Final = """
-machine q35,kernel-irqchip=split,memory-backend=memory -accel tcg,thread=multi -cpu max -m 3072 -smp 2
-nodefaults -display none -serial stdio -no-reboot
-object memory-backend-memfd,id=memory,size=3072M,share=on
-device intel-iommu,intremap=on
-chardev socket,id=root,path={socket} -device vhost-user-fs-pci,chardev=root,tag=root
-device pcie-root-port,id=p1,chassis=1,addr=4 -device nvme,bus=p1,serial=a,drive=a
-device pcie-root-port,id=p2,chassis=2,addr=5 -device nvme,bus=p2,serial=b,drive=b
-drive if=none,id=a,driver=null-co,size=16M,read-zeroes=on
-drive if=none,id=b,driver=null-co,size=16M,read-zeroes=on
"""
_READ_ONLY: Final = 'mount --make-rprivate / && mount -o remount,bind,ro / && exec "$@"'


def run_inside(script: str, *, cache: Path, seconds: float) -> str:
    """Boot the machine, have its root run a script of bash, and give what it has written to the console.

    Args:
        script: what to run; its files are this machine's.
        cache: directory that outlives the lab.
        seconds: for all of it; then the machine is switched off.

    Raises:
        CommandFailed: a Debian package is missing.
    """
    tree = unpack(
        resolve([kernel_package(tiny.KERNEL_META_PACKAGE), "busybox-static", "grub-common", "grub-pc-bin"]), cache
    )
    with tempfile.TemporaryDirectory(prefix="kumulus-iommu-") as folder:
        archive, place = Path(folder, "initramfs"), Path(folder, "root")
        archive.write_bytes(initramfs.archive(_nodes(tree, _INSIDE.format(script=script, ended=_ENDED))))
        with socket.socket(socket.AF_UNIX) as listener, Path(folder, "virtiofsd.log").open("wb") as log:
            listener.bind(str(place))
            listener.listen(1)
            options = [f"--fd={listener.fileno()}", "-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot"]
            shared = subprocess.Popen(
                ["unshare", "--mount", "bash", "-c", _READ_ONLY, "root", VIRTIOFSD, *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(listener.fileno(),),
            )  # fmt: skip
            try:
                return _boot(next((tree / "boot").glob("vmlinuz-*")), archive, place, seconds)
            finally:
                shared.kill()
                shared.wait()


def _boot(kernel: Path, archive: Path, place: Path, seconds: float) -> str:
    machine = _MACHINE.format(socket=place).split()
    line = "console=ttyS0 quiet intel_iommu=on"
    argv = ["qemu-system-x86_64", *machine, "-kernel", str(kernel), "-initrd", str(archive), "-append", line]
    console = []
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as emulator:
        limit = threading.Timer(seconds, emulator.kill)
        limit.start()
        for text in emulator.stdout or ():
            console.append(text.rstrip())
            if console[-1] == _ENDED:
                break
        limit.cancel()
        emulator.kill()  # nothing of it is kept: it need not shut down
    return "\n".join(console)


def _nodes(tree: Path, inside: str) -> list[initramfs.Node]:
    available = initramfs.module_files(tree / "lib/modules")
    depends = {name: initramfs.module_dependencies(path.read_bytes()) for name, path in available.items()}
    order = initramfs.load_order(_MODULES, depends)
    return [
        *tiny.guest_nodes(tree),
        *(initramfs.file(f"lib/modules/{name}.ko", available[name].read_bytes()) for name in order),
        initramfs.file("etc/modules/machine", "".join(f"{name}\n" for name in order).encode()),
        initramfs.file("inside", inside.encode()),
        initramfs.Node("init", stat.S_IFREG | 0o755, _INIT.encode()),
    ]
