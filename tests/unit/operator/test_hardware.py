"""Hardware: the words of flavors and images are Nova's and Glance's, and what contradicts is refused by name."""

import pytest

from kumulus_api import Flavor, Image, Server, ServerAction
from kumulus_api.flavor import Resources
from kumulus_api.hardware import FLAVOR_WORDS, IMAGE_WORDS, Hardware, Topology
from kumulus_api.server_status import ScheduledReason
from kumulus_api.testing import make_object
from kumulus_operator.actions.begin import own_patch
from kumulus_operator.placement.facts import Amounts, HostFacts, Wish
from kumulus_operator.placement.filters import passing
from kumulus_operator.placement.hardware import hardware_of, hardware_traits
from kumulus_operator.placement.usage import server_amounts
from kumulus_operator.placement.wish import wish_for
from kumulus_operator.refusal import Refused
from kumulus_operator.servers.size import change_of

GIB = 2**30
SIZE = Resources(vcpus=4, memory="1Gi", root_disk="1Gi")


@pytest.mark.parametrize(
    ("specs", "properties", "found"),
    [
        ({}, {}, None),
        ({"trait:CUSTOM_X": "required", "aggregate_instance_extra_specs:a": "b"}, {}, None),
        ({"hw:cpu_policy": "shared", "hw:watchdog_action": "disabled", "hw:mem_page_size": "small"}, {}, None),
        ({"hw:mem_page_size": "any"}, {}, None),
        ({"hw:watchdog_action": "reset"}, {}, {"watchdog": "reset"}),
        ({"hw:watchdog_action": "reset"}, {"hw_watchdog_action": "pause"}, {"watchdog": "pause"}),
        ({"hw:watchdog_action": "reset"}, {"hw_watchdog_action": "disabled"}, None),
        ({"hw_rng:allowed": "False"}, {}, {"rng": False}),
        ({"hw_rng:rate_bytes": "10"}, {}, {"rngBytes": 10}),
        ({"quota:vif_inbound_average": "10"}, {}, {"vifInbound": {"average": 10}}),
        (
            {"quota:vif_outbound_average": "10", "quota:vif_outbound_peak": "20", "quota:vif_outbound_burst": "30"},
            {},
            {"vifOutbound": {"average": 10, "peak": 20, "burst": 30}},
        ),
        (
            {"quota:disk_total_bytes_sec": "10", "quota:disk_total_bytes_sec_max": "20"},
            {},
            {"rootDiskLimits": {"totalBytes": 10, "totalBytesBurst": 20}},
        ),
        (
            {"quota:disk_read_iops_sec": "10", "quota:disk_read_iops_sec_max": "9", "quota:disk_write_iops_sec": "5"},
            {},
            {"rootDiskLimits": {"readIops": 10, "writeIops": 5}},
        ),
        ({}, {"hw_boot_menu": "true"}, {"bootMenu": True}),
        ({"hw:boot_menu": "True"}, {"hw_boot_menu": "False"}, None),
        ({"hw:cpu_policy": "dedicated"}, {}, {"dedicated": True}),
        ({}, {"hw_firmware_type": "uefi"}, {"firmware": "uefi"}),
        ({"os:secure_boot": "required"}, {}, {"firmware": "uefi", "machine": "q35", "secureBoot": True}),
        ({}, {"os_secure_boot": "disabled", "hw_firmware_type": "uefi"}, {"firmware": "uefi"}),
        ({"hw:tpm_version": "2.0"}, {"hw_tpm_model": "tpm-crb", "hw_tpm_version": "2.0"},
         {"tpm": {"version": "2.0", "model": "tpm-crb"}}),
        ({"hw:tpm_version": "1.2"}, {}, {"tpm": {"version": "1.2", "model": "tpm-tis"}}),
        ({}, {"hw_disk_bus": "scsi", "hw_vif_model": "e1000e"}, {"diskBus": "scsi", "interfaceModel": "e1000e"}),
        ({"hw:mem_page_size": "2MB"}, {}, {"pageSize": 2048}),
        ({"hw:mem_page_size": "1048576"}, {}, {"pageSize": 1048576}),
        ({"hw:mem_page_size": "large"}, {}, {"anyHugePage": True}),
        ({"hw:mem_page_size": "large"}, {"hw_mem_page_size": "1GB"}, {"pageSize": 1048576}),
        ({"hw:numa_nodes": "2"}, {}, {"numaNodes": 2}),
        ({"hw:cpu_model": "Nehalem"}, {}, {"cpuModel": "Nehalem"}),
    ],
)  # fmt: skip
def test_words_of_flavor_and_image_make_the_machine(specs, properties, found):
    """An image refines what its flavor leaves open; what says nothing leaves the machine as the host makes it."""
    hardware = hardware_of(specs, properties, SIZE)
    assert (hardware.dump() if hardware else None) == found


