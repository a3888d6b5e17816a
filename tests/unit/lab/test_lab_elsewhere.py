import ipaddress

import pytest

from kumulus_lab import elsewhere
from kumulus_lab.errors import LabError
from kumulus_lab.settings import LabSettings


@pytest.fixture
def lab(tmp_path):
    """A running lab whose addresses are not the default ones."""
    lab = LabSettings(
        hosts=3,
        name="other",
        subnet=ipaddress.IPv4Network("192.0.2.0/24"),
        state=tmp_path / "other",
        cache=tmp_path / "cache",
    )
    lab.record()
    lab.kubeconfig.parent.mkdir(parents=True)
    lab.kubeconfig.touch()
    return lab


def test_a_labs_own_kubeconfig_means_the_lab(lab):
    """Whoever pastes the lines that `make up` prints, KUBECONFIG among them, still gets the lab from `make up`."""
    assert elsewhere.given(lab, {"KUBECONFIG": str(lab.kubeconfig)}) is None
    assert elsewhere.given(lab, {}) is None
    assert elsewhere.given(lab, {"KUBECONFIG": ""}) is None


def test_another_kubeconfig_means_that_cluster(lab, tmp_path):
    """Any other file names a cluster to install into; one that is not there is refused."""
    (tmp_path / "config").touch()
    assert elsewhere.given(lab, {"KUBECONFIG": str(tmp_path / "config")}) == tmp_path / "config"
    with pytest.raises(LabError, match="one file that exists"):
        elsewhere.given(lab, {"KUBECONFIG": str(tmp_path / "absent")})
    with pytest.raises(LabError, match="one file that exists"):
        elsewhere.given(lab, {"KUBECONFIG": f"{tmp_path / 'config'}:{tmp_path / 'config'}"})


def test_a_lab_is_known_by_its_kubeconfig(lab, tmp_path, monkeypatch):
    """The lab that a kubeconfig belongs to is found with its name, hosts and addresses; another file has none."""
    monkeypatch.setenv("KUMULUS_CACHE", str(lab.cache))
    assert LabSettings.of_kubeconfig(lab.kubeconfig) == lab
    assert LabSettings.of_kubeconfig(tmp_path / "config") is None
    assert LabSettings.of_kubeconfig(tmp_path / "lab.json") is None


def test_a_labs_folder_tells_the_rest_of_it(lab, monkeypatch):
    """With only the state folder given, later commands find the lab's name and addresses in it."""
    for name in ("KUMULUS_LAB_NAME", "KUMULUS_LAB_SUBNET", "KUMULUS_LAB_PODS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUMULUS_LAB_STATE", str(lab.state))
    monkeypatch.setenv("KUMULUS_CACHE", str(lab.cache))
    assert LabSettings.from_environment() == lab


def test_a_cluster_without_images_is_refused_before_anything_is_done(tmp_path):
    """Without a registry or values the message names both inputs; a file of values must exist."""
    with pytest.raises(LabError, match=r"IMAGE_REGISTRY=(.|\n)*VALUES="):
        elsewhere.values_given({})
    with pytest.raises(LabError, match="no such file"):
        elsewhere.values_given({"VALUES": str(tmp_path / "absent.yaml")})
    (tmp_path / "values.yaml").touch()
    assert elsewhere.values_given({"VALUES": str(tmp_path / "values.yaml")}) == [tmp_path / "values.yaml"]
    assert elsewhere.values_given({"IMAGE_REGISTRY": "registry.example.com/x"}) == []
