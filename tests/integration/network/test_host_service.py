"""Host services as real processes of this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kumulus_agent.network.command import run
from kumulus_agent.services import process
from kumulus_agent.services.host_service import HostServices, ServiceSpec
from kumulus_lab.testing.routed import eventually


@pytest.fixture
async def services(tmp_path: Path):
    """Services in a folder of the test, none of which is left behind."""
    found = HostServices(tmp_path / "services", init_pid=None)
    yield found
    for unit in found.observe():
        await found.absent(unit)


@pytest.fixture
def spec() -> ServiceSpec:
    """A service that does nothing until it is ended."""
    return ServiceSpec(f"kumulus-test-{os.getpid()}", ("sleep", "600"))


async def test_a_service_is_started_once(services: HostServices, spec: ServiceSpec) -> None:
    """Ensuring a service again finds the same process, a changed command line replaces it."""
    assert await services.ensure(spec)
    first = services.observe()[spec.unit].process
    assert not await services.ensure(spec)
    assert services.observe()[spec.unit].process == first
    assert await services.ensure(replace(spec, argv=("sleep", "601")))
    assert process.identify(first.pid) is None


async def test_a_dead_service_is_started_again(services: HostServices, spec: ServiceSpec) -> None:
    """A service that has died is not observed, and is started by the next ensure."""
    await services.ensure(spec)
    await process.stop(services.observe()[spec.unit].process)
    assert not services.observe()
    assert await services.ensure(spec)


async def test_what_a_service_has_started_goes_with_it(services: HostServices, spec: ServiceSpec) -> None:
    """A process that a service leaves behind, as a worker that hears no signal, does not stay when the service ends."""
    await services.ensure(replace(spec, argv=("sh", "-c", "nohup sleep 602 & exec sleep 603")))
    pid = services.observe()[spec.unit].process.pid

    async def has_child() -> bool:
        return bool(process.children(pid))

    await eventually(has_child)
    (child,) = process.children(pid)
    await services.absent(spec.unit)

    async def is_gone() -> bool:
        return process.identify(child.pid) != child

    await eventually(is_gone)


async def test_a_service_outlives_the_process_that_started_it(
    services: HostServices, spec: ServiceSpec, tmp_path: Path
) -> None:
    """Another process finds the service by its record after the one that started it is gone."""
    program = (
        "import asyncio, pathlib, sys\n"
        "from kumulus_agent.services.host_service import HostServices, ServiceSpec\n"
        "services = HostServices(pathlib.Path(sys.argv[1]), init_pid=None)\n"
        "asyncio.run(services.ensure(ServiceSpec(sys.argv[2], ('sleep', '600'))))\n"
    )
    starter = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path / "services"), spec.unit, start_new_session=True
    )
    assert await starter.wait() == 0
    assert spec.unit in services.observe()
    assert not await services.ensure(spec)


async def test_a_service_leaves_our_control_group_and_session(services: HostServices, spec: ServiceSpec) -> None:
    """What ends the agent's pod does not reach the service."""
    await services.ensure(spec)
    pid = services.observe()[spec.unit].process.pid
    assert os.getsid(pid) == pid
    groups = await asyncio.to_thread(Path(f"/proc/{pid}/cgroup").read_text)
    assert f"/kumulus/{spec.unit}" in groups
    await services.absent(spec.unit)
    assert not await asyncio.to_thread(lambda: list(Path("/sys/fs/cgroup").rglob(spec.unit)))


async def test_a_service_that_ignores_the_request_is_killed(
    services: HostServices, spec: ServiceSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service has ended when absent returns, whatever it does with signals."""
    monkeypatch.setattr(process, "STOP_SECONDS", 0.3)
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    await services.ensure(replace(spec, argv=(sys.executable, "-c", program)))
    identity = services.observe()[spec.unit].process
    assert await services.absent(spec.unit)
    assert process.identify(identity.pid) is None
    assert not await services.absent(spec.unit)


async def test_a_number_that_was_used_again_is_not_ended(services: HostServices, spec: ServiceSpec) -> None:
    """A process with the recorded number but another start is left alone."""
    await services.ensure(spec)
    identity = services.observe()[spec.unit].process
    other = replace(identity, started=identity.started + 1)
    assert not process.send(other, signal.SIGTERM)
    assert not await process.stop(other)
    assert process.identify(identity.pid) == identity


async def test_a_service_runs_in_the_hosts_mount_namespace(spec: ServiceSpec, tmp_path: Path) -> None:
    """A pod that has mounts of its own starts a service that has the host's, and the same number."""
    program = (
        "import asyncio, os, pathlib, sys\n"
        "from kumulus_agent.services.host_service import HostServices, ServiceSpec\n"
        "services, unit = HostServices(pathlib.Path(sys.argv[1])), sys.argv[2]\n"
        "async def main():\n"
        "    assert await services.ensure(ServiceSpec(unit, ('sleep', '600')))\n"
        "    pid = services.observe()[unit].process.pid\n"
        "    while b'nsenter' in pathlib.Path(f'/proc/{pid}/cmdline').read_bytes(): await asyncio.sleep(0.01)\n"
        "    mounts = [os.readlink(f'/proc/{number}/ns/mnt') for number in (1, pid, 'self')]\n"
        "    assert mounts[0] == mounts[1] != mounts[2], mounts\n"
        "    assert await services.absent(unit)\n"
        "asyncio.run(main())\n"
    )
    # The host says when it has a /proc of its own: before, its first process would be this machine's.
    boot = "import time; print('up', flush=True); time.sleep(600)"
    host = ("unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "--", sys.executable, "-c", boot)
    init = await asyncio.create_subprocess_exec(*host, stdout=asyncio.subprocess.PIPE)
    try:
        assert init.stdout is not None
        assert await init.stdout.readline() == b"up\n"
        first = await asyncio.to_thread(Path(f"/proc/{init.pid}/task/{init.pid}/children").read_text)
        pod = ("nsenter", f"--target={first.strip()}", "--pid", "--mount", "--", "unshare", "--mount", "--")
        await run((*pod, sys.executable, "-c", program, str(tmp_path / "services"), spec.unit))
    finally:
        init.kill()
        await init.wait()