@pytest.mark.parametrize(
    ("specs", "properties", "layout"),
    [
        ({"hw:cpu_cores": "2"}, {}, (2, 2, 1)),
        ({"hw:cpu_sockets": "1"}, {}, (1, 4, 1)),
        ({"hw:cpu_threads": "2"}, {}, (2, 1, 2)),
        ({"hw:cpu_max_sockets": "2"}, {}, (2, 2, 1)),
        ({"hw:cpu_max_sockets": "1", "hw:cpu_max_cores": "2"}, {}, (1, 2, 2)),
        ({"hw:cpu_max_sockets": "4"}, {"hw_cpu_max_sockets": "1"}, (1, 4, 1)),
        ({"hw:cpu_sockets": "4"}, {"hw_cpu_sockets": "2"}, (2, 2, 1)),
    ],
)
def test_a_layout_holds_exactly_the_vcpus(specs, properties, layout):
    """Sockets are preferred to cores and cores to threads, within what is asked for."""
    hardware = hardware_of(specs, properties, SIZE)
    assert hardware is not None
    assert hardware.topology == Topology(**dict(zip(("sockets", "cores", "threads"), layout, strict=True)))


@pytest.mark.parametrize(
    ("specs", "properties", "sockets"),
    [
        ({"hw:cpu_cores": "2"}, {}, 4),
        ({"hw:cpu_cores": "2", "hw:cpu_policy": "dedicated"}, {}, 2),
        ({"hw:cpu_cores": "2"}, {"hw_numa_nodes": "2"}, 2),
        ({"hw:cpu_cores": "2", "hw:mem_page_size": "large"}, {}, 2),
    ],
)
def test_a_layout_has_places_for_what_can_be_plugged_in(specs, properties, sockets):
    """It holds as many vCPUs as the guest can be given while it runs: where that is none, those it has."""
    hardware = hardware_of(specs, properties, SIZE.model_copy(update={"max_vcpus": 8}))
    assert hardware is not None
    assert hardware.topology == Topology(sockets=sockets, cores=2, threads=1)


