"""Disturbances that guests must not feel, each returning when the disturbed part is back."""

from __future__ import annotations

import asyncio
import signal

from kumulus_lab import processes as daemons
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import killing
from kumulus_lab.testing.cloud import SYSTEM_NAMESPACE, Cloud
from kumulus_lab.testing.killing import Victim

_LIMIT = "120s"


async def kill_operator(cloud: Cloud, lab: LabSettings) -> None:
    """Kill the operator with SIGKILL and wait until the next one leads."""
    await _kill(cloud, lab, Victim.OPERATOR)


async def kill_agents(cloud: Cloud, lab: LabSettings) -> None:
    """Kill all agents with SIGKILL and wait until the next ones are ready."""
    await _kill(cloud, lab, Victim.AGENT)


async def restart_libvirtd(cloud: Cloud, lab: LabSettings) -> None:
    """Kill libvirtd on every host; the hosts' init starts it again."""
    await _kill(cloud, lab, Victim.LIBVIRTD)


async def roll_daemonset(cloud: Cloud, lab: LabSettings) -> None:
    """Replace every agent pod, as an upgrade does."""
    await _kubectl(lab, "rollout", "restart", "daemonset/kumulus-agent", "--namespace", SYSTEM_NAMESPACE)
    await _kubectl(lab, "rollout", "status", "daemonset/kumulus-agent", "--namespace", SYSTEM_NAMESPACE)


async def restart_api_server(cloud: Cloud, lab: LabSettings) -> None:
    """Kill the API server and start it again."""
    plane = ControlPlane.of_lab(lab)
    api_server = next(daemon for daemon in plane.daemons() if daemon.name == "kube-apiserver")
    await asyncio.to_thread(daemons.stop, api_server, signal.SIGKILL)
    await asyncio.to_thread(plane.start)


async def _kill(cloud: Cloud, lab: LabSettings, victim: Victim) -> None:
    before = await cloud.restarts()
    killing.kill(lab, victim)
    await killing.back(cloud, lab, before, victim)


async def _kubectl(lab: LabSettings, *arguments: str) -> None:
    plane = ControlPlane.of_lab(lab)
    limit = [f"--timeout={_LIMIT}"] if "status" in arguments else []
    await asyncio.to_thread(plane.kubectl, *arguments, *limit, timeout=130)
