"""What of a host does not change while the machine runs."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

from kumulus_agent.host.inventory import read_boot_id
from kumulus_agent.host.processors import ONLINE_CPUS, parse_cpus
from kumulus_agent.host.traits import read_traits
from kumulus_agent.hosts.plan import Machine
from kumulus_agent.settings import AgentSettings


def agent_version() -> str:
    """Give the version of this distribution."""
    try:
        return version("kumulus")
    except PackageNotFoundError:
        return "unknown"


def read_machine(settings: AgentSettings) -> Machine:
    """Read what does not change while the machine runs."""
    uname = platform.uname()
    return Machine(
        boot_id=read_boot_id(),
        architecture=uname.machine,
        vcpus=os.cpu_count() or 1,
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        disk=shutil.disk_usage(settings.state_dir).total,
        kernel=uname.release,
        agent=agent_version(),
        traits=read_traits(),
        online=parse_cpus(ONLINE_CPUS.read_text()),
    )
