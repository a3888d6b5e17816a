"""Calls of kubectl, which knows the user's cluster, context and credentials."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TIMEOUT = 60.0


class KubectlError(Exception):
    """kubectl refused; the message is its own."""


def run(*arguments: str, stdin: str = "") -> str:
    """Run kubectl and give what it printed.

    Raises:
        KubectlError: it exited with an error or did not answer within a minute.
    """
    try:
        done = subprocess.run(
            ["kubectl", *arguments],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # a guest may write anything on its console
            timeout=_TIMEOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise KubectlError("kubectl is not on PATH; install it, then try again") from error
    except subprocess.TimeoutExpired as error:
        raise KubectlError(f"kubectl {' '.join(arguments)} did not answer within {_TIMEOUT:.0f} s") from error
    if done.returncode != 0:
        raise KubectlError(done.stderr.strip() or f"kubectl exited with {done.returncode}")
    return done.stdout


def get(kind: str, name: str, namespace: str | None) -> dict[str, Any]:
    """Give an object; `namespace` None means that of the current context.

    Raises:
        KubectlError: it does not exist or may not be read.
    """
    scope = ["--namespace", namespace] if namespace else []
    body: dict[str, Any] = json.loads(run("get", kind, name, *scope, "--output", "json"))
    return body


def listed(kind: str, namespace: str | None = None) -> list[dict[str, Any]]:
    """Give all objects of a kind, of all namespaces unless one is named.

    Raises:
        KubectlError: they may not be read.
    """
    scope = ["--namespace", namespace] if namespace else ["--all-namespaces"]
    items: list[dict[str, Any]] = json.loads(run("get", kind, *scope, "--output", "json"))["items"]
    return items


def create(body: dict[str, Any]) -> None:
    """Create an object.

    Raises:
        KubectlError: the API server refuses it.
    """
    run("create", "--filename", "-", "--output", "name", stdin=json.dumps(body))


@contextlib.contextmanager
def proxy(*options: str) -> Iterator[str]:
    """Have the API server within reach, with the user's credentials, while the block runs.

    Args:
        options: of `kubectl proxy`, that say where it listens.

    Yields:
        The address that it listens on, as kubectl prints it.

    Raises:
        KubectlError: it does not come up.
    """
    try:
        process = subprocess.Popen(
            ["kubectl", "proxy", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A terminal's Ctrl-C is for the console, or for us.
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise KubectlError("kubectl is not on PATH; install it, then try again") from error
    try:
        said = process.stdout.readline().strip() if process.stdout else ""
        head, _, address = said.partition("Starting to serve on ")
        if head or not address:
            raise KubectlError(said or "kubectl proxy ended at once")
        yield address
    finally:
        process.terminate()
        process.wait(5)
        if process.stdout:
            process.stdout.close()


@contextlib.contextmanager
def private_proxy() -> Iterator[Path]:
    """As `proxy`, on a unix socket that nobody else can reach; gives its path."""
    with tempfile.TemporaryDirectory(prefix="kubectl-kumulus-") as folder:
        socket = Path(folder) / "api"
        with proxy(f"--unix-socket={socket}"):
            yield socket
