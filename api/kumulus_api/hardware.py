"""What a guest's machine is made of: the words of flavors and images for it, and what comes of them.

The words are OpenStack's own: extra specs of Nova's flavors, properties of Glance's images. Each key is refused at
admission unless it and its value are understood; `kumulus_operator.placement.hardware` reads them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kumulus_api.base import Model, Rule
from kumulus_api.volume_limits import AssignedLimits


class MachineType(StrEnum):
    """QEMU's machines: the old PC (i440FX), and the one with PCI Express."""

    PC = "pc"
    Q35 = "q35"


class Firmware(StrEnum):
    """What starts the guest."""

    BIOS = "bios"
    UEFI = "uefi"


class TPMVersion(StrEnum):
    """Of the TCG's specification."""

    V1_2 = "1.2"
    V2_0 = "2.0"


class TPMModel(StrEnum):
    """How the guest speaks to its TPM."""

    TIS = "tpm-tis"
    CRB = "tpm-crb"


class WatchdogAction(StrEnum):
    """What is done to a guest that does not feed its watchdog any more."""

    NONE = "none"
    PAUSE = "pause"
    POWEROFF = "poweroff"
    RESET = "reset"


class DiskBus(StrEnum):
    """How the guest reaches its disks."""

    VIRTIO = "virtio"
    SCSI = "scsi"
    SATA = "sata"
    IDE = "ide"


class InterfaceModel(StrEnum):
    """The guest's network cards."""

    VIRTIO = "virtio"
    E1000 = "e1000"
    E1000E = "e1000e"
    RTL8139 = "rtl8139"


class TPM(Model):
    """A TPM of the guest's own, emulated by swtpm."""

    version: TPMVersion
    model: TPMModel = TPMModel.TIS


class Topology(Model):
    """How the vCPUs are laid out; the product of the three is their number, with those that can be plugged in."""

    sockets: Annotated[int, Field(ge=1, le=512)]
    cores: Annotated[int, Field(ge=1, le=512)]
    threads: Annotated[int, Field(ge=1, le=512)]


class Bandwidth(Model):
    """How much an interface carries in one direction, in Nova's units: kB (of 1,000 bytes) and kB in a second."""

    average: Annotated[int, Field(ge=1)]
    peak: Annotated[int, Field(ge=1)] | None = None
    """As fast as this what `burst` lets through at once is sent; without it as fast as can be."""
    burst: Annotated[int, Field(ge=1)] | None = None
    """Without it what passes in a tenth of a second at `average`, at least 64 KiB."""


class Hardware(Model):
    """What a guest's machine is made of, where flavor and image say it; else as its host does it."""

    machine: MachineType | None = None
    firmware: Firmware | None = None
    secure_boot: bool | None = None
    """Firmware that starts nothing but what Microsoft's keys have signed."""
    tpm: TPM | None = None
    watchdog: WatchdogAction | None = None
    boot_menu: bool | None = None
    """Whether the firmware offers a choice of what to start."""
    rng: bool | None = None
    """Whether the guest gets random numbers of its host; it does unless this is false."""
    rng_bytes: Annotated[int, Field(ge=1)] | None = None
    """How many it gets at most in each period."""
    rng_period: Annotated[int, Field(ge=1)] | None = None
    """Milliseconds."""
    disk_bus: DiskBus | None = None
    interface_model: InterfaceModel | None = None
    cpu_model: Annotated[str, Field(max_length=64)] | None = None
    topology: Topology | None = None
    dedicated: bool | None = None
    """Each vCPU has a CPU of the host to itself."""
    page_size: Annotated[int, Field(ge=1)] | None = None
    """KiB of the huge pages that the memory is made of."""
    any_huge_page: bool | None = None
    """Huge pages of whatever size the host has."""
    numa_nodes: Annotated[int, Field(ge=1, le=99)] | None = None
    vif_inbound: Bandwidth | None = None
    """Towards the guest, of each of its interfaces whose Port says nothing of it."""
    vif_outbound: Bandwidth | None = None
    """The same from the guest."""
    root_disk_limits: AssignedLimits | None = None
    """How fast it may use its root disk."""

    @property
    def huge(self) -> bool:
        """Whether the memory is made of huge pages."""
        return self.page_size is not None or self.any_huge_page is True

    @property
    def fixed_size(self) -> bool:
        """Whether a guest that runs is given no more: CPUs, nodes and pages of its own are counted at its start."""
        return self.dedicated is True or self.numa_nodes is not None or self.huge

    @property
    def but_limits(self) -> Hardware:
        """All of it that a guest which runs keeps until its next start."""
        return self.model_copy(update={"root_disk_limits": None})

    @property
    def plugs_disks(self) -> bool:
        """Whether disks come to a guest that runs, and leave it: IDE and SATA know of no such thing."""
        return self.disk_bus in (None, DiskBus.VIRTIO, DiskBus.SCSI)


