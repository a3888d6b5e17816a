"""Names of the Leases by which hosts show that they live."""

import pytest

from kumulus_runtime.lease import host_lease_name, host_of_lease

LABEL = "n" * 63


@pytest.mark.parametrize(
    "node", ["h1", "ip-10-0-0-1.eu-west.compute.internal", "h" * 248, "h" * 249, ".".join([LABEL] * 3 + ["n" * 61])]
)
def test_a_lease_leads_back_to_its_host(node):
    """Every name of a Node gives a name that a Lease may have, from which the Node's is known again."""
    assert len(host_lease_name(node)) <= 253
    assert host_of_lease(host_lease_name(node)) == node


def test_other_leases_are_no_hosts():
    """The operator's own Lease speaks for no host."""
    assert host_of_lease("kumulus-operator") is None
