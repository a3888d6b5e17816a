"""The kernel's tables that tenants share, as namespaces see them."""

from __future__ import annotations

from pathlib import Path

from kumulus_agent.network import tables
from kumulus_agent.network.namespace import within

CONNTRACK = "netfilter/nf_conntrack_max"


async def test_a_host_that_may_not_change_them_says_which(hosts):
    """In a namespace that is not the machine's first nothing is changed: each of the tables is named."""
    before = Path(f"/proc/sys/net/{CONNTRACK}").read_text()  # noqa: ASYNC240 - in memory
    least = {CONNTRACK: int(before) * 2, "ipv4/neigh/default/gc_thresh3": 65536}
    for name in (hosts[0].name, hosts[0].namespace):
        small = within(name, lambda: tables.enlarge(least))
        assert [text.partition("=")[0] for text in small] == [
            "net.netfilter.nf_conntrack_max",
            "net.ipv4.neigh.default.gc_thresh3",
        ]
        assert f"(it is {int(before)})" in small[0]
    assert Path(f"/proc/sys/net/{CONNTRACK}").read_text() == before  # noqa: ASYNC240 - in memory
    assert within(hosts[0].namespace, lambda: tables.enlarge({CONNTRACK: int(before)})) == ()
