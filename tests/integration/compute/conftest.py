"""A libvirtd of the test's own: private mounts, PIDs and network, gone with its init process."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import libvirt
import pytest

from kumulus_agent.compute.domain_spec import Disk, DomainSpec, Nic
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.host.boot_sector import boot_sector
from kumulus_agent.migration.channels import Sockets

_QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
"""

_INIT = """\
mount --make-rprivate /
ip link set lo up
mkdir -p /var/cache/libvirt /var/lib/libvirt
mount --bind "$1/run" /run
mount --bind "$1/etc" /etc/libvirt
mount --bind "$1/lib" /var/lib/libvirt
mount --bind "$1/cache" /var/cache/libvirt
virtlogd > "$1/virtlogd.log" 2>&1 &
while :; do
    libvirtd > "$1/libvirtd.log" 2>&1 &
    echo $! > "$1/libvirtd.pid"
    wait $!
done
"""


@dataclass
class PrivateLibvirt:
    """A running libvirtd and how to disturb it."""

    root: Path
    init: subprocess.Popen[bytes]

    @property
    def uri(self) -> str:
        """The URI that reaches it from outside."""
        return f"qemu+unix:///system?socket={self.root}/run/libvirt/libvirt-sock"

    def inside(self, *command: str) -> str:
        """Run a command in its namespaces."""
        target = next(iter(self._children(self.init.pid)))
        enter = ["nsenter", "-t", str(target), "--mount", "--pid", "--net"]
        return subprocess.run([*enter, *command], check=True, capture_output=True, text=True, timeout=10).stdout

    def kill_libvirtd(self) -> None:
        """Kill the daemon; its init starts another, guests stay."""
        self.inside("kill", "-KILL", (self.root / "libvirtd.pid").read_text().strip())

    def wait_ready(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + 20
        while True:
            try:
                libvirt.open(self.uri).close()
            except libvirt.libvirtError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """Power-off: the namespace's init takes everything with it."""
        self.init.send_signal(signal.SIGKILL)
        self.init.wait(timeout=20)

    @staticmethod
    def _children(pid: int) -> list[int]:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="session")
def private_libvirt() -> Iterator[PrivateLibvirt]:
    """One libvirtd for the session."""
    yield from _private_libvirt()


@pytest.fixture
def second_libvirt() -> Iterator[PrivateLibvirt]:
    """Another one, as of another host."""
    yield from _private_libvirt()


def _private_libvirt() -> Iterator[PrivateLibvirt]:
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces")
    for tool in ("libvirtd", "virtlogd", "qemu-system-x86_64", "unshare", "nsenter"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    # A short path: libvirt's sockets must fit in 108 bytes.
    root = Path(tempfile.mkdtemp(prefix="kumulus-lv-"))
    for folder in ("run/lock", "run/libvirt", "etc", "lib", "cache"):
        (root / folder).mkdir(parents=True)
    (root / "etc/libvirtd.conf").write_text(
        f'host_uuid = "{uuid.uuid4()}"\nunix_sock_group = "root"\nauth_unix_rw = "none"\n'
    )
    (root / "etc/qemu.conf").write_text(_QEMU_CONF)
    flags = ("--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc")
    with (root / "init.log").open("wb") as log:
        init = subprocess.Popen(
            ["unshare", *flags, "bash", "-c", _INIT, "init", str(root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    daemon = PrivateLibvirt(root, init)
    try:
        daemon.wait_ready()
        yield daemon
    finally:
        daemon.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def sockets(private_libvirt: PrivateLibvirt, second_libvirt: PrivateLibvirt) -> Iterator[Sockets]:
    """Ways from the one to the other, short enough for a socket's name."""
    directory = Path(tempfile.mkdtemp(prefix="kumulus-mg-"))
    found = Sockets(directory)
    for path, daemon in ((found.local, private_libvirt), (found.control, second_libvirt)):
        path.symlink_to(daemon.root / "run/libvirt/libvirt-sock")
    yield found
    shutil.rmtree(directory)


async def until(condition: Callable[[], Awaitable[object]], seconds: float = 15.0) -> None:
    """Wait for what only a file or libvirt tells, looking again and again."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - nothing tells when it has come true
            await asyncio.sleep(0.02)


class Events:
    """Instance ids that the hypervisor reported, and its reconnects."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.reconnects = 0
        self._changed = asyncio.Event()

    def on_event(self, instance_id: str) -> None:
        """Note an instance id."""
        self.seen.append(instance_id)
        self._changed.set()

    def on_reconnect(self) -> None:
        """Note a reconnect."""
        self.reconnects += 1
        self._changed.set()

    async def eventually(self, condition: Callable[[], object], seconds: float = 10.0) -> None:
        """Wait for ``condition``, looked at after each event."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def events() -> Events:
    """What the hypervisor fixture reported."""
    return Events()


@pytest.fixture
async def hypervisor(private_libvirt: PrivateLibvirt, events: Events) -> AsyncIterator[Hypervisor]:
    """A connection to the private libvirtd; its instances are removed afterwards."""
    hypervisor = Hypervisor(private_libvirt.uri, on_event=events.on_event, on_reconnect=events.on_reconnect)
    await hypervisor.open()
    try:
        yield hypervisor
    finally:
        for instance_id in await hypervisor.list_instances():
            await hypervisor.destroy(instance_id)
            await hypervisor.undefine(instance_id)
        await hypervisor.close()


@pytest.fixture
def eventually() -> Callable[..., Awaitable[None]]:
    """Wait for a condition; see :func:`until`."""
    return until


@pytest.fixture
def make_domain(tmp_path: Path) -> Callable[..., DomainSpec]:
    """Make the specification of a one-sector guest with its disk."""

    def make(*, power_off: bool = False, nics: tuple[Nic, ...] = (), epoch: int = 1) -> DomainSpec:
        instance_id = str(uuid.uuid4())
        disk = tmp_path / f"{instance_id}.raw"
        disk.write_bytes(boot_sector(power_off=power_off).ljust(1 << 20, b"\0"))
        return DomainSpec(
            instance_id=instance_id,
            namespace="team",
            name="web",
            epoch=epoch,
            vcpus=1,
            memory_bytes=64 << 20,
            virt="qemu",
            disks=(Disk(str(disk), "raw", "vda", "root"),),
            nics=nics,
            console_log=str(tmp_path / f"{instance_id}.log"),
        )

    return make
