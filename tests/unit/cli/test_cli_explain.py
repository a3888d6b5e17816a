"""`kubectl kumulus explain-placement`: each host with its reasons, from what kubectl shows."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kumulus_cli.main import app
from kumulus_runtime.conditions import set_condition

_KUBECTL = """#!{python}
import json, sys
answers = json.load(open({path!r}))
args = sys.argv[1:]
key = " ".join(args[1:3]) if not args[2].startswith("--") else args[1]
if key not in answers:
    sys.exit(f"{{key}} is forbidden")
print(json.dumps(answers[key]))
"""


def make_host(name: str, memory: str, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """Give a Ready Host."""
    status = {
        "inventory": {"vcpus": 4, "memory": memory, "disk": "100Gi"},
        "tunnelAddress": "192.0.2.1",
        "architecture": "x86_64",
        "conditions": set_condition([], "Ready", True, "AgentReady", "", 1),
    }
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": spec, "status": status}


def make_server(name: str, host: str | None = None, **spec: Any) -> dict[str, Any]:
    """Give a Server of group `web`."""
    wanted = {"flavor": {"name": "f"}, "image": {"name": "i"}, "placement": {"group": {"name": "web"}}} | spec
    if host is not None:
        resources = {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"}
        identity = {"instanceID": "00000000-0000-4000-8000-000000000001", "epoch": 1}
        wanted["assignment"] = identity | {"host": host, "resources": resources}
    return {"metadata": {"name": name, "namespace": "demo"}, "spec": wanted}


def make_answers() -> dict[str, Any]:
    """Give what kubectl answers: four hosts, a group that lies apart, one server of it placed on h1."""
    now = datetime.now(UTC).isoformat()
    leases = [{"metadata": {"name": f"host-h{n}"}, "spec": {"renewTime": now}} for n in (1, 2, 4)]
    env = [{"name": "KUMULUS_WEIGHT_DISK", "value": "0"}, {"name": "KUMULUS_POD", "valueFrom": {}}]
    deployment = {"spec": {"template": {"spec": {"containers": [{"env": env}]}}}}
    image = {"source": {"url": "http://images.test/i"}, "format": "raw"}
    flavor = {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"}
    waiting = make_server("new")
    message = "placement: no valid host out of 1: 1 not Ready"
    waiting["status"] = {"conditions": set_condition([], "Scheduled", False, "NoValidHost", message, 1)}
    hosts = [make_host("h1", "8Gi"), make_host("h2", "8Gi"), make_host("h3", "8Gi")]
    hosts.append(make_host("h4", "512Mi", maintenance=True))
    return {
        "servers.kumulus.dev new": waiting,
        "flavors.kumulus.dev f": {"metadata": {"name": "f"}, "spec": flavor},
        "images.kumulus.dev i": {"metadata": {"name": "i", "namespace": "demo"}, "spec": image},
        "servergroups.kumulus.dev web": {"metadata": {"name": "web"}, "spec": {"policy": "AntiAffinity"}},
        "hosts.kumulus.dev": {"items": hosts},
        "hostaggregates.kumulus.dev": {"items": []},
        "servers.kumulus.dev": {"items": [waiting, make_server("old", "h1")]},
        "volumes.kumulus.dev": {"items": []},
        "volumeclasses.kumulus.dev": {"items": []},
        "networks.kumulus.dev": {"items": []},
        "leases.coordination.k8s.io": {"items": leases},
        "deployments.apps kumulus-operator": deployment,
    }


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a kubectl on PATH answers; a test changes it before it runs the plugin."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return make_answers()


def run(tmp_path: Path, answers: dict[str, Any]) -> Any:
    """Run the plugin for the server `new`."""
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(answers))
    program = tmp_path / "kubectl"
    program.write_text(_KUBECTL.format(python=sys.executable, path=str(path)))
    program.chmod(0o755)
    return CliRunner().invoke(app, ["explain-placement", "new", "--namespace", "demo"])


def test_each_host_is_told_with_its_reasons(tmp_path: Path, answers: dict[str, Any]) -> None:
    """The best host stands first with its weights, each other one with all that speaks against it."""
    result = run(tmp_path, answers)
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines() if line]
    assert lines == [
        "Server demo/new asks for 1 vCPUs, 1Gi memory, 1Gi disk; group web (AntiAffinity)",
        "The operator says NoValidHost: placement: no valid host out of 1: 1 not Ready",
        "HOST FITS WEIGHT WHY",
        "h2 best 2.00 memory 1.00, vcpus 1.00, disk 0.00",
        "h3 no silent",
        "h1 no with a server of group web (AntiAffinity)",
        "h4 no in maintenance; without enough memory (512Mi free, 1Gi asked for)",
        "1 of 4 hosts fit; h2 weighs most.",
    ]


def test_a_host_that_does_not_reach_a_provider_network_is_told_why(tmp_path: Path, answers: dict[str, Any]) -> None:
    """A provider network is among what is asked for, and each host that does not reach it says why."""
    subnets = [{"name": "v4", "cidr": "192.0.2.0/24"}]
    spec = {"type": "Provider", "provider": {"physicalNetwork": "physnet1"}, "subnets": subnets}
    network = {"metadata": {"name": "lan", "namespace": "demo"}, "spec": spec}
    answers["networks.kumulus.dev lan"] = network
    answers["networks.kumulus.dev"]["items"].append(network)
    mapped = {"name": "physnet1", "interface": "eth1"}
    obstacle = {"type": "Flat", "reason": "InterfaceAbsent"}
    hosts = answers["hosts.kumulus.dev"]["items"]
    hosts[1]["status"]["physicalNetworks"] = [mapped | {"mtu": 1500, "reaches": ["Flat"]}]
    hosts[0]["status"]["physicalNetworks"] = [mapped | {"obstacles": [obstacle]}]
    for interfaces in (None, [{"name": "nic", "network": {"name": "lan"}}]):
        answers["servers.kumulus.dev new"]["spec"]["networks"] = interfaces
        output = run(tmp_path, answers).output
        assert "physical network physnet1 (Flat, MTU 1500)" in output
        assert "without physical network physnet1 (Flat: InterfaceAbsent)" in output
        assert "without physical network physnet1 (Flat: NotMapped)" in output
        assert "h2 weighs most" in output


def test_a_placed_server_does_not_count_against_itself(tmp_path: Path, answers: dict[str, Any]) -> None:
    """Of a server that is placed it is told where, and its own room and group membership are left out."""
    placed = make_server("new", "h2")
    answers["servers.kumulus.dev new"] = placed
    answers["servers.kumulus.dev"]["items"][0] = placed
    output = run(tmp_path, answers).output
    assert "It is on host h2" in output
    assert "h2 (here)" in output
    assert "h2 weighs most" in output


def test_what_may_not_be_read_is_said(tmp_path: Path, answers: dict[str, Any]) -> None:
    """Without the operator's settings and Leases the defaults are taken, with a note; without Hosts it is an error."""
    del answers["deployments.apps kumulus-operator"], answers["leases.coordination.k8s.io"]
    output = run(tmp_path, answers).output
    assert "Note: the defaults of weights and overcommit are taken" in output
    assert "Note: all hosts are taken to speak" in output
    del answers["hosts.kumulus.dev"]
    result = run(tmp_path, answers)
    assert result.exit_code == 1
    assert "error: hosts.kumulus.dev is forbidden" in result.output


