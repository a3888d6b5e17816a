"""Initramfs archives (cpio, format newc) written directly, and kernel modules put in an order that loads."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_MODULE_DEPENDENCIES = re.compile(rb"\0depends=([^\0]*)\0")


@dataclass(frozen=True)
class Node:
    """One entry of an initramfs, owned by root.

    Attributes:
        path: Relative to the root, without a leading slash.
        mode: Type and permission bits, as in `st_mode`.
        data: A file's content, or a symbolic link's target.
        device: Major and minor number of a device node.
    """

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def file(path: str, data: bytes, mode: int = 0o644) -> Node:
    """Describe a regular file."""
    return Node(path, stat.S_IFREG | mode, data)


def link(path: str, target: str) -> Node:
    """Describe a symbolic link."""
    return Node(path, stat.S_IFLNK | 0o777, target.encode())


def archive(nodes: Iterable[Node]) -> bytes:
    """Pack nodes into an uncompressed newc archive; missing parent directories are added.

    Uncompressed because unpacking costs an emulated guest more than reading a few more megabytes.

    Returns:
        The archive's bytes, equal for equal nodes.
    """
    wanted = {node.path: node for node in nodes}
    for path in tuple(wanted):
        for parent in Path(path).parents:
            if str(parent) != ".":
                wanted.setdefault(str(parent), Node(str(parent), stat.S_IFDIR | 0o755))
    packed = [_entry(number, wanted[path]) for number, path in enumerate(sorted(wanted), start=1)]
    body = b"".join([*packed, _entry(0, Node("TRAILER!!!", 0))])
    return body + bytes(-len(body) % 512)


def _entry(number: int, node: Node) -> bytes:
    name = node.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(node.mode) else 1
    fields = (number, node.mode, 0, 0, links, 0, len(node.data), 0, 0, *node.device, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    head += bytes(-len(head) % 4)
    return head + node.data + bytes(-len(node.data) % 4)


def module_files(tree: Path) -> dict[str, Path]:
    """Find all kernel modules below a directory.

    Returns:
        Path by module name (underscores, no suffix).
    """
    return {path.stem.replace("-", "_"): path for path in tree.rglob("*.ko")}


def module_dependencies(module: bytes) -> tuple[str, ...]:
    """Read which modules a module names as its dependencies, from the module's own `.modinfo`."""
    found = _MODULE_DEPENDENCIES.search(module)
    names = found.group(1).decode().split(",") if found else []
    return tuple(name.replace("-", "_") for name in names if name)


def load_order(wanted: Iterable[str], dependencies: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Order modules so that each comes after what it depends on, otherwise as asked for.

    Args:
        wanted: Module names in the order wished for.
        dependencies: What each available module depends on; a name that is absent is built into the kernel.

    Returns:
        The names with their dependencies, each once.
    """
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order or name not in dependencies:
            return
        for needed in dependencies[name]:
            visit(needed)
        order.append(name)

    for name in wanted:
        visit(name)
    return tuple(order)
