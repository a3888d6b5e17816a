"""The devices that consoles are made of, on a real guest."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kumulus_agent.compute.domain_spec import DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.compute.hypervisor import Hypervisor


async def test_screen_and_line_of_a_guest(hypervisor: Hypervisor, make_domain: Callable[..., DomainSpec]) -> None:
    """A running guest's screen greets each who asks for it, and its serial line is where it was told to be."""
    # The path of a unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory() as folder:
        line = Path(folder) / "serial.sock"
        spec = replace(make_domain(), graphics=True, serial_socket=str(line))
        await hypervisor.define_and_start(domain_xml(spec))
        async with asyncio.timeout(20):
            for _ in range(2):
                screen = await hypervisor.open_screen(spec.instance_id)
                screen.setblocking(False)
                reader, writer = await asyncio.open_unix_connection(sock=screen)
                assert (await reader.readline()).startswith(b"RFB 003.")
                writer.close()
            _, writer = await asyncio.open_unix_connection(line)
            writer.close()
        await hypervisor.destroy(spec.instance_id)
        with pytest.raises(HypervisorError):
            await hypervisor.open_screen(spec.instance_id)


async def test_a_guest_without_a_screen_says_so(hypervisor: Hypervisor, make_domain: Callable[..., DomainSpec]) -> None:
    """A guest that was started without a screen has none to open, and goes on."""
    spec = make_domain()
    await hypervisor.define_and_start(domain_xml(spec))
    with pytest.raises(HypervisorError, match="screen"):
        await hypervisor.open_screen(spec.instance_id)
    assert (await hypervisor.get_instance(spec.instance_id)) is not None
