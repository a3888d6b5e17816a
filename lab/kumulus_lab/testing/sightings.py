"""What is on a host, as the host's own tools and files tell it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings

DATAPATH = "kumulus"
SELF_TEST = "k-0c2678ed-9154-5867-a7d9-3c4784f9b5da"
"""The domain with which an agent tries out its host's virtualization."""
VIRSH = ("virsh", "--connect", "qemu:///system", "--quiet")


@dataclass(frozen=True)
class Sighting:
    """One host.

    Attributes:
        domains: libvirt's domains by name (`k-` and the instance id), each with whether it is active.
        taps: guests' interfaces in the datapath, each with the bridge that it is plugged into, or an empty text.
        bridges: the networks' bridges.
        tunnels: the networks' VXLAN devices.
        neighbours: VXLAN device, MAC and remote address of each guest elsewhere.
        services: namespaces of the networks' DHCP and DNS servers, each with whether a process runs in it.
        instances: folders of instances, by instance id, each with whether it holds a root disk.
        volumes: names of the volumes' files.
    """

    domains: dict[str, bool] = field(default_factory=dict)
    taps: dict[str, str] = field(default_factory=dict)
    bridges: frozenset[str] = frozenset()
    tunnels: frozenset[str] = frozenset()
    neighbours: frozenset[tuple[str, str, str]] = frozenset()
    services: dict[str, bool] = field(default_factory=dict)
    instances: dict[str, bool] = field(default_factory=dict)
    volumes: frozenset[str] = frozenset()


async def look(lab: LabSettings) -> dict[str, Sighting]:
    """Look at all hosts at once; give what each has, by the host's name."""
    names = [host.name for host in lab.host_specs]
    return dict(zip(names, await asyncio.gather(*(asyncio.to_thread(_look, lab, name) for name in names)), strict=True))


def _look(lab: LabSettings, host: str) -> Sighting:
    hosts = Hosts(lab)

    def run(*argv: str) -> str:
        return hosts.run(host, argv, check=True).stdout

    links = json.loads(run("ip", "-netns", DATAPATH, "-json", "-details", "link"))
    fdb = json.loads(run("bridge", "-netns", DATAPATH, "-json", "fdb", "show"))
    namespaces = [line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.strip()]
    active = set(run(*VIRSH, "list", "--name").split())
    domains = set(run(*VIRSH, "list", "--all", "--name").split()) - {SELF_TEST}
    state = lab.host(host).directory / "kumulus"
    return Sighting(
        domains={name: name in active for name in domains},
        taps={link["ifname"]: link.get("master", "") for link in links if link["ifname"].startswith("kt")},
        bridges=_named(links, "kb"),
        tunnels=_named(links, "kx"),
        neighbours=frozenset(
            (entry["ifname"], entry["mac"], entry["dst"])
            for entry in fdb
            # What the device has learned by itself, from a frame on its way, it forgets by itself.
            if "dst" in entry and "extern_learn" in entry["flags"]
        ),
        services={name: bool(run("ip", "netns", "pids", name).strip()) for name in namespaces if name.startswith("kd")},
        instances={path.name: (path / "root.qcow2").exists() for path in (state / "instances").iterdir()},
        volumes=frozenset(path.name for path in (state / "volumes").iterdir() if path.name != ".lock")
        if (state / "volumes").exists()
        else frozenset(),
    )


def _named(links: list[dict[str, Any]], prefix: str) -> frozenset[str]:
    return frozenset(link["ifname"] for link in links if link["ifname"].startswith(prefix))
