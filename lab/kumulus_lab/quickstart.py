"""The first servers: examples/quickstart.yaml created, waited for, and shown."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from kumulus_lab import console
from kumulus_lab.chart import REPOSITORY
from kumulus_lab.cluster import Cluster
from kumulus_lab.errors import CommandFailed, TimedOut
from kumulus_lab.progress import detail, say, step

EXAMPLE = REPOSITORY / "examples" / "quickstart.yaml"
PROJECT = "demo"
SERVERS = "servers.kumulus.dev"
IMAGE_URL = "http://10.88.0.1:8098/tiny.qcow2"
"""Where the example looks for the guest image; it stands for the image server of whoever applies it."""
Follower = Callable[[dict[str, Any]], Sequence[str]]
"""Gives, for a Server with an assignment, the command that prints its console log and what comes to it."""
_READY_LIMIT = 600
_GONE_LIMIT = 120
_CONSOLE_LIMIT = 90
_CONSOLE_LINES = 6
_CREATE_LIMIT = 90
_CREATE_PAUSE = 2.0
# What the API server says while it does not know new kinds or the policies about them yet, and kubectl's words for it.
_NOT_YET = ("ServiceUnavailable", "not yet ready", "no matches for kind", "could not find the requested resource")


def start(cluster: Cluster, image_url: str) -> list[dict[str, Any]]:
    """Create what of the example is not there and wait until its servers are Ready.

    Args:
        cluster: where Kumulus runs.
        image_url: where its hosts find the guest image.

    Returns:
        The Servers.

    Raises:
        CommandFailed: the API server refuses something, or a server is not Ready in time.
    """
    ours = [SERVERS, "--namespace", PROJECT]
    with step("first servers"):
        create(cluster, EXAMPLE.read_text().replace(IMAGE_URL, image_url))
        wait = ["wait", *ours, "--all", "--for=condition=Ready", f"--timeout={_READY_LIMIT}s"]
        cluster.kubectl(*wait, timeout=_READY_LIMIT + 10)
    servers: list[dict[str, Any]] = json.loads(cluster.kubectl("get", *ours, "-o", "json").stdout)["items"]
    return servers


def create(cluster: Cluster, manifests: str, *, limit: float = _CREATE_LIMIT, pause: float = _CREATE_PAUSE) -> None:
    """Create what of the manifests does not exist, and leave alone what does: its owner may have changed it.

    Tried again while the API server is still taking in kinds and policies that have just come: it answers 503 until
    each of its parts has seen them, and has no event to wait for.

    Raises:
        CommandFailed: it refuses them for another reason, or still does after ``limit`` seconds.
    """
    deadline = time.monotonic() + limit
    while True:
        done = cluster.kubectl("create", "-f", "-", stdin=manifests, check=False)
        refusals = [line for line in done.stderr.splitlines() if "(AlreadyExists)" not in line]
        if done.returncode == 0 or not refusals:
            return
        left = deadline - time.monotonic()
        if left <= 0 or not any(text in line for line in refusals for text in _NOT_YET):
            raise CommandFailed("the example is refused: " + "\n".join(refusals))
        detail(f"the API server is still taking in the new kinds; trying for another {left:.0f} s")
        time.sleep(pause)


def remove(cluster: Cluster) -> None:
    """Delete the example's servers and wait until they are gone; then the rest of it, if its project is empty."""
    gone = ["delete", "--ignore-not-found", f"--timeout={_GONE_LIMIT}s"]
    ours = [SERVERS, "--namespace", PROJECT]
    if cluster.kubectl("get", *ours, check=False).returncode != 0:  # the kinds are not there
        return
    objects = yaml.safe_load_all(EXAMPLE.read_text())
    servers = [body["metadata"]["name"] for body in objects if body["kind"] == "Server"]
    cluster.kubectl(*gone, *ours, *servers, timeout=_GONE_LIMIT + 10)
    if not cluster.kubectl("get", *ours, "-o", "name").stdout:
        cluster.kubectl(*gone, "-f", str(EXAMPLE), timeout=_GONE_LIMIT + 10)


def show(servers: Sequence[dict[str, Any]], follower: Follower) -> None:
    """Print where each server is and what it wrote on its console, once it has started; at least its address.

    Raises:
        TimedOut: one has reported no address there; the message shows what it did write.
    """
    for server in servers:
        name = server["metadata"]["name"]
        with step(f"console of {name}"):
            lines = console.read(follower(server), "kumulus-guest: ready", limit=_CONSOLE_LIMIT)
            if not any("kumulus-guest: address=" in line for line in lines):
                told = "\n".join(lines[-_CONSOLE_LINES:])
                raise TimedOut(f"waited {_CONSOLE_LIMIT} s for server {name} to report its address; it wrote:\n{told}")
        say(describe(server))
        say("\n".join(f"  | {line}" for line in console.reports(lines, _CONSOLE_LINES)))


def describe(server: dict[str, Any]) -> str:
    """One line about a Server: where it is and its addresses."""
    metadata, status = server["metadata"], server.get("status", {})
    host = server["spec"].get("assignment", {}).get("host", "no host")
    addresses = ", ".join(entry["address"] for entry in status.get("addresses", [])) or "no address"
    return f"server {metadata['namespace']}/{metadata['name']} runs on {host}: {addresses}"
