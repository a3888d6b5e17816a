"""The two container images, run as they were built."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kumulus_lab.containers import images
from kumulus_lab.settings import LabSettings

Run = Callable[..., subprocess.CompletedProcess[str]]
_BUILD_LIMIT = 900
# Debian's own slim image and Python are about 120 MB of it.
_LARGEST = {"operator": 250e6, "agent": 350e6}

pytestmark = pytest.mark.timeout(_BUILD_LIMIT)


def buildah(*arguments: str) -> str:
    """Run buildah on the lab's storage and give what it printed."""
    command = images.buildah(LabSettings.from_environment().cache / "images")
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip()


@pytest.fixture(scope="module", params=images.TARGETS)
def image(request: pytest.FixtureRequest) -> tuple[str, str]:
    """One of the images, built if it is not in the cache: its target and its reference."""
    reference = f"{images.REPOSITORY_NAME}/{request.param}:{images.key(request.param)}"
    with images.locked(LabSettings.from_environment().cache / "images") as folder:
        images.ensure(folder, request.param, reference)
    return request.param, reference


@contextlib.contextmanager
def mounted(reference: str) -> Iterator[Path]:
    """The image's root file system, as a container of its own."""
    container = buildah("from", "--pull-never", reference)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("rm", container)


@pytest.fixture
def run(image: tuple[str, str], tmp_path: Path) -> Iterator[Run]:
    """Run the image by runc: no network, no capability, read-only root; `argv` replaces its entry point."""
    inspected = json.loads(buildah("inspect", "--type", "image", image[1]))["OCIv1"]["config"]
    user = int(inspected.get("User", "0").partition(":")[0])
    with mounted(image[1]) as root:
        subprocess.run(["runc", "spec"], cwd=tmp_path, check=True, timeout=20)

        def start(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
            spec = bundle(json.loads((tmp_path / "config.json").read_text()), root, user)
            spec["process"]["args"] = list(argv or inspected["Entrypoint"])
            spec["process"]["env"] = [*inspected["Env"], *(f"{name}={value}" for name, value in env.items())]
            (tmp_path / "config.json").write_text(json.dumps(spec))
            name = f"kumulus-test-{uuid.uuid4().hex[:8]}"
            command = ["runc", "run", "--bundle", str(tmp_path), name]
            try:
                return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
            finally:
                subprocess.run(["runc", "delete", "--force", name], capture_output=True, timeout=20, check=False)

        yield start


def bundle(spec: dict[str, Any], root: Path, user: int) -> dict[str, Any]:
    """Narrow runc's example to what the chart gives the operator."""
    spec["root"] = {"path": str(root), "readonly": True}
    spec["process"] |= {"terminal": False, "user": {"uid": user, "gid": user}, "noNewPrivileges": True}
    spec["process"]["capabilities"] = {}
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] != "cgroup"]
    spec["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]})
    return spec


def test_image_starts_and_says_what_it_misses(image: tuple[str, str], run: Run) -> None:
    """Without a cluster the process ends with status 1 and names what it could not find, not a missing module."""
    folder = {"KUMULUS_RUN_DIR": "/tmp", "KUMULUS_NODE_NAME": "h1", "KUMULUS_NODE_IP": "192.0.2.1"}
    done = run(**folder)
    told = done.stdout + done.stderr
    assert done.returncode == 1, told
    assert "cannot connect with the pod's service account" in told
    assert "ModuleNotFoundError" not in told
    assert "Read-only file system" not in told


def test_operator_is_no_root(image: tuple[str, str], run: Run) -> None:
    """The operator's image runs as user 65532 of itself; the agent's, which needs the host, as root."""
    done = run("python3", "-c", "import os; print(os.getuid())")
    assert done.stdout.strip() == {"operator": "65532", "agent": "0"}[image[0]], done.stderr


def test_code_is_read_only_and_complete(image: tuple[str, str], run: Run) -> None:
    """Every module of the image's packages can be imported there, and the interpreter has no pip to add others."""
    packages = {"operator": "kumulus_operator", "agent": "kumulus_agent"}
    script = (
        "import importlib, importlib.util, pkgutil, sys\n"
        f"for name in ('kumulus_runtime', 'kumulus_api', '{packages[image[0]]}'):\n"
        "    package = importlib.import_module(name)\n"
        "    for module in pkgutil.walk_packages(package.__path__, name + '.'):\n"
        "        if not module.name.endswith(('__main__', '.testing')) and '.testing.' not in module.name:\n"
        "            importlib.import_module(module.name)\n"
        "print('complete', importlib.util.find_spec('pip'))\n"
    )
    done = run("python3", "-c", script)
    assert done.stdout.strip() == "complete None", done.stderr


@pytest.mark.parametrize("image", ["agent"], indirect=True)
@pytest.mark.parametrize("tool", ["qemu-img", "nft", "ip", "conntrack", "nsenter"])
def test_agent_brings_its_tools(run: Run, tool: str) -> None:
    """The tools that the agent starts in its own container are in its image, and run."""
    done = run(tool, "-V" if tool == "ip" else "--version")
    assert done.returncode == 0, done.stderr


def test_image_is_small(image: tuple[str, str]) -> None:
    """No compiler, emulator, documentation or package cache is in an image, and it stays below its budget."""
    with mounted(image[1]) as root:
        for program in ("gcc", "pip", "qemu-system-x86_64", "libvirtd"):
            assert shutil.which(program, path=f"{root}/usr/bin:{root}/usr/sbin:{root}/opt/{image[0]}/bin") is None
        assert not [path for path in (root / "usr/share/doc").rglob("*") if path.is_file() and path.name != "copyright"]
        assert not list((root / "var/lib/apt/lists").glob("*_Packages"))
        size = sum(os.lstat(Path(folder, name)).st_size for folder, _, names in os.walk(root) for name in names)
    assert size <= _LARGEST[image[0]], f"{size / 1e6:.0f} MB"
