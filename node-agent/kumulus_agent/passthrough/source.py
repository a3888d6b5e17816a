"""Where servers get devices from: what this host offers now, and what of that an instance is to have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.passthrough.facts import Choice, Found, Held, Passed
from kumulus_agent.passthrough.observe import read_devices
from kumulus_agent.passthrough.plan import Offer, asked_devices, choose, offer, told
from kumulus_api.host import HostSpec
from kumulus_api.passthrough import FoundDevices, HostDevices


@dataclass(frozen=True)
class HostDeviceSource:
    """The devices of this host.

    Attributes:
        hypervisor: whose domains are the record of what is given to whom.
        spec: of the Host, as it is now.
        look: gives what there is, told what may be given; blocking.
    """

    hypervisor: Hypervisor
    spec: Callable[[], HostSpec]
    look: Callable[[HostDevices], Found] = read_devices

    def asked(self, custom: Mapping[str, int], own: Iterable[Passed] = ()) -> dict[str, int]:
        """Give how many devices of each class an instance is to have that was given these custom resources."""
        if not custom:
            return {}
        spec = self.spec()
        return asked_devices(custom, spec.devices, spec.resources or {}, own)

    async def told(self) -> FoundDevices | None:
        """Give what the Host's status says of devices; None if none may be given.

        Raises:
            HypervisorError: libvirtd does not answer.
        """
        allowed = self.spec().devices
        if allowed is None:
            return None
        held = await self.hypervisor.host_devices()
        return told(offer(allowed, await asyncio.to_thread(self.look, allowed), held), held)

    async def choose(self, instance_id: str, custom: Mapping[str, int]) -> Choice:
        """Choose devices for an instance. The answer holds until another is asked for, or its domain shows them.

        Raises:
            Unavailable: too few are free.
            HypervisorError: libvirtd does not answer.
        """
        if not custom:
            # Whatever others have, it gets nothing; most starts are of such servers, and pass over all the others' XML.
            return choose(instance_id, {}, Offer(), await self._own(instance_id))
        held = await self.hypervisor.host_devices()
        asked = self.asked(custom, held.of(instance_id))
        allowed = self.spec().devices or HostDevices()
        found = offer(allowed, await asyncio.to_thread(self.look, allowed), held) if asked else Offer()
        return choose(instance_id, asked, found, held)

    async def _own(self, instance_id: str) -> Held:
        state = await self.hypervisor.get_instance(instance_id)
        return Held({instance_id: state.devices.passed} if state is not None and state.devices is not None else {})
