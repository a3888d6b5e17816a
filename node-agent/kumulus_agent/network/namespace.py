"""Network namespaces by name, as `ip netns` keeps them."""

from __future__ import annotations

from pathlib import Path

from kumulus_agent.network.command import run
from kumulus_agent.network.errors import DatapathUnavailable

DIRECTORY = Path("/run/netns")
BRIDGE_SETTINGS = Path("/proc/sys/net/bridge")

DATAPATH_SETTINGS = (
    # Bridged packets go through tables ip and arp of this namespace, where their connections are tracked.
    "net.bridge.bridge-nf-call-iptables=1",
    "net.bridge.bridge-nf-call-ip6tables=1",
    "net.bridge.bridge-nf-call-arptables=0",
    # The namespace itself is no party to any network.
    "net.ipv4.ip_forward=0",
)
NO_IPV6 = ("net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")


def path(name: str) -> Path:
    """Return the file that stands for the namespace."""
    return DIRECTORY / name


def entering(name: str | None) -> tuple[str, ...]:
    """Return what to put before a command so that it runs in the namespace (None: in the present one)."""
    return ("nsenter", f"--net={path(name)}", "--") if name else ()


def exists(name: str) -> bool:
    """Tell whether the namespace is there.

    Raises:
        DatapathUnavailable: its file is there, but the namespace is not mounted on it here.
    """
    file = path(name)
    if not file.exists():
        return False
    if file.stat().st_dev != Path("/proc/self/ns/net").stat().st_dev:
        raise DatapathUnavailable(
            f"{file} is not a network namespace: mount {DIRECTORY} with mount propagation, or delete the file"
        )
    return True


async def ensure(name: str) -> bool:
    """Make the namespace; False if it was there."""
    if exists(name):
        return False
    await run(("ip", "netns", "add", name))
    return True


async def absent(name: str) -> bool:
    """Delete the namespace; False if there was none."""
    if not exists(name):
        return False
    await run(("ip", "netns", "delete", name))
    return True


async def configure_datapath(name: str) -> None:
    """Set the datapath namespace's own kernel settings; the host's are left as found.

    Raises:
        DatapathUnavailable: br_netfilter is not loaded.
    """
    _require_bridge_filter()
    await _write(name, *DATAPATH_SETTINGS, *NO_IPV6)
    await run(("ip", "-netns", name, "link", "set", "lo", "up"))


async def disable_ipv6(name: str) -> None:
    """Let the namespace's interfaces have no IPv6 addresses, not even their own link-local ones."""
    await _write(name, *NO_IPV6)


async def _write(name: str, *settings: str) -> None:
    """Write kernel settings, key=value. /proc/sys/net is that of the namespace that its reader is in."""
    for setting in settings:
        key, _, value = setting.partition("=")
        await run((*entering(name), "tee", f"/proc/sys/{key.replace('.', '/')}"), stdin=value.encode())


def _require_bridge_filter() -> None:
    if not BRIDGE_SETTINGS.exists():
        raise DatapathUnavailable(
            "the kernel module br_netfilter is not loaded: run 'modprobe br_netfilter' on the host"
        )
