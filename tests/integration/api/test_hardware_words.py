"""Which words for a guest's machine a real API server takes in flavors, images and hosts."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import Flavor, Host, Image, Kind
from kumulus_api.testing import make_object
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import Invalid

LAID_OUT = {"hw:cpu_sockets": "1", "hw:cpu_cores": "2", "hw:cpu_threads": "1"}
GOOD: list[tuple[type[Kind], dict[str, Any]]] = [
    (
        Flavor,
        {
            "vcpus": 4,
            "extraSpecs": {
                "hw:boot_menu": "True",
                "hw:cpu_policy": "dedicated",
                "hw:cpu_model": "Skylake-Server-IBRS",
                "hw:cpu_sockets": "2",
                "hw:cpu_cores": "2",
                "hw:cpu_threads": "1",
                "hw:cpu_max_sockets": "2",
                "hw:mem_page_size": "2MB",
                "hw:numa_nodes": "2",
                "hw:tpm_model": "tpm-crb",
                "hw:tpm_version": "2.0",
                "hw:watchdog_action": "reset",
                "hw_rng:allowed": "True",
                "hw_rng:rate_bytes": "4096",
                "hw_rng:rate_period": "1000",
                "os:secure_boot": "required",
                "quota:vif_inbound_average": "100",
                "quota:vif_inbound_peak": "200",
                "quota:vif_inbound_burst": "3999999",
                "quota:vif_outbound_average": "1",
                "quota:disk_total_bytes_sec": "1048576",
                "quota:disk_total_bytes_sec_max": "999999999999",
                "quota:disk_read_iops_sec": "100",
                "quota:disk_write_iops_sec": "50",
                "trait:HW_CPU_X86_AVX": "required",
            },
        },
    ),
    (
        Image,
        {
            "format": "iso",
            "properties": {
                "hw_disk_bus": "scsi",
                "hw_firmware_type": "uefi",
                "hw_machine_type": "q35",
                "hw_rng_model": "virtio",
                "hw_tpm_version": "1.2",
                "hw_vif_model": "e1000e",
                "os_secure_boot": "required",
            },
        },
    ),
    (Host, {"dedicatedCPUs": "2-7,10"}),
    (Flavor, {"vcpus": 1, "maxVcpus": 2, "extraSpecs": LAID_OUT | {"hw:mem_page_size": "any"}}),
    (Flavor, {"vcpus": 2, "maxVcpus": 4, "extraSpecs": LAID_OUT | {"hw:numa_nodes": "1"}}),
]
BAD: list[tuple[type[Kind], dict[str, Any], str]] = [
    (Flavor, {"extraSpecs": {"hw:cpu_policy": "mixed"}}, "hw:cpu_policy is shared or dedicated"),
    (Flavor, {"extraSpecs": {"hw:cpu_sockets": "0"}}, "hw:cpu_sockets is a number from 1 to 999"),
    (Flavor, {"extraSpecs": {"hw:mem_page_size": "huge"}}, "hw:mem_page_size is small, large, any, or a size"),
    (Flavor, {"extraSpecs": {"hw:tpm_model": "tpm-crb"}}, "hw:tpm_model goes with hw:tpm_version: give both"),
    (
        Flavor,
        {"extraSpecs": {"hw:tpm_model": "tpm-crb", "hw:tpm_version": "1.2"}},
        "hw:tpm_model tpm-crb goes with hw:tpm_version 2.0 only",
    ),
    (
        Flavor,
        {"extraSpecs": {"hw:cpu_sockets": "3", "hw:cpu_cores": "5", "hw:cpu_threads": "7"}},
        "hw:cpu_sockets times hw:cpu_cores times hw:cpu_threads is maxVcpus",
    ),
    (Flavor, {"vcpus": 2, "maxVcpus": 4, "extraSpecs": LAID_OUT}, "hw:cpu_threads is maxVcpus"),
    (
        Flavor,
        {"vcpus": 1, "maxVcpus": 2, "extraSpecs": LAID_OUT | {"hw:cpu_policy": "dedicated"}},
        "or with dedicated CPUs, NUMA nodes or huge pages, vcpus",
    ),
    (Flavor, {"extraSpecs": {"hw:numa_nodes": "99"}}, "hw:numa_nodes is at most the number of vcpus"),
    (Flavor, {"extraSpecs": {"quota:vif_inbound_average": "0"}}, "quota:vif_inbound_average is a number of kB/s"),
    (Flavor, {"extraSpecs": {"quota:vif_inbound_average": "4000000"}}, "from 1 to 3999999"),
    (
        Flavor,
        {"extraSpecs": {"quota:vif_outbound_burst": "9"}},
        "quota:vif_outbound_burst go with quota:vif_outbound_a",
    ),
    (
        Flavor,
        {"extraSpecs": {"quota:vif_inbound_average": "10", "quota:vif_inbound_peak": "9"}},
        "quota:vif_inbound_peak is at least quota:vif_inbound_average",
    ),
    (Flavor, {"extraSpecs": {"quota:disk_read_iops_sec": "0"}}, "a number from 1 to 999999999999"),
    (Flavor, {"extraSpecs": {"quota:disk_read_iops": "9"}}, "another would be ignored"),
    (
        Flavor,
        {"extraSpecs": {"quota:disk_total_iops_sec": "9", "quota:disk_write_iops_sec": "9"}},
        "limits reading and writing together",
    ),
    (Flavor, {"extraSpecs": {"quota:disk_read_bytes_sec_max": "9"}}, "give that too"),
    (Image, {"properties": {"hw_colour": "blue"}}, "a property is one of hw_boot_menu"),
    (Image, {"properties": {"hw_firmware_type": "efi"}}, "hw_firmware_type is bios or uefi"),
    (
        Image,
        {"properties": {"os_secure_boot": "required", "hw_firmware_type": "bios"}},
        "os_secure_boot required goes with hw_firmware_type uefi",
    ),
    (
        Image,
        {"properties": {"hw_disk_bus": "ide", "hw_machine_type": "q35"}},
        "hw_disk_bus ide goes with hw_machine_type pc",
    ),
    (Host, {"dedicatedCPUs": "1-"}, "spec.dedicatedCPUs"),
]


async def create_dry(client: KubeClient, kind: type[Kind], spec: dict[str, Any]) -> dict[str, Any]:
    """Ask whether an object would be accepted, and give it as it would be stored."""
    resource, body = kind.resource(), make_object(kind, **spec)
    namespace = f"/namespaces/{body['metadata']['namespace']}" if resource.namespaced else ""
    path = f"/apis/{resource.group}/{resource.version}{namespace}/{resource.plural}"
    return await client.request("POST", path, body, query={"dryRun": "All", "fieldValidation": "Strict"})


@pytest.mark.parametrize(("kind", "spec"), GOOD, ids=["flavor", "image", "host", "growing", "fixed"])
async def test_what_is_understood_is_taken(admin: KubeClient, kind: type[Kind], spec: dict[str, Any]) -> None:
    """A flavor, an image and a host that use every sort of word are stored as they are."""
    stored = await create_dry(admin, kind, spec)
    assert {key: stored["spec"][key] for key in spec} == spec


@pytest.mark.parametrize(("kind", "spec", "said"), BAD)
async def test_what_is_not_understood_is_refused(
    admin: KubeClient, kind: type[Kind], spec: dict[str, Any], said: str
) -> None:
    """A word or value that nobody would act on, or that contradicts another, is refused by a message that names it."""
    with pytest.raises(Invalid) as refusal:
        await create_dry(admin, kind, spec)
    assert said in refusal.value.message
