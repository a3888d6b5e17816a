import ipaddress
import pathlib

import pytest

from kumulus_lab.errors import LabError
from kumulus_lab.settings import LabSettings


def test_addresses_follow_from_the_index(tmp_path):
    """Host i has address .10+i, the i-th /24 of the pods, and names that carry the lab's name."""
    lab = LabSettings(hosts=12, state=tmp_path)
    second, twelfth = lab.host("h2"), lab.host("h12")
    assert (second.address, second.pod_cidr, second.netns) == ("10.88.0.12", "10.244.2.0/24", "klab-h2")
    assert (twelfth.address, twelfth.pod_cidr) == ("10.88.0.22", "10.244.12.0/24")


def test_names_and_addresses_are_unique(tmp_path):
    """No two hosts share a name, an address, a cable or a pod subnet, and cables fit into 15 characters."""
    specs = LabSettings(hosts=50, name="eightchr", state=tmp_path).host_specs
    for field in ("name", "address", "netns", "veth", "physical_veth", "pod_cidr", "directory"):
        assert len({getattr(spec, field) for spec in specs}) == 50
    assert all(len(name) <= 15 for spec in specs for name in (spec.veth, spec.physical_veth))


@pytest.mark.parametrize(
    "wrong", [{"name": "Lab"}, {"name": "far-too-long"}, {"hosts": 0}, {"hosts": 51}, {"subnet": "10.0.0.0/25"}]
)
def test_impossible_values_are_refused(tmp_path, wrong):
    """A lab that could not work is refused before anything is touched."""
    if "subnet" in wrong:
        wrong = {"subnet": ipaddress.IPv4Network(wrong["subnet"])}
    with pytest.raises(LabError):
        LabSettings(state=tmp_path, **wrong)


def test_number_of_hosts_is_remembered(tmp_path, monkeypatch):
    """Later commands know how many hosts `up` started."""
    monkeypatch.setenv("KUMULUS_LAB_STATE", str(tmp_path))
    LabSettings.from_environment(3).record()
    assert LabSettings.from_environment().hosts == 3
    assert LabSettings.from_environment(5).hosts == 5


def test_unknown_host_is_named_with_those_there_are(tmp_path):
    """An error about a host lists the hosts there are."""
    with pytest.raises(LabError, match="'h9'; there are: h1, h2"):
        LabSettings(state=tmp_path).host("h9")


def test_a_lab_that_only_root_may_see_is_none(tmp_path, monkeypatch):
    """A plain user beside a running lab gets as far as the check that says that root is needed."""

    def refuse(_):
        raise PermissionError

    monkeypatch.setenv("KUMULUS_LAB_STATE", str(tmp_path))
    monkeypatch.setattr(pathlib.Path, "read_text", refuse)
    assert LabSettings.from_environment().hosts == 2
