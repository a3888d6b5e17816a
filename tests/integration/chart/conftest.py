"""Helm, both major versions, and the chart as it renders."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kumulus_lab import builds
from kumulus_lab.settings import LabSettings

CHART = Path(__file__).parents[3] / "charts" / "kumulus"
Object = dict[str, Any]
Helm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session", params=["helm3", "helm4"])
def helm(request: pytest.FixtureRequest) -> Helm:
    """One version of Helm, called with its arguments."""
    cache = LabSettings.from_environment().cache
    builds.ensure({"helm3": builds.HELM3, "helm4": builds.HELM4}[request.param], cache)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [str(cache / "bin" / request.param), *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.fixture(scope="session")
def rendered(helm: Helm) -> Callable[..., list[Object]]:
    """Give the objects that the chart renders to, with options as `helm template` takes them."""
    known: dict[tuple[str, ...], list[Object]] = {}

    def render(*options: str) -> list[Object]:
        if options not in known:
            done = helm("template", "kumulus", str(CHART), "--namespace", "kumulus-system", *options)
            assert done.returncode == 0, done.stderr
            known[options] = [body for body in yaml.safe_load_all(done.stdout) if body]
        return known[options]

    return render
