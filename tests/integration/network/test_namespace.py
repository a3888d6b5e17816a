"""What is done inside a namespace is done there, and to nobody else's harm."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kumulus_agent.network import namespace
from kumulus_agent.network.netlink import AsyncIPRoute

NAME = "ktest-within"


@pytest.fixture
async def name() -> AsyncIterator[str]:
    """A namespace of the test's own."""
    await namespace.absent(NAME)
    await namespace.ensure(NAME)
    yield NAME
    await namespace.absent(NAME)


async def test_within_is_there_and_we_stay_here(name: str) -> None:
    """A function runs in the namespace, and its caller's thread stays where it was."""
    before = _present()
    assert namespace.within(name, _present) == namespace.path(name).stat().st_ino != before
    assert _present() == before


async def test_absent_namespace(name: str) -> None:
    """A namespace that is not there is an error, and no function runs."""
    ran = []
    with pytest.raises(FileNotFoundError):
        namespace.within(f"{name}-absent", lambda: ran.append(1))
    assert not ran


async def test_netlink_socket_sees_only_the_namespace(name: str) -> None:
    """A netlink socket opened there lists that namespace's links."""
    async with AsyncIPRoute(fileno=namespace.netlink_socket(name), groups=0) as inner:
        links = [message.get_attr("IFLA_IFNAME") async for message in await inner.get_links()]
    assert links == namespace.within(name, lambda: [link for _, link in socket.if_nameindex()])


async def test_settings_are_written_there_only(name: str) -> None:
    """IPv6 is switched off in the namespace and left as it was outside."""
    file = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
    before = _read(file)
    namespace.disable_ipv6(name)
    assert namespace.within(name, file.read_text).strip() == "1"
    assert _read(file) == before


def _present() -> int:
    """The calling thread's network namespace."""
    return Path("/proc/thread-self/ns/net").stat().st_ino


def _read(file: Path) -> str:
    return file.read_text()


async def test_nothing_signals_this_process(name: str) -> None:
    """Opening sockets in namespaces never makes this process believe that it was told to end."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    try:
        for _ in range(20):
            async with AsyncIPRoute(fileno=namespace.netlink_socket(name), groups=0):
                await asyncio.sleep(0)
        assert not told.is_set()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
