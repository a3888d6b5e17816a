"""Kumulus in a cluster that runs already: the one that KUBECONFIG names, if it is not this lab's own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kumulus_lab import chart, console, quickstart
from kumulus_lab.cluster import Cluster
from kumulus_lab.errors import LabError
from kumulus_lab.progress import bar, say, step
from kumulus_lab.settings import LabSettings

REGISTRY, VALUES, GUEST_IMAGE = "IMAGE_REGISTRY", "VALUES", "GUEST_IMAGE_URL"
_CONSOLE_SECONDS = "100"
_AGENTS = "app.kubernetes.io/name=kumulus,app.kubernetes.io/component=agent"
_WHAT_TO_GIVE = f"""\
KUBECONFIG names a cluster that is no lab of this machine: its nodes need a place to pull Kumulus' images from. Give
  {REGISTRY}=registry.example.com/kumulus   to build and push both images there (after `buildah login`), or
  {VALUES}=values.yaml                      with operator.image and agent.image of images that are there already;
unset KUBECONFIG to start a cloud on this machine instead"""


def given(own: LabSettings, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The kubeconfig of the cluster to install into; None if that is the lab's own.

    Raises:
        LabError: KUBECONFIG names no file, or more than one.
    """
    named = environment.get("KUBECONFIG", "")
    if not named or Path(named).expanduser().resolve() == own.kubeconfig:
        return None
    path = Path(named).expanduser().resolve()
    if not path.is_file():
        raise LabError(f"KUBECONFIG is {named!r}: it must name one file that exists; unset it to start a lab here")
    return path


def values_given(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The file of values that the user gives, if any.

    Raises:
        LabError: neither it nor a registry is given, or the file does not exist.
    """
    named = environment.get(VALUES, "")
    if not named and not environment.get(REGISTRY):
        raise LabError(_WHAT_TO_GIVE)
    if named and not Path(named).is_file():
        raise LabError(f"{VALUES}={named}: there is no such file")
    return [Path(named).resolve()] if named else []


def install(kubeconfig: Path, cache: Path) -> None:
    """Install Kumulus there and start the first servers, if a guest image for them is given.

    Raises:
        LabError: an input is missing, or a step failed.
    """
    values = values_given()
    registry, guest_image = os.environ.get(REGISTRY), os.environ.get(GUEST_IMAGE)
    steps = 2 + bool(registry) + 3 * bool(guest_image)
    with bar(steps):
        with step(f"cluster of {kubeconfig}"):
            cluster = Cluster.at(kubeconfig, cache)
            cluster.kubectl("get", "--raw", "/readyz")
        references = _push(cache, registry) if registry else {}
        chart.install(cluster, references, values)
        if guest_image:
            quickstart.show(quickstart.start(cluster, guest_image), lambda server: _follower(cluster, server))
    if not guest_image:
        say(f"no server was started: give {GUEST_IMAGE}=http://... of a guest image that the hosts can reach")
    say(f"\nTry:\n  export KUBECONFIG={kubeconfig}\n  kubectl get servers,hosts --all-namespaces -o wide")


def _push(cache: Path, registry: str) -> dict[str, str]:
    # Imported here: buildah is not needed where the images are in a registry.
    from kumulus_lab import containers  # noqa: PLC0415

    with step(f"container images to {registry}"):
        return containers.build_and_push(cache, registry)


def _follower(cluster: Cluster, server: dict[str, Any]) -> list[str]:
    """The command that follows a server's console through the agent's pod; bounded there, as kubectl may be cut off."""
    assignment = server["spec"]["assignment"]
    on_host = ["--selector", _AGENTS, "--field-selector", f"spec.nodeName={assignment['host']},status.phase=Running"]
    pods = cluster.kubectl("get", "pods", "--namespace", chart.NAMESPACE, *on_host, "-o", "name").stdout.split()
    if not pods:
        raise LabError(f"no agent runs on {assignment['host']}: see `kubectl get pods -n {chart.NAMESPACE} -o wide`")
    folder = Path("/var/lib/kumulus/instances", assignment["instanceID"])
    tail = ["timeout", _CONSOLE_SECONDS, *console.following(folder)]
    return cluster.kubectl_command("exec", "--namespace", chart.NAMESPACE, pods[0], "--container", "agent", "--", *tail)


def uninstall(kubeconfig: Path, cache: Path) -> None:
    """Remove the first servers and the release from there; nothing else of that cluster is touched.

    Raises:
        LabError: other servers run there, which nobody could remove without an agent; or a step failed.
    """
    cluster = Cluster.at(kubeconfig, cache)
    with bar(2):
        with step("first servers"):
            quickstart.remove(cluster)
            left = _servers(cluster)
            if left:
                raise LabError(f"servers run there that only an agent can remove; delete them first: {', '.join(left)}")
        chart.uninstall(cluster)
    say("The kinds stay, with the objects that are left. To remove them too:")
    say("  kubectl get crd -o name | grep 'kumulus.dev$' | xargs kubectl delete")


def _servers(cluster: Cluster) -> list[str]:
    answer = cluster.kubectl("get", quickstart.SERVERS, "--all-namespaces", "-o", "json", check=False)
    if answer.returncode != 0:  # the kinds are not there
        return []
    items = json.loads(answer.stdout)["items"]
    return [f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in items]
