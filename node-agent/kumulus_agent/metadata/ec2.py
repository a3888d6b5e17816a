"""EC2's form of metadata, as far as Nova has it: a tree whose directories are lists of names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from kumulus_agent.storage.seed import Seed

VERSIONS: Final = (
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
)
"""All are answered alike: what the later ones have more does not disturb a reader of an earlier one."""
Tree = Mapping[str, "Tree | str"]
_KEYS: Final = "public-keys"


@dataclass(frozen=True, slots=True)
class Guest:
    """What a guest is told.

    Attributes:
        seed: what its seed says, the metadata as they are now.
        address: its first IPv4 address, or empty.
        flavor: name, or empty.
        image: digest of the image that its root disk was made from, or empty.
        root: the guest's name of its root disk, or empty.
        public: the floating address that leads to it, or empty.
        password: what it has told as its password, or empty.
    """

    seed: Seed
    address: str = ""
    flavor: str = ""
    image: str = ""
    root: str = ""
    public: str = ""
    password: str = ""


def meta_data(guest: Guest) -> Tree:
    """Give the tree below `meta-data`."""
    seed = guest.seed
    plain = {
        "ami-id": _number("ami", guest.image.removeprefix("sha256:")),
        "ami-launch-index": "0",
        "hostname": seed.hostname,
        "instance-action": "none",
        "instance-id": _number("i", seed.instance_id.replace("-", "")),
        "instance-type": guest.flavor,
        "local-hostname": seed.hostname,
        "local-ipv4": guest.address,
        "public-hostname": seed.hostname,
        "public-ipv4": guest.public,
        "reservation-id": _number("r", seed.instance_id.replace("-", "")),
    }
    tree: dict[str, Tree | str] = {name: value for name, value in plain.items() if value}
    if seed.zone:
        tree["placement"] = {"availability-zone": seed.zone}
    if guest.root:
        tree["block-device-mapping"] = {"ami": guest.root, "root": f"/dev/{guest.root}"}
    if seed.ssh_keys:
        tree[_KEYS] = {str(number): {"openssh-key": key} for number, key in enumerate(seed.ssh_keys)}
    return tree


def _number(kind: str, digits: str) -> str:
    """Give an id in EC2's form: 17 hexadecimal digits."""
    return f"{kind}-{digits[:17]}" if digits else ""


def item(guest: Guest, path: tuple[str, ...]) -> str | bytes | None:
    """Give what is at a path below a version: a value, or a directory's names; None if there is nothing."""
    if not path:
        return "\n".join(["meta-data/", *(["user-data"] if guest.seed.user_data else [])])
    if path == ("user-data",):
        return guest.seed.user_data or None
    if path[0] != "meta-data":
        return None
    found: Tree | str | None = meta_data(guest)
    for name in path[1:]:
        found = found.get(name) if isinstance(found, Mapping) else None
    if isinstance(found, Mapping):
        return "\n".join(_listed(found, path))
    return found


def _listed(tree: Tree, path: tuple[str, ...]) -> Iterator[str]:
    for name in sorted(tree):
        # Keys are listed by number and name, as if they were no directories.
        if path == ("meta-data", _KEYS):
            yield f"{name}=key-{name}"
        else:
            yield f"{name}/" if isinstance(tree[name], Mapping) else name
