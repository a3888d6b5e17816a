"""Tunnels of routers: real charons of the product against a real strongSwan at another site, with real packets."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from kumulus_agent.network.command import run
from kumulus_agent.network.namespace import within
from kumulus_agent.routers import pair
from kumulus_api.network_trace import HopKind, TraceVerdict
from kumulus_lab.testing.packet_traces import told
from kumulus_lab.testing.routed import captured, eventually, routed_cloud
from kumulus_lab.testing.tunnelled import DESK, PEER, SITE, TunnelledCloud, tunnelled_cloud

RED = "red1"
KEY = b"as long as it should be"
ROUTER = "r"
IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_MTU = 10, 2, 14
"""See ip(7)."""
IPV4, UDP = b"\x08\x00", 17


@pytest.fixture
async def cloud(prefix, three_hosts) -> AsyncIterator[TunnelledCloud]:
    """A network on three hosts, and a site."""
    async with AsyncExitStack() as stack:
        routed = await stack.enter_async_context(routed_cloud(prefix, three_hosts))
        routed.network(RED, 0x101, "10.0.1.0/24")
        yield await stack.enter_async_context(tunnelled_cloud(prefix, routed))


async def begun(cloud, gateway="a", **terms) -> str:
    """A router and its tunnel, established; give the router's id."""
    router_id = cloud.routed.router(ROUTER, RED, gateway=gateway)
    await cloud.site.expect(KEY.decode())
    cloud.connect(router_id, gateway, KEY, **terms)
    await cloud.until("True", "Established")
    return router_id


@contextmanager
def outside(cloud):
    """Capture what the hosts send to the external network, and get from there."""
    with ExitStack() as stack:
        machine = cloud.routed.outside.namespace
        links = [stack.enter_context(captured(machine, f"p{number}")) for number in range(3)]
        yield lambda seconds: [frame for link in links for frame in link(seconds)]


def inner(frames: list[bytes]) -> list[bytes]:
    """Those IPv4 packets among frames that are between the two sites' networks in clear."""
    sites = (IPv4Address("10.0.1.0").packed[:3], DESK.packed[:3])
    packets = [frame[14:] for frame in frames if frame[12:14] == IPV4]
    return [packet for packet in packets if packet[12:15] in sites or packet[16:19] in sites]


def encrypted(frames: list[bytes]) -> list[bytes]:
    """Those frames that are ESP in UDP, which begins with an SPI and not with the four zeros of IKE."""
    packets = [frame[14:] for frame in frames if frame[12:14] == IPV4]
    datagrams = [packet[20:] for packet in packets if packet[9] == UDP]
    at_4500 = [found for found in datagrams if int.from_bytes(found[:2]) == 4500 or int.from_bytes(found[2:4]) == 4500]
    return [found for found in at_4500 if found[8:12] != bytes(4)]


def daemons(cloud) -> list[int]:
    """The processes of the cloud's tunnels."""
    found = [cloud.services(node).observe().values() for node in cloud.routed.nodes]
    return [record.process.pid for records in found for record in records]


async def test_packets_between_the_sites_pass_encrypted_and_not_in_clear(cloud):
    """What guests and the site send each other crosses the outside as ESP in UDP alone, whichever host a guest is on.

    Also of a guest whose own host has a floating address for it: peers' networks are behind the tunnel, not outside.
    """
    near = await cloud.routed.boot("near", "a", RED, "10.0.1.11")
    far = await cloud.routed.boot("far", "c", RED, "10.0.1.13")
    floating = await cloud.routed.boot("floating", "c", RED, "10.0.1.14")
    router_id = await begun(cloud)
    cloud.routed.floating("f", "203.0.113.10", router_id, "c", fixed="10.0.1.14")
    await cloud.routed.settled()
    with outside(cloud) as frames:
        for guest in (near, far, floating):
            assert await guest.reaches(DESK), guest.namespace
            assert await cloud.site.desk.reaches(guest.address), guest.namespace
        stream = await far.connect(cloud.site.desk, DESK, 8080)
        assert stream is not None
        assert await stream.carries()
        found = frames(0.2)
    assert inner(found) == []
    assert len(encrypted(found)) >= 12
    # The rest still goes out as before.
    assert await near.reaches(PEER)


