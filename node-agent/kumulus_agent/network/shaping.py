"""Rates of interfaces, by token buckets (tc-tbf), and leading what an interface receives through another one."""

from __future__ import annotations

import errno

from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_NEWQDISC
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from kumulus_agent.network import link
from kumulus_agent.network.errors import NetlinkFailed, netlink_errors
from kumulus_agent.network.netlink import AsyncIPRoute, NetlinkError
from kumulus_agent.network.state import Bucket

_ROOT, _INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
"""TC_H_ROOT and TC_H_INGRESS: where disciplines are attached."""
_INGRESS_HANDLE = 0xFFFF0000
_ALL_PROTOCOLS = 0x0003
"""ETH_P_ALL."""
_WAIT = 0.1
"""Seconds of the rate that may wait beside what the bucket holds: more would be late, and is dropped."""
_AT_PEAK = 64 * 1024
"""Bytes that pass at once at the peak rate: as many as a guest hands over at once."""
_REPLACE = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
_TICK = 64e-9
"""Seconds of the unit in which the kernel tells how large a bucket is (PSCHED_SHIFT is 6)."""
_MISSING = {errno.ENOENT, errno.EOPNOTSUPP}
_PROBE = "kiprobe"
QUEUE_KIND = "ifb"


async def observe(ipr: AsyncIPRoute, by_index: dict[int, str]) -> tuple[dict[str, Bucket], frozenset[str]]:
    """Read which interfaces have a rate, and of which all that they receive is led elsewhere."""
    buckets, redirected = {}, set()
    with netlink_errors("read the queueing disciplines"):
        async for message in await ipr.get_qdiscs():
            name, kind = by_index.get(message["index"], ""), message.get_attr("TCA_KIND")
            if kind == "ingress":
                redirected.add(name)
            elif kind == "tbf":
                found = message.get_attr("TCA_OPTIONS").get_attr("TCA_TBF_PARMS")
                buckets[name] = Bucket(found["rate"], round(found["buffer"] * _TICK * found["rate"]), found["peak"])
    return buckets, frozenset(redirected)


async def unsupported(ipr: AsyncIPRoute) -> str:
    """Say what the kernel lacks to limit rates; empty if it has all of it, as modules that it loads by itself."""
    asked = "an interface of type ifb (module ifb)"
    try:
        await ensure_queue(ipr, _PROBE)
        asked = "the queueing discipline tbf (module sch_tbf)"
        await set_rate(ipr, _PROBE, Bucket(1_000_000, 65536))
        asked = "redirected traffic (modules sch_ingress, cls_u32, act_mirred)"
        await redirect(ipr, _PROBE, _PROBE)
    except NetlinkFailed as failure:
        if isinstance(failure.__cause__, NetlinkError) and failure.__cause__.code in _MISSING:
            return f"the host's kernel lacks {asked}"
        raise
    finally:
        await link.absent(ipr, _PROBE)
    return ""


async def ensure_queue(ipr: AsyncIPRoute, name: str) -> None:
    """Make an ifb, and bring it up."""
    with netlink_errors(f"make interface {name}"):
        if await link.index(ipr, name) is None:
            await ipr.link("add", ifname=name, kind=QUEUE_KIND)
        await ipr.link("set", index=await link.present(ipr, name), state="up")


async def set_rate(ipr: AsyncIPRoute, name: str, bucket: Bucket) -> None:
    """Let an interface send no faster than this."""
    limit = bucket.burst + round(bucket.rate * _WAIT)
    with netlink_errors(f"limit {name} to {bucket.rate} bytes/s"):
        index = await link.present(ipr, name)
        if bucket.peak:
            await ipr.nlm_request(_with_peak(index, bucket, limit), RTM_NEWQDISC, _REPLACE)
        else:
            await ipr.tc("replace", "tbf", index=index, rate=bucket.rate, burst=bucket.burst, limit=limit)


def _with_peak(index: int, bucket: Bucket, limit: int) -> tcmsg:
    """Give the message that `AsyncIPRoute.tc` would send if it did not leave out the peak."""
    parms = {
        "rate": bucket.rate,
        "peak": bucket.peak,
        "limit": limit,
        "buffer": round(bucket.burst / bucket.rate / _TICK),
        "mtu": round(_AT_PEAK / bucket.peak / _TICK),
    }
    options = [["TCA_TBF_PARMS", parms], ["TCA_TBF_RTAB", True], ["TCA_TBF_PTAB", True]]
    message = tcmsg()
    message["index"], message["parent"] = index, _ROOT
    message["attrs"] = [["TCA_KIND", "tbf"], ["TCA_OPTIONS", {"attrs": options}]]
    return message


async def remove_rate(ipr: AsyncIPRoute, name: str) -> None:
    """Let an interface send as fast as it can."""
    await _remove(ipr, name, _ROOT)


async def redirect(ipr: AsyncIPRoute, name: str, through: str) -> None:
    """Lead all that an interface receives through another one, and then on as if nothing had been."""
    await unredirect(ipr, name)
    with netlink_errors(f"lead what {name} receives through {through}"):
        index = await link.present(ipr, name)
        action = {
            "kind": "mirred",
            "direction": "egress",
            "action": "redirect",
            "ifindex": await link.present(ipr, through),
        }
        await ipr.tc("add", "ingress", index=index)
        try:
            await ipr.tc(
                "add-filter",
                "u32",
                index=index,
                parent=_INGRESS_HANDLE,
                prio=1,
                protocol=_ALL_PROTOCOLS,
                target=0x10000,
                keys=["0x0/0x0+0"],
                action=action,
            )
        except BaseException:
            # An interface with the discipline counts as redirected.
            await unredirect(ipr, name)
            raise


async def unredirect(ipr: AsyncIPRoute, name: str) -> None:
    """Lead what an interface receives straight on."""
    await _remove(ipr, name, _INGRESS)


async def _remove(ipr: AsyncIPRoute, name: str, parent: int) -> None:
    index = await link.index(ipr, name)
    if index is None:
        return
    with netlink_errors(f"remove the queueing discipline {parent:x} of {name}"):
        try:
            await ipr.tc("del", index=index, parent=parent)
        except NetlinkError as error:
            if error.code not in (errno.ENOENT, errno.EINVAL):
                raise
