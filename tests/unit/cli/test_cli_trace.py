"""What `kubectl kumulus net trace` asks and shows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kumulus_api import NetworkTrace
from kumulus_cli import trace
from kumulus_cli.main import app

KUBECTL = """#!{python}
import json, pathlib, sys
asked = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(" ".join(asked) + "\\n")
if asked[:2] == ["get", "servers.kumulus.dev"] and "--ignore-not-found" in asked:
    print("server.kumulus.dev/a" if asked[2] == "a" else "")
elif asked[:2] == ["get", "ports.kumulus.dev"] and "--ignore-not-found" in asked:
    print("port.kumulus.dev/nic" if asked[2] == "nic" else "")
elif asked[0] == "create":
    pathlib.Path({made!r}).write_text(sys.stdin.read())
elif asked[0] == "get":
    body = json.loads(pathlib.Path({made!r}).read_text())
    hop = {{"what": "IngressRules", "verdict": {verdict!r}, "message": "because", "remedy": "add a rule", "host": "h1"}}
    body["status"] = {{"verdict": {verdict!r}, "hops": [hop]}}
    print(json.dumps(body))
"""


def write(folder: Path, verdict: str) -> None:
    """Put a kubectl into a folder that knows Server a and Port nic, and whose traces end with a verdict."""
    program = folder / "kubectl"
    made, log = str(folder / "made"), str(folder / "log")
    program.write_text(KUBECTL.format(python=sys.executable, made=made, log=log, verdict=verdict))
    program.chmod(0o755)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where kubectl is looked for."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


@pytest.mark.parametrize(("verdict", "code"), [("Passed", 0), ("Dropped", 1), ("Unknown", 2)])
def test_the_exit_code_is_the_verdict(folder, verdict, code):
    """A packet that passes ends with 0, one that is dropped with 1, and what is not known with 2; no trace is left."""
    write(folder, verdict)
    done = CliRunner().invoke(app, ["net", "trace", "a", "10.0.0.9", "--port", "80", "-n", "red"])
    assert done.exit_code == code
    assert f"h1    IngressRules  -     {verdict}" in done.output
    assert ("To do: add a rule." in done.output) is (verdict != "Passed")
    assert "delete networktraces.kumulus.dev trace-" in (folder / "log").read_text().splitlines()[-1]


def test_json_is_for_programs(folder):
    """With -o json the verdict and the hops come as the API has them."""
    write(folder, "Dropped")
    done = CliRunner().invoke(app, ["net", "trace", "a", "nic", "-o", "json"])
    body = NetworkTrace.model_validate_json((folder / "made").read_text()).spec.dump()
    assert '"verdict": "Dropped"' in done.output
    assert body == {"source": {"server": {"name": "a"}}, "destination": {"port": {"name": "nic"}}, "protocol": "ICMP"}


@pytest.mark.parametrize(
    "asked",
    [
        ["nobody", "a"],
        ["a", "router/r"],
        ["floatingip/f", "a"],
        ["a", "nic", "--proto", "tcp"],
        ["a", "nic", "--proto", "icmp", "--port", "80"],
        ["a", "nic", "--proto", "gre"],
        ["a", "nic", "-o", "xml"],
    ],
)
def test_what_makes_no_sense_is_refused(folder, asked):
    """What cannot be asked ends with 2 and a sentence, and makes no trace."""
    write(folder, "Passed")
    done = CliRunner().invoke(app, ["net", "trace", *asked])
    assert done.exit_code == 2
    assert "error: " in done.output
    assert not (folder / "made").exists()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("server/a", {"server": {"name": "a"}}),
        ("port/nic", {"port": {"name": "nic"}}),
        ("floatingip/f", {"floatingIP": {"name": "f"}}),
        ("203.0.113.9", {"address": "203.0.113.9"}),
        ("FD00::1", {"address": "fd00::1"}),
        ("a", {"server": {"name": "a"}}),
        ("nic", {"port": {"name": "nic"}}),
    ],
)
def test_ends_are_named_as_users_name_them(folder, text, wanted):
    """A kind before a slash, an address, or a bare name, which is a Server's before it is a Port's."""
    write(folder, "Passed")
    assert trace.end_of(text, None) == wanted


HOPS = {
    "there": {"what": "IngressRules", "name": "red/web", "verdict": "Passed", "message": "lets in", "host": "h2"},
    "back": {
        "what": "EgressRules",
        "name": "red/web",
        "verdict": "Dropped",
        "message": "no rule",
        "remedy": "add one",
        "host": "h2",
    },
}


@pytest.mark.parametrize(("verdict", "code"), [("Passed", 0), ("Dropped", 1), ("Unknown", 2)])
def test_the_way_back_is_a_table_of_its_own(verdict, code):
    """An answer that is dropped says where and what to do, and ends with 1, though the packet has passed."""
    hop = HOPS["back"] | {"verdict": verdict}
    answer = {"verdict": verdict, "message": "no rule", "hops": [hop]}
    status = {"verdict": "Passed", "hops": [HOPS["there"]], "answer": answer}
    spec = {"source": {"server": {"name": "a"}}, "destination": {"address": "10.0.0.12"}}
    body = {"metadata": {"name": "t", "namespace": "red"}, "spec": spec, "status": status}
    found = NetworkTrace.model_validate(body)
    assert trace.exit_code(found) == code
    lines = trace.text_of(found).splitlines()
    assert lines[lines.index("The packet passes.") + 2] == "THE WAY BACK"
    assert lines.count(lines[0]) == 2
    ends = {
        "Passed": ["The answer passes."],
        "Dropped": ["The answer is dropped at EgressRules red/web on h2.", "To do: add one."],
        "Unknown": ["The answer is lost from view at EgressRules red/web on h2.", "To do: add one."],
    }
    assert lines[-len(ends[verdict]) :] == ends[verdict]
    assert trace.json_of(found)["answer"]["verdict"] == verdict