@dataclass(frozen=True, slots=True)
class Word:
    """A key that is understood.

    Attributes:
        key: in OpenStack's spelling.
        values: all that it may be; empty if `pattern` says it.
        pattern: a regular expression for values.
        told: the values in words, for the refusal.
    """

    key: str
    values: tuple[str, ...] = ()
    pattern: str = ""
    told: str = ""

    def rule(self, where: str) -> Rule:
        """Give the CEL rule for a map at the field `where`."""
        value = f"self.{where}[{self.key!r}]"
        listed = ", ".join(f"'{item}'" for item in self.values)
        test = f"{value} in [{listed}]" if self.values else f"{value}.matches(r'{self.pattern}')"
        told = self.told or " or ".join(self.values)
        return Rule(
            f"!has(self.{where}) || !({self.key!r} in self.{where}) || {test}", f"{self.key} is {told}", f".{where}"
        )


_BOOL = ("True", "False", "true", "false")
_COUNT = r"^[1-9][0-9]{0,2}$"
_COUNT_TOLD = "a number from 1 to 999"
_PAGES = r"^(small|large|any|[1-9][0-9]{0,7}(KB|kB|KiB|MB|MiB|GB|GiB)?)$"
_PAGES_TOLD = "small, large, any, or a size such as 2MB (without unit: KiB)"
_ACTIONS = ("disabled", *(str(action) for action in WatchdogAction))
_LAYOUT = ("sockets", "cores", "threads")


def _layout(prefix: str) -> tuple[Word, ...]:
    names = (*_LAYOUT, *(f"max_{name}" for name in _LAYOUT))
    return tuple(Word(f"{prefix}cpu_{name}", pattern=_COUNT, told=_COUNT_TOLD) for name in names)


_KILOBYTES = r"^([1-9][0-9]{0,5}|[1-3][0-9]{6})$"
VIF_WORDS: tuple[Word, ...] = tuple(
    Word(f"quota:vif_{way}_{kind}", pattern=_KILOBYTES, told=f"a number of {unit} from 1 to 3999999")
    for way in ("inbound", "outbound")
    for kind, unit in (("average", "kB/s"), ("peak", "kB/s"), ("burst", "kB"))
)
"""How much the interfaces of a server carry."""

_RATE = r"^[1-9][0-9]{0,11}$"
DISK_WORDS: tuple[Word, ...] = tuple(
    Word(f"quota:disk_{way}_{unit}_sec{burst}", pattern=_RATE, told=f"a number of {told} from 1 to 999999999999")
    for unit, told in (("bytes", "bytes"), ("iops", "operations"))
    for way in ("total", "read", "write")
    for burst in ("", "_max")
)
"""How fast the root disk of a server may be used, each per second; `_max` for a moment."""

