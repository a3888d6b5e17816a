"""The two hosts of which one has a load balancer's addresses: pure functions of what the operator has assigned.

Both have a link of the port's MAC into the network, and one of them the addresses, by VRRP, with the rule that leads
to the routes of that link. The MAC stays what it is when they go over: bridges and tunnels follow the frames by which
they are announced, and no neighbour has to learn anything. The standby reaches members from a port of its own.
"""

from __future__ import annotations

from dataclasses import replace

from kumulus_agent.failover.config import Instance, Tracked, VirtualRule
from kumulus_agent.routers.pair import STANDBY_DELAY, Pair
from kumulus_agent.routers.state import Address
from kumulus_api.load_balancer import LoadBalancerAssignment

LINK = "eth0"
"""The link of the port's MAC, in a load balancer's namespace."""
OWN_LINK = "eth1"
"""The link of the standby's own port."""
TABLE = 100
"""The routes by LINK: asked first on the host that has the addresses, and on no other."""
_PREFERENCE = 1000
_REFRESH_SECONDS = 2
"""Between announcements: a host that comes back and does not know yet may have drawn frames to itself for a moment."""
_FAMILIES = (4, 6)


def pair_of(given: LoadBalancerAssignment, host: str) -> Pair | None:
    """Give a host as one of a load balancer's two; None where the operator moves the addresses, or to another host."""
    takeover, standby = given.takeover, given.standby
    if takeover is None or standby is None or host not in (given.host, standby):
        return None
    active = host == given.host
    return Pair(
        given.load_balancer_id,
        host,
        active=active,
        priority=takeover.priority + (0 if active else 1),
        peer=standby if active else given.host,
        peer_tunnel=takeover.standby_tunnel_address if active else takeover.tunnel_address,
    )


def member(given: LoadBalancerAssignment, pair: Pair, tracked: Tracked | None = None) -> Instance:
    """Give a host's part in VRRP.

    Args:
        given: what was decided.
        pair: the host as one of the two.
        tracked: its HAProxy; a host without it gives the addresses away, also if no agent runs there. None if nothing
            is lost with it.
    """
    shared = [Address(LINK, item) for item in given.addresses]
    versions = {6 if ":" in item else 4 for item in given.addresses}
    rules = frozenset(VirtualRule(_PREFERENCE, TABLE, family=family) for family in _FAMILIES if family in versions)
    delay = 0 if pair.active else STANDBY_DELAY
    instance = replace(pair.member(shared, ()), rules=rules, tracked=tracked)
    return replace(instance, delay_seconds=delay, refresh_seconds=_REFRESH_SECONDS)
