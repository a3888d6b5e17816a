"""Calls of kubectl, which knows the user's cluster, context and credentials."""

from __future__ import annotations

import json
import subprocess
from typing import Any

_TIMEOUT = 60.0


class KubectlError(Exception):
    """kubectl refused; the message is its own."""


def run(*arguments: str) -> str:
    """Run kubectl and give what it printed.

    Raises:
        KubectlError: it exited with an error or did not answer within a minute.
    """
    try:
        done = subprocess.run(
            ["kubectl", *arguments],
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
