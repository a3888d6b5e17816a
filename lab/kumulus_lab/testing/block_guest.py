"""A guest that writes blocks which say their place and generation, and reads them all when it is told to.

Each block of 4 KiB is one text, again and again: its number, the generation that the test gave it, and a check of both.
Reading goes past the guest's cache and compares every byte: what is told are the runs of blocks of one generation.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kumulus_api import Server
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Breach, Cloud, Object
from kumulus_lab.testing.plugin import Plugin

BLOCK: Final = 4096
BLANK: Final = 0
"""The generation of what nobody has written."""
_SECONDS: Final = 120.0
USER_DATA: Final = r"""#!/bin/sh
cat >/bin/blocks <<'EOF'
#!/bin/sh
# blocks SERIAL device | write GENERATION FIRST COUNT | read | discard FIRST COUNT
find_disk() {
  for path in /sys/block/vd*; do [ "$(cat "$path/serial" 2>/dev/null)" = "$1" ] && echo "/dev/${path##*/}"; done
}
until device=$(find_disk "$1"); [ -n "$device" ]; do sleep 1; done
functions='function block(place, generation,   text) {
  text = sprintf("block %08d generation %04d check %06d ", place, generation,
                 (place * 7919 + generation * 104729) % 999983)
  while (length(text) < 4096) text = text text
  return substr(text, 1, 4096)
}
function told() { if (last != "") printf " %d+%d=%s", from, NR - 1 - from, last }'
case $2 in
device)
  echo "$device"
  ;;
write)
  awk -v generation="$3" -v first="$4" -v count="$5" "$functions"'
    BEGIN { for (at = first; at < first + count; at++) printf "%s", block(at, generation) }' |
    dd of="$device" bs=4096 seek="$4" iflag=fullblock conv=fsync 2>/tmp/dd && echo written || head -n 1 /tmp/dd
  ;;
read)
  echo 3 >/proc/sys/vm/drop_caches
  tr '\0' . <"$device" | fold -b -w 4096 | awk "$functions"'
    BEGIN { printf "holds" }
    { found = $0 ~ /^\.+$/ ? 0 : $4 + 0
      if (found != 0 && $0 != block(NR - 1, found)) found = "BAD"
      if (found "" != last "") { told(); from = NR - 1; last = found "" } }
    END { NR++; told() }'
  ;;
discard)
  blkdiscard -o $(($3 * 4096)) -l $(($4 * 4096)) "$device" 2>&1 && echo discarded
  ;;
esac
EOF
chmod 755 /bin/blocks
"""


def serial_of(volume: Object) -> str:
    """Give what a guest sees of a bound volume's identity."""
    return str(volume["spec"]["assignment"]["volumeID"])[:20]


