"""What the operator's ServiceAccount may read of tenants."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kumulus_api import Project
from kumulus_api.testing import make_object
from kumulus_operator.projects.plan import boot_data_binding
from kumulus_runtime.errors import Forbidden
from kumulus_runtime.resources import NAMESPACE, ROLEBINDING, SECRET

SYSTEM = "kumulus-system"


async def test_the_operator_reads_secrets_of_projects_only(connect: Any, admin: Any) -> None:
    """Secrets can be read where the operator has bound itself to the role for boot data, and nowhere else."""
    operator = await connect("operator")
    await admin.create(NAMESPACE, {"metadata": {"name": "tenant"}})
    for namespace in (SYSTEM, "demo", "tenant"):
        with pytest.raises(Forbidden):
            await operator.get(SECRET, "any", namespace)
    with pytest.raises(Forbidden):
        await operator.list(SECRET)
    project = Project.model_validate(make_object(Project, "tenant"))
    await operator.apply(ROLEBINDING, boot_data_binding(project, (SYSTEM, "kumulus-operator")), manager="test")
    async with asyncio.timeout(20):
        # The authorizer learns of the binding by its own watch.
        async for event, _ in operator.watch_metadata(SECRET, namespace="tenant"):
            assert event == "SYNCED"
            break
    assert await operator.get(SECRET, "any", "tenant") is None
    with pytest.raises(Forbidden):
        await operator.get(SECRET, "any", "demo")
