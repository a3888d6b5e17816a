"""The tunnels of a host put together."""

from __future__ import annotations

from pathlib import Path

from kumulus_agent.host.inventory import HOST_ROOT, missing_packages
from kumulus_agent.servers.boot_data import BootDataSource
from kumulus_agent.services.host_service import HostServices
from kumulus_agent.vpn.charon import Charons
from kumulus_agent.vpn.here import LedOut, VPNsHere
from kumulus_agent.vpn.keys import KeySource
from kumulus_api.host import VPN_PACKAGES
from kumulus_runtime.api_client import KubeClient


def vpns_of(client: KubeClient, routers: LedOut, source: BootDataSource, host: str, run_dir: Path) -> VPNsHere:
    """Give the tunnels of this host; `run_dir` is the same path on the host."""
    charons = Charons(HostServices(run_dir / "vpn-services"), run_dir / "vpn")
    return VPNsHere(client, routers, charons, host, key=KeySource(client, source).fetch, lacking=_lacking)


def _lacking() -> tuple[str, ...]:
    return tuple(name for name in missing_packages(HOST_ROOT) if name in VPN_PACKAGES)