def test_it_is_told_why_a_host_withholds_devices(tmp_path: Path, answers: dict[str, Any]) -> None:
    """What is asked for of devices is named, and so is why a host that might give them does not."""
    answers["flavors.kumulus.dev f"]["spec"]["extraSpecs"] = {"resources:CUSTOM_GPU": "1"}
    hosts = answers["hosts.kumulus.dev"]["items"]
    for host in hosts[1:]:
        host["spec"] = {"devices": {"pci": [{"vendor": "10de", "resourceClass": "CUSTOM_GPU"}]}}
    withheld = {"device": "0000:01:00.0", "resourceClass": "CUSTOM_GPU", "reason": "NoIOMMUGroup"}
    hosts[1]["status"]["devices"] = {"withheld": [withheld]}
    hosts[3]["status"]["devices"] = {"offered": [{"resourceClass": "CUSTOM_GPU", "total": 1}]}
    lines = [" ".join(line.split()) for line in run(tmp_path, answers).output.splitlines() if line]
    assert lines[0] == "Server demo/new asks for 1 vCPUs, 1Gi memory, 1Gi disk; 1 CUSTOM_GPU; group web (AntiAffinity)"
    assert "h1 no with a server of group web (AntiAffinity); without enough CUSTOM_GPU" in lines
    assert "h2 no without enough CUSTOM_GPU (devices withheld: NoIOMMUGroup)" in lines
    assert "h4 no without enough memory (512Mi free, 1Gi asked for)" in lines
