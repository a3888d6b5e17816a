"""The steps of ``up``, in order; each finds its work done on a second run."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kumulus_lab import (
    builds,
    chart,
    cluster_dns,
    console,
    machine,
    packages,
    prerequisites,
    processes,
    quickstart,
    shared,
)
from kumulus_lab.cluster import Cluster
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.hosts import Hosts
from kumulus_lab.progress import bar, say, step
from kumulus_lab.settings import LabSettings

_CLUSTER_STEPS = 3
"""Control plane, hosts, DNS; the bar needs to know how many steps there will be."""
_STEPS = _CLUSTER_STEPS + 6
"""And container images, guest images, chart, first servers, the console of each of the two."""


def bring_up(lab: LabSettings, *, only_cluster: bool = False) -> None:
    """Bring up the lab, or what of it is not up.

    Args:
        lab: what it is made of.
        only_cluster: stop before Kumulus: a Kubernetes cluster with DNS, no images, no chart.

    Raises:
        LabError: a step failed; what runs is left running for a look, and ``up`` may be called again.
    """
    prepare(lab)
    with bar(_CLUSTER_STEPS if only_cluster else _STEPS):
        start_cluster(lab)
        if not only_cluster:
            install(lab)
    if only_cluster:
        say(f"\n{next_commands(lab)[0]}")


def prepare(
    lab: LabSettings,
    wanted: Sequence[builds.Build] = builds.FOR_A_LAB,
    debian: Sequence[str] = packages.WANTED,
) -> None:
    """Install the Debian packages that are missing and build the programs that the cache lacks.

    Raises:
        LabError: the machine cannot carry a lab, or a step failed.
    """
    with step("prerequisites"):
        prerequisites.check(lab)
    absent, unbuilt = packages.missing(debian), builds.missing(wanted, lab)
    lab.cache.mkdir(parents=True, exist_ok=True)
    with bar(bool(absent) + len(unbuilt)):
        if absent:
            with step(f"Debian packages: {' '.join(absent)}"):
                packages.ensure(debian)
        for build in unbuilt:
            with step(f"building {build.name} (once)"):
                builds.ensure(build, lab.cache)
    for build in wanted:
        builds.ensure(build, lab.cache)  # links to it, where an older version is linked to


def install(lab: LabSettings) -> None:
    """Put Kumulus into a lab's cluster and start the first servers.

    Raises:
        LabError: a step failed.
    """
    with bar(_STEPS - _CLUSTER_STEPS):
        references = _make_images(lab)
        chart.forget_interrupted(Cluster.of_lab(lab))
        chart.install(Cluster.of_lab(lab), references, [chart.LAB_VALUES, chart.own_values(lab)])
        _start_servers(lab)
    say("\nTry:\n  " + "\n  ".join(next_commands(lab)))


def start_cluster(lab: LabSettings) -> None:
    """Network, control plane, hosts, cluster DNS."""
    lab.record()
    with step("control plane"):
        shared.change_sysctls(lab)
        machine.ensure_network(lab)
        ControlPlane.of_lab(lab).start()
    with step(f"hosts: {' '.join(host.name for host in lab.host_specs)}"):
        hosts = Hosts(lab)
        hosts.start_all()
        hosts.wait_ready()
    with step("cluster DNS"):
        cluster_dns.install(lab, machine.nameservers(Path("/etc/resolv.conf").read_text()))


def _make_images(lab: LabSettings) -> dict[str, str]:
    """Component to the reference of its container image."""
    # Imported here: what makes images is not needed for a cluster alone.
    from kumulus_lab import containers, guests  # noqa: PLC0415

    with step("container images"):
        references = containers.build_and_import(lab)
    with step("guest images"):
        guests.ensure(lab)
    return references


def _start_servers(lab: LabSettings) -> None:
    from kumulus_lab.guests import PORT  # noqa: PLC0415 - as above

    def follower(server: dict[str, Any]) -> list[str]:
        assignment = server["spec"]["assignment"]
        folder = lab.host(assignment["host"]).directory / "kumulus" / "instances" / assignment["instanceID"]
        return console.following(folder)

    servers = quickstart.start(Cluster.of_lab(lab), f"http://{lab.gateway}:{PORT}/tiny.qcow2")
    quickstart.show(servers, follower)


def next_commands(lab: LabSettings) -> list[str]:
    """What to try next, ready to be pasted: a line that prepares the shell, then three commands."""
    path = f"{builds.bin_directory(lab)}:{Path(sys.executable).parent}"
    return [
        f"export KUBECONFIG={lab.kubeconfig} PATH={path}:$PATH",
        "kubectl get servers,hosts --all-namespaces -o wide",
        f"kubectl kumulus console-log web --namespace {quickstart.PROJECT} --tail 5",
        "kumulus-lab exec h1 -- virsh list",
    ]


def take_down(lab: LabSettings) -> None:
    """Remove every process, namespace, mount, link, cgroup and file of the lab; the cache stays."""
    hosts = Hosts(lab)
    with step("hosts"):
        for host in lab.host_specs:
            hosts.power_off(host.name)
    with step("control plane"):
        # Its data goes too, so that nothing is gained by a graceful end.
        ControlPlane.of_lab(lab).stop(gently=False)
        processes.stop_all(lab.state)
    with step("network, mounts and files"):
        machine.remove_network(lab)
        machine.unmount_below(lab.state)
        shared.leave(lab)
        if lab.state.exists():
            shutil.rmtree(lab.state)


def state_lines(lab: LabSettings) -> list[str]:
    """What runs and what does not, one line each."""
    if not (lab.state / "lab.json").exists():
        return ["the lab is down"]
    plane = ControlPlane.of_lab(lab)
    lines = [f"api server    {'ready' if plane.ready() else 'NOT READY'}    {lab.api_url}"]
    hosts = Hosts(lab)
    lines += [
        f"host {host.name:<8} {'on' if hosts.is_on(host.name) else 'OFF'}    {host.address}" for host in lab.host_specs
    ]
    nodes = plane.kubectl("get", "nodes", "-o", "wide", check=False).stdout.rstrip()
    return [*lines, nodes] if nodes else lines
