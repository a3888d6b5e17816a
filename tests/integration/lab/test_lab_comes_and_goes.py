"""A lab of its own: interrupted in every step, brought up all the same, and removed to the last trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kumulus_lab import cgroups, host_plan
from kumulus_lab.settings import LabSettings

NAME = "tlab"
STEPS = ("control plane", "hosts", "cluster DNS")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The variables of a lab that runs beside any other."""
    return {
        **{name: value for name, value in os.environ.items() if name not in ("KUBECONFIG", "HOSTS")},
        "KUMULUS_LAB_NAME": NAME,
        "KUMULUS_LAB_SUBNET": "10.99.0.0/24",
        "KUMULUS_LAB_PODS": "10.239.0.0/16",
        "KUMULUS_LAB_STATE": str(tmp_path / "state"),
    }


@pytest.fixture
def lab(environment: dict[str, str]) -> Iterator[list[str]]:
    """The command line of the lab; whatever the test leaves is taken down."""
    command = [sys.executable, "-m", "kumulus_lab"]
    yield command
    subprocess.run([*command, "down"], env=environment, capture_output=True, timeout=120, check=False)


def traces(state: Path) -> set[str]:
    """All that a lab of this name has on the machine, and the folders that hosts mount over."""
    found = {f"link {link}" for link in Path("/sys/class/net").glob(f"{NAME}*")}
    found |= {f"namespace {path}" for path in Path("/run/netns").glob(f"{NAME}*")}
    found |= {f"cgroup {path}" for tree in cgroups.hierarchies() for path in tree.path.glob(f"{NAME}*")}
    found |= {f"mount {line.split()[4]}" for line in mounts() if str(state) in line}
    found |= {f"file {path}" for path in (state, LabSettings().shared / f"{NAME}.lab") if path.exists()}
    found |= {f"process {pid}" for pid in Path("/proc").glob("[0-9]*") if str(state) in command_line(pid)}
    tables = json.loads(subprocess.run(["nft", "--json", "list", "tables"], capture_output=True, check=True).stdout)
    found |= {f"table {NAME}" for entry in tables["nftables"] if entry.get("table", {}).get("name") == NAME}
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    found |= {f"route {line}" for line in routes.splitlines() if NAME in line}
    return found | {f"folder {path}" for path in host_plan.mount_points() if path.exists()}


def mounts() -> list[str]:
    """Lines of this process's mounts."""
    return Path("/proc/self/mountinfo").read_text().splitlines()


def command_line(pid: Path) -> str:
    """The command of a process; empty if it has just ended."""
    try:
        return (pid / "cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def interrupted(command: list[str], environment: dict[str, str], step: str) -> None:
    """Run `up` as a terminal does, and interrupt it as soon as it says that a step has begun."""
    argv = [*command, "up", "--only-cluster"]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if f"… {step}" in line:
                os.killpg(process.pid, signal.SIGINT)
                break
        process.stdout.read()
    assert process.returncode != 0, f"{step} was over before it could be interrupted"


def test_a_lab_survives_interruptions_and_leaves_no_trace(
    lab: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    """`up` goes on from any interruption, `down` works twice and from any state, and then all is as before."""
    environment["HOSTS"] = "1"
    state = tmp_path / "state"
    before = traces(state)
    for step in STEPS:
        interrupted(lab, environment, step)
    subprocess.run([*lab, "down"], env=environment, capture_output=True, timeout=120, check=True)
    assert traces(state) <= before
    interrupted(lab, environment, "hosts")
    up = [*lab, "up", "--only-cluster"]
    done = subprocess.run(up, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert traces(state) - before
    for _ in range(2):
        subprocess.run([*lab, "down"], env=environment, capture_output=True, timeout=120, check=True)
    assert traces(state) <= before