@dataclass(frozen=True)
class Generations:
    """Which generation each block of a disk must have.

    Attributes:
        blocks: the generation of each.
    """

    blocks: tuple[int, ...]

    @classmethod
    def blank(cls, size: int) -> Generations:
        """Give those of a blank disk of so many bytes."""
        return cls((BLANK,) * (size // BLOCK))

    def grown(self, size: int) -> Generations:
        """Give those of the disk once it has so many bytes."""
        return Generations(self.blocks + (BLANK,) * (size // BLOCK - len(self.blocks)))

    def written(self, generation: int, first: int, count: int) -> Generations:
        """Give those after a run of blocks was written."""
        return Generations((*self.blocks[:first], *[generation] * count, *self.blocks[first + count :]))

    def __str__(self) -> str:
        told, first = "", 0
        for generation, same in itertools.groupby(self.blocks):
            count = len(list(same))
            told += f" {first}+{count}={generation}"
            first += count
        return told


@dataclass
class BlockGuest:
    """A server with USER_DATA, whose shell on the serial console is told what to do.

    Attributes:
        cloud: that it runs in.
        lab: that the cloud runs in.
        project: its namespace.
        name: of the server.
    """

    cloud: Cloud
    lab: LabSettings
    project: str
    name: str
    _turns: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @classmethod
    async def made(cls, cloud: Cloud, lab: LabSettings, project: str, name: str, **spec: Any) -> BlockGuest:
        """Make the server and wait until its guest has come up; `spec` adds fields (camelCase)."""
        await cloud.make_server(project, name, userData={"inline": USER_DATA}, **spec)
        guest = cls(cloud, lab, project, name)
        await guest.booted(1)
        return guest

    async def server(self) -> Object:
        """Give the server once it is Ready."""
        return await self.cloud.server_ready(self.project, self.name, _SECONDS)

    async def log(self) -> Path:
        """Give the log of its console, where it is now."""
        held = await self.cloud.client.get(Server, self.name, self.project)
        if held is None:
            raise Breach(f"there is no server {self.name}")
        return console.path(self.lab, held)

    async def booted(self, times: int) -> None:
        """Wait until its guest has come up so many times.

        Raises:
            Breach: it has not after two minutes.
        """
        log, seen = console.path(self.lab, await self.server()), 0
        try:
            async with asyncio.timeout(_SECONDS):
                async for line in console.lines(log):
                    seen += "kumulus-guest: ready" in line
                    if seen == times:
                        return
        except TimeoutError:
            pass
        raise Breach(f"{log}: the guest has come up {seen} times, not {times}")

    async def sees(self, serial: str, size: int) -> None:
        """Wait until the guest has been told that a disk has so many bytes."""
        await console.says(await self.log(), rf"kumulus-guest: disk=vd\w bytes={size} serial={re.escape(serial)}$")

    async def write(self, serial: str, generation: int, first: int, count: int) -> None:
        """Have a run of blocks written and flushed, as a generation.

        Raises:
            Breach: the guest was told of an error, or has not done it after two minutes.
        """
        said = await self._ask(serial, "write", generation, first, count)
        if said != "written":
            raise Breach(f"{self.name} writes {count} blocks from {first} to {serial}: {said}")

    async def discard(self, serial: str, first: int, count: int) -> None:
        """Have a run of blocks given back, which QEMU does by whole clusters of 16 blocks.

        Raises:
            Breach: the guest could not, or has not done it after two minutes.
        """
        said = await self._ask(serial, "discard", first, count)
        if said != "discarded":
            raise Breach(f"{self.name} gives {count} blocks from {first} of {serial} back: {said}")

    async def holds(self, serial: str, expected: Generations) -> None:
        """Have every block read.

        Raises:
            Breach: one is not as expected, or they were not read after two minutes.
        """
        said = await self._ask(serial, "read")
        if said != f"holds{expected}":
            raise Breach(f"{self.name} reads of {serial}: {said}; was written:{expected}")

    async def begin(self, serial: str, *words: object) -> int:
        """Type what is to be done with a disk, and give the turn of the answer; the disk may still be to come."""
        return await self._type(" ".join(map(str, ("blocks", serial, *words))))

    async def answer(self, turn: int, seconds: float = _SECONDS) -> str:
        """Wait for the line that the guest says at a turn, and give it."""
        match = await console.says(await self.log(), rf"^ran-{turn} (.*?)\s*$", seconds)
        return match[1]

    async def run(self, command: str) -> str:
        """Have the guest's shell run a command that says one line, and give that."""
        return await self.answer(await self._type(command))

    async def _type(self, command: str) -> int:
        turn = next(self._turns)
        plugin = Plugin(self.lab, self.lab.kubeconfig)
        typed = f'turn={turn}; echo "ran-$turn $({command})"\n'  # what is typed is on the console, too
        status, _, error = await plugin.run("console", self.name, "-n", self.project, stdin=typed)
        if status:
            raise Breach(f"the console of {self.name}: {error}")
        return turn

    async def _ask(self, serial: str, *words: object) -> str:
        return await self.answer(await self.begin(serial, *words))