async def test_a_large_packet_learns_what_the_tunnel_bears(cloud):
    """A packet that is too large for the tunnel is answered with its MTU, and not lost in silence."""
    guest = await cloud.routed.boot("near", "a", RED, "10.0.1.11")
    await begun(cloud, mtu=1300)
    with within(guest.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        sender.connect((str(DESK), 9))

        async def learned() -> bool:
            with suppress(OSError):  # the answer to the former one
                sender.send(bytes(1373))
            return sender.getsockopt(socket.IPPROTO_IP, IP_MTU) == 1300

        await eventually(learned)
    assert await guest.reaches(DESK, "-s", "1200")


async def test_another_key_never_establishes_and_says_why(cloud):
    """With a wrong key there is no tunnel, the status says that the key is refused, and nothing leaves in clear.

    The right key helps without anything else being done.
    """
    guest = await cloud.routed.boot("near", "a", RED, "10.0.1.11")
    router_id = cloud.routed.router(ROUTER, RED, gateway="a")
    await cloud.site.expect("what the site has")
    cloud.connect(router_id, "a", KEY)
    await cloud.until("False", "AuthenticationFailed")
    await cloud.routed.settled()
    with outside(cloud) as frames:
        assert not await guest.reaches(DESK)
        assert inner(frames(0.1)) == []
    assert cloud.told() == ("False", "AuthenticationFailed")
    assert KEY.decode() not in str(cloud.routed.api.statuses)
    cloud.connect(router_id, "a", b"what the site has")
    await cloud.until("True", "Established")
    assert await guest.reaches(DESK)


async def test_policies_that_do_not_meet_say_so(cloud):
    """Where the two have no cipher in common that is said, for keys and for packets."""
    router_id = cloud.routed.router(ROUTER, RED, gateway="a")
    await cloud.site.expect(KEY.decode(), ike="aes128-sha512-modp4096")
    cloud.connect(router_id, "a", KEY)
    await cloud.until("False", "NoProposalChosen")


@pytest.mark.parametrize(
    ("terms", "site"),
    [
        ({"ike": {"version": "IKEv1"}}, {"version": 1}),
        (
            {
                "ike": {"encryption": "AES256GCM", "integrity": "SHA384", "dhGroup": "Group20"},
                "esp": {"encryption": "AES256GCM", "pfs": "Group31"},
            },
            {"ike": "aes256gcm16-prfsha384-ecp384", "esp": "aes256gcm16-curve25519"},
        ),
        ({"initiator": "ResponseOnly"}, {"begin": True}),
    ],
    ids=["IKEv1", "GCM", "ResponseOnly"],
)
async def test_other_terms_establish(cloud, terms, site):
    """IKEv1, combined ciphers, and a peer that begins: packets pass."""
    guest = await cloud.routed.boot("near", "a", RED, "10.0.1.11")
    router_id = cloud.routed.router(ROUTER, RED, gateway="a")
    begin = site.get("begin", False)
    await cloud.site.expect(KEY.decode(), **{**site, "begin": False})
    cloud.connect(router_id, "a", KEY, **terms)
    if begin:
        await cloud.until("False", "WaitingForPeer")
        await cloud.site.expect(KEY.decode(), **site)
    await cloud.until("True", "Established")
    assert await guest.reaches(DESK)


async def test_a_changed_connection_ends_and_a_deleted_one_leaves_nothing(cloud):
    """What was established by former terms ends at once; after deletion no process, file, link or rule is left."""
    guest = await cloud.routed.boot("near", "a", RED, "10.0.1.11")
    router_id = cloud.routed.router(ROUTER, RED, gateway="a")
    await cloud.routed.settled()
    node = cloud.routed.node("a")
    before = plain(await node.shown())
    await begun(cloud)
    assert await guest.reaches(DESK)
    cloud.connect(router_id, "a", KEY, peerID="10.9.9.9")
    await cloud.until("False", "AuthenticationFailed")
    assert await cloud.site.established() == 0
    assert not await guest.reaches(DESK)
    cloud.connect(router_id, "a", KEY)
    await cloud.until("True", "Established")
    cloud.connect(router_id, "a", KEY, up=False)
    await cloud.until("False", "TakenDown")
    await eventually(lambda: _nothing(cloud))
    assert await cloud.site.established() == 0
    cloud.connect(router_id, "a", KEY)
    await cloud.until("True", "Established")
    cloud.routed.api.delete("VPNConnection", "office")
    cloud.tunnelled(ROUTER, [])
    await eventually(lambda: _nothing(cloud))
    await cloud.routed.settled()
    after = await node.shown()
    assert plain(after) == before
    assert "10.20.0.0" not in str(after)
    assert [str(path) for path in (cloud.directory / "a" / "vpn").iterdir()] == []


def plain(shown: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """What is in namespaces but for rules, whose handles are others after each replacement."""
    return {name: {part: what for part, what in found.items() if part != "nft"} for name, found in shown.items()}


async def _nothing(cloud) -> bool:
    return not daemons(cloud)


async def test_new_keys_interrupt_nothing(cloud):
    """When the two agree on new keys, connections through the tunnel go on, and nothing is told."""
    guest = await cloud.routed.boot("near", "a", RED, "10.0.1.11")
    await begun(cloud)
    stream = await guest.connect(cloud.site.desk, DESK, 8080)
    statuses = len(cloud.routed.api.statuses)
    for what in ("child", "ike"):
        await cloud.site.renew(what)
        assert await stream.carries(), what
        assert await stream.carries(back=True), what
    assert len(cloud.routed.api.statuses) == statuses


async def test_a_peer_that_ends_it_is_told_and_connected_again(cloud):
    """Bidirectional means that this end begins again when the peer has ended the tunnel."""
    guest = await cloud.routed.boot("near", "a", RED, "10.0.1.11")
    await begun(cloud)
    await cloud.site.hang_up()
    await eventually(lambda: guest.reaches(DESK), 20)
    await cloud.until("True", "Established")


async def test_a_daemon_that_dies_comes_back(cloud):
    """A killed charon is started again and the tunnel established anew, without the API having changed."""
    guest = await cloud.routed.boot("near", "a", RED, "10.0.1.11")
    await begun(cloud)
    (pid,) = daemons(cloud)
    os.kill(pid, signal.SIGKILL)

    async def anew() -> bool:
        return pid not in daemons(cloud) and len(daemons(cloud)) == 1 and await guest.reaches(DESK)

    await eventually(anew, 20)
    await cloud.until("True", "Established")


async def test_a_new_agent_finds_tunnels_and_leaves_them(cloud):
    """An agent that begins anew changes nothing of what is established: same process, same connection."""
    guest = await cloud.routed.boot("near", "a", RED, "10.0.1.11")
    await begun(cloud)
    node, before = cloud.routed.node("a"), daemons(cloud)
    statuses = len(cloud.routed.api.statuses)
    await cloud.stop()
    await node.stop()
    assert await guest.reaches(DESK)
    node.start({"near": guest.port})
    made = cloud.begin(node)
    await node.networks.ensure([guest.port.network])
    await cloud.routed.settled()
    await made.reconcile(cloud.routed.api.objects["Router", "red", ROUTER]["spec"]["assignment"]["routerID"])
    await made.sweep()
    assert daemons(cloud) == before
    assert len(cloud.routed.api.statuses) == statuses
    assert await guest.reaches(DESK)


async def test_an_agent_that_ends_midway_tells_nothing(cloud):
    """What is under way when an agent hangs up is no fault of charon's, and is not told as one."""
    router_id = await begun(cloud)
    made = cloud.vpns[cloud.routed.node("a").host.name]
    statuses = len(cloud.routed.api.statuses)
    await asyncio.gather(made.reconcile(router_id), made.close())
    assert len(cloud.routed.api.statuses) == statuses
    assert len(daemons(cloud)) == 1


async def test_no_key_is_in_a_file_or_a_command_line(cloud):
    """While a tunnel is established its key is in no file and no argument, and files are for nobody else."""
    await begun(cloud)
    (pid,) = daemons(cloud)
    told = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]  # noqa: ASYNC240 - in memory
    assert KEY not in b"".join(told)
    folder = cloud.directory / "a"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if KEY in path.read_bytes()] == []
    assert all(path.stat().st_mode & 0o077 == 0 for path in (folder / "vpn").iterdir())


