"""Where something shows that should show nowhere."""

from __future__ import annotations

import subprocess

from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import SYSTEM_NAMESPACE, Breach, Object


def places_with(lab: LabSettings, server: Object, marker: str) -> list[str]:
    """Name the logs, the domain's XML and the files of hosts that show a marker; the seed itself is for the guest.

    Raises:
        Breach: there is nothing to search, or others may read the seed.
    """
    assignment = server["spec"]["assignment"]
    domain = f"k-{assignment['instanceID']}"
    places = {f"log of {pod}": text for pod, text in pod_logs(lab).items()}
    hosts = Hosts(lab)
    places["domain XML"] = hosts.run(assignment["host"], ["virsh", "dumpxml", domain], check=True).stdout
    places["processes"] = hosts.run(assignment["host"], ["ps", "-eo", "args"], check=True).stdout
    places["audit log"] = lab.audit_log.read_text()
    found = [place for place, text in places.items() if marker in text]
    for host in lab.host_specs:
        grep = ["grep", "--recursive", "--files-with-matches", marker, str(host.directory / "log")]
        found += subprocess.run(grep, capture_output=True, text=True, timeout=60, check=False).stdout.split()
    seed = console.path(lab, server).with_name("seed.iso")
    if seed.stat().st_mode & 0o077:
        raise Breach(f"{seed} is readable by others")
    return found


def pod_logs(lab: LabSettings) -> dict[str, str]:
    """Give the logs of operator and agents, by pod."""
    plane = ControlPlane.of_lab(lab)
    pods = plane.kubectl("get", "pods", "--namespace", SYSTEM_NAMESPACE, "--output", "name").stdout.split()
    logs = {pod: plane.kubectl("logs", "--namespace", SYSTEM_NAMESPACE, "--all-containers", pod).stdout for pod in pods}
    for component in ("operator", "agent"):
        if not any(component in pod for pod in pods):
            raise Breach(f"no pod of the {component} is there: there is nothing to search")
    for pod, text in logs.items():
        if not text:
            raise Breach(f"{pod} has written nothing: there is nothing to search")
    return logs
