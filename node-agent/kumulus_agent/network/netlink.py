"""What we use of pyroute2, and no more of it in memory.

Its package imports every protocol that it speaks, half of what it takes; ours are rtnetlink and conntrack. Their
modules make one mock with `unittest`, for a kind of socket that nobody here opens: that package is 0.8 MiB.
"""

import socket

from kumulus_runtime.imports import register_lazily, without_mocks

register_lazily("pyroute2")

with without_mocks():
    from pyroute2 import netns
    from pyroute2.conntrack import AsyncConntrack
    from pyroute2.iproute.linux import AsyncIPRoute
    from pyroute2.netlink.exceptions import NetlinkError

__all__ = ["AsyncConntrack", "AsyncIPRoute", "NetlinkError", "netfilter_socket", "netns"]

_NETLINK_NETFILTER = 12


def netfilter_socket() -> socket.socket:
    """Open a socket of connection tracking and nftables in the namespace of the calling thread."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_NETFILTER)