@pytest.mark.parametrize(
    ("specs", "properties", "said"),
    [
        ({"hw:colour": "blue"}, {}, "extra spec hw:colour=blue is not understood"),
        ({}, {"hw_colour": "blue"}, "property hw_colour=blue is not understood"),
        ({"hw:cpu_policy": "shared"}, {"hw_cpu_policy": "dedicated"}, "hw:cpu_policy=shared does not go with"),
        (
            {"hw:tpm_version": "2.0"},
            {"hw_tpm_version": "1.2"},
            "hw:tpm_version=2.0 does not go with",
        ),
        ({"hw:tpm_version": "1.2"}, {"hw_tpm_model": "tpm-crb"}, "TPM model tpm-crb does not go with TPM version 1.2"),
        ({"os:secure_boot": "required"}, {"hw_firmware_type": "bios"}, "does not go with hw_firmware_type=bios"),
        ({"os:secure_boot": "required"}, {"hw_machine_type": "pc"}, "does not go with hw_machine_type=pc"),
        ({"os:secure_boot": "required"}, {"os_secure_boot": "disabled"}, "os_secure_boot=disabled"),
        ({"os:secure_boot": "required"}, {"hw_disk_bus": "ide"}, "hw_disk_bus=ide does not go with machine type q35"),
        ({}, {"hw_mem_page_size": "large"}, "hw:mem_page_size=small does not go with hw_mem_page_size=large"),
        ({"hw:mem_page_size": "2MB"}, {"hw_mem_page_size": "1GB"}, "does not go with hw_mem_page_size=1GB"),
        ({"hw:numa_nodes": "5"}, {}, "numa_nodes=5 does not go with 4 vCPUs"),
        ({"hw:cpu_sockets": "3"}, {}, "a layout of sockets=3 does not go with 4 vCPUs"),
        ({"hw:cpu_max_sockets": "1"}, {"hw_cpu_sockets": "2"}, "sockets=2, max_sockets=1 does not go with"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(specs, properties, said):
    """A refusal names both words and says what to do."""
    with pytest.raises(Refused) as failure:
        hardware_of(specs, properties, SIZE)
    assert failure.value.refusal.reason == ScheduledReason.HARDWARE_CONFLICT
    assert said in failure.value.refusal.message
    assert "permanent: use" in failure.value.refusal.message


def test_all_that_is_understood_is_read():
    """Each word of flavors and images, with each of its values, leads to a machine or to a refusal that is ours."""
    refused = []
    for words, place in ((FLAVOR_WORDS, 0), (IMAGE_WORDS, 1)):
        for word in words:
            for value in word.values or ("1", "2"):
                tables: tuple[dict[str, str], dict[str, str]] = ({}, {})
                tables[place][word.key] = value
                try:
                    hardware_of(*tables, SIZE)
                except Refused:
                    refused.append(word.key)
    assert set(refused) == {"hw_mem_page_size"}


@pytest.mark.parametrize(
    ("specs", "properties", "traits"),
    [
        ({"os:secure_boot": "required"}, {},
         {"CUSTOM_MACHINE_Q35", "COMPUTE_FIRMWARE_UEFI", "COMPUTE_SECURITY_UEFI_SECURE_BOOT"}),
        ({"hw:tpm_version": "2.0", "hw:tpm_model": "tpm-crb"}, {},
         {"COMPUTE_SECURITY_TPM_2_0", "COMPUTE_SECURITY_TPM_CRB"}),
        ({"hw:watchdog_action": "none"}, {}, {"CUSTOM_WATCHDOG_I6300ESB"}),
        ({"hw:cpu_model": "EPYC-v3"}, {}, {"CUSTOM_CPU_MODEL_EPYC_V3"}),
        ({}, {"hw_disk_bus": "sata", "hw_vif_model": "rtl8139"},
         {"COMPUTE_STORAGE_BUS_SATA", "COMPUTE_NET_VIF_MODEL_RTL8139"}),
    ],
)  # fmt: skip
def test_what_only_some_hosts_give_becomes_traits(specs, properties, traits):
    """The hardware of a server asks its host for the traits that Placement has for it."""
    assert hardware_traits(hardware_of(specs, properties, SIZE)) == traits


def server_of(flavor, image, **assignment):
    """Make a server of them; given `assignment`, it is placed."""
    server = make_object(Server, "web")
    server["spec"] |= {"flavor": {"name": flavor.metadata.name}, "image": {"name": image.metadata.name}}
    return Server.model_validate(server)


def flavor_of(**specs):
    """Make a flavor of 2 vCPUs."""
    spec = {"vcpus": 2, "memory": "1Gi", "rootDisk": "1Gi", "extraSpecs": specs}
    return Flavor.model_validate({"metadata": {"name": "f"}, "spec": spec})


def image_of(**properties):
    """Make an image."""
    body = make_object(Image, "i")
    body["spec"]["properties"] = properties
    return Image.model_validate(body)


def test_dedicated_vcpus_are_counted_apart():
    """A server with CPUs of its own takes none of the shared ones, and a host without free ones is no candidate."""
    flavor, image = flavor_of(**{"hw:cpu_policy": "dedicated"}), image_of()
    wish = wish_for(server_of(flavor, image), flavor, image, None, [])
    assert wish.amounts == Amounts(0, GIB, GIB, dedicated=2)
    fields = {"ready": True, "fresh": True, "schedulable": True, "maintenance": False, "decommissioned": False}
    host = HostFacts("h1", **fields, tunnel=True, total=Amounts(8, 8 * GIB, 8 * GIB, dedicated=3))
    assert passing([host], {}, wish)[0] == [host]
    _, refused = passing([host], {"h1": Amounts(dedicated=2)}, wish)
    assert [item.why for item in refused] == ["without enough dedicated CPUs"]
    shared = Wish(Amounts(1, GIB, GIB))
    assert passing([host], {"h1": Amounts(dedicated=3)}, shared)[0] == [host]


def test_huge_pages_and_numa_nodes_reach_the_filters():
    """What the flavor says of memory is asked of hosts as bytes in pages of that size."""
    flavor, image = flavor_of(**{"hw:mem_page_size": "2MB", "hw:numa_nodes": "2"}), image_of()
    terms = wish_for(server_of(flavor, image), flavor, image, None, []).terms
    assert (terms.numa_nodes, terms.huge_pages, terms.page_size) == (2, GIB, 2048)


def placed(hardware, properties=None, **former):
    """Make a server that was placed with a flavor `old`, and shall have the flavor `f`."""
    image = {"name": "i", "namespace": "demo", "url": "http://x/i", "format": "raw", "digest": "sha256:" + "0" * 64}
    image |= {"virtualSize": 1} | ({"properties": properties} if properties else {})
    body = make_object(Server, "web")
    body["spec"]["flavor"] = {"name": "f"}
    body["spec"]["assignment"] = {
        "instanceID": "5f6e1f0a-6d3f-4b2e-9d3e-0c1f2a3b4c5d",
        "host": "h1",
        "epoch": 1,
        "flavor": "old",
        "resources": {"vcpus": 2, "memory": "1Gi", "rootDisk": "1Gi"},
        "image": image,
    } | ({"hardware": hardware} if hardware else {}) | former  # fmt: skip
    return Server.model_validate(body)


def test_a_resize_changes_the_machine_too():
    """A changed flavor gives the machine that it asks for, with what the image asked for when the server was placed."""
    server = placed({"firmware": "uefi", "watchdog": "reset"}, {"hw_firmware_type": "uefi"})
    change = change_of(server, flavor_of(**{"hw:cpu_policy": "dedicated"}))
    assert change is not None
    assert change.assignment["hardware"] == {"firmware": "uefi", "dedicated": True}
    assert change.amounts == Amounts(2, GIB, GIB, dedicated=2)
    plain = change_of(placed({"watchdog": "reset"}), flavor_of())
    assert plain is not None
    assert "hardware" not in plain.assignment


def test_a_resize_to_be_confirmed_keeps_the_way_back():
    """The former machine is kept with the former size, and both are counted."""
    server = placed({"dedicated": True})
    spec = server.spec.model_copy(update={"resize_policy": "Confirm"})
    change = change_of(server.model_copy(update={"spec": spec}), flavor_of(**{"hw:watchdog_action": "reset"}))
    assert change is not None
    assert change.assignment["former"]["hardware"] == {"dedicated": True}
    assert change.assignment["hardware"] == {"watchdog": "reset"}
    resized = placed(change.assignment["hardware"], former=change.assignment["former"])
    assert server_amounts(resized) == Amounts(2, GIB, GIB, dedicated=2)


def test_a_reverted_resize_gives_the_former_machine_back():
    """The merge patch takes away what the new machine has and names all of the former one."""
    size = {"flavor": "old", "resources": {"vcpus": 2, "memory": "1Gi", "rootDisk": "1Gi"}}
    resized = placed({"watchdog": "reset", "firmware": "uefi"}, former=size | {"hardware": {"firmware": "bios"}})
    revert = make_object(ServerAction, "revert")
    revert["spec"] = {"server": {"name": "web"}, "type": "RevertResize"}
    patch = own_patch(ServerAction.model_validate(revert), resized)
    assert patch is not None
    assert patch["spec"]["assignment"]["hardware"] == {"watchdog": None, "firmware": "bios"}
    plain = own_patch(ServerAction.model_validate(revert), placed({"watchdog": "reset"}, former=size))
    assert plain is not None
    assert plain["spec"]["assignment"]["hardware"] is None


def test_hardware_is_told_by_what_is_asked_only():
    """An assignment carries nothing where nothing is asked."""
    assert Hardware().dump() == {}
