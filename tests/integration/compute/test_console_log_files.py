"""The file with what a guest writes on its console, and who holds it: a real libvirtd with its virtlogd."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from kumulus_agent.compute.domain_spec import DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.host.boot_sector import GREETING
from kumulus_agent.migration.console_log import is_being_written


async def test_it_is_known_when_the_last_word_is_written(
    hypervisor: Hypervisor, make_domain: Callable[..., DomainSpec], eventually: Callable[..., Awaitable[None]]
) -> None:
    """A log is being written as long as its guest runs, and is whole soon after that has ended."""
    spec = make_domain()
    log = Path(str(spec.console_log))
    assert not is_being_written(log)
    await hypervisor.define_and_start(domain_xml(spec))

    async def greeted() -> bool:
        return GREETING in log.read_bytes()  # noqa: ASYNC240 - a test

    async def whole() -> bool:
        return not is_being_written(log)

    await eventually(greeted)
    assert is_being_written(log)
    await hypervisor.destroy(spec.instance_id)
    await eventually(whole, 3.0)
