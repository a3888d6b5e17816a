"""Whether an action, its server and a connection speak of the same migration: pure."""

from __future__ import annotations

from typing import Any

from kumulus_agent.migration.channels import Channel, Hello
from kumulus_api.server_action import ActionPhase, LiveMigrate, ServerAction

Object = dict[str, Any]


def agree(action: Object, server: Object) -> bool:
    """Whether server and action speak of the same migration."""
    status, given = action["status"], server["spec"].get("assignment") or {}
    pairs = (("host", "host"), ("target", "target"), ("instanceID", "instanceID"), ("epoch", "epoch"))
    return all(status.get(one) == given.get(other) for one, other in pairs)


def is_elsewhere(action: Object, server: Object, node: str) -> bool:
    """Whether the instance of an ended migration has, by its Server, no business on a host any more."""
    status, given = action["status"], server["spec"].get("assignment") or {}
    least = status["epoch"] + 1 if status["phase"] == ActionPhase.SUCCEEDED else status["epoch"]
    return (
        given.get("instanceID") == status["instanceID"]
        and given["epoch"] >= least
        and node not in (given["host"], given.get("target"))
    )


def may_come(action: Object | None, server: Object | None, hello: Hello, hosts: tuple[str, str]) -> bool:
    """Whether a connection belongs to a migration that goes on from the first host to the second."""
    if action is None or server is None:
        return False
    status = action.get("status") or {}
    return (
        action["metadata"]["uid"] == hello.uid
        and status.get("phase") == ActionPhase.RUNNING
        and (status.get("host"), status.get("target")) == hosts
        and status.get("instanceID") == hello.instance_id
        and agree(action, server)
    )


def asked_of(action: Object) -> LiveMigrate:
    """Give how a guest is to be carried over."""
    return ServerAction.model_validate(action).spec.live_migrate or LiveMigrate()


def hello_of(action: Object) -> Hello:
    """Give what a migration's connections begin with."""
    metadata, instance_id = action["metadata"], action["status"]["instanceID"]
    return Hello(metadata["namespace"], metadata["name"], metadata["uid"], instance_id, Channel.CONTROL)
