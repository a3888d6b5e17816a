"""Traces: hosts are asked one after the other, their reports are put together, and silence is told as such."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from kumulus_api import NetworkTrace, Server
from kumulus_cli import trace as plugin
from kumulus_lab import builds
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.site import AGENT, Site, condition_of


async def ask(site: Site, name: str, source: str, **destination: Any) -> None:
    """Have a packet traced."""
    spec = {"source": {"server": {"name": source}}, "destination": destination, "protocol": "TCP", "port": 80}
    await site.create(NetworkTrace, name, spec)


async def asked(site: Site, name: str, leg: int) -> dict[str, Any]:
    """Wait until a host is asked about a leg, and give the status."""
    body = await site.until(
        NetworkTrace, name, lambda body: ((body.get("status") or {}).get("leg") or {}).get("number") == leg
    )
    return body["status"]


async def report(site: Site, name: str, status: dict[str, Any], outcome: str, **of: Any) -> None:
    """Answer as the agent of the host that is asked."""
    leg = status["leg"]
    verdict = "Dropped" if outcome == "Dropped" else "Passed"
    hop = {"host": "liar", "what": "Network", "verdict": verdict, "message": f"leg {leg['number']}"}
    told = {"leg": leg["number"], "outcome": outcome, "hops": [hop], "packet": leg["packet"]} | of
    body = {"metadata": {"name": name, "namespace": site.name}, "status": {"report": told}}
    await site.client.apply_status(NetworkTrace, body, manager=AGENT)


async def ended(site: Site, name: str) -> dict[str, Any]:
    """Wait until a trace is complete, and give its status."""
    await site.condition(NetworkTrace, name, "Complete", "True")
    return (await site.get(NetworkTrace, name))["status"]


async def pair(site: Site) -> tuple[str, str]:
    """Give the hosts of two servers, of which each fills its own."""
    await site.host("h1", memory="1Gi", tunnel="192.0.2.1")
    await site.host("h2", memory="1Gi", tunnel="192.0.2.2")
    await site.basics()
    for name in ("a", "b"):
        await site.server(name)
    first, second = [(await site.assigned(Server, name))["host"] for name in ("a", "b")]
    return first, second


async def test_a_trace_goes_from_host_to_host(site: Site) -> None:
    """The source's host is asked, then the one that the packet went to; each hop bears the name of who was asked."""
    first, second = await pair(site)
    await ask(site, "t", "a", server={"name": "b"})
    status = await asked(site, "t", 1)
    assert status["host"] == first
    assert status["leg"]["start"] == "Port"
    assert status["leg"]["packet"]["second"] == 80
    tunnel = {"h1": "192.0.2.1", "h2": "192.0.2.2"}[second]
    await report(site, "t", status, "Forwarded", tunnelAddress=tunnel, vni=7)
    status = await asked(site, "t", 2)
    assert (status["host"], status["leg"]["start"], status["leg"]["vni"]) == (second, "Overlay", 7)
    await report(site, "t", status, "Dropped")
    status = await ended(site, "t")
    assert status["verdict"] == "Dropped"
    assert [(hop["host"], hop["message"]) for hop in status["hops"]] == [(first, "leg 1"), (second, "leg 2")]
    assert "host" not in status
    assert "leg" not in status


