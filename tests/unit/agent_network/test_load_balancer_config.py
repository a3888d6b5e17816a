"""What HAProxy is told of a load balancer, what its port lets in, and what is told of its members."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.load_balancers.desired import HereBalancer
from kumulus_agent.load_balancers.haproxy_config import Files, check_argv, description_of, render
from kumulus_agent.load_balancers.report import balancer_status, member_states
from kumulus_agent.load_balancers.stats import read_members
from kumulus_agent.network.groups import GroupRule
from kumulus_api import LoadBalancer
from kumulus_api.load_balancer import AssignedListener, LoadBalancerAssignment
from kumulus_api.load_balancer_status import LoadBalancerReason, MemberState
from kumulus_api.testing import make_assigned

NOW = datetime(2026, 11, 22, tzinfo=UTC)
FILES = Files(Path("/run/kumulus/lb/x"))
MEMBERS = [
    {"name": "a", "address": "10.0.0.11", "port": 80, "weight": 10},
    {"name": "b", "address": "2001:db8::5", "port": 80},
    {"name": "c", "port": 80},
    {"name": "sorry", "address": "10.0.0.99", "port": 81, "backup": True},
]


def make_listener(**fields: Any) -> AssignedListener:
    """Give a listener with members."""
    said = {"name": "web", "protocol": "HTTP", "port": 80, "algorithm": "RoundRobin", "members": MEMBERS}
    return AssignedListener.model_validate(said | fields)


def make_balancer(*listeners: AssignedListener, **assignment: Any) -> HereBalancer:
    """Give a load balancer of host h1."""
    body = make_assigned(LoadBalancer, "lb", "h1")["spec"]["assignment"]
    body |= {"listeners": [item.dump() for item in listeners]} | assignment
    return HereBalancer("demo", "lb", "uid", 7, LoadBalancerAssignment.model_validate(body), "h1")


def lines(*listeners: AssignedListener) -> list[str]:
    """Give the lines of a configuration, without their indentation."""
    return [line.strip() for line in render(listeners, ["10.0.0.30", "2001:db8::30"], FILES).splitlines()]


def test_a_listener_listens_on_all_addresses() -> None:
    """A listener is bound to each address of the load balancer, of either family."""
    found = lines(make_listener())
    assert "bind 10.0.0.30:80" in found
    assert "bind ipv6@[2001:db8::30]:80" in found


def test_members_without_address_are_left_out() -> None:
    """Each member that has an address is a server with its weight; one without is none."""
    found = [line for line in lines(make_listener()) if line.startswith("server")]
    assert found == [
        "server a 10.0.0.11:80 weight 10",
        "server b ipv6@[2001:db8::5]:80 weight 1",
        "server sorry 10.0.0.99:81 weight 1 backup",
    ]


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [("RoundRobin", "roundrobin"), ("LeastConnections", "leastconn"), ("SourceIP", "source")],
)
def test_algorithms(algorithm: str, expected: str) -> None:
    """Each algorithm is HAProxy's of that meaning."""
    assert f"balance {expected}" in lines(make_listener(algorithm=algorithm))


def test_a_health_check_asks_as_it_is_told() -> None:
    """A check by HTTP asks for the path under the name, and expects the codes, in its own pace."""
    check: dict[str, Any] = {"type": "HTTP", "path": "/up?x=1", "host": "a.example", "expectedCodes": "200-204,301"}
    check |= {"intervalSeconds": 7, "timeoutSeconds": 2, "rise": 1, "fall": 4}
    found = lines(make_listener(healthCheck=check, protocol="TCP"))
    assert "http-check send meth GET uri /up?x=1 ver HTTP/1.1 hdr Host a.example" in found
    assert "http-check expect status 200-204,301" in found
    assert "timeout check 2s" in found
    assert "server a 10.0.0.11:80 weight 10 check inter 7s rise 1 fall 4" in found
    assert "mode tcp" in found


def test_requests_tell_whom_they_come_from() -> None:
    """Members of an HTTP listener are told of the client, those of a TCP listener of nothing."""
    assert "option forwardfor" in lines(make_listener())
    assert "option forwardfor" not in lines(make_listener(protocol="TCP"))


def test_tls_ends_with_the_listeners_certificate() -> None:
    """A listener that ends TLS has its certificate's file, and tells members of it; one without is left out."""
    secure = make_listener(protocol="HTTPS", port=443, tls={"secret": {"name": "cert"}})
    text = render([secure], ["10.0.0.30"], FILES, {"web": FILES.directory / "tls.web.1.pem"})
    assert "bind 10.0.0.30:443 ssl crt /run/kumulus/lb/x/tls.web.1.pem alpn h2,http/1.1" in text
    assert "set-header X-Forwarded-Proto https" in text
    assert "listen web" not in render([secure], ["10.0.0.30"], FILES)


def test_a_cookie_leads_back_to_a_member() -> None:
    """With session persistence each member has its name in a cookie that scripts cannot read; without there is none."""
    found = lines(make_listener(sessionPersistence={"cookieName": "WEB"}))
    assert "cookie WEB insert indirect nocache httponly" in found
    assert "server a 10.0.0.11:80 weight 10 cookie a" in found
    assert not any("cookie" in line for line in lines(make_listener()))


