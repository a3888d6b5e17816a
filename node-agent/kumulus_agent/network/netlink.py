"""What we use of pyroute2, and no more of it in memory.

Its package imports every protocol that it speaks, half of what it takes; ours is rtnetlink.
"""

from kumulus_runtime.imports import register_lazily

register_lazily("pyroute2")

from pyroute2 import netns  # noqa: E402
from pyroute2.iproute.linux import AsyncIPRoute  # noqa: E402
from pyroute2.netlink.exceptions import NetlinkError  # noqa: E402
from pyroute2.netlink.rtnl import ndmsg  # noqa: E402

__all__ = ["AsyncIPRoute", "NetlinkError", "ndmsg", "netns"]
