"""How a host service is started, and where its control group lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from kumulus_agent.services import cgroup
from kumulus_agent.services.host_service import ServiceSpec, systemd_argv


def test_a_transient_unit_joins_the_namespace() -> None:
    """It gets unit name and namespace as options and the program behind them."""
    command = systemd_argv(ServiceSpec("kumulus-dns-00002a", ("dnsmasq", "--x"), "/run/netns/kd00002a"))
    assert command[0] == "systemd-run"
    assert "--unit=kumulus-dns-00002a" in command
    assert "--property=NetworkNamespacePath=/run/netns/kd00002a" in command
    assert command[-3:] == ("--", "dnsmasq", "--x")


@pytest.mark.parametrize("unit", ["dns", "kumulus-../x", "kumulus-A", "kumulus-"])
def test_a_unit_name_is_checked(unit: str) -> None:
    """A unit's name is a file's name too."""
    with pytest.raises(ValueError, match="is not a unit name"):
        ServiceSpec(unit, ("true",))


def make_hierarchy(root: Path, *names: str) -> None:
    """Mount points of control group hierarchies."""
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "cgroup.procs").touch()


def test_groups_lie_below_the_hosts_first_process(tmp_path: Path) -> None:
    """Two hosts of one machine do not share groups, in version 1, 2 or both."""
    make_hierarchy(tmp_path, "memory", "cpu,cpuacct", "systemd", "unified")
    text = "5:memory:/h1\n4:cpu,cpuacct:/h1\n1:name=systemd:/h1\n0::/h1\n9:pids:/h1\n"
    found = cgroup.directories(text, tmp_path)
    assert found == tuple(tmp_path / name / "h1" for name in ("memory", "cpu,cpuacct", "systemd", "unified"))


def test_version_2_lies_at_the_root(tmp_path: Path) -> None:
    """With version 2 alone there is one group."""
    make_hierarchy(tmp_path, "")
    assert cgroup.directories("0::/\n", tmp_path) == (tmp_path,)


def test_a_cpuset_inherits_its_processors(tmp_path: Path) -> None:
    """A version 1 cpuset without processors would refuse the process."""
    unit = tmp_path / "kumulus" / "kumulus-x"
    unit.mkdir(parents=True)
    (tmp_path / "cpuset.cpus").write_text("0-1\n")
    for group in (unit.parent, unit):
        (group / "cpuset.cpus").write_text("\n")
    cgroup.move(1234, "kumulus-x", (tmp_path,))
    assert (unit / "cpuset.cpus").read_text() == "0-1\n"
    assert (unit / "cgroup.procs").read_text() == "1234"