def test_a_configuration_tells_itself_from_others() -> None:
    """Equal load balancers have equal configurations; any difference is in the description."""
    first, again = (render([make_listener()], ["10.0.0.30"], FILES) for _ in range(2))
    other = render([make_listener(port=81)], ["10.0.0.30"], FILES)
    assert first == again
    assert description_of(first) != description_of(other)


def test_what_needs_quotes_is_refused() -> None:
    """No word of a user's ends a line or begins another directive."""
    bad = make_listener(healthCheck={"type": "HTTP"})
    for path in ("/a b", "/a\nmode tcp", "/'", '/"', "/$HOME", "/#", "/\\"):
        check = bad.health_check.model_copy(update={"path": path})  # type: ignore[union-attr]
        with pytest.raises(ValueError, match="cannot stand"):
            render([bad.model_copy(update={"health_check": check})], ["10.0.0.30"], FILES)


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
@pytest.mark.parametrize("count", [0, 1, 3])
def test_haproxy_takes_it(tmp_path: Path, count: int) -> None:
    """HAProxy itself finds nothing wrong with what is rendered."""
    files = Files(tmp_path)
    files.root.mkdir()
    check = {"type": "HTTP", "path": "/up", "host": "a", "expectedCodes": "200-204,301"}
    every = [
        make_listener(healthCheck=check, sessionPersistence={}),
        make_listener(name="tcp", port=81, protocol="TCP", algorithm="SourceIP", healthCheck={"type": "TCP"}),
        make_listener(name="least", port=82, algorithm="LeastConnections", members=[]),
    ]
    files.draft.write_text(render(every[:count], ["10.0.0.30"], files))
    done = subprocess.run(check_argv(files), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_its_port_lets_in_whom_listeners_allow() -> None:
    """Listeners are open to all, or to the ranges that they allow of the families that the load balancer has."""
    open_one = make_listener()
    closed = make_listener(name="x", port=81, allowedCIDRs=["192.0.2.0/24", "2001:db8::/32"])
    balancer = make_balancer(open_one, closed)
    ingress = {rule for rule in balancer.rules() if rule.direction == "ingress"}
    assert ingress == {
        GroupRule("ingress", 6, (80, 80)),
        GroupRule("ingress", 6, (81, 81), None, ip_network("192.0.2.0/24")),
    }


def test_its_port_is_one_of_its_project() -> None:
    """The port has the load balancer's addresses and groups, and one more group of what it listens on."""
    port = make_balancer(make_listener()).port()
    assert port.addresses == ("10.0.0.30",)
    assert port.groups == (("demo", "default"), ("", make_balancer().balancer_id))
    assert (port.namespace, port.port) == ("demo", "example-vip")


STATS = (
    "# pxname,svname,qcur,status,weight,\n"
    "web,a,0,UP,10,\nweb,b,0,DOWN,1,\nweb,sorry,0,no check,1,\nx,a,0,UP 1/3,1,\nx,b,0,DOWN 1/2,1,\nx,c,0,DRAIN,1,\n\n"
)


def test_states_are_read() -> None:
    """A member is up until it is down, whatever it is about to become."""
    assert read_members(STATS) == {
        ("web", "a"): MemberState.UP,
        ("web", "b"): MemberState.DOWN,
        ("web", "sorry"): MemberState.NOT_CHECKED,
        ("x", "a"): MemberState.UP,
        ("x", "b"): MemberState.DOWN,
        ("x", "c"): MemberState.UP,
    }


def test_each_member_has_a_state() -> None:
    """Of each member that was decided the state is told: without address, as HAProxy says, or down."""
    states = member_states(make_balancer(make_listener()).assignment, read_members(STATS))
    assert [(item["name"], item["state"]) for item in states] == [
        ("a", "Up"),
        ("b", "Down"),
        ("c", "NoAddress"),
        ("sorry", "NotChecked"),
    ]


def test_a_status_is_written_once() -> None:
    """What was told is not told again, and the operator's part beside it makes no difference."""
    balancer = make_balancer(make_listener())
    status = balancer_status(balancer, {}, None, read_members(STATS), NOW)
    assert status is not None
    ready = {"type": "Ready", "status": "True"}
    shown = status | {"conditions": [ready, *status["conditions"]], "address": "10.0.0.30"}
    assert balancer_status(balancer, shown, None, read_members(STATS), NOW) is None


def test_a_fault_leaves_what_was_told_of_members() -> None:
    """One that is not served says why, and its members' states stay as they were known last."""
    balancer = make_balancer(make_listener())
    told = balancer_status(balancer, {}, None, read_members(STATS), NOW)
    assert told is not None
    status = balancer_status(balancer, told, (LoadBalancerReason.CONFIG_REFUSED, "no"), None, NOW)
    assert status is not None
    assert status["members"] == told["members"]
    (serving,) = status["conditions"]
    assert (serving["status"], serving["reason"], serving["message"]) == ("False", "ConfigRefused", "no")
