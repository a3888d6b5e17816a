"""Security groups as the operator sees them: who is in which, what is counted, what is told."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from kumulus_api import Host, Port, SecurityGroup, Server
from kumulus_api.tenancy import Quota
from kumulus_api.testing import make_assigned, make_object
from kumulus_operator.ledger.groups import GroupBook
from kumulus_operator.networks.plan import endpoints_of
from kumulus_operator.refusal import Refused
from kumulus_operator.security_groups.plan import (
    default_group,
    fault_of,
    group_status,
    groups_of,
    in_use,
    references,
    remote_groups,
    require,
    rules_in,
    wanted_groups,
)
from kumulus_operator.views import View
from kumulus_runtime.conditions import set_condition

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make_group(name: str = "web", reason: str = "", **spec: Any) -> SecurityGroup:
    """Give a group; with a reason it says that it is Ready for that, or is not."""
    body = make_object(SecurityGroup, name, **spec)
    body["metadata"] |= {"generation": 1, "resourceVersion": "1", "uid": name}
    if reason:
        body["status"] = {"conditions": set_condition([], "Ready", reason == "Admitted", reason, "", 1)}
    return SecurityGroup.model_validate(body)


def make_port(*groups: str) -> Port:
    """Give a user's port in these groups."""
    return Port.model_validate(make_object(Port, "mine", securityGroups=[{"name": name} for name in groups]))


def make_server(*groups: str, **port: Any) -> Server:
    """Give a placed server of one interface whose network is named with these groups."""
    body = copy.deepcopy(make_assigned(Server, "web", "h1"))
    interface: dict[str, Any] = {"name": "eth0", "network": {"name": "private"}}
    if groups:
        interface["securityGroups"] = [{"name": name} for name in groups]
    body["spec"]["networks"] = [port or interface]
    return Server.model_validate(body)


def test_a_port_that_names_no_group_is_in_the_default() -> None:
    """As in Neutron, and a group that is named twice counts once."""
    assert groups_of(make_port()) == {("demo", "default")}
    assert groups_of(make_port("web", "web", "db")) == {("demo", "web"), ("demo", "db")}
    assert references(("default",)) == []
    assert references(("db", "default")) == [{"name": "db"}, {"name": "default"}]


def test_a_server_says_the_groups_of_its_own_ports_alone() -> None:
    """Of a port that was made for it the server decides, of a user's the Port; one that is gone stays as it is."""
    own = make_server("web")
    assert own.spec.assignment is not None
    given = own.spec.assignment.ports[0]
    assert wanted_groups(own, given, make_port("db")) == ("web",)
    theirs = make_server(name="eth0", port={"name": "mine"})
    assert wanted_groups(theirs, given, make_port("db")) == ("db",)
    assert wanted_groups(theirs, given, None) == ("default",)
    body = copy.deepcopy(make_assigned(Server, "web", "h1"))
    del body["spec"]["networks"]
    assert wanted_groups(Server.model_validate(body), given, make_port("db")) == ("default",)


def test_a_group_must_be_there_and_admitted() -> None:
    """An absent group and one beyond the quota are refused, each with its reason and what to wait for."""
    known = View(SecurityGroup)
    for name, reason in (("web", "Admitted"), ("much", "QuotaExceeded"), ("new", ""), ("lacks", "RemoteGroupNotFound")):
        group = make_group(name, reason)
        known.put(group.dump())
    require("demo", ("default", "web", "lacks"), known)
    for name, reason in (
        ("none", "SecurityGroupNotFound"),
        ("much", "SecurityGroupNotReady"),
        ("new", "SecurityGroupNotReady"),
    ):
        with pytest.raises(Refused) as caught:
            require("demo", ("web", name), known)
        assert caught.value.refusal.reason == reason
        assert caught.value.refusal.needs == {("SecurityGroup", "demo", name)}


