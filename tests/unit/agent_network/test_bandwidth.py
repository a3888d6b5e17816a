"""How a port's rates are made and unmade."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumulus_agent.network.bandwidth import (
    CreateQueue,
    Redirect,
    RemoveRate,
    SetRate,
    Unredirect,
    bucket,
    orphans,
    shaping,
)
from kumulus_agent.network.state import Bucket, Link, Observed, PortDesired, Rates
from kumulus_agent.network.steps import DeleteLink
from kumulus_agent.servers.desired import flavor_rates
from kumulus_api.hardware import Bandwidth, Hardware

PORT = PortDesired("kt1", "02:00:00:00:00:01", (IPv4Address("10.0.0.1"),), "i1")
TAP = {"kt1": Link("kt1", "tun", 1450, up=True)}
QUEUE = {"ki1": Link("ki1", "ifb", 1500, up=True)}


@pytest.mark.parametrize(
    ("kilobits", "burst", "wanted"),
    [
        (0, 4000, None),
        (8000, 0, Bucket(1_000_000, 100_000)),
        (100, 0, Bucket(12_500, 65_536)),
        (8000, 64, Bucket(1_000_000, 8_000)),
    ],
)
def test_a_bucket_is_bytes(kilobits: int, burst: int, wanted: Bucket | None) -> None:
    """Kilobits become bytes; a burst that is not given is a tenth of a second, and never less than 64 KiB."""
    assert bucket(kilobits, burst) == wanted


def test_a_flavors_words_become_rates() -> None:
    """A kB has 8 kbit; each direction has its own burst and peak, and one that is not named has no limit."""
    hardware = Hardware(
        vif_inbound=Bandwidth(average=1000, peak=2000, burst=500),
        vif_outbound=Bandwidth(average=100),
    )
    rates = flavor_rates(hardware)
    assert rates == Rates(8000, 800, 4000, 0, 16_000, 0)
    port = replace(PORT, rates=rates)
    buckets = {step.target: step.bucket for step in shaping(port, Observed(TAP)) if isinstance(step, SetRate)}
    assert buckets == {"kt1": Bucket(1_000_000, 500_000, 2_000_000), "ki1": Bucket(100_000, 65_536)}
    assert flavor_rates(Hardware()) is None
    assert flavor_rates(Hardware(vif_outbound=Bandwidth(average=1))) == Rates(0, 8, 0, 0, 0, 0)


def test_a_burst_lasts_as_long_as_the_kernel_can_count() -> None:
    """A burst that would take longer than 200 s at the rate is cut, and a peak not above the rate is none."""
    assert bucket(8, 8_000_000, 8) == Bucket(1000, 200_000)


def test_a_port_gets_its_rates_before_traffic_is_led_there() -> None:
    """What comes from the guest is led through the queue only when that has its rate."""
    steps = list(shaping(replace(PORT, rates=Rates(8000, 4000)), Observed(TAP)))
    assert [(type(step), step.target) for step in steps] == [
        (SetRate, "kt1"),
        (CreateQueue, "ki1"),
        (SetRate, "ki1"),
        (Redirect, "kt1"),
    ]


def test_a_port_without_rates_is_led_through_nothing() -> None:
    """The queue goes after nothing is led through it any more; what is not there is not removed."""
    buckets = {"kt1": Bucket(1, 1), "ki1": Bucket(1, 1)}
    steps = list(shaping(PORT, Observed(TAP | QUEUE, buckets=buckets, redirected=frozenset({"kt1"}))))
    assert [type(step) for step in steps] == [RemoveRate, Unredirect, DeleteLink]
    assert list(shaping(PORT, Observed(TAP))) == []


def test_a_queue_goes_with_its_tap() -> None:
    """The interface for a tap that is gone is removed, and no other."""
    assert [step.target for step in orphans(Observed(TAP | QUEUE | {"ki2": QUEUE["ki1"], "kb1": QUEUE["ki1"]}))] == [
        "ki2"
    ]


RATES = st.none() | st.builds(
    Rates, st.sampled_from([0, 64, 9000]), st.sampled_from([0, 64, 9000]), st.sampled_from([0, 800])
)


@given(RATES, RATES)
def test_applying_leaves_nothing_to_do(former: Rates | None, wanted: Rates | None) -> None:
    """From any rates to any others, the plan's effect makes the next plan empty."""
    observed = Observed(TAP)
    for rates in (former, wanted):
        port = replace(PORT, rates=rates)
        for step in shaping(port, observed):
            observed = _applied(observed, step)
        assert list(shaping(port, observed)) == []


def _applied(observed: Observed, step: object) -> Observed:
    links, buckets, led = dict(observed.links), dict(observed.buckets), set(observed.redirected)
    if isinstance(step, SetRate):
        # The kernel gives a burst back as a little less than it was told.
        buckets[step.target] = Bucket(step.bucket.rate, step.bucket.burst - step.bucket.burst // 500)
    elif isinstance(step, RemoveRate):
        del buckets[step.target]
    elif isinstance(step, CreateQueue):
        links |= QUEUE
    elif isinstance(step, Redirect):
        led.add(step.target)
    elif isinstance(step, Unredirect):
        led.remove(step.target)
    elif isinstance(step, DeleteLink):
        del links[step.target]
        buckets.pop(step.target, None)
    return replace(observed, links=links, buckets=buckets, redirected=frozenset(led))
