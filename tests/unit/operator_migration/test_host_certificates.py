"""Certificates of hosts: for whom one is made out."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from kumulus_agent.migration.certificate_request import make_request
from kumulus_operator.migration.authority import answer, make_authority
from kumulus_operator.migration.certificates import MOST, USAGES, _judged, requester, settled, trusted

NOW = datetime(2030, 1, 1, tzinfo=UTC)
AUTHORITY = make_authority(NOW)
AGENT = "system:serviceaccount:kumulus-system:kumulus-agent"
NODE = {"authentication.kubernetes.io/node-name": ["h1"]}


def request(**spec: Any) -> dict[str, Any]:
    return {"spec": {"username": AGENT, "extra": NODE, "usages": sorted(USAGES)} | spec}


def test_a_host_gets_its_own_name() -> None:
    """The certificate names the node alone, for both ends of a connection, for a week."""
    made = answer({**AUTHORITY, "request": make_request("h1")["request"], "node": "h1"}, NOW)
    certificate = x509.load_pem_x509_certificate(made["certificate"].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("h1")]
    assert certificate.not_valid_after_utc == NOW + timedelta(days=7)
    authority = x509.load_pem_x509_certificate(AUTHORITY["authority"].encode())
    certificate.verify_directly_issued_by(authority)


@pytest.mark.parametrize("asked", ["h2", "h11", "h1.example"])
def test_no_host_gets_anothers_name(asked: str) -> None:
    """A request for any other name than the token's node is refused."""
    assert "refused" in answer({**AUTHORITY, "request": make_request(asked)["request"], "node": "h1"}, NOW)


def test_nonsense_is_refused() -> None:
    """What is no request is refused, not a failure."""
    assert "refused" in answer({**AUTHORITY, "request": "hello", "node": "h1"}, NOW)


@pytest.mark.parametrize(
    "spec",
    [
        {"username": "alice"},
        {"username": "system:serviceaccount:other:kumulus-agent"},
        {"extra": {}},
        {"extra": {"authentication.kubernetes.io/node-name": ["h1", "h2"]}},
        {"usages": ["client auth"]},
        {"usages": [*USAGES, "cert sign"]},
    ],
)
def test_only_agents_with_a_node_are_served(spec: dict[str, Any]) -> None:
    """Who is no agent, names no node, or wants other usages, gets nothing."""
    node, fault = requester(request(**spec), AGENT)
    assert (node, bool(fault)) == ("", True)


def test_the_node_of_the_token_counts() -> None:
    """The node is that of the requester's token, which the API server has written down."""
    assert requester(request(), AGENT) == ("h1", "")


def test_a_judgement_is_given_once() -> None:
    """A request that was approved, and whose certificate was not written, is not approved twice."""
    judged = _judged(request(), "", NOW)
    assert [item["type"] for item in judged["status"]["conditions"]] == ["Approved"]
    assert not settled(judged)
    assert _judged(judged, "", NOW) is judged
    assert settled(_judged(request(), "no", NOW))


def test_authorities_of_former_operators_are_trusted_as_long_as_they_matter() -> None:
    """A new authority joins those of the last days; the old ones go, and there are never too many."""
    first = trusted({}, "a", NOW)
    second = trusted(first, "b", NOW + timedelta(days=7))
    assert (second["ca.crt"], second["current"]) == ("ab", "b")
    third = trusted(second, "c", NOW + timedelta(days=16))
    assert (third["ca.crt"], third["current"]) == ("bc", "c")
    data: dict[str, str] = {}
    for second_of_day in range(3 * MOST):
        data = trusted(data, "x", NOW + timedelta(seconds=second_of_day))
    assert len(data["ca.crt"]) == MOST + 1
