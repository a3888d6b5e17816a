"""Errors of the datapath.

NetworkError                 something in the host's network could not be done
├── CommandFailed            a command ended badly or took too long
├── NetlinkFailed            the kernel refused a netlink request
├── NetworkAbsent            a port was to be plugged into a network that is not on this host yet
└── DatapathUnavailable      the host lacks something that the datapath needs
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kumulus_agent.network.netlink import NetlinkError


class NetworkError(Exception):
    """Something in the host's network could not be done; trying again later may help."""


class CommandFailed(NetworkError):
    """A command ended badly or took too long."""


class NetlinkFailed(NetworkError):
    """The kernel refused a netlink request."""


class NetworkAbsent(NetworkError):
    """A port was to be plugged into a network that is not on this host yet."""


class DatapathUnavailable(NetworkError):
    """The host lacks something that the datapath needs; an administrator has to act."""


@contextmanager
def netlink_errors(asked: str) -> Iterator[None]:
    """Translate the kernel's refusals; `asked` says what was to be done.

    Raises:
        NetlinkFailed: the kernel refused.
    """
    try:
        yield
    except NetlinkError as error:
        raise NetlinkFailed(f"{asked}: the kernel answered {error.code}: {error}") from error
