"""What the chart renders to, without a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kumulus_agent.settings import AgentSettings

from .conftest import CHART, Helm, Object

Rendered = Callable[..., list[Object]]


def of_kind(objects: list[Object], kind: str, name: str = "") -> list[Object]:
    """Those objects of a kind, and of a name if one is given."""
    return [body for body in objects if body["kind"] == kind and name in ("", body["metadata"]["name"])]


def pods(objects: list[Object]) -> dict[str, Object]:
    """Name of each pod, or of what makes pods, to the pod's spec."""
    made = [body for body in objects if body["kind"] in ("Deployment", "DaemonSet")]
    specs = {body["metadata"]["name"]: body["spec"]["template"]["spec"] for body in made}
    return specs | {body["metadata"]["name"]: body["spec"] for body in of_kind(objects, "Pod")}


def rules_of(objects: list[Object], account: str) -> list[Object]:
    """All rules that the roles bound to a ServiceAccount hold."""
    rules = []
    for binding in [body for body in objects if body["kind"] in ("RoleBinding", "ClusterRoleBinding")]:
        if any(subject["name"] == account for subject in binding["subjects"]):
            role = binding["roleRef"]
            rules += [rule for body in of_kind(objects, role["kind"], role["name"]) for rule in body["rules"]]
    return rules


@pytest.mark.parametrize("values", ["", "lab-values.yaml", "no-crds-values.yaml"])
def test_chart_passes_strict_linting(helm: Helm, values: str) -> None:
    """`helm lint --strict` finds nothing, with the default values and with each set that the chart ships."""
    done = helm("lint", "--strict", str(CHART), *([f"--values={CHART / 'ci' / values}"] if values else []))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("pod", ["kumulus-operator", "kumulus-console", "kumulus-test"])
def test_operator_and_test_have_no_privileges(rendered: Rendered, pod: str) -> None:
    """They are no root, write to no root file system, hold no capability and run under the default seccomp profile."""
    spec = pods(rendered())[pod]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in context


def test_the_name_server_has_no_privileges(rendered: Rendered) -> None:
    """It has no token and no root; the one capability is that without which its image's program does not start."""
    spec = pods(rendered())["kumulus-dns"]
    assert spec["automountServiceAccountToken"] is False
    assert (spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["runAsUser"]) == (True, 65532)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
    }
    assert {"startupProbe", "livenessProbe", "readinessProbe", "resources"} <= set(container)


