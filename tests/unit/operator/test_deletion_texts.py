"""What the owner of a deleted network or project is told."""

from __future__ import annotations

import pytest

from kumulus_api import Host, Server
from kumulus_api.testing import make_assigned, make_object
from kumulus_operator.networks.plan import endpoints_of, users_text
from kumulus_operator.projects.plan import content_text


@pytest.mark.parametrize(
    ("servers", "ports", "text"),
    [
        ([], [], None),
        (["a"], [], "1 server (a) still uses it"),
        (["b", "a"], ["p"], "2 servers (a, b), 1 port (p) still use it"),
        (["e", "d", "c", "b", "a"], [], "5 servers (a, b, c, …) still use it"),
    ],
)
def test_users_are_counted_and_the_first_named(servers: list[str], ports: list[str], text: str | None) -> None:
    """The text names at most three of each kind."""
    assert users_text(("demo", "net"), [("demo", s) for s in servers], [("demo", p) for p in ports]) == text


def test_users_of_other_projects_are_not_named() -> None:
    """A public network tells its owner how many use it, and not who."""
    text = users_text(("kumulus-public", "net"), [("secret", "a"), ("kumulus-public", "b")], [("other", "p")])
    assert text == "1 server (b), 1 server of other projects, 1 port of other projects still use it"


def test_content_is_counted_by_kind() -> None:
    """Kinds of which there is none are left out; an empty project has no text."""
    assert content_text({"Server": [], "Volume": []}) is None
    assert content_text({"Server": ["web"], "Volume": []}) == "1 server (web) is in it"
    assert content_text({"Server": ["web"], "Volume": ["a", "b"]}) == "1 server (web), 2 volumes (a, b) are in it"


@pytest.mark.parametrize(("decommissioned", "there"), [(False, 1), (True, 0)])
def test_a_host_that_was_given_up_has_no_endpoints(*, decommissioned: bool, there: int) -> None:
    """Nobody sends to a host that never comes back."""
    server = Server.model_validate(make_assigned(Server, "web", "h1"))
    body = make_object(Host, "h1", decommissioned=decommissioned) | {"status": {"tunnelAddress": "192.0.2.1"}}
    found = endpoints_of(("demo", "private"), [server], {"h1": Host.model_validate(body)}, lambda *_: None)
    assert len(found) == there