async def test_the_answer_is_asked_for_too(site: Site) -> None:
    """Who was reached is asked about the answer, with what each host tracks; both verdicts are told, and two ways."""
    first, second = await pair(site)
    await ask(site, "t", "a", server={"name": "b"})
    status = await asked(site, "t", 1)
    packet = status["leg"]["packet"]
    tracked = {"host": "liar", "place": "kumulus", "zone": 1, "begun": packet, "left": packet}
    tunnel = {"h1": "192.0.2.1", "h2": "192.0.2.2"}
    await report(site, "t", status, "Forwarded", tunnelAddress=tunnel[second], vni=7, connections=[tracked])
    status = await asked(site, "t", 2)
    await report(site, "t", status, "Delivered", answeredBy="Port", port="b-eth0", connections=[tracked])
    status = await asked(site, "t", 3)
    assert (status["host"], status["verdict"], status["message"]) == (
        second,
        "Passed",
        f"host {second} is asked about the answer",
    )
    leg = status["leg"]
    assert (leg["start"], leg["port"], leg["answer"], leg["first"]) == ("Port", "b-eth0", True, packet)
    assert (leg["packet"]["source"], leg["packet"]["first"]) == (packet["destination"], 80)
    assert [item["host"] for item in leg["connections"]] == [first, second]
    await report(site, "t", status, "Forwarded", tunnelAddress=tunnel[first], vni=7)
    await report(site, "t", await asked(site, "t", 4), "Dropped")
    status = await ended(site, "t")
    assert (status["verdict"], status["answer"]["verdict"], status["message"]) == ("Passed", "Dropped", "leg 4")
    ways = (status["hops"], status["answer"]["hops"])
    assert [[hop["host"] for hop in hops] for hops in ways] == [[first, second], [second, first]]


async def test_what_cannot_be_traced_says_why(site: Site) -> None:
    """A source that is not there, or a server on no host, ends the trace without a verdict."""
    await site.basics()
    await site.server("nowhere")
    for name, source, reason in (("x", "nobody", "NotFound"), ("y", "nowhere", "NotPlaced")):
        await ask(site, name, source, address="192.0.2.9")
        status = await ended(site, name)
        assert "verdict" not in status
        assert (condition_of({"status": status}, "Complete") or {})["reason"] == reason


async def test_a_host_that_does_not_answer_is_told(site: Site) -> None:
    """A host that is silent, or asked in vain, makes the verdict Unknown, with the hops that are known before it."""
    first, _ = await pair(site)
    await ask(site, "t", "a", server={"name": "b"})
    await asked(site, "t", 1)
    site.silence(first)
    status = await ended(site, "t")
    assert status["verdict"] == "Unknown"
    assert status["hops"][-1]["message"] == f"host {first} was asked and does not say"
    assert (condition_of({"status": status}, "Complete") or {})["reason"] == "HostSilent"


async def test_a_project_asks_about_few_packets_at_once(site: Site) -> None:
    """The fifth trace waits, and is asked about when one of the four has ended."""
    await pair(site)
    for number in range(4):
        await ask(site, f"t{number}", "a", server={"name": "b"})
        await asked(site, f"t{number}", 1)
    await ask(site, "last", "a", server={"name": "b"})
    await site.condition(NetworkTrace, "last", "Complete", "False", "Waiting")
    await report(site, "t2", await asked(site, "t2", 1), "Delivered")
    assert (await ended(site, "t2"))["verdict"] == "Passed"
    await asked(site, "last", 1)


async def test_the_plugin_asks_waits_and_tidies_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a real kubectl, `net trace` makes a trace, waits for its end, shows it, and leaves none."""
    programs = builds.bin_directory(LabSettings.from_environment())
    monkeypatch.setenv("PATH", os.pathsep.join([str(programs), os.environ["PATH"]]))
    await pair(site)
    running = asyncio.create_task(asyncio.to_thread(plugin.run, "a", "server/b", None, 80, site.name))
    async with asyncio.timeout(60):
        async for event, body in site.client.watch(NetworkTrace, namespace=site.name):
            status = body.get("status") or {} if event in ("ADDED", "MODIFIED") else {}
            if status.get("leg"):
                await report(site, body["metadata"]["name"], status, "Dropped")
                break
    found = await running
    assert plugin.exit_code(found) == 1
    assert found.spec.dump()["source"] == {"server": {"name": "a"}}
    assert f"The packet is dropped at Network on {found.status.hops[-1].host}." in plugin.text_of(found)
    async with asyncio.timeout(30):
        while (await site.client.list(NetworkTrace, site.name))[0]:  # noqa: ASYNC110 - kubectl waits for nothing
            await asyncio.sleep(0.1)
