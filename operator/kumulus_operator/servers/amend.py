"""Change what a placed server holds: admitted by the ledger, written, or refused with the server left as it is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import structlog

from kumulus_api import Server
from kumulus_api.server_assignment import ServerAssignment
from kumulus_api.server_status import ScheduledReason, ServerConditionType
from kumulus_operator.bodies import MANAGER, identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.ledger.plan import Request
from kumulus_operator.placement.facts import Wish
from kumulus_operator.placement.wish import terms_of_flavor
from kumulus_operator.refusal import Refusal, Refused
from kumulus_operator.servers.plan import AMENDED_CONDITIONS, conditions_of
from kumulus_operator.servers.size import Change, change_of, hardware_given
from kumulus_runtime.conditions import set_condition
from kumulus_runtime.errors import ApiError

_LOG = structlog.stdlib.get_logger(__name__)


async def amend(cloud: Cloud, server: Server) -> None:
    """Bring the assignment of a placed server to its flavor and its shelving, if there is room.

    Raises:
        Conflict: the server has changed meanwhile; look again.
    """
    given = server.spec.assignment
    if given is None or given.target is not None or cloud.host_silent(given.host):
        return  # What migrates is looked at again when it has arrived.
    refusal: Refusal | None = None
    try:
        change = change_of(server, cloud.flavors.get("", server.spec.flavor.name))
        if change is not None:
            refusal = await _carry_out(cloud, server, given, change)
    except Refused as refused:
        refusal = refused.refusal
    if refusal is not None:
        cloud.server_waiters.wait(server.key, cloud.server_waiters.needs_of(server.key) | refusal.needs)
    # A shelved server that shall run is not Scheduled; one that runs as it did has a flavor that is not applied.
    kind = ServerConditionType.SCHEDULED if given.shelved else ServerConditionType.FLAVOR_APPLIED
    await tell(cloud, server, kind, refusal)


async def tell(cloud: Cloud, server: Server, kind: ServerConditionType, refusal: Refusal | None) -> None:
    """Tell of a refused change of a placed server, or take an earlier refusal back."""
    status = amended_status(server, kind, refusal, datetime.now(UTC))
    if status is None:
        return
    if refusal is not None:
        cloud.events.post(identity(server), refusal.reason, refusal.message, warning=True)
    await cloud.write_status(server, status)


async def _carry_out(cloud: Cloud, server: Server, given: ServerAssignment, change: Change) -> Refusal | None:
    if change.amounts is not None:
        terms = terms_of_flavor(cloud.flavors.get("", server.spec.flavor.name), hardware_given(change.assignment))
        wish = Wish(change.amounts, only_host=given.host, only_reason="where its disks lie", terms=terms)
        refusal = cloud.ledger.amend(Request(*server.key, wish))
        if refusal is not None:
            return refusal
    body = identity(server) | {"spec": {"assignment": change.assignment}}
    body["metadata"]["resourceVersion"] = server.metadata.resource_version
    try:
        written = await cloud.client.apply(Server, body, manager=MANAGER)
    except ApiError:
        cloud.ledger.amended(cloud.servers.get(*server.key) or server)
        raise
    cloud.ledger.amended(Server.model_validate(written))
    cloud.take(Server, written)
    told = {name: change.assignment.get(name) for name in ("flavor", "shelved")}
    _LOG.info("assignment changed", namespace=server.key[0], name=server.key[1], **told)
    return None


def amended_status(
    server: Server, kind: ServerConditionType, refusal: Refusal | None, now: datetime
) -> dict[str, Any] | None:
    """Give the status that tells of a refused change, or takes an earlier refusal back; None if it says so already.

    That a server is Scheduled is its agent's to say.
    """
    found = conditions_of(server.status.conditions) if server.status else []
    mine = [item for item in found if item["type"] in (kind, *AMENDED_CONDITIONS)]
    if refusal is None and (kind not in AMENDED_CONDITIONS or all(item["type"] != kind for item in mine)):
        return None
    reason, message = (refusal.reason, refusal.message) if refusal is not None else (ScheduledReason.ASSIGNED.value, "")
    generation = server.metadata.generation
    wanted = set_condition(mine, kind, refusal is None, reason, message, generation, now)
    return None if wanted == mine else {"conditions": wanted}
