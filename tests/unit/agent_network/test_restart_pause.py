"""When a DHCP server that has ended is started again."""

from __future__ import annotations

from itertools import pairwise

from kumulus_agent.networks.pauses import restart_pause
from kumulus_agent.services.dnsmasq import unit, vni_of


def test_the_first_restart_is_soon_and_later_ones_are_bounded() -> None:
    """One death is answered within a fifth of a second; a server that dies at once never keeps the host busy."""
    pauses = [restart_pause(deaths) for deaths in range(1, 40)]
    assert pauses[0] <= 0.2
    assert all(later >= earlier for earlier, later in pairwise(pauses))
    assert pauses[-1] == 30.0


def test_a_network_is_found_by_its_service() -> None:
    """The name of a service says which network's it is; other services are nobody's."""
    assert vni_of(unit(0x2A)) == 0x2A
    assert vni_of("kumulus-test-77") is None
