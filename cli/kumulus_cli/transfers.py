"""Volumes that one project gives to another: the two words, each said by its project."""

from __future__ import annotations

from typing import Any

from kumulus_api.base import API_VERSION
from kumulus_cli import kubectl

Object = dict[str, Any]


def offer(volume: str, project: str, name: str, namespace: str | None) -> str:
    """Offer a volume to a project; give the command by which that takes it.

    Args:
        volume: the Volume.
        project: who may take it.
        name: of the VolumeTransfer; the volume's if it is empty.
        namespace: of the volume; None for that of the current context.

    Raises:
        KubectlError: there is no such volume, or this is not allowed.
    """
    found = kubectl.get("volumes.kumulus.dev", volume, namespace)
    own, name = found["metadata"]["namespace"], name or volume
    kubectl.create(_object("VolumeTransfer", name, own, {"volume": {"name": volume}, "project": project}))
    size = found["spec"]["size"]
    return f"kubectl kumulus volume transfer accept {own}/{name} --name {volume} --size {size} --namespace {project}"


def accept(transfer: str, name: str, size: str, namespace: str | None) -> None:
    """Take a volume that is offered.

    Args:
        transfer: namespace and name of the VolumeTransfer, with a slash between them.
        name: of the Volume that is made.
        size: of it, at least that of what is offered.
        namespace: of it; None for that of the current context.

    Raises:
        KubectlError: this is not allowed, or there is a Volume of that name.
    """
    giver, slash, offered = transfer.partition("/")
    if not (giver and slash and offered) or "/" in offered:
        raise kubectl.KubectlError(f"asked for transfer {transfer!r}: give it as NAMESPACE/NAME")
    source = {"transfer": {"namespace": giver, "name": offered}}
    kubectl.create(_object("Volume", name, namespace, {"size": size, "source": source}))


def _object(kind: str, name: str, namespace: str | None, spec: Object) -> Object:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
