"""The steps of ``up``, in order; each finds its work done on a second run."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kumulus_lab import builds, cluster_dns, commands, machine, packages, prerequisites, processes, shared
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.hosts import Hosts
from kumulus_lab.progress import say, step
from kumulus_lab.settings import LabSettings

_REPOSITORY = Path(__file__).resolve().parent.parent.parent
_CHART = _REPOSITORY / "charts" / "kumulus"
_QUICKSTART_PROJECT = "demo"
_QUICKSTART = _REPOSITORY / "examples" / "quickstart.yaml"
_NAMESPACE = "kumulus-system"
_SERVERS = "servers.kumulus.dev"
_CHART_LIMIT = 300
_SERVER_LIMIT = 600
_CONSOLE_LINES = 5


def bring_up(lab: LabSettings, *, only_cluster: bool = False) -> None:
    """Bring up the lab, or what of it is not up.

    Args:
        lab: what it is made of.
        only_cluster: stop before Kumulus: a Kubernetes cluster with DNS, no images, no chart.

    Raises:
        LabError: a step failed; what runs is left running for a look, and ``up`` may be called again.
    """
    with step("prerequisites"):
        prerequisites.check(lab)
    _install_packages()
    build_all(lab)
    start_cluster(lab)
    if only_cluster:
        say(f"\nexport KUBECONFIG={lab.kubeconfig}")
        return
    references = _make_images(lab)
    if _install_chart(lab, references):
        _start_quickstart(lab)
    _show_commands(lab)


def _install_packages() -> None:
    absent = packages.missing()
    if absent:
        with step(f"Debian packages: {' '.join(absent)}"):
            packages.ensure()


def build_all(lab: LabSettings) -> None:
    """Build what the cache lacks."""
    lab.cache.mkdir(parents=True, exist_ok=True)
    for build in builds.ALL:
        if build in builds.missing(lab):
            with step(f"building {build.name} (once)"):
                builds.ensure(build, lab.cache)
        else:
            builds.ensure(build, lab.cache)


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


def _install_chart(lab: LabSettings, references: dict[str, str]) -> bool:
    """Whether there was a chart to install."""
    if not (_CHART / "Chart.yaml").exists():
        say(f"no chart: {_CHART / 'Chart.yaml'} does not exist; the cluster stays without Kumulus")
        return False
    helm = [builds.program(lab, "helm3"), f"--kubeconfig={lab.kubeconfig}", "upgrade", "--install", "kumulus"]
    options = [f"--namespace={_NAMESPACE}", "--create-namespace", "--wait", f"--timeout={_CHART_LIMIT}s"]
    with step("chart"):
        commands.run(
            [*helm, str(_CHART), *options, *_lab_values(), *image_values(references)], timeout=_CHART_LIMIT + 30
        )
    return True


def _lab_values() -> list[str]:
    """The chart's values for a lab, where it ships such a file."""
    values = _CHART / "ci" / "lab-values.yaml"
    return [f"--values={values}"] if values.exists() else []


def image_values(references: Mapping[str, str]) -> list[str]:
    """Helm's words that select the images, given component to ``repository:tag``."""
    words = []
    for component, reference in sorted(references.items()):
        repository, _, tag = reference.rpartition(":")
        words += [f"--set-string={component}.image.repository={repository}"]
        words += [f"--set-string={component}.image.tag={tag}"]
    return words


def _start_quickstart(lab: LabSettings) -> None:
    if not _QUICKSTART.exists():
        say(f"no example: {_QUICKSTART} does not exist; no server is started")
        return
    plane = ControlPlane.of_lab(lab)
    with step("first server"):
        # The example names the image server of a lab with the default subnet.
        objects = _QUICKSTART.read_text().replace(LabSettings().gateway, lab.gateway)
        plane.kubectl("apply", "-f", "-", stdin=objects)
        ours = [_SERVERS, "--namespace", _QUICKSTART_PROJECT]
        wait = ["wait", *ours, "--all", "--for=condition=Ready", f"--timeout={_SERVER_LIMIT}s"]
        plane.kubectl(*wait, timeout=_SERVER_LIMIT + 10)
    for server in json.loads(plane.kubectl("get", *ours, "-o", "json").stdout)["items"]:
        say("\n" + describe(server))
        _show_console(lab, server)


def describe(server: dict[str, Any]) -> str:
    """One line about a Server: where it is and its addresses."""
    metadata, status = server["metadata"], server.get("status", {})
    host = server["spec"].get("assignment", {}).get("host", "no host")
    addresses = ", ".join(str(_address(entry)) for entry in status.get("addresses", [])) or "no address"
    return f"server {metadata['namespace']}/{metadata['name']} runs on {host}: {addresses}"


def _address(entry: object) -> object:
    """An address is text or an object that holds it under ``address``."""
    return entry.get("address", entry) if isinstance(entry, dict) else entry


def _show_console(lab: LabSettings, server: dict[str, Any]) -> None:
    """The last lines of its console, as far as it has written any."""
    assignment = server["spec"].get("assignment", {})
    if "host" not in assignment or "instanceID" not in assignment:
        return
    path = f"/var/lib/kumulus/instances/{assignment['instanceID']}/console.log"
    tail = Hosts(lab).run(assignment["host"], ["tail", f"--lines={_CONSOLE_LINES}", path])
    if tail.returncode == 0:
        say("\n".join(f"  | {line}" for line in tail.stdout.splitlines()))


def _show_commands(lab: LabSettings) -> None:
    program = builds.program(lab, "kubectl")
    kubectl = "kubectl" if shutil.which("kubectl") else program
    say(f"\nexport KUBECONFIG={lab.kubeconfig}")
    say(f"{kubectl} get servers --all-namespaces -o wide")
    say("python -m kumulus_lab exec h1 -- virsh list")


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
