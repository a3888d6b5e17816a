"""Certificates for hosts: a host's agent gets one for its own node's name, by which the other hosts know it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from kumulus_operator.bodies import MANAGER
from kumulus_operator.cloud import Cloud
from kumulus_runtime.certificates.issuing import run_apart
from kumulus_runtime.conditions import timestamp
from kumulus_runtime.errors import ApiError, Conflict, NotFound
from kumulus_runtime.resources import CERTIFICATESIGNINGREQUEST, CONFIGMAP

SIGNER = "kumulus.dev/host"
AUTHORITY = "kumulus-host-ca"
"""The ConfigMap with the authorities that hosts trust."""
RENEW_AFTER = timedelta(days=7)
"""Age at which a process makes another authority: what it signs is good for a week, and it itself for two."""
KEEP = timedelta(days=15)
MOST = 100
USAGES = frozenset({"digital signature", "client auth", "server auth"})
_NODE_NAME = "authentication.kubernetes.io/node-name"
_PROGRAM = Path(__file__).with_name("authority.py")
_PAUSE_SECONDS = 5.0

Object = dict[str, Any]
_LOG = structlog.stdlib.get_logger(__name__)


def settled(request: Mapping[str, Any]) -> bool:
    """Give whether a request has its certificate, or was turned down."""
    status = request.get("status") or {}
    ends = {"Denied", "Failed"}
    return bool(status.get("certificate")) or any(item["type"] in ends for item in status.get("conditions") or [])


def requester(request: Mapping[str, Any], agent: str) -> tuple[str, str]:
    """Give the node that a request may be for, and why it may be for none (pure).

    Args:
        request: a CertificateSigningRequest; who made it is the API server's word.
        agent: user name of the agents.
    """
    spec = request["spec"]
    if spec.get("username") != agent:
        return "", f"{spec.get('username')} is not the agent of a host"
    nodes = (spec.get("extra") or {}).get(_NODE_NAME) or []
    if len(nodes) != 1:
        return "", "the requester's token names no node"
    if set(spec.get("usages") or []) != USAGES:
        return "", f"the usages must be {', '.join(sorted(USAGES))}"
    return str(nodes[0]), ""


async def ask_authority(given: Mapping[str, str]) -> dict[str, str]:
    """Have the authority's program answer.

    Raises:
        RuntimeError: it ended badly.
        TimeoutError: it took more than a minute.
    """
    answer: dict[str, str] = await run_apart(_PROGRAM, given=given)
    return answer


class HostCertificates:
    """Signs what hosts ask for. The authority's key stays in memory; hosts trust those of former processes meanwhile.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._client = cloud.client
        self._namespace = cloud.settings.system_namespace
        self._made: dict[str, str] | None = None
        self._made_at = datetime.min.replace(tzinfo=UTC)
        self._agent = f"system:serviceaccount:{self._namespace}:kumulus-agent"

    async def serve(self) -> None:
        """Answer requests until cancelled."""
        events = self._client.watch(CERTIFICATESIGNINGREQUEST, field_selector=f"spec.signerName={SIGNER}")
        async for event, request in events:
            if event not in ("ADDED", "MODIFIED") or settled(request):
                continue
            try:
                await self._answer(request)
            except (Conflict, NotFound):
                continue  # it was changed or removed; if it is still open, it comes again
            except (ApiError, RuntimeError, TimeoutError) as error:
                _LOG.warning("host certificate not made", request=request["metadata"]["name"], error=str(error))
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _answer(self, request: Object) -> None:
        name = request["metadata"]["name"]
        node, fault = requester(request, self._agent)
        certificate = ""
        if not fault:
            authority = await self._authority()
            text = base64.b64decode(request["spec"]["request"]).decode(errors="replace")
            made = await ask_authority({**authority, "request": text, "node": node})
            certificate, fault = made.get("certificate", ""), made.get("refused", "")
        judged = _judged(request, fault, datetime.now(UTC))
        if judged is not request:
            judged = await self._client.update(CERTIFICATESIGNINGREQUEST, judged, subresource="approval")
        _LOG.info("host certificate", request=name, node=node, refused=fault)
        if fault:
            return
        judged["status"]["certificate"] = base64.b64encode(certificate.encode()).decode()
        await self._client.update(CERTIFICATESIGNINGREQUEST, judged, subresource="status")

    async def _authority(self) -> dict[str, str]:
        """Give the authority of this process, made when it is first needed, and have the hosts trust it."""
        now = datetime.now(UTC)
        if self._made is None or now - self._made_at > RENEW_AFTER:
            made = await ask_authority({})
            found = await self._client.get(CONFIGMAP, AUTHORITY, self._namespace)
            body = {
                "metadata": {"name": AUTHORITY, "namespace": self._namespace},
                "data": trusted((found or {}).get("data") or {}, made["authority"], now),
            }
            await self._client.apply(CONFIGMAP, body, manager=MANAGER)
            self._made, self._made_at = made, now
        return self._made


def trusted(known: Mapping[str, str], authority: str, now: datetime) -> dict[str, str]:
    """Give the ConfigMap's data with one more authority (pure).

    Args:
        known: the data as it is: each authority under the second in which it was made.
        authority: the new one.
        now: the present.

    Returns:
        The authorities whose certificates may still be in use; all of them as `ca.crt`, the new one as `current`.
    """
    oldest = int((now - KEEP).timestamp())
    kept = {name: text for name, text in known.items() if name.isdigit() and int(name) >= oldest}
    newest = dict(sorted(kept.items(), key=lambda item: int(item[0]))[-MOST:])
    every = newest | {str(int(now.timestamp())): authority}
    return every | {"ca.crt": "".join(every.values()), "current": authority}


def _judged(request: Object, fault: str, now: datetime) -> Object:
    """Give the request with our judgement (pure); the request itself if it is approved already."""
    status = request.get("status") or {}
    judged = [item["type"] for item in status.get("conditions") or []]
    if "Approved" in judged and not fault:
        return request
    condition = {
        "type": "Denied" if fault else "Approved",
        "status": "True",
        "reason": "NotThatHost" if fault else "NodeClaim",
        "message": fault or "the requester's token names the node that it asks for",
        "lastUpdateTime": timestamp(now),
    }
    return request | {"status": status | {"conditions": [*(status.get("conditions") or []), condition]}}
