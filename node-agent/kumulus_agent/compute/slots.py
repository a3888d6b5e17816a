"""How many devices a running guest still has a place for (pure).

What is plugged in as the guest runs needs a slot that its machine has had since its start: on q35 each port that is
free is one, on i440fx there is one bus for all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from kumulus_agent.compute.elements import parse
from kumulus_api.hardware import InterfaceModel

OLD_CARDS: Final = frozenset({InterfaceModel.E1000, InterfaceModel.RTL8139})
"""They know PCI only."""
_ON_ROOT: Final = range(3, 32)
"""The slots of i440fx that are for everybody: before them are the host bridge, PIIX3 and the screen."""
_ON_BRIDGE: Final = range(1, 32)
"""The slots behind a bridge, of which it has the first."""
_SLOTS: Final = {"pci-root": _ON_ROOT, "pcie-to-pci-bridge": _ON_BRIDGE, "pcie-root-port": range(1)}


@dataclass(frozen=True, slots=True)
class Slots:
    """Free slots.

    Attributes:
        cards: for all that is no old card.
        old_cards: for those that know PCI only; None where they take the same ones.
    """

    cards: int
    old_cards: int | None = None


def free_slots(xml: str) -> Slots:
    """Read a running domain's XML."""
    root = parse(xml)
    found = {
        (int(str(address.get("bus")), 16), int(str(address.get("slot")), 16))
        for address in root.iterfind("devices/*/address[@type='pci']")
    }
    free: Counter[str] = Counter()
    for controller in root.iterfind("devices/controller[@type='pci']"):
        model, bus = str(controller.get("model")), int(str(controller.get("index")))
        free[model] += sum((bus, slot) not in found for slot in _SLOTS.get(model, ()))
    if "pcie-root" in free:
        return Slots(free["pcie-root-port"], free["pcie-to-pci-bridge"])
    return Slots(free["pci-root"])
