"""Memory of emulated guests that live migration copies whole: a way around a defect of QEMU before 9.0."""

from __future__ import annotations

from typing import Final

from kumulus_agent.compute.elements import Element, Maker

QEMU_URI: Final = "http://libvirt.org/schemas/domain/qemu/1.0"
_QEMU: Final = Maker(QEMU_URI, "qemu")
_BACKEND: Final = "kumulus.ram"
_ALIGNMENT_KIB: Final = 1024
"""libvirt rounds memory up to this; dirty pages are looked up in words of 64, which are 256 KiB."""
_SURPLUS_KIB: Final = 8


def emulated_memory(memory_kib: int) -> Element:
    """Give the arguments that make an emulated guest's memory end within a word of the bitmap of dirty pages.

    While a guest is copied its writes mark pages in that bitmap. Where a block of memory fills whole words, QEMU clears
    the marks without telling the emulator, which goes on to write through what it remembers as marked: these writes do
    not arrive at the target, and the guest there is damaged. A block that ends within a word is cleared page by page,
    and the emulator is told. (`cpu_physical_memory_sync_dirty_bitmap` in QEMU's ram_addr.h.)

    Args:
        memory_kib: what the guest asks for, KiB.

    Returns:
        A `qemu:commandline` for the domain. It replaces the block that libvirt makes, which is never touched then, by
        one that is 8 KiB larger.
    """
    size = -(-memory_kib // _ALIGNMENT_KIB) * _ALIGNMENT_KIB + _SURPLUS_KIB
    arguments = (
        *("-object", f"memory-backend-ram,id={_BACKEND},size={size}k"),
        *("-machine", f"memory-backend={_BACKEND}"),
        *("-m", f"size={size}k"),
    )
    return _QEMU.commandline(*(_QEMU.arg(value=argument) for argument in arguments))
