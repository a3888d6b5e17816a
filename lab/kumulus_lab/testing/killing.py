"""Ending processes without warning at a moment that the test chooses, and waiting until they are back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from datetime import datetime
from enum import StrEnum

from kumulus_lab import commands
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import processes
from kumulus_lab.testing.cloud import SYSTEM_NAMESPACE, Breach, Cloud, Object
from kumulus_lab.testing.observer import Objects, Observer
from kumulus_lab.testing.sightings import VIRSH
from kumulus_runtime.resources import LEASE, POD

_HOST_BACK_SECONDS = 240.0
_BACK_SECONDS = 90.0


class Victim(StrEnum):
    """Programs on which the cloud stands."""

    OPERATOR = "kumulus-operator"
    AGENT = "kumulus-agent"
    LIBVIRTD = "libvirtd"
    DNSMASQ = "dnsmasq"


def kill(lab: LabSettings, *victims: Victim) -> None:
    """Send SIGKILL to all processes of these programs on all hosts.

    Raises:
        Breach: one does not run at all.
    """
    for victim in victims:
        pids = list(processes.pids(victim, lab))
        if not pids:
            raise Breach(f"there is no {victim} to kill")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def back(cloud: Cloud, lab: LabSettings, before: dict[str, int], *victims: Victim) -> None:
    """Wait until the killed programs are ready again.

    Args:
        cloud: to watch.
        lab: whose hosts.
        before: how often each pod had been restarted before the kill.
        victims: what was killed; DHCP servers are compared with the networks by `agreement`, not here.
    """
    for victim in victims:
        if victim in (Victim.OPERATOR, Victim.AGENT):
            await _pods_back(cloud, victim.removeprefix("kumulus-"), before)
            if victim is Victim.OPERATOR:
                await _leader_back(cloud)
        elif victim is Victim.LIBVIRTD:
            await asyncio.gather(*(asyncio.to_thread(_libvirtd_back, lab, host.name) for host in lab.host_specs))


async def host_back(cloud: Cloud, host: str, before: dict[str, int]) -> None:
    """Wait until all of ours that a host runs is ready again after it lost its power; `before` as for `back`."""
    async with Observer(cloud, POD, namespace=SYSTEM_NAMESPACE) as pods:
        await pods.eventually(
            lambda found: all(_is_back(pod, before) for pod in found.values() if pod["spec"].get("nodeName") == host),
            f"what runs on {host} is back",
            _HOST_BACK_SECONDS,
        )


async def _pods_back(cloud: Cloud, component: str, before: dict[str, int]) -> None:
    selector = f"app.kubernetes.io/component={component}"
    async with Observer(cloud, POD, namespace=SYSTEM_NAMESPACE, label_selector=selector) as pods:
        await pods.eventually(
            lambda found: all(_is_back(pod, before) for pod in found.values()),
            f"the {component} is back",
            _BACK_SECONDS,
        )


def _is_back(pod: Object, before: dict[str, int]) -> bool:
    containers = pod.get("status", {}).get("containerStatuses", [])
    times = sum(container["restartCount"] for container in containers)
    return times > before.get(pod["metadata"]["name"], -1) and all(container["ready"] for container in containers)


async def _leader_back(cloud: Cloud) -> None:
    """Wait until the new operator leads: it takes the Lease of its pod at once."""
    pods, _ = await cloud.client.list(POD, SYSTEM_NAMESPACE, label_selector="app.kubernetes.io/component=operator")
    began = min(_began(pod) for pod in pods)

    def leads(leases: Objects) -> bool:
        lease = leases.get((SYSTEM_NAMESPACE, Victim.OPERATOR))
        return lease is not None and bool(lease["spec"].get("holderIdentity")) and _taken(lease) >= began

    async with Observer(cloud, LEASE, namespace=SYSTEM_NAMESPACE) as leases:
        await leases.eventually(leads, "a new operator leads", _BACK_SECONDS)


def _taken(lease: Object) -> datetime:
    return _moment(lease["spec"]["acquireTime"])


def _began(pod: Object) -> datetime:
    return min(_moment(item["state"]["running"]["startedAt"]) for item in pod["status"]["containerStatuses"])


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _libvirtd_back(lab: LabSettings, host: str) -> None:
    hosts = Hosts(lab)
    commands.wait_until(
        lambda: hosts.run(host, [*VIRSH, "uri"]).returncode == 0,
        what=f"libvirtd of {host}",
        limit=_BACK_SECONDS,
        interval=0.2,
    )
