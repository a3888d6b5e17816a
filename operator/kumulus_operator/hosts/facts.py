"""Turn Hosts into what placement compares (pure)."""

from __future__ import annotations

from kumulus_api import Host
from kumulus_api.host import HostConditionType
from kumulus_api.quantities import parse_quantity
from kumulus_operator.placement.facts import Amounts, HostFacts
from kumulus_operator.settings import OperatorSettings


def host_ready(host: Host) -> bool:
    """Give whether the host says that it can run guests."""
    conditions = host.status.conditions if host.status else []
    return any(item.type == HostConditionType.READY and item.status == "True" for item in conditions)


def host_facts(host: Host, settings: OperatorSettings, *, fresh: bool) -> HostFacts:
    """Give a host's facts, its inventory multiplied by the overcommit ratios."""
    total = Amounts()
    if host.status is not None and host.status.inventory is not None:
        inventory = host.status.inventory
        total = Amounts(
            inventory.vcpus * settings.vcpu_overcommit,
            parse_quantity(inventory.memory) * settings.memory_overcommit,
            parse_quantity(inventory.disk) * settings.disk_overcommit,
        )
    return HostFacts(
        name=host.metadata.name,
        ready=host_ready(host),
        fresh=fresh,
        schedulable=host.spec.schedulable,
        maintenance=host.spec.maintenance,
        decommissioned=host.spec.decommissioned,
        tunnel=host.status is not None and host.status.tunnel_address is not None,
        total=total,
    )
