"""The smallest guest: one disk sector that says it lives."""

from __future__ import annotations

from typing import Final

GREETING: Final = b"KUMULUS-OK"
SECTOR_BYTES: Final = 512
_ORIGIN: Final = 0x7C00

_PRINT: Final = bytes.fromhex(
    "fa fc 31c0 8ed8"  # cli; cld; ds = 0
    "be 0000"  # mov si, <message>: patched below
    "ac 84c0 7412"  # next: lodsb; test al, al; jz end
    "88c3 ba fd03"  # mov bl, al; mov dx, COM1 + 5
    "ec a820 74fb"  # wait: in al, dx; test al, 0x20 (transmitter empty); jz wait
    "88d8 ba f803 ee"  # mov al, bl; mov dx, COM1; out dx, al
    "ebe9"  # jmp next
)
_POWER_OFF: Final = bytes.fromhex("ba 0406 b8 0020 ef")  # out 0x604, SLP_EN: ACPI soft off where SeaBIOS maps it
_HALT: Final = bytes.fromhex("f4 ebfd")


def boot_sector(*, power_off: bool) -> bytes:
    """Assemble a raw disk that writes :data:`GREETING` and a newline to COM1.

    Args:
        power_off: turn the machine off afterwards; otherwise halt for ever with interrupts disabled.

    Returns:
        One sector of 512 bytes with the BIOS signature.
    """
    code = _PRINT + (_POWER_OFF if power_off else b"") + _HALT
    message = (_ORIGIN + len(code)).to_bytes(2, "little")
    code = code.replace(b"\xbe\x00\x00", b"\xbe" + message, 1)
    body = code + GREETING + b"\r\n\0"
    return body.ljust(SECTOR_BYTES - 2, b"\0") + b"\x55\xaa"