async def test_a_host_without_strongswan_says_so(cloud):
    """A router whose host lacks the packages has no tunnel, says which ones, and sends nothing there in clear."""
    guest = await cloud.routed.boot("near", "a", RED, "10.0.1.11")
    cloud.lacking = ("charon-systemd",)
    router_id = cloud.routed.router(ROUTER, RED, gateway="a")
    cloud.connect(router_id, "a", KEY)
    await cloud.until("False", "PackageMissing")
    assert "charon-systemd" in str(cloud.routed.api.statuses[-1])
    await cloud.routed.settled()
    with outside(cloud) as frames:
        assert not await guest.reaches(DESK)
        assert inner(frames(0.1)) == []


async def test_the_standby_establishes_anew_when_it_takes_over(cloud):
    """When the gateway's host is cut off its standby connects to the peer, and guests of a third host pass again.

    So do those of the standby, which goes by the other host before.
    """
    guest = await cloud.routed.boot("third", "c", RED, "10.0.1.13")
    near = await cloud.routed.boot("near", "b", RED, "10.0.1.12")
    await begun(cloud, gateway="a/b")
    assert await guest.reaches(DESK)
    assert await near.reaches(DESK)
    assert len(daemons(cloud)) == 1
    await cloud.routed.settled()
    await eventually(lambda: _standby_waits(cloud), pair.STANDBY_DELAY + 10)
    host = cloud.routed.node("a").host
    for link, where in (("under", host.name), ("phys", host.namespace)):
        await run(("ip", "-netns", where, "link", "set", link, "down"))
    start = time.monotonic()
    await eventually(lambda: guest.reaches(DESK), 40)
    print(f"established again after {time.monotonic() - start:.1f} s")
    assert time.monotonic() - start < 15
    assert await near.reaches(DESK)


