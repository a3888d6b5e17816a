"""`kubectl kumulus`, called as a user calls it."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from kumulus_lab import builds
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.pki import Identity
from kumulus_lab.settings import LabSettings

_LIMIT = 60.0


@dataclass(frozen=True)
class Plugin:
    """The plugin with the credentials of one user.

    Attributes:
        lab: the running lab.
        kubeconfig: the user's.
    """

    lab: LabSettings
    kubeconfig: Path

    @classmethod
    def of_user(cls, lab: LabSettings, user: str) -> Plugin:
        """Give the plugin of a user who has a client certificate, and no rights but what the user is given."""
        plane = ControlPlane.of_lab(lab)
        return cls(lab, plane.authority().ensure_kubeconfig(Identity(user, user), plane.url))

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start `kubectl kumulus ARGUMENTS` with pipes."""
        path = [str(Path(sys.executable).parent), str(builds.bin_directory(self.lab)), os.environ["PATH"]]
        return await asyncio.create_subprocess_exec(
            "kubectl", "kumulus", *arguments,
            env={**os.environ, "PATH": os.pathsep.join(path), "KUBECONFIG": str(self.kubeconfig)},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def run(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        """Run it to its end, and give its status, output and error output."""
        process = await self.start(*arguments)
        async with asyncio.timeout(_LIMIT):
            out, err = await process.communicate(stdin.encode())
        return process.returncode or 0, out.decode(), err.decode()
