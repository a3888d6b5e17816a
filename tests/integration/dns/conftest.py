"""The real name server with the chart's own configuration, and zone files in a folder as a kubelet mounts it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest

from kumulus_lab import builds
from kumulus_lab.settings import LabSettings

COREFILE = Path(__file__).parents[3] / "charts" / "kumulus" / "files" / "dns" / "Corefile"
_SECONDS = 30.0


class NameServer:
    """CoreDNS on a port of the loopback.

    Args:
        program: its binary.
        folder: an empty one.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        self.port, health, ready, metrics = (_free_port() for _ in range(4))
        self._zones = folder / "zones"
        self._generation = 0
        self._zones.mkdir()
        text = COREFILE.read_text()
        for former, new in (
            ("/zones/..data", f"{self._zones}/..data"),
            (".:1053", f".:{self.port}"),
            (":8080", f"127.0.0.1:{health}"),
            (":8181", f"127.0.0.1:{ready}"),
            (":9153", f"127.0.0.1:{metrics}"),
            ("reload 5s", "reload 200ms"),
            ("lameduck 5s", "lameduck 0s"),
        ):
            assert former in text
            text = text.replace(former, new)
        (folder / "Corefile").write_text(text)
        self._log = (folder / "coredns.log").open("w+")
        self._argv = [str(program), "-conf", str(folder / "Corefile")]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(self._argv, stdout=self._log, stderr=self._log)
        self.until("nowhere.test.", "A", lambda answer: answer.rcode() == dns.rcode.REFUSED)

    @property
    def log(self) -> str:
        """What it has said."""
        return Path(self._log.name).read_text()

    @property
    def memory(self) -> int:
        """Bytes that are in memory for it."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("Pss:"))

    def publish(self, files: Mapping[str, str]) -> None:
        """Put exactly these zone files there by one rename, as a kubelet does, given text by domain."""
        self._generation += 1
        new, link = self._zones / f"..{self._generation}", self._zones / "..data"
        new.mkdir()
        for domain, text in files.items():
            (new / f"{domain.removesuffix('.')}.zone").write_text(text)
        draft = self._zones / "..data_tmp"
        draft.symlink_to(new.name)
        former = link.resolve() if link.is_symlink() else None
        draft.replace(link)
        if former is not None:
            shutil.rmtree(former)

    def ask(self, name: str, kind: str, *, tcp: bool = False, timeout: float = 5) -> dns.message.Message:
        """Ask one question, as a resolver would."""
        question = dns.message.make_query(name, kind)
        query = dns.query.tcp if tcp else dns.query.udp
        return query(question, "127.0.0.1", port=self.port, timeout=timeout)

    def until(self, name: str, kind: str, holds: Callable[[dns.message.Message], bool]) -> dns.message.Message:
        """Ask until the answer is as wanted: a name server tells nobody when it has read its files."""
        end = time.monotonic() + _SECONDS
        while True:
            # Before it listens its port is anybody's: also the one that asks, to which the question comes back.
            with contextlib.suppress(OSError, dns.exception.Timeout, dns.query.BadResponse):
                answer = self.ask(name, kind, timeout=0.2)
                if holds(answer):
                    return answer
            assert time.monotonic() < end, f"{name} {kind} did not become what was waited for:\n{self.log}"
            time.sleep(0.05)

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
        self._log.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def name_server(tmp_path: Path) -> Iterator[NameServer]:
    """A name server without zones, not yet started."""
    lab = LabSettings.from_environment()
    builds.ensure(builds.COREDNS, lab.cache)
    server = NameServer(Path(builds.program(lab, "coredns")).resolve(), tmp_path)
    yield server
    server.close()
