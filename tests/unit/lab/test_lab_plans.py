import json
import tarfile
from pathlib import Path

import pytest

from kumulus_lab import (
    builds,
    cgroups,
    chart,
    cluster_dns,
    control_plane,
    host_plan,
    images,
    machine,
    packages,
    quickstart,
)
from kumulus_lab.control_plane import ControlPlaneSettings
from kumulus_lab.host_plan import HostPlan
from kumulus_lab.settings import LabSettings

PORTS = {"etcd": 1, "etcd-peer": 2, "api": 3, "controller-manager": 4, "scheduler": 5}


@pytest.fixture
def lab(tmp_path):
    """A lab of two hosts in a folder of the test."""
    return LabSettings(hosts=2, state=tmp_path / "state", cache=tmp_path / "cache")


def test_host_plan_survives_its_file(lab):
    """What init reads is what was planned."""
    plan = host_plan.plan(lab, lab.host("h1"), search_path="/bin")
    assert HostPlan.from_json(plan.to_json()) == plan


def test_hosts_share_no_folder(lab):
    """No folder or file of a host is mounted in another one."""
    first, second = (host_plan.plan(lab, host, search_path="/bin") for host in lab.host_specs)
    assert not {source for source, _ in first.binds} & {source for source, _ in second.binds}


def test_libvirtd_listens_on_no_network(lab):
    """Libvirtd is started without --listen and its file switches TCP and TLS off."""
    plan = host_plan.plan(lab, lab.host("h1"), search_path="/bin")
    (libvirtd,) = [service for service in plan.services if service.name == "libvirtd"]
    assert libvirtd.argv == ("libvirtd",)
    conf = host_plan.libvirtd_conf("0")
    assert "listen_tcp = 0" in conf
    assert "listen_tls = 0" in conf


def test_kubelet_waits_for_containerd_and_its_pause_image(lab):
    """Kubelet starts after containerd's socket is there and the pause image is imported."""
    plan = host_plan.plan(lab, lab.host("h1"), search_path="/bin")
    (kubelet,) = [service for service in plan.services if service.name == "kubelet"]
    assert kubelet.needs == (host_plan.CONTAINERD_SOCKET,)
    assert kubelet.prepare[0][-1].endswith("busybox.tar")


def test_configuration_is_valid_json_and_names_the_host(lab):
    """Every host has its own pod subnet, and its hosts file names all hosts."""
    files = host_plan.configuration(lab, lab.host("h2"), nameservers=("192.0.2.1",))
    for name, content in files.items():
        if name.endswith((".json", ".conflist")):
            json.loads(content)
    assert "10.244.2.0/24" in files["etc-cni/10-lab.conflist"]
    assert "10.88.0.11 h1\n10.88.0.12 h2\n" in files["hosts"]
    assert files["resolv.conf"] == "nameserver 192.0.2.1\n"


@pytest.mark.parametrize("controllers", [True, False])
def test_apiserver_alone_needs_no_controllers(tmp_path, controllers):
    """Without controllers the API server admits pods that have no ServiceAccount; with them it does not."""
    settings = ControlPlaneSettings(tmp_path, tmp_path, "127.0.0.1", tmp_path / "audit.log", controllers=controllers)
    flags = control_plane.apiserver_flags(settings, PORTS)
    assert ("--disable-admission-plugins=ServiceAccount" in flags) is not controllers
    assert f"--audit-log-path={tmp_path / 'audit.log'}" in flags


@pytest.mark.parametrize(("machine", "limit"), [(4, 512), (8, 512), (24, 1536)])
def test_the_apiservers_heap_is_bounded_by_the_machine(machine, limit):
    """However seldom it collects garbage, the API server stays near a sixteenth of the machine's memory."""
    environment = control_plane.garbage_collection(machine * 1024**3)
    assert environment["GOMEMLIMIT"] == str(limit * 1024**2)


