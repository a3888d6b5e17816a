"""Abilities: what libvirt says of the host becomes Placement's traits, page sizes and NUMA nodes."""

import pytest

from kumulus_agent.compute.abilities import parse_abilities
from kumulus_agent.host.processors import Processors, parse_cpus, processors
from kumulus_api.hardware import MachineType

HOST = """<capabilities><host><topology><cells num='2'>
<cell id='0'><pages unit='KiB' size='4'>100</pages><pages unit='KiB' size='2048'>8</pages>
<pages unit='KiB' size='1048576'>0</pages></cell>
<cell id='1'><pages unit='KiB' size='4'>100</pages><pages unit='KiB' size='2048'>4</pages></cell>
</cells></topology></host></capabilities>"""

BARE = "<domainCapabilities><os supported='yes'><enum name='firmware'/></os></domainCapabilities>"

FULL = """<domainCapabilities><os supported='yes'><enum name='firmware'><value>efi</value></enum>
<loader supported='yes'><enum name='secure'><value>yes</value><value>no</value></enum></loader></os>
<cpu><mode name='custom' supported='yes'><model usable='yes'>Nehalem-IBRS</model><model usable='no'>EPYC</model></mode>
</cpu><devices><disk supported='yes'><enum name='bus'><value>sata</value><value>virtio</value></enum></disk>
<tpm supported='yes'><enum name='model'><value>tpm-crb</value></enum>
<enum name='backendModel'><value>passthrough</value><value>emulator</value></enum>
<enum name='backendVersion'><value>2.0</value></enum></tpm></devices></domainCapabilities>"""


def test_what_libvirt_lists_becomes_traits():
    """A trait is there if libvirt lists what it stands for; what cannot be used, or is not listed, gives none."""
    traits = set(parse_abilities(HOST, {MachineType.Q35: FULL}).traits)
    assert {
        "COMPUTE_FIRMWARE_UEFI",
        "COMPUTE_SECURITY_UEFI_SECURE_BOOT",
        "COMPUTE_SECURITY_TPM_2_0",
        "COMPUTE_SECURITY_TPM_CRB",
        "COMPUTE_STORAGE_BUS_SATA",
        "CUSTOM_CPU_MODEL_NEHALEM_IBRS",
        "CUSTOM_MACHINE_Q35",
        "CUSTOM_WATCHDOG_I6300ESB",
    } <= traits
    assert not {"COMPUTE_SECURITY_TPM_1_2", "COMPUTE_SECURITY_TPM_TIS", "CUSTOM_CPU_MODEL_EPYC"} & traits
    assert "CUSTOM_MACHINE_PC" not in traits


@pytest.mark.parametrize("word", ["FIRMWARE_UEFI", "SECURE_BOOT", "TPM", "CPU_MODEL"])
def test_a_host_without_the_packages_lacks_the_traits(word):
    """Without OVMF and swtpm nothing of UEFI and TPMs is promised."""
    assert not [trait for trait in parse_abilities(HOST, {MachineType.PC: BARE}).traits if word in trait]


def test_huge_pages_are_counted_over_all_nodes():
    """Pages of the usual size are no huge pages, and sizes of which there are none do not count."""
    abilities = parse_abilities(HOST, {})
    assert (abilities.numa_nodes, dict(abilities.huge_pages)) == (2, {2 << 20: 12})


def test_a_swtpm_that_is_not_there_is_no_tpm():
    """A TPM that is only passed through belongs to the host."""
    xml = FULL.replace("<value>emulator</value>", "")
    assert not [trait for trait in parse_abilities(HOST, {MachineType.Q35: xml}).traits if "TPM" in trait]


def test_dedicated_cpus_never_go_to_two_guests():
    """CPUs that are taken are not given again, and those that the host does not have never."""
    found = processors(frozenset(range(4)), "2-3,9")
    assert found == Processors(frozenset(range(4)), frozenset({2, 3}))
    assert (found.shared, found.shared_only) == ((0, 1), (0, 1))
    assert found.choose(2, frozenset()) == (2, 3)
    assert found.choose(2, frozenset({2})) == (3,)
    assert processors(frozenset({0, 1}), None).shared_only == ()


def test_lists_of_cpus_are_read_as_the_kernel_writes_them():
    """Single CPUs and ranges make a set."""
    assert parse_cpus("0,2-4\n") == {0, 2, 3, 4}
