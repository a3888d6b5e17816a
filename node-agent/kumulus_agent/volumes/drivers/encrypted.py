"""The files of encrypted volumes: LUKS in qcow2, a layer of its own as any, all opened by one key.

The key reaches qemu-img by a file that lies in memory only and has no name: its command line, which everybody on the
host can read, has a number.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from kumulus_agent.storage.atomic import publish, sync_directory
from kumulus_agent.storage.errors import Retryable
from kumulus_agent.storage.qemu_img import qemu_img
from kumulus_agent.storage.room import require_room
from kumulus_agent.volumes.drivers.files import Files, taken
from kumulus_agent.volumes.drivers.keys import KeyWrong, VolumeKey, check_encryption
from kumulus_agent.volumes.drivers.layers import MOST_LAYERS, read_below
from kumulus_agent.volumes.drivers.protocol import Format

OBJECT: Final = "key"
"""What the command line calls the secret with the key."""
_REFUSED: Final = "Invalid password"
_UNMEASURED: Final = "Unable to get accurate CPU usage"
_MEASUREMENTS: Final = 10
"""How often QEMU is asked to time its key derivation, where the clock of its thread is too coarse to move meanwhile."""
# What makes guessing a passphrase slow costs each start as much; ours have 256 bits, which nobody guesses.
_ITERATION_MILLISECONDS: Final = 10
_COPY_SECONDS: Final = 6 * 3600.0
_TABLES: Final = 4 << 20
"""Bytes that an encrypted qcow2 file takes before there is anything in it, and more."""


class EncryptedFiles(Files):
    """The actuator for volumes of one key.

    Args:
        key: what opens what is there, and what is made anew.
    """

    def __init__(self, key: VolumeKey) -> None:
        self._key = key

    async def make_layer(self, path: Path, size: int, below: tuple[str, Format] | None = None) -> None:
        """See `Files`."""
        part = path.with_name(f".{path.name}.part")
        await require_room(path.parent, _TABLES, "a new layer of a volume")
        lies_on = ("-u", "-b", below[0], "-F", below[1]) if below is not None else ()
        await self._run("create", "-q", "-f", "qcow2", "-o", self._options(), *lies_on, str(part), str(size))
        await asyncio.to_thread(publish, part, path)

    async def copy_image(self, image: Path, image_format: Format, path: Path, size: int) -> None:
        """See `Files`."""
        part = path.with_name(f".{path.name}.part")
        needed = await asyncio.to_thread(taken, image, image_format)
        await require_room(path.parent, needed + _TABLES, "a copy of an image")
        made = ("-f", image_format, "-O", "qcow2", "-o", self._options())
        await self._run("convert", "-q", *made, str(image), str(part), deadline=_COPY_SECONDS)
        await self.resize(part, "qcow2", size)
        await asyncio.to_thread(publish, part, path)

    async def resize(self, path: Path, layer_format: Format, size: int) -> None:
        """See `Files`."""
        if layer_format == "raw":
            check_encryption(path, wanted=True)
        await self._run("resize", "-q", await asyncio.to_thread(opened, path), str(size))
        await asyncio.to_thread(_sync, path)

    async def lower(self, path: Path, below: tuple[str, Format] | None) -> None:
        """See `Files`.

        What the layer has of its own goes into the one below, of which nothing else has need, and that one takes its
        place: qemu-img's rebase could only open an encrypted layer further down by noting in the header how it is
        opened.
        """
        chain = await asyncio.to_thread(layers_of, path)
        if below is None and len(chain) == 1:
            return
        lies_on = chain[1]
        own = (await asyncio.to_thread(path.stat)).st_blocks * 512
        await require_room(path.parent, own + _TABLES, "merging two layers")
        await self._run("commit", "-q", "-d", await asyncio.to_thread(opened, path), deadline=_COPY_SECONDS)
        await asyncio.to_thread(_take_place, lies_on, path)

    async def check(self, path: Path) -> None:
        """Check that a layer can be opened, also while a guest writes to it.

        Raises:
            KeyWrong: by another key.
            NotEncrypted: it lies in the clear.
            Retryable: it could not be tried.
        """
        await asyncio.to_thread(check_encryption, path, wanted=True)
        alone = {**_node(path), "backing": None}
        await self._run("snapshot", "-l", "-U", f"json:{json.dumps(alone)}")

    def _options(self) -> str:
        """Give how a layer is made.

        Nothing beyond compat, and what LUKS has had since QEMU 2.10: the host's may be older than this qemu-img.
        """
        luks = {
            "format": "luks",
            "key-secret": OBJECT,
            "cipher-alg": f"aes-{self._key.bits}",
            "cipher-mode": "xts",
            "ivgen-alg": "plain64",
            "hash-alg": "sha256",
            "iter-time": str(_ITERATION_MILLISECONDS),
        }
        return ",".join(["compat=1.1", *(f"encrypt.{name}={value}" for name, value in luks.items())])

    async def _run(self, subcommand: str, *arguments: str, deadline: float = 60.0) -> bytes:
        with in_memory(self._key.content) as descriptor:
            secret = ("--object", f"secret,id={OBJECT},file=/proc/self/fd/{descriptor}")
            try:
                return await self._measured(subcommand, *secret, *arguments, deadline=deadline, descriptor=descriptor)
            except Retryable as error:
                if _REFUSED in str(error):
                    raise KeyWrong(
                        "the key is not the one that the volume was encrypted with; transient: goes on when the Secret "
                        "holds that one again",
                        delay=30.0,
                    ) from None
                raise

    async def _measured(self, *arguments: str, deadline: float, descriptor: int) -> bytes:
        for _ in range(_MEASUREMENTS - 1):
            try:
                return await qemu_img(*arguments, deadline=deadline, descriptors=(descriptor,))
            except Retryable as error:
                if _UNMEASURED not in str(error):
                    raise
        return await qemu_img(*arguments, deadline=deadline, descriptors=(descriptor,))


def layers_of(path: Path) -> list[Path]:
    """Give a layer of a folder of volumes, and all that it lies on, from the top.

    Raises:
        Unreadable: a header cannot be read.
    """
    root, found = path.parents[1], [path]
    while len(found) <= 2 * MOST_LAYERS and (below := read_below(found[-1], root)):
        found.append(root / below)
    return found


def opened(path: Path) -> str:
    """Give how qemu-img opens a layer with all that it lies on: each by its key, and none by what its header says."""
    node: dict[str, Any] | None = None
    for layer in reversed(layers_of(path)):
        node = {**_node(layer), "backing": node}
    return f"json:{json.dumps(node)}"


def _node(path: Path) -> dict[str, Any]:
    return {
        "driver": "qcow2",
        "file": {"driver": "file", "filename": str(path)},
        "encrypt": {"format": "luks", "key-secret": OBJECT},
    }


@contextlib.contextmanager
def in_memory(content: bytes) -> Iterator[int]:
    """Give a file that holds something and that only whoever inherits it can find."""
    descriptor = os.memfd_create(OBJECT)
    try:
        os.fchmod(descriptor, 0o400)
        os.write(descriptor, content)
        yield descriptor
    finally:
        os.close(descriptor)


def _take_place(below: Path, path: Path) -> None:
    _sync(below)
    below.replace(path)
    sync_directory(path.parent)
    sync_directory(below.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