def test_a_ports_groups_are_of_one_kind() -> None:
    """Stateful and stateless groups on one port are refused, the default being stateful; those of one kind are not."""
    known = View(SecurityGroup)
    for name, stateful in (("web", True), ("bare", False), ("plain", False)):
        body = make_group(name, "Admitted").dump()
        body["spec"]["stateful"] = stateful
        known.put(body)
    require("demo", ("bare", "plain"), known)
    for names in (("bare", "web"), ("bare", "default")):
        with pytest.raises(Refused) as caught:
            require("demo", names, known)
        assert caught.value.refusal.reason == "SecurityGroupConflict"
        assert "bare is stateless" in caught.value.refusal.message


def test_the_default_group_is_neutrons() -> None:
    """All may go out, and what comes in comes from its own members, in IPv4 and IPv6."""
    group = SecurityGroup.model_validate(default_group("demo"))
    assert remote_groups(group) == {("demo", "default")}
    assert [rule.ether_type for rule in group.spec.ingress] == ["IPv4", "IPv6"]
    assert [rule.dump() for rule in group.spec.egress] == [{"etherType": "IPv4"}, {"etherType": "IPv6"}]
    assert rules_in(group) == 4


def test_a_status_is_written_once() -> None:
    """A group that says so already causes no further write; what is wrong is told, in-use ports by name."""
    group = make_group()
    status = group_status(group, None, NOW)
    assert status is not None
    told = SecurityGroup.model_validate(group.dump() | {"status": status})
    assert group_status(told, None, NOW) is None
    missing = fault_of(None, {"db", "app"})
    assert missing is not None
    assert "rules speak of app, db, not found; transient" in missing[1]
    assert in_use(["a"])[1] == "deletion: 1 port (a) is in it; transient: the group goes when they have left it"
    assert group_status(told, in_use(["a", "b"]), NOW) is not None


def test_groups_and_rules_are_counted() -> None:
    """A group beyond the quota is not counted; one that grows beyond it keeps its count, and one that goes frees it."""
    told: list[str] = []
    book = GroupBook(lambda _: Quota(securityGroups=2, securityGroupRules=6), told.append)
    assert book.admit(("demo", "default"), 4, counted=True) is None
    assert book.admit(("demo", "web"), 2, counted=False) is None
    assert book.admit(("demo", "web"), 2, counted=False) is None
    assert told == ["demo", "demo"]
    assert book.admit(("demo", "db"), 0, counted=False) == "3 security groups are asked for, 2 are allowed"
    assert book.admit(("demo", "web"), 3, counted=False) == "7 rules of security groups are asked for, 6 are allowed"
    assert book.used("demo") == (2, 6)
    assert book.admit(("demo", "web"), 1, counted=False) is None
    book.gone(("demo", "web"))
    assert book.used("demo") == (1, 4)
    assert book.admit(("demo", "db"), 2, counted=False) is None


def test_what_was_admitted_before_a_restart_stays_so() -> None:
    """A lowered quota, or a new leader that counts anew, throws nobody out."""
    book = GroupBook(lambda _: Quota(securityGroups=0), lambda _: None)
    assert book.admit(("demo", "web"), 5, counted=True) is None
    assert book.used("demo") == (1, 5)


def test_endpoints_tell_whose_members_they_are() -> None:
    """A port of the network's own project by name, one of another with its namespace in front."""
    host = Host.model_validate(make_object(Host, "h1") | {"status": {"tunnelAddress": "192.0.2.1"}})
    body = copy.deepcopy(make_assigned(Server, "web", "h1"))
    body["spec"]["assignment"]["ports"][0]["securityGroups"] = ["db", "web"]
    found = endpoints_of(("demo", "private"), [Server.model_validate(body)], {"h1": host}, lambda *_: None)
    assert found["web-eth0"]["groups"] == ["db", "web"]
    del body["spec"]["assignment"]["ports"][0]["securityGroups"]
    body["spec"]["assignment"]["ports"][0]["networkNamespace"] = "kumulus-public"
    found = endpoints_of(("kumulus-public", "private"), [Server.model_validate(body)], {"h1": host}, lambda *_: None)
    assert found["demo.web-eth0"]["groups"] == ["demo/default"]
