"""What the lab changes on the machine for itself alone, and how it is undone: bridge, routes, masquerading, mounts."""

import shutil
from pathlib import Path

from kumulus_lab import commands
from kumulus_lab.settings import LabSettings


def ensure_link(name: str, *add: str) -> None:
    """Make a link unless one of that name exists; ``add`` are the words after ``ip link add``."""
    if not link_exists(name):
        commands.run(["ip", "link", "add", name, *add])


def link_exists(name: str) -> bool:
    """Whether the machine has a link of that name."""
    return Path("/sys/class/net", name).exists()


def remove_link(name: str) -> None:
    """Remove a link; absent is success."""
    # One whose other end's namespace is gone goes by itself, at any time.
    commands.run(["ip", "link", "del", name], check=False)
    if link_exists(name):
        commands.run(["ip", "link", "del", name])


def ensure_network(lab: LabSettings) -> None:
    """The bridges, one with the machine's address, routes to the pods, and masquerading towards the outside."""
    ensure_link(lab.physical_bridge, "type", "bridge")
    commands.run(["ip", "link", "set", lab.physical_bridge, "up"])
    ensure_link(lab.bridge, "type", "bridge")
    commands.run(["ip", "addr", "replace", f"{lab.gateway}/{lab.subnet.prefixlen}", "dev", lab.bridge])
    commands.run(["ip", "link", "set", lab.bridge, "up"])
    for host in lab.host_specs:
        commands.run(["ip", "route", "replace", host.pod_cidr, "via", host.address, "dev", lab.bridge])
    commands.run(["nft", "--file", "-"], stdin=masquerading(lab))


def masquerading(lab: LabSettings) -> str:
    """An nftables script that replaces the lab's table as a whole."""
    sources = f"{{ {lab.subnet}, {lab.pods} }}"
    return f"""table ip {lab.name} {{}}
delete table ip {lab.name}
table ip {lab.name} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat
    ip saddr {sources} oifname != "{lab.bridge}" masquerade
  }}
}}
"""


def remove_network(lab: LabSettings) -> None:
    """Remove what ``ensure_network`` made."""
    if shutil.which("nft"):  # absent where no lab has been
        commands.run(["nft", "delete", "table", "ip", lab.name], check=False)
    remove_link(lab.bridge)
    remove_link(lab.physical_bridge)


def nameservers(resolv_conf: str) -> tuple[str, ...]:
    """The IPv4 nameservers in a resolv.conf that hosts can reach: those on loopback they cannot."""
    words = [line.split() for line in resolv_conf.splitlines()]
    found = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver"]
    return tuple(address for address in found if not address.startswith("127.") and ":" not in address)


def mounts_below(folder: Path, mountinfo: str) -> tuple[Path, ...]:
    """Mount points at or below a folder in the text of /proc/self/mountinfo, the deepest last mounted first."""
    points = [Path(line.split()[4].replace("\\040", " ")) for line in mountinfo.splitlines()]
    return tuple(point for point in reversed(points) if point.is_relative_to(folder))


def unmount_below(folder: Path) -> None:
    """Unmount everything at or below a folder."""
    for point in mounts_below(folder, Path("/proc/self/mountinfo").read_text()):
        commands.run(["umount", point])