@pytest.mark.parametrize(
    ("own", "mounted", "expected"),
    [
        ("0::/user.slice", {"."}, [("", ".")]),
        ("4:cpu,cpuacct:/\n1:name=systemd:/\n0::/", {"cpu,cpuacct", "systemd", "unified"},
         [("cpu,cpuacct", "cpu,cpuacct"), ("name=systemd", "systemd"), ("", "unified")]),
        ("3:pids:/\n2:rdma:/\n0::/", {"pids"}, [("pids", "pids")]),
    ],
    ids=["version 2", "hybrid", "version 1 with unmounted ones"],
)  # fmt: skip
def test_hierarchies_are_those_mounted(own, mounted, expected):
    """Control group hierarchies are recognised in all three layouts of a machine."""
    found = cgroups.parse(own, frozenset(mounted))
    assert [(hierarchy.options, hierarchy.folder) for hierarchy in found] == expected


def test_only_missing_packages_count():
    """A package is installed only if dpkg says `ii`, not if its configuration is left over."""
    assert packages.installed("runc ii \nbuildah rc \nnft un \n") == {"runc"}


def test_nameservers_on_loopback_are_left_out():
    """A resolver on the machine's loopback cannot be reached from a host."""
    assert machine.nameservers("# x\nnameserver 127.0.0.53\nnameserver 192.0.2.7\nnameserver ::1\n") == ("192.0.2.7",)


def test_mounts_below_a_folder_come_deepest_first():
    """Later mounts come first, and a folder that only shares a prefix is not touched."""
    lines = [f"1 2 0:1 / {path} rw - tmpfs tmpfs rw" for path in ("/s", "/s/a", "/state", "/s/a/b")]
    assert machine.mounts_below(Path("/s"), "\n".join(lines)) == (Path("/s/a/b"), Path("/s/a"), Path("/s"))


def test_dns_without_nameservers_forwards_nowhere(lab):
    """With no reachable resolver CoreDNS answers only the cluster's names."""
    assert "forward" not in cluster_dns.corefile(())
    assert "forward . 192.0.2.7" in cluster_dns.corefile(("192.0.2.7",))
    (service,) = [item for item in cluster_dns.manifests(lab.dns_address, ()) if item["kind"] == "Service"]
    assert service["spec"]["clusterIP"] == "10.96.0.10"


def test_image_archive_holds_the_files(tmp_path):
    """An archive names its image and its layer holds files, executable, and links."""
    program = tmp_path / "program"
    program.write_bytes(b"x")
    images.write_archive(
        tmp_path / "i.tar", "local/x:1", {"bin/x": program}, links={"bin/y": "x"}, entrypoint=["/bin/x"]
    )
    with tarfile.open(tmp_path / "i.tar") as archive:
        manifest = json.load(archive.extractfile("manifest.json"))
        with tarfile.open(fileobj=archive.extractfile(manifest[0]["Layers"][0])) as layer:
            assert layer.getmember("bin/x").mode == 0o755
            assert layer.getmember("bin/y").linkname == "x"
    assert manifest[0]["RepoTags"] == ["local/x:1"]


def test_build_key_changes_with_the_source(tmp_path):
    """A changed source file is another build."""
    (tmp_path / "main.go").write_text("package main")
    build = builds.Build(name="x", source=tmp_path, programs=("x",))
    before = build.key
    (tmp_path / "main.go").write_text("package main // changed")
    assert build.key != before


def test_chart_gets_the_images_just_built():
    """The chart is told repository and tag of each image, also with a port in the registry's name."""
    assert chart.image_values({"agent": "localhost:5000/agent:ab12"}) == [
        "--set-string=agent.image.repository=localhost:5000/agent",
        "--set-string=agent.image.tag=ab12",
    ]


def test_server_is_described_in_one_line():
    """The last lines of `up` say where the server is, also while it has no host or address."""
    server = {"metadata": {"namespace": "demo", "name": "web"}, "spec": {}}
    assert quickstart.describe(server) == "server demo/web runs on no host: no address"
    placed = {"spec": {"assignment": {"host": "h1"}}, "status": {"addresses": [{"address": "192.0.2.5"}]}}
    assert quickstart.describe(server | placed) == "server demo/web runs on h1: 192.0.2.5"
