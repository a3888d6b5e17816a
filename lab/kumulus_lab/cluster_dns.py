"""The cluster's DNS: CoreDNS behind the usual Service, from an image that holds nothing but its binary."""

import json
from typing import Any

from kumulus_lab import images
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings

_LABELS = {"k8s-app": "kube-dns"}
_NAME = {"name": "coredns", "namespace": "kube-system"}


def install(lab: LabSettings, nameservers: tuple[str, ...]) -> None:
    """Import the image, apply the manifests, wait until it answers.

    Args:
        lab: the lab.
        nameservers: where names outside the cluster are asked for.

    Raises:
        CommandFailed: it did not become available within two minutes.
    """
    archive = images.ensure_coredns(lab)
    hosts = Hosts(lab)
    for host in lab.host_specs:
        imported = host.directory / f"{archive.stem}-imported"
        if not imported.exists():
            hosts.import_image(archive, [host.name])
            imported.touch()
    plane = ControlPlane.of_lab(lab)
    items = {"apiVersion": "v1", "kind": "List", "items": manifests(lab.dns_address, nameservers)}
    plane.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(items))
    wait = ["rollout", "status", "deployment/coredns", "-n", "kube-system", "--timeout=120s"]
    plane.kubectl(*wait, timeout=130)


def corefile(nameservers: tuple[str, ...]) -> str:
    """CoreDNS's configuration; without nameservers only the cluster's own names are answered."""
    forward = f"    forward . {' '.join(nameservers)}\n" if nameservers else ""
    return f""".:53 {{
    errors
    health {{
        lameduck 1s
    }}
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }}
{forward}    cache 30
    loop
    loadbalance
}}
"""


def manifests(address: str, nameservers: tuple[str, ...]) -> list[dict[str, Any]]:
    """Everything of it, for ``kubectl apply``."""
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _NAME, "data": {"Corefile": corefile(nameservers)}}
    return [*_access(), config, _deployment(), _service(address)]


def _access() -> list[dict[str, Any]]:
    rbac = "rbac.authorization.k8s.io"
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    metadata = {"name": "system:coredns"}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _NAME},
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": metadata["name"]},
            "subjects": [{"kind": "ServiceAccount", **_NAME}],
        },
    ]


def _deployment() -> dict[str, Any]:
    container = {
        "name": "coredns",
        "image": images.COREDNS,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 2},
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, "initialDelaySeconds": 30},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    spec = {
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        # The lab takes hosts away; DNS then moves at once rather than after five minutes.
        "tolerations": [
            {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
            for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        ],
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    template = {"metadata": {"labels": _LABELS}, "spec": spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**_NAME, "labels": _LABELS},
        "spec": {"replicas": 1, "selector": {"matchLabels": _LABELS}, "template": template},
    }


def _service(address: str) -> dict[str, Any]:
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": _LABELS},
        "spec": {"selector": _LABELS, "clusterIP": address, "ports": ports},
    }
