"""Losing objects as a cluster loses them, and restoring them as a backup tool does."""

from __future__ import annotations

import asyncio
import copy
import json

from kumulus_api import FINALIZER, Kind
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.cloud import Cloud, Object

_OPERATOR = "system:serviceaccount:kumulus-system:kumulus-operator"
_RESTORER = ("--as=backup-tool", "--as-group=kumulus:restorers", "--as-group=system:masters")
_OF_THE_CLUSTER = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "finalizers")


def saved(body: Object) -> Object:
    """Give an object as a backup holds it: without status and what a cluster gives each object anew."""
    metadata = {name: value for name, value in body["metadata"].items() if name not in _OF_THE_CLUSTER}
    kept = {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": metadata, "spec": body["spec"]}
    return copy.deepcopy(kept)


async def lose(cloud: Cloud, lab: LabSettings, kind: type[Kind], name: str, namespace: str) -> None:
    """Have an object vanish without anybody being told to clean up, as with a database that was lost."""
    plane = ControlPlane.of_lab(lab)
    resource = f"{kind.definition.plural}.kumulus.dev/{name}"
    patch = json.dumps([{"op": "test", "path": "/metadata/finalizers", "value": [FINALIZER]},
                        {"op": "remove", "path": "/metadata/finalizers"}])  # fmt: skip
    # Only operator and agents may take the finalizer away.
    await asyncio.to_thread(
        plane.kubectl, "patch", resource, f"--namespace={namespace}", f"--as={_OPERATOR}", "--as-group=system:masters",
        "--type=json", f"--patch={patch}",
    )  # fmt: skip
    await cloud.delete(kind, name, namespace)


async def restore(lab: LabSettings, body: Object) -> None:
    """Create an object as a backup tool does, decisions of the operator included."""
    plane = ControlPlane.of_lab(lab)
    await asyncio.to_thread(plane.kubectl, "create", *_RESTORER, "--filename=-", stdin=json.dumps(body))
