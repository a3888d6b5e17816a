"""Which hosts keep an image: spread, kept where it is, replaced and given back with proof; and what is told of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumulus_api import Host, Image
from kumulus_api.testing import make_object
from kumulus_operator.images.holders import Holders
from kumulus_operator.images.replicas import Keeper, Wanted, name_hosts, replica_status

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = "sha256:" + "1" * 64
TWO = Wanted(2)
AWAY = {"good": False, "coming": False, "stays": False}
REST = {"good": False, "coming": False}
UNHEARD = {"good": False}
LOST = {"good": False, "coming": False, "stays": False, "lost": True}


def keepers(*zones: str, **of: dict[str, Any]) -> list[Keeper]:
    """Give hosts a, b, c … of zones (none for an empty text), some of them otherwise."""
    names = "abcdefgh"[: len(zones)]
    return [Keeper(name, zone=zone, **of.get(name, {})) for name, zone in zip(names, zones, strict=True)]


@pytest.mark.parametrize(
    ("named", "holding", "hosts", "wanted", "expected"),
    [
        pytest.param("", "", keepers("", "", ""), TWO, "ab", id="a new image gets two"),
        pytest.param("", "", keepers("x", "x", "y"), TWO, "ac", id="of two zones"),
        pytest.param("", "", keepers("", "", "", a={"load": 3}), TWO, "bc", id="with the fewest images"),
        pytest.param("", "", keepers("", "", "", b=REST), TWO, "ac", id="none in maintenance"),
        pytest.param("", "", keepers(""), TWO, "a", id="one where there is one"),
        pytest.param("", "", keepers("", "", ""), Wanted(2, "c"), "ca", id="who imports it is named first"),
        pytest.param("b", "", keepers("", "", ""), Wanted(2, "c"), "cb", id="and when another takes the import over"),
        pytest.param("ab", "ab", keepers("x", "x", "y"), TWO, "ab", id="what is there stays, whatever the zones"),
        pytest.param("ab", "ab", keepers("", "", "", b=REST), TWO, "ab", id="also in maintenance"),
        pytest.param("ab", "a", keepers("", "", "", b=REST), TWO, "ac", id="unless it has not come there yet"),
        pytest.param("ab", "a", keepers("", "", "", b=UNHEARD), TWO, "ab", id="a moment without a word is nothing"),
        pytest.param("ab", "ab", keepers("", "", "", b=AWAY), TWO, "acb", id="who is silent too long gets company"),
        pytest.param("acb", "abc", keepers("", "", "", b=AWAY), TWO, "ac", id="and goes when that has it"),
        pytest.param("ac", "abc", keepers("", "", ""), TWO, "ac", id="back, it is one too many"),
        pytest.param("acb", "ab", keepers("", "", ""), TWO, "ab", id="back before that, it goes on"),
        pytest.param("ac", "ad", keepers("", "", "", "", c=REST), TWO, "ad", id="who has it already saves a copy"),
        pytest.param("ab", "ab", keepers("", "", "", b=LOST), TWO, "ac", id="who is lost goes at once"),
        pytest.param("ab", "ab", keepers("", "", a=AWAY, b=AWAY), TWO, "ab", id="both are silent and nobody is left"),
        pytest.param("ab", "b", keepers("", "", b=AWAY), TWO, "ab", id="the only copy stays named while it is silent"),
        pytest.param("ab", "ab", keepers(""), TWO, "a", id="a host that is no more"),
        pytest.param("abc", "abc", keepers("x", "x", "y"), TWO, "ac", id="fewer are wanted: zones stay apart"),
        pytest.param("abc", "a", keepers("", "", ""), TWO, "ab", id="who has not got it goes first"),
        pytest.param("abc", "c", keepers("", "", "", c=REST), Wanted(1), "c", id="never the last that has it"),
    ],
)
def test_who_keeps_an_image(named: str, holding: str, hosts: list[Keeper], wanted: Wanted, expected: str) -> None:
    """The hosts are these, and named again they stay."""
    found = name_hosts(named, holding, hosts, wanted)
    assert "".join(found) == expected
    assert name_hosts(found, holding, hosts, wanted) == found


flags = st.fixed_dictionaries(
    {"good": st.booleans(), "coming": st.booleans(), "stays": st.booleans(), "load": st.integers(0, 3)}
)
places = st.lists(st.tuples(st.sampled_from(["", "x", "y"]), flags), max_size=6).map(
    lambda found: [
        Keeper(
            name,
            zone=zone,
            **{**of, "coming": of["coming"] and of["stays"], "good": of["good"] and of["coming"] and of["stays"]},
        )
        for name, (zone, of) in zip("abcdef", found, strict=False)
    ]
)
names = st.lists(st.sampled_from("abcdef"), unique=True)


@given(names, names, places, st.integers(1, 3))
def test_bytes_are_never_given_up(named: list[str], holding: list[str], hosts: list[Keeper], wanted: int) -> None:
    """Whatever happens: a plan of its own result is the same, and no copy is let go unless enough others hold."""
    found = name_hosts(named, holding, hosts, Wanted(wanted))
    assert name_hosts(found, holding, hosts, Wanted(wanted)) == found
    known = {host.name: host for host in hosts}
    let_go = [name for name in named if name not in found and name in holding and name in known]
    if let_go:
        assert sum(name in holding for name in found) >= min(wanted, len(found)) > 0
    stays = {host.name for host in hosts if host.stays}
    assert len([name for name in found if name in stays]) <= max(wanted, len(stays & set(named)))


def make_image(hosts: list[str], store: str = "Hosts", **status: Any) -> Image:
    """Give an image that is Ready."""
    ready = {"type": "Ready", "status": "True", "reason": "Imported", "observedGeneration": 1}
    ready["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    body = make_object(Image, assignment={"store": store, "hosts": hosts})
    body["metadata"]["generation"] = 2
    return Image.model_validate(body | {"status": {"digest": DIGEST, "conditions": [ready]} | status})


@pytest.mark.parametrize(
    ("named", "holding", "reason"),
    [
        ("ab", "ab", "Replicated"),
        ("ab", "a", "Replicating"),
        ("ab", "c", "NoHolder"),
        ("a", "a", "TooFewHosts"),
        ("", "", "NoHolder"),
    ],
)
def test_it_is_told_who_has_it(named: str, holding: str, reason: str) -> None:
    """The condition says what is wrong; Ready is told again with the generation at hand, else as it was."""
    status = replica_status(make_image(list(named)), set(holding), 2, None, NOW)
    ready, replicated = status["conditions"]
    assert (ready["type"], ready["status"], ready["observedGeneration"]) == ("Ready", "True", 2)
    assert (replicated["reason"], replicated["status"]) == (reason, str(reason == "Replicated"))
    assert status["replicas"] == sorted(holding)
    again = make_image(list(named), conditions=status["conditions"], replicas=status["replicas"])
    assert replica_status(again, set(holding), 2, None, NOW) == status


def test_a_bucket_has_no_replicas() -> None:
    """An image of the store S3 is whole when it is Ready, and hosts that pulled it are counted."""
    status = replica_status(make_image([], "S3"), {"a"}, 2, "1/3", NOW)
    assert (status["conditions"][1]["reason"], status["replicas"], status["prePulled"]) == ("InBucket", [], "1/3")


def test_hosts_say_what_they_keep() -> None:
    """Each change of a Host's word names the images that it concerns; a Host that is gone keeps nothing."""
    holders = Holders()

    def say(name: str, *images: tuple[str, str]) -> set[tuple[str, str]]:
        body = make_object(Host, name)
        told = [{"namespace": "demo", "name": image, "digest": f"sha256:{digit * 64}"} for image, digit in images]
        return holders.see(name, Host.model_validate(body | {"status": {"images": told}}))

    assert say("a", ("one", "1"), ("two", "2")) == {("demo", "one"), ("demo", "two")}
    assert say("b", ("one", "1")) == {("demo", "one")}
    assert say("b", ("one", "1")) == set()
    assert holders.of(("demo", "one")) == {"a", "b"}
    assert say("a", ("one", "3"), ("two", "2")) == {("demo", "one")}
    assert holders.of(("demo", "one"), DIGEST) == {"b"}
    assert holders.count("a") == 2
    assert holders.see("a", None) == {("demo", "one"), ("demo", "two")}
    assert holders.of(("demo", "two")) == set()