def test_zone_files_are_mounted_where_they_are_read(rendered: Rendered) -> None:
    """The folder of the configuration is the mounted one, of as many ConfigMaps as the operator may write."""
    objects = rendered("--set=dns.shards=3", "--set=dns.nameservers={ns1.a.test.,ns2.a.test.}")
    spec = pods(objects)["kumulus-dns"]
    (zones,) = [volume for volume in spec["volumes"] if volume["name"] == "zones"]
    names = [source["configMap"]["name"] for source in zones["projected"]["sources"]]
    assert names == ["kumulus-zones-0", "kumulus-zones-1", "kumulus-zones-2"]
    assert all(source["configMap"]["optional"] for source in zones["projected"]["sources"])
    (mount,) = [item for item in spec["containers"][0]["volumeMounts"] if item["name"] == "zones"]
    (config,) = of_kind(objects, "ConfigMap", "kumulus-dns")
    assert f"directory {mount['mountPath']}/..data " in config["data"]["Corefile"]
    assert config["data"]["Corefile"].startswith("#")
    (container,) = pods(objects)["kumulus-operator"]["containers"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert (variables["KUMULUS_ZONE_SHARDS"], variables["KUMULUS_NAMESERVERS"]) == ("3", "ns1.a.test.,ns2.a.test.")
    patched = [
        rule for rule in rules_of(objects, "kumulus-operator") if set(names) & set(rule.get("resourceNames", ()))
    ]
    assert [rule["resourceNames"] for rule in patched] == [names]


def test_without_a_name_server_there_is_nothing_of_it(rendered: Rendered) -> None:
    """dns.enabled=false leaves out pods, Service and the right to write zone files, and tells the operator."""
    objects = rendered("--set=dns.enabled=false")
    assert not [body for body in objects if body["metadata"]["name"] == "kumulus-dns"]
    (container,) = pods(objects)["kumulus-operator"]["containers"]
    assert "KUMULUS_ZONE_SHARDS" not in {entry["name"] for entry in container["env"]}
    assert not [rule for rule in rules_of(objects, "kumulus-operator") if "kumulus-zones-0" in str(rule)]


def test_agents_open_the_bucket_of_images_with_a_mounted_secret(helm: Helm, rendered: Rendered) -> None:
    """With a bucket the agents have its address and, as files, its keys; without one nothing; half of it is refused."""
    options = ("endpoint=https://s3.test", "bucket=images", "secretName=images-s3", "pathStyle=false")
    objects = rendered("--set=images.store=s3", *(f"--set=images.s3.{option}" for option in options))
    spec = pods(objects)["kumulus-agent"]
    (container,) = spec["containers"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert (variables["KUMULUS_S3_BUCKET"], variables["KUMULUS_S3_PATH_STYLE"]) == ("images", "false")
    (volume,) = [item for item in spec["volumes"] if item["name"] == "s3-keys"]
    assert volume["secret"] == {"secretName": "images-s3", "defaultMode": 0o400}
    (mount,) = [item for item in container["volumeMounts"] if item["name"] == "s3-keys"]
    assert (mount["mountPath"], mount["readOnly"]) == (str(AgentSettings.model_fields["s3_keys"].default), True)
    (operator,) = pods(objects)["kumulus-operator"]["containers"]
    assert {"name": "KUMULUS_IMAGE_STORE", "value": "s3"} in operator["env"]
    (plain,) = pods(rendered())["kumulus-agent"]["containers"]
    assert not [entry for entry in plain["env"] if "S3" in entry["name"]]
    for half in ("--set=images.store=s3", "--set=images.s3.bucket=images"):
        assert helm("template", "kumulus", str(CHART), half).returncode != 0


def test_agents_have_no_verb_on_secrets(rendered: Rendered) -> None:
    """No rule bound to the agents names secrets or everything, and none lets them widen their own rights."""
    rules = rules_of(rendered(), "kumulus-agent")
    assert rules
    for rule in rules:
        assert not {"secrets", "*"} & set(rule["resources"])
        assert "*" not in rule["verbs"]
        assert "*" not in rule["apiGroups"]
        assert not {"escalate", "bind", "impersonate", "delete", "deletecollection"} & set(rule["verbs"])
        assert "pods/exec" not in rule["resources"]


def test_operator_reads_secrets_of_projects_only(rendered: Rendered) -> None:
    """It reads them by no role but the one that it binds in projects, and there writes what a policy lets it: keys."""
    objects = rendered()
    core = [rule for rule in rules_of(objects, "kumulus-operator") if {"", "*"} & set(rule["apiGroups"])]
    assert not [rule for rule in core if {"secrets", "*"} & set(rule["resources"])]
    (role,) = of_kind(objects, "ClusterRole", "kumulus-boot-data")
    read, written = role["rules"]
    assert set(read["verbs"]) <= {"get", "list", "watch"}
    assert (written["resources"], set(written["verbs"])) == (["secrets"], {"create", "delete"})
    (policy,) = of_kind(objects, "ValidatingAdmissionPolicy", "kumulus-volume-keys")
    (binding,) = of_kind(objects, "ValidatingAdmissionPolicyBinding", "kumulus-volume-keys")
    (matched,) = policy["spec"]["matchConstraints"]["resourceRules"]
    assert set(written["verbs"]) <= {operation.lower() for operation in matched["operations"]}
    assert (policy["spec"]["failurePolicy"], binding["spec"]["validationActions"]) == ("Fail", ["Deny"])


def test_every_pod_says_what_it_needs(rendered: Rendered) -> None:
    """Operator and agent ask for CPU and memory, have a memory limit and all three probes."""
    for name in ("kumulus-operator", "kumulus-agent"):
        (container,) = pods(rendered())[name]["containers"]
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)


@pytest.mark.parametrize("keep", [True, False])
def test_crds_stay_only_if_wanted(rendered: Rendered, keep: bool) -> None:
    """With crds.keep every CustomResourceDefinition is marked to survive the release, without it none is."""
    crds = of_kind(rendered(f"--set=crds.keep={str(keep).lower()}"), "CustomResourceDefinition")
    marked = [crd["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep" for crd in crds]
    assert len(crds) == len(list((CHART / "files" / "crds").glob("*.yaml")))
    assert set(marked) == {keep}


def test_crds_can_come_from_elsewhere(rendered: Rendered) -> None:
    """With crds.enabled=false the chart holds none, and all else is the same."""
    everything, without = rendered(), rendered("--set=crds.enabled=false")
    assert without == [body for body in everything if body["kind"] != "CustomResourceDefinition"]


def test_crds_are_those_that_are_generated(rendered: Rendered) -> None:
    """The chart's definitions are byte for byte those in crds/."""
    for path in (CHART / "files" / "crds").iterdir():
        assert path.read_bytes() == (CHART.parents[1] / "crds" / path.name).read_bytes()


def test_settings_become_variables(rendered: Rendered) -> None:
    """A setting in camelCase arrives as a variable, a million as digits, a map as pairs."""
    options = ("--set=operator.settings.vniLast=2000000", "--set-json=operator.settings.vcpuOvercommit=2.5")
    (container,) = pods(rendered(*options))["kumulus-operator"]["containers"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert variables["KUMULUS_VNI_LAST"] == "2000000"
    assert variables["KUMULUS_VCPU_OVERCOMMIT"] == "2.5"
    mappings = '--set-json=agent.settings.bridgeMappings={"physnet2":"eth2","physnet1":"eth1"}'
    (container,) = pods(rendered(mappings))["kumulus-agent"]["containers"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert variables["KUMULUS_BRIDGE_MAPPINGS"] == "physnet1:eth1,physnet2:eth2"


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--set=operator.image.pullPolicy=Sometimes", "pullPolicy"),
        ("--set=operator.settings.vniFirst=0", "vniFirst"),
        ("--set=operator.settings.vniFrist=10", "vniFrist"),
        ("--set=agent.settings.virtualization=xen", "virtualization"),
        ("--set=agent.settings.bridgeMappings.Phys_1=eth1", "Phys_1"),
        ("--set=crds.keep=maybe", "keep"),
        ("--set=dns.shards=0", "shards"),
        ("--set=dns.nameservers={ns1.a.test}", "nameservers"),
        ("--set=oparator.image.tag=1", "oparator"),
        ("--set-string=test.timeoutSeconds=soon", "timeoutSeconds"),
        ("--set-string=agent.image.repository=", "repository"),
    ],
)
def test_wrong_values_are_refused_by_name(helm: Helm, option: str, told: str) -> None:
    """A value that is misspelt or out of range stops Helm with a message that names it."""
    done = helm("template", "kumulus", str(CHART), option)
    assert done.returncode != 0
    assert told in done.stderr


def test_hooks_are_removed_when_they_have_ended(rendered: Rendered) -> None:
    """What `helm test` makes, its rights first of all, goes with its success; uninstalling would leave it."""
    hooks = [body for body in rendered() if "helm.sh/hook" in body["metadata"].get("annotations", {})]
    assert {body["kind"] for body in hooks} >= {"Pod", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"}
    for body in hooks:
        policy: dict[str, Any] = body["metadata"]["annotations"]
        assert "hook-succeeded" in policy["helm.sh/hook-delete-policy"]
