"""Network namespaces by name, as `ip netns` keeps them."""

from __future__ import annotations

import ctypes
import os
import socket
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

from kumulus_agent.network.command import run
from kumulus_agent.network.errors import DatapathUnavailable
from kumulus_agent.network.netlink import netns

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")

# Given to pyroute2, which would else run ldconfig to find it.
_LIBC = ctypes.CDLL(None, use_errno=True)

DIRECTORY = Path("/run/netns")
BRIDGE_SETTINGS = Path("/proc/sys/net/bridge")

ROUTER_SETTINGS = (
    *(
        f"net.ipv4.conf.{scope}.{key}"
        for scope in ("all", "default")
        for key in (
            # Packets of all networks arrive by that through which the gateway's host is reached.
            "rp_filter=0",
            "send_redirects=0",
            "accept_redirects=0",
            "arp_ignore=1",
            "arp_announce=2",
        )
    ),
    "net.ipv4.ip_forward=1",
    *(f"net.ipv6.conf.{scope}.{key}" for scope in ("all", "default") for key in ("forwarding=1", "accept_dad=0")),
    "net.ipv6.conf.default.accept_ra=0",
)

DATAPATH_SETTINGS = (
    # Bridged packets go through tables ip and arp of this namespace, where their connections are tracked.
    "net.bridge.bridge-nf-call-iptables=1",
    "net.bridge.bridge-nf-call-ip6tables=1",
    "net.bridge.bridge-nf-call-arptables=0",
    # The namespace itself is no party to any network.
    "net.ipv4.ip_forward=0",
)
FRAGMENT_SETTINGS = (
    # The kernel counts how many fragments come from an address between two of a packet, and has one count for all
    # tenants: who floods from an address that another has, too, would part that one's packets.
    "net.ipv4.ipfrag_max_dist=0",
    # What is not whole by then never will be: packets come from guests of this cloud.
    "net.ipv4.ipfrag_time=2",
    "net.netfilter.nf_conntrack_frag6_timeout=2",
)
FRAGMENT_MEMORY = ("net.ipv4.ipfrag_high_thresh", "net.netfilter.nf_conntrack_frag6_high_thresh")
_LEAST_FRAGMENT_MEMORY = 64 << 20
SERVICE_SETTINGS = (
    # Nothing passes through: a guest's packet would go on as if it were the server's own.
    "net.ipv4.ip_forward=0",
    # The address of the metadata service lies on another interface than the link that it is asked for on.
    "net.ipv4.conf.all.arp_ignore=0",
    "net.ipv4.conf.default.arp_ignore=0",
)
BALANCER_SETTINGS = (
    "net.ipv4.ip_forward=0",
    "net.ipv4.ip_nonlocal_bind=1",
    "net.ipv6.ip_nonlocal_bind=1",
    "net.ipv4.conf.all.arp_ignore=1",
    "net.ipv4.conf.default.arp_ignore=1",
    # With two links into one network each answers and asks for its own addresses, and hears of either's.
    *(f"net.ipv4.conf.{scope}.{key}" for scope in ("all", "default") for key in ("arp_announce=2", "rp_filter=0")),
    # The link to the other host has its address at once.
    *(f"net.ipv6.conf.{scope}.accept_dad=0" for scope in ("all", "default")),
    # Each connection to a member takes a port of the load balancer's address.
    "net.ipv4.ip_local_port_range=10240 65535",
    "net.core.somaxconn=4096",
)
PEERING_SETTINGS = tuple(
    f"net.ipv4.conf.{scope}.{key}"
    for scope in ("all", "default")
    for key in ("arp_ignore=1", "arp_announce=2", "rp_filter=0", "send_redirects=0", "accept_redirects=0")
)
NO_IPV6 = ("net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")

IPV6 = (
    "net.ipv6.conf.all.disable_ipv6=0",
    "net.ipv6.conf.default.disable_ipv6=0",
    "net.ipv6.conf.all.accept_dad=0",
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv6.conf.default.accept_ra=0",
)


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


