"""What the host's CPUs can do and what this agent does, in the words of Placement (os-traits)."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

CPUINFO: Final = Path("/proc/cpuinfo")

_X86: Final = {
    "3dnow": ("3DNOW",),
    "abm": ("ABM",),
    "aes": ("AESNI",),
    "avx": ("AVX",),
    "avx2": ("AVX2",),
    "avx512_bitalg": ("AVX512BITALG",),
    "avx512_vbmi2": ("AVX512VBMI2",),
    "avx512_vnni": ("AVX512VNNI",),
    "avx512_vpopcntdq": ("AVX512VPOPCNTDQ",),
    "avx512bw": ("AVX512BW",),
    "avx512cd": ("AVX512CD",),
    "avx512dq": ("AVX512DQ",),
    "avx512er": ("AVX512ER",),
    "avx512f": ("AVX512F",),
    "avx512ifma": ("AVX512IFMA",),
    "avx512pf": ("AVX512PF",),
    "avx512vbmi": ("AVX512VBMI",),
    "avx512vl": ("AVX512VL",),
    "bmi1": ("BMI",),
    "bmi2": ("BMI2",),
    "f16c": ("F16C",),
    "fma": ("FMA3",),
    "fma4": ("FMA4",),
    "gfni": ("AVX512GFNI",),
    "mmx": ("MMX",),
    "mpx": ("MPX",),
    "pclmulqdq": ("CLMUL",),
    "pni": ("SSE3",),
    "sha_ni": ("SHA",),
    "sse": ("SSE",),
    "sse2": ("SSE2",),
    "sse4_1": ("SSE41",),
    "sse4_2": ("SSE42",),
    "sse4a": ("SSE4A",),
    "ssse3": ("SSSE3",),
    "svm": ("SVM", "AMD_SVM"),
    "tbm": ("TBM",),
    "vaes": ("AVX512VAES",),
    "vmx": ("VMX", "INTEL_VMX"),
    "vpclmulqdq": ("AVX512VPCLMULQDQ",),
    "xop": ("XOP",),
}
"""Linux' names of x86 CPU features, and the traits below HW_CPU_X86_ that they stand for."""

_ARCHITECTURES: Final = {
    "aarch64": "HW_ARCH_AARCH64",
    "armv7l": "HW_ARCH_ARMV7",
    "i686": "HW_ARCH_I686",
    "ppc64le": "HW_ARCH_PPC64LE",
    "riscv64": "HW_ARCH_RISCV64",
    "s390x": "HW_ARCH_S390X",
    "x86_64": "HW_ARCH_X86_64",
}

_COMPUTE: Final = (
    "COMPUTE_IMAGE_TYPE_QCOW2",
    "COMPUTE_IMAGE_TYPE_RAW",
    "COMPUTE_NET_VIF_MODEL_VIRTIO",
    "COMPUTE_NODE",
    "COMPUTE_STORAGE_BUS_VIRTIO",
)
"""What every host does on which this agent runs."""


def read_traits(cpuinfo: Path = CPUINFO) -> tuple[str, ...]:
    """Read the traits of this machine, sorted; they do not change while it runs."""
    return machine_traits(platform.machine(), cpuinfo.read_text())


def machine_traits(architecture: str, cpuinfo: str) -> tuple[str, ...]:
    """Give the traits of a machine, sorted.

    Args:
        architecture: as uname says it.
        cpuinfo: the text of /proc/cpuinfo; what not all CPUs can do counts for none.
    """
    found = {*_COMPUTE, *([_ARCHITECTURES[architecture]] if architecture in _ARCHITECTURES else [])}
    for flag in _common_flags(cpuinfo):
        found.update(f"HW_CPU_X86_{name}" for name in _X86.get(flag, ()))
    if _threads_share_cores(cpuinfo):
        found.add("HW_CPU_HYPERTHREADING")
    return tuple(sorted(found))


def _values(cpuinfo: str, field: str) -> list[str]:
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    return [value.strip() for name, _, value in lines if name.strip() == field]


def _common_flags(cpuinfo: str) -> set[str]:
    flags = [set(value.split()) for value in _values(cpuinfo, "flags")]
    return set.intersection(*flags) if flags else set()


def _threads_share_cores(cpuinfo: str) -> bool:
    pairs = zip(_values(cpuinfo, "siblings"), _values(cpuinfo, "cpu cores"), strict=False)
    return any(int(threads) > int(cores) for threads, cores in pairs)
