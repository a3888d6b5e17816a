"""Traits of a host: spelled as os-traits spells them, and only what all CPUs have."""

from kumulus_agent.host.traits import machine_traits
from kumulus_agent.hosts.plan import SelfTest, _virtualization

CPUINFO = """processor\t: 0
siblings\t: 4
cpu cores\t: 2
flags\t\t: fpu sse4_1 avx2 pni svm aes
vmx flags\t: vnmi

processor\t: 1
siblings\t: 4
cpu cores\t: 2
flags\t\t: fpu sse4_1 pni svm aes avx512f
"""


def test_cpu_flags_become_traits():
    """What Linux says that every CPU can do is told as Placement spells it; what one lacks is not."""
    found = machine_traits("x86_64", CPUINFO)
    cpu = {name for name in found if name.startswith("HW_CPU_X86_")}
    names = ("SSE41", "SSE3", "SVM", "AMD_SVM", "AESNI")
    assert cpu == {f"HW_CPU_X86_{name}" for name in names}
    assert {"HW_ARCH_X86_64", "HW_CPU_HYPERTHREADING", "COMPUTE_NODE"} <= set(found)
    assert list(found) == sorted(found)


def test_a_machine_without_flags_has_its_architecture_only():
    """Another machine's /proc/cpuinfo has no flags, which is no error."""
    found = machine_traits("aarch64", "processor\t: 0\nFeatures\t: fp asimd\n")
    assert "HW_ARCH_AARCH64" in found
    assert not [name for name in found if name.startswith("HW_CPU")]


def test_virtualization_is_a_trait_once_a_guest_has_run():
    """How guests run is known from the self-test alone."""
    assert _virtualization(None) == ()
    assert _virtualization(SelfTest("kvm")) == ("COMPUTE_VIRT_KVM",)
    assert _virtualization(SelfTest("", "did not boot")) == ()
