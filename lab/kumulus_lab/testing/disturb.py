"""Disturbances that guests must not feel, each returning when the disturbed part is back."""

from __future__ import annotations

import asyncio
import os
import signal

from kumulus_lab import processes as daemons
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import processes
from kumulus_lab.testing.cloud import Cloud

_SYSTEM = "kumulus-system"
_LIMIT = "120s"


async def kill_operator(cloud: Cloud, lab: LabSettings) -> None:
    """Kill the operator with SIGKILL and wait until its Deployment is available again."""
    _kill("kumulus-operator", lab)
    await _kubectl(lab, "rollout", "status", "deployment/kumulus-operator", "--namespace", _SYSTEM)


async def kill_agents(cloud: Cloud, lab: LabSettings) -> None:
    """Kill all agents with SIGKILL and wait until the DaemonSet is available again."""
    _kill("kumulus-agent", lab)
    await _kubectl(lab, "rollout", "status", "daemonset/kumulus-agent", "--namespace", _SYSTEM)


async def roll_daemonset(cloud: Cloud, lab: LabSettings) -> None:
    """Replace every agent pod, as an upgrade does."""
    await _kubectl(lab, "rollout", "restart", "daemonset/kumulus-agent", "--namespace", _SYSTEM)
    await _kubectl(lab, "rollout", "status", "daemonset/kumulus-agent", "--namespace", _SYSTEM)


async def restart_libvirtd(cloud: Cloud, lab: LabSettings) -> None:
    """Kill libvirtd on every host; the hosts' init starts it again."""
    hosts = Hosts(lab)
    for host in lab.host_specs:
        await asyncio.to_thread(hosts.run, host.name, ["pkill", "--signal", "KILL", "--exact", "libvirtd"], check=True)


async def restart_api_server(cloud: Cloud, lab: LabSettings) -> None:
    """Kill the API server and start it again."""
    plane = ControlPlane.of_lab(lab)
    api_server = next(daemon for daemon in plane.daemons() if daemon.name == "kube-apiserver")
    await asyncio.to_thread(daemons.stop, api_server, signal.SIGKILL)
    await asyncio.to_thread(plane.start)


def _kill(program: str, lab: LabSettings) -> None:
    for pid in processes.pids(program, lab):
        os.kill(pid, signal.SIGKILL)


async def _kubectl(lab: LabSettings, *arguments: str) -> None:
    plane = ControlPlane.of_lab(lab)
    limit = [f"--timeout={_LIMIT}"] if "status" in arguments else []
    await asyncio.to_thread(plane.kubectl, *arguments, *limit, timeout=130)
