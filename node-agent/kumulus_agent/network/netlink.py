"""What we use of pyroute2, and no more of it in memory.

Its package imports every protocol that it speaks, half of what it takes; ours are rtnetlink and conntrack.
"""

import socket

from kumulus_runtime.imports import register_lazily

register_lazily("pyroute2")

from pyroute2 import netns  # noqa: E402
from pyroute2.conntrack import AsyncConntrack  # noqa: E402
from pyroute2.iproute.linux import AsyncIPRoute  # noqa: E402
from pyroute2.netlink.exceptions import NetlinkError  # noqa: E402

__all__ = ["AsyncConntrack", "AsyncIPRoute", "NetlinkError", "netfilter_socket", "netns"]

_NETLINK_NETFILTER = 12


def netfilter_socket() -> socket.socket:
    """Open a socket of connection tracking and nftables in the namespace of the calling thread."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_NETFILTER)