async def _standby_waits(cloud) -> bool:
    keepalived = cloud.routed.node("b").keepalived
    roles = [keepalived.role(name) for name in keepalived.names()]
    return [str(role) for role in roles] == ["BACKUP"]


async def test_tunnels_of_one_router_come_and_go_apart(cloud):
    """Another tunnel of a router begins and ends in the same charon, and the first goes on with its connections."""
    routed = cloud.routed
    routed.network("branch", 0x102, "10.0.2.0/24")
    guest = await routed.boot("here", "a", RED, "10.0.1.11")
    there = await routed.boot("there", "c", "branch", "10.0.2.11")
    router_id = await begun(cloud)
    stream = await guest.connect(cloud.site.desk, DESK, 8080)
    before = daemons(cloud)
    other = routed.router("s", "branch", gateway="b", address="203.0.113.60")
    far = {"localAddress": "203.0.113.60", "localID": "203.0.113.60", "peerAddress": "203.0.113.2", "peerID": "head"}
    far |= {"localSubnets": ["10.0.2.0/24"], "peerCIDRs": ["10.0.1.0/24"]}
    cloud.connect(other, "b", KEY[::-1], name="home", router="s", **far)
    own = {"localID": "head", "peerAddress": "203.0.113.60", "peerID": "203.0.113.60", "peerCIDRs": ["10.0.2.0/24"]}
    cloud.connect(router_id, "a", KEY[::-1], name="branch", **own)
    cloud.tunnelled(ROUTER, [SITE, "10.0.2.0/24"])
    for name in ("home", "branch"):
        await cloud.until("True", "Established", name=name)
    await eventually(lambda: guest.reaches(there.address))
    assert await stream.carries()
    routed.api.delete("VPNConnection", "branch")
    await cloud.until("False", "NoProposalChosen", name="home")
    assert await stream.carries()
    assert set(before) <= set(daemons(cloud))
    assert cloud.told() == ("True", "Established")


