"""When a real API server lets the volumes and networks of a server be changed."""

from typing import Any

import pytest

from kumulus_api import Server
from kumulus_api.testing import INSTANCE_ID, make_assigned
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import Invalid

RESTORER = "restorer/system:masters/kumulus:restorers"


@pytest.mark.parametrize("change", [{"volumes": []}, {"networks": []}])
@pytest.mark.parametrize("state", ["Running", "Stopped", "Paused", "Suspended", "Rescued"])
async def test_devices_change_where_the_guest_can_be_told(
    connect: Any, admin: KubeClient, state: str, change: dict[str, Any]
) -> None:
    """Volumes and networks can be changed in each state but those in which a guest's memory or rescue holds them."""
    name = f"devices-{state.lower()}"
    if await admin.get(Server, name, "demo") is None:
        body = make_assigned(Server, name, "h1")
        body["spec"]["powerState"] = "Running" if state == "Rescued" else state
        if state == "Rescued":
            image = {"name": "tiny", "namespace": "demo", "url": "http://images.test/tiny", "format": "raw"}
            image |= {"digest": "sha256:" + "0" * 64, "virtualSize": 1}
            body["spec"]["assignment"]["rescue"] = {"action": INSTANCE_ID, "image": image}
        await (await connect(RESTORER)).create(Server, body)
    if state in ("Suspended", "Rescued"):
        with pytest.raises(Invalid, match="cannot change while the server is suspended or rescued"):
            await admin.patch_merge(Server, name, {"spec": change}, "demo")
    else:
        await admin.patch_merge(Server, name, {"spec": change}, "demo")