FLAVOR_WORDS: tuple[Word, ...] = (
    Word("hw:boot_menu", _BOOL),
    Word("hw:cpu_policy", ("shared", "dedicated")),
    Word("hw:cpu_model", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", told="the name of a CPU model, such as Nehalem"),
    *_layout("hw:"),
    Word("hw:mem_page_size", pattern=_PAGES, told=_PAGES_TOLD),
    Word("hw:numa_nodes", pattern=r"^[1-9][0-9]?$", told="a number from 1 to 99"),
    Word("hw:tpm_model", tuple(TPMModel)),
    Word("hw:tpm_version", tuple(TPMVersion)),
    Word("hw:watchdog_action", _ACTIONS),
    Word("hw_rng:allowed", _BOOL),
    Word("hw_rng:rate_bytes", pattern=r"^[1-9][0-9]{0,8}$", told="a number of bytes"),
    Word("hw_rng:rate_period", pattern=r"^[1-9][0-9]{0,8}$", told="a number of milliseconds"),
    Word("os:secure_boot", ("required", "disabled")),
    *VIF_WORDS,
    *DISK_WORDS,
)
"""Extra specs that make the guest's machine. `hw:cpu_model` is Kumulus' own; the others are Nova's."""

IMAGE_WORDS: tuple[Word, ...] = (
    Word("hw_boot_menu", _BOOL),
    Word("hw_cpu_policy", ("shared", "dedicated")),
    *_layout("hw_"),
    Word("hw_disk_bus", tuple(DiskBus)),
    Word("hw_firmware_type", tuple(Firmware)),
    Word("hw_machine_type", tuple(MachineType)),
    Word("hw_mem_page_size", pattern=_PAGES, told=_PAGES_TOLD),
    Word("hw_numa_nodes", pattern=r"^[1-9][0-9]?$", told="a number from 1 to 99"),
    Word("hw_rng_model", ("virtio",)),
    Word("hw_tpm_model", tuple(TPMModel)),
    Word("hw_tpm_version", tuple(TPMVersion)),
    Word("hw_vif_model", tuple(InterfaceModel)),
    Word("hw_watchdog_action", _ACTIONS),
    Word("os_secure_boot", ("required", "disabled")),
)
"""Properties of images, as Glance spells them."""


def keys(words: tuple[Word, ...]) -> str:
    """Give the keys as they stand in a refusal."""
    return ", ".join(word.key for word in words)


def vif_rules(where: str) -> tuple[Rule, ...]:
    """Give the rules for words about bandwidth that do not go together."""
    table = f"self.{where}"
    found = []
    for way in ("inbound", "outbound"):
        average, peak, burst = (f"quota:vif_{way}_{kind}" for kind in ("average", "peak", "burst"))
        found.append(
            Rule(
                f"!has({table}) || '{average}' in {table} || !('{peak}' in {table} || '{burst}' in {table})",
                f"{peak} and {burst} go with {average}: give that too",
                f".{where}",
            )
        )
        numbers = " && ".join(f"{table}[{key!r}].matches(r'^[1-9][0-9]{{0,6}}$')" for key in (average, peak))
        found.append(
            Rule(
                f"!has({table}) || !('{average}' in {table} && '{peak}' in {table}) || !({numbers})"
                f" || int({table}[{peak!r}]) >= int({table}[{average!r}])",
                f"{peak} is at least {average}",
                f".{where}",
            )
        )
    return tuple(found)


def disk_rules(where: str) -> tuple[Rule, ...]:
    """Give the rules for words about the root disk: their values, and those that do not go together."""
    table, named = f"self.{where}", "k.startsWith('quota:disk_')"
    both = (
        f"('quota:disk_total_{unit}_sec' in {table} && ('quota:disk_read_{unit}_sec' in {table}"
        f" || 'quota:disk_write_{unit}_sec' in {table}))"
        for unit in ("bytes", "iops")
    )
    return (
        Rule(
            f"!has({table}) || {table}.all(k, !{named} || {table}[k].matches(r'{_RATE}'))",
            "what quota:disk_… says is a number from 1 to 999999999999",
            f".{where}",
        ),
        Rule(
            f"!has({table}) || !({' || '.join(both)})",
            "quota:disk_total_… limits reading and writing together: give that, or quota:disk_read_… and _write_…",
            f".{where}",
        ),
        Rule(
            f"!has({table}) || {table}.all(k, !{named} || !k.endsWith('_max') || k.replace('_max', '') in {table})",
            "quota:disk_…_max goes beyond the same without _max: give that too",
            f".{where}",
        ),
    )


def word_rules(where: str, words: tuple[Word, ...]) -> tuple[Rule, ...]:
    """Give a rule for each word's value, and those for words that contradict each other."""
    prefix = "hw:" if words is FLAVOR_WORDS else "hw_"
    model, version = f"{prefix}tpm_model", f"{prefix}tpm_version"
    table = f"self.{where}"
    return (
        *(word.rule(where) for word in words if word not in DISK_WORDS),
        Rule(
            f"!has({table}) || !('{model}' in {table}) || '{version}' in {table}",
            f"{model} goes with {version}: give both",
            f".{where}",
        ),
        Rule(
            f"!has({table}) || !('{model}' in {table}) || {table}['{model}'] != 'tpm-crb'"
            f" || !('{version}' in {table}) || {table}['{version}'] == '2.0'",
            f"{model} tpm-crb goes with {version} 2.0 only",
            f".{where}",
        ),
    )


def cpu_model_trait(model: str) -> str:
    """Give the trait that says that guests can have a CPU of that model."""
    return "CUSTOM_CPU_MODEL_" + "".join(letter if letter.isalnum() else "_" for letter in model.upper())