async def test_a_trace_tells_of_the_tunnel(cloud):
    """From any host a packet for the site, and its answer, go by the tunnel; without a tunnel it is dropped."""
    near = await cloud.routed.boot("near", "a", RED, "10.0.1.11")
    far = await cloud.routed.boot("far", "c", RED, "10.0.1.12")
    router_id = await begun(cloud)
    leads = cloud.routed.node("a").host.name
    for guest in (near, far):
        there = await told(cloud.routed, guest.port.port, str(DESK), protocol=1)
        assert there.answered is await guest.reaches(DESK) is True, there
        tunnelled = [hop for hop in (*there.hops, *there.back) if "VPNConnection" in hop.message]
        assert [(hop.host, hop.what, hop.verdict) for hop in tunnelled] == [
            (leads, HopKind.EXTERNAL, TraceVerdict.PASSED)
        ] * 2, there
    cloud.connect(router_id, "a", KEY, up=False)
    await cloud.until("False", "TakenDown")
    await eventually(lambda: _nothing(cloud))
    there = await told(cloud.routed, "near", str(DESK), protocol=1)
    assert (there.verdict, "tunnel" in there.last.message) == (TraceVerdict.DROPPED, True), there


@pytest.mark.parametrize("between", ["provider", "overlay"])
async def test_two_routers_of_one_cloud_have_a_tunnel(cloud, between):
    """Each is the other's peer, on another host or the same, by a physical network or an overlay."""
    routed = cloud.routed
    routed.network("branch", 0x102, "10.0.2.0/24")
    here = await routed.boot("here", "a", RED, "10.0.1.11")
    there = await routed.boot("there", "c", "branch", "10.0.2.11")
    addresses = ("203.0.113.50", "203.0.113.60")
    if between == "overlay":
        routed.external = routed.network("lake", 0x300, "198.51.100.0/24")
        addresses = ("198.51.100.50", "198.51.100.60")
    for host in "ab":
        ids = [
            routed.router("r", RED, gateway="a", address=addresses[0]),
            routed.router("s", "branch", gateway=host, address=addresses[1]),
        ]
        if between == "overlay":
            routed.outer.clear()
            for letter, name, address in (("a", "r", addresses[0]), (host, "s", addresses[1])):
                routed.told(letter, f"0e:{ord(name):02x}:00:00:00:ee", address)
        sides = (("r", "office", "10.0.1.0/24", 0, "a"), ("s", "home", "10.0.2.0/24", 1, host))
        for router, name, own, number, letter in sides:
            cloud.connect(
                ids[number],
                letter,
                KEY,
                name=name,
                router=router,
                localAddress=addresses[number],
                localID=addresses[number],
                peerAddress=addresses[1 - number],
                peerID=addresses[1 - number],
                localSubnets=[own],
                peerCIDRs=["10.0.2.0/24" if number == 0 else "10.0.1.0/24"],
            )
        await routed.settled()
        await eventually(lambda: here.reaches(there.address), 60)
        assert await there.reaches(here.address)
        for name in ("office", "home"):
            await cloud.until("True", "Established", name=name)
