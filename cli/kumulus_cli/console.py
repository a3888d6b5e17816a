"""A server's console log, read from the agent of the host that it runs on."""

from __future__ import annotations

import json
from typing import Any

from kumulus_cli import kubectl

SYSTEM_NAMESPACE = "kumulus-system"
_AGENTS = "app.kubernetes.io/name=kumulus,app.kubernetes.io/component=agent"


def console_log(name: str, namespace: str | None, tail: int | None) -> str:
    """Give what the server wrote on its serial console since its creation, as far as it is kept.

    Args:
        name: the Server.
        namespace: its namespace; None for that of the current context.
        tail: how many lines from the end; None for all.

    Raises:
        KubectlError: there is no such Server, it is not placed yet, or its host's agent does not answer.
    """
    server = kubectl.get("servers.kumulus.dev", name, namespace)
    assignment = server["spec"].get("assignment")
    if assignment is None:
        raise kubectl.KubectlError(f"server {name} has no console log: it is not placed yet: {_why(server)}")
    pod = _agent_pod(assignment["host"])
    lines = ["--tail", str(tail)] if tail is not None else []
    command = ["python3", "-m", "kumulus_agent.console_log", assignment["instanceID"], *lines]
    return kubectl.run("exec", "--namespace", SYSTEM_NAMESPACE, pod, "--container", "agent", "--", *command)


def _agent_pod(host: str) -> str:
    selectors = ["--selector", _AGENTS, "--field-selector", f"spec.nodeName={host},status.phase=Running"]
    pods = json.loads(kubectl.run("get", "pods", "--namespace", SYSTEM_NAMESPACE, *selectors, "--output", "json"))
    if not pods["items"]:
        raise kubectl.KubectlError(
            f"no agent runs on host {host}: see `kubectl get pods -n {SYSTEM_NAMESPACE} -o wide`"
        )
    name: str = pods["items"][0]["metadata"]["name"]
    return name


def _why(server: dict[str, Any]) -> str:
    conditions = server.get("status", {}).get("conditions", [])
    for condition in conditions:
        if condition["type"] == "Scheduled":
            return f"{condition['reason']}: {condition['message']}"
    return "the operator has not looked at it yet"