def within(name: str, act: Callable[[], Result]) -> Result:
    """Call a function in the namespace and return its result.

    A thread of its own enters it and ends there. pyroute2's own way forks this process: a child that is told to end
    before it has reset the signal handlers passes the signal on to us, through the wake-up socket that it inherits.

    Raises:
        OSError: there is no such namespace.
    """
    answer: Future[Result] = Future()

    def enter() -> None:
        try:
            handle = os.open(path(name), os.O_RDONLY)
            try:
                netns.setns(handle, libc=_LIBC)
            finally:
                os.close(handle)
            answer.set_result(act())
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            answer.set_exception(error)

    thread = Thread(target=enter, name=f"netns-{name}")
    thread.start()
    thread.join()
    return answer.result()


def netlink_socket(name: str) -> int:
    """Open a route netlink socket that speaks of the namespace; return its descriptor, which the caller closes."""
    handle = within(name, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE))
    return handle.detach()


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


def configure_router(name: str) -> None:
    """Have the namespace forward, and speak for no address but those of the interface that is asked; IPv4 at first."""
    _write(name, *ROUTER_SETTINGS, *NO_IPV6)


def enable_ipv6_on(name: str, interface: str, *, enable: bool = True) -> None:
    """Let an interface of a router's namespace have IPv6 addresses: those that it is given, and its link-local one.

    Or none, which takes those away that it has.
    """
    _write(name, f"net.ipv6.conf.{interface}.disable_ipv6={0 if enable else 1}")


def fragment_memory(physical: int) -> int:
    """Give how many bytes of fragments may wait for others of their packets, on a host of so many bytes of memory.

    A network has no more waiting than `limits.FRAGMENTS_PER_SECOND` lets come: 4,000 a second for two seconds, and
    8,000 at once, of 2.3 KiB each where a packet has 1,450 bytes: 28 MiB. Memory that is not needed is not taken.
    """
    return max(physical // 64, _LEAST_FRAGMENT_MEMORY)


async def configure_datapath(name: str) -> None:
    """Set the datapath namespace's own kernel settings; the host's are left as found.

    Raises:
        DatapathUnavailable: br_netfilter is not loaded.
    """
    _require_bridge_filter()
    _write(name, *DATAPATH_SETTINGS, *NO_IPV6)
    await run(("ip", "-netns", name, "link", "set", "lo", "up"))


def configure_fragments(name: str) -> None:
    """Set how fragments wait in the datapath namespace: once its rules are there, with which the kernel knows of it."""
    memory = fragment_memory(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    _write(name, *FRAGMENT_SETTINGS, *(f"{key}={memory}" for key in FRAGMENT_MEMORY))


def disable_ipv6(name: str) -> None:
    """Let the namespace's interfaces have no IPv6 addresses, not even their own link-local ones."""
    _write(name, *NO_IPV6)


def enable_ipv6(name: str) -> None:
    """Let the namespace's interfaces have IPv6 addresses, those that they are given and their own link-local ones.

    They are used at once, as other hosts have equal ones that this one never meets.
    """
    _write(name, *IPV6)


def configure_services(name: str) -> None:
    """Set what the namespace of a network's servers needs, whatever it has inherited from the host."""
    _write(name, *SERVICE_SETTINGS)


def configure_balancer(name: str, *, ipv6: bool) -> None:
    """Set what the namespace of a load balancer needs: it forwards nothing, and may listen before it has addresses."""
    _write(name, *BALANCER_SETTINGS, *(IPV6 if ipv6 else NO_IPV6))


def choose_forwarding(name: str, *, wanted: bool) -> None:
    """Have the namespace of a load balancer pass packets on, which its rules have to bound, or none."""
    _write(name, *(f"{key}={int(wanted)}" for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")))


def configure_peering(name: str) -> None:
    """Set what the namespace needs by which pods reach servers: it speaks for the address that is asked, in IPv4."""
    _write(name, *PEERING_SETTINGS, *NO_IPV6)


def choose_link_local(name: str, interface: str, *, wanted: bool) -> None:
    """Have an interface make itself an address of its MAC, or none."""
    _write(name, f"net.ipv6.conf.{interface}.addr_gen_mode={0 if wanted else 1}")


def _write(name: str, *settings: str) -> None:
    """Write kernel settings, key=value. /proc/sys/net is that of the namespace that its reader is in."""

    def write() -> None:
        for setting in settings:
            key, _, value = setting.partition("=")
            Path("/proc/sys", *key.split(".")).write_text(value)

    within(name, write)


def _require_bridge_filter() -> None:
    if not BRIDGE_SETTINGS.exists():
        raise DatapathUnavailable(
            "the kernel module br_netfilter is not loaded: run 'modprobe br_netfilter' on the host"
        )
