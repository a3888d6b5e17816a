"""The Helm chart: into a cluster, and out of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from kumulus_lab.cluster import Cluster
from kumulus_lab.progress import step
from kumulus_lab.settings import LabSettings

REPOSITORY = Path(__file__).resolve().parents[2]
CHART = REPOSITORY / "charts" / "kumulus"
NAMESPACE = "kumulus-system"
RELEASE = "kumulus"
LAB_VALUES = CHART / "ci" / "lab-values.yaml"
CONSOLE_PORT = 30680
"""The port on each host that lab-values.yaml gives the console proxy."""
_LIMIT = 300


def install(cluster: Cluster, references: Mapping[str, str], values: Sequence[Path] = ()) -> None:
    """Install or upgrade Kumulus, and wait until its pods are ready.

    Args:
        cluster: where.
        references: component (``operator``, ``agent``) to the image it shall run.
        values: files of further values; of two that say different things the later wins.

    Raises:
        CommandFailed: Helm says why.
    """
    options = [f"--namespace={NAMESPACE}", "--create-namespace", "--wait", f"--timeout={_LIMIT}s"]
    words = [*(f"--values={path}" for path in values), *image_values(references)]
    with step("chart"):
        cluster.helm("upgrade", "--install", RELEASE, str(CHART), *options, *words, timeout=_LIMIT + 30)


def own_values(lab: LabSettings) -> Path:
    """A file of the values that are this lab's alone: where browsers reach consoles; where pods and Services are."""
    path = lab.state / "chart-values.json"
    address = lab.host_specs[0].address
    console = {"url": f"http://{address}:{CONSOLE_PORT}"}
    peering = {"podCIDRs": [str(lab.pods)], "serviceCIDRs": [str(lab.services)]}
    path.write_text(json.dumps({"console": console, "peering": peering}))
    return path


def forget_interrupted(cluster: Cluster) -> None:
    """Drop Helm's record of an upgrade that was cut off: it would refuse every later one as still in progress.

    Only for a cluster that nobody else upgrades: there the record may be of one that does run.
    """
    pending = f"owner=helm,name={RELEASE},status in (pending-install,pending-upgrade,pending-rollback)"
    cluster.kubectl("delete", "secret", "--namespace", NAMESPACE, "--ignore-not-found", f"--selector={pending}")


def uninstall(cluster: Cluster) -> None:
    """Remove the release and its namespace; kinds and objects stay, as the chart's ``crds.keep`` says.

    Raises:
        CommandFailed: Helm says why.
    """
    with step("chart"):
        names = ["--namespace", NAMESPACE, "--ignore-not-found", "--wait", f"--timeout={_LIMIT}s"]
        cluster.helm("uninstall", RELEASE, *names, timeout=_LIMIT + 30)
        gone = ["--ignore-not-found", f"--timeout={_LIMIT}s"]
        cluster.kubectl("delete", "namespace", NAMESPACE, *gone, timeout=_LIMIT + 30)


def image_values(references: Mapping[str, str]) -> list[str]:
    """Helm's words that select the images, given component to ``repository:tag``."""
    words = []
    for component, reference in sorted(references.items()):
        repository, _, tag = reference.rpartition(":")
        words += [f"--set-string={component}.image.repository={repository}"]
        words += [f"--set-string={component}.image.tag={tag}"]
    return words
