"""What a guest's machine is made of, read from the words of its flavor and image (pure).

As in Nova, the image may refine what the flavor leaves open, and may not undo what it says. What does not go together
is refused with both words; what only some hosts can give becomes traits that the host must have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from kumulus_api.flavor import Resources
from kumulus_api.hardware import (
    FLAVOR_WORDS,
    IMAGE_WORDS,
    TPM,
    Bandwidth,
    Firmware,
    Hardware,
    MachineType,
    Topology,
    TPMModel,
    TPMVersion,
    Word,
    cpu_model_trait,
)
from kumulus_api.server_status import ScheduledReason
from kumulus_api.volume_limits import AssignedLimits
from kumulus_operator.placement.extra_specs import PREFIXES
from kumulus_operator.refusal import refuse

_LAYOUT = ("sockets", "cores", "threads")
_UNITS = {"": 1, "KB": 1, "kB": 1, "KiB": 1, "MB": 1 << 10, "MiB": 1 << 10, "GB": 1 << 20, "GiB": 1 << 20}


def hardware_of(specs: Mapping[str, str], properties: Mapping[str, str], size: Resources) -> Hardware | None:
    """Give what the machine of a server is made of, or None where neither flavor nor image says anything.

    Args:
        specs: extra specs of the flavor.
        properties: of the image.
        size: of the flavor.

    Raises:
        Refused: a word is not understood, or two contradict each other.
    """
    _understood("extra spec", {k: v for k, v in specs.items() if not k.startswith(PREFIXES)}, FLAVOR_WORDS)
    _understood("property", properties, IMAGE_WORDS)
    words = _Words(specs, properties)
    secure = _is_on(words.agreed("os:secure_boot", "os_secure_boot"), "required")
    rng = words.flavor("hw_rng:allowed")
    page = words.page_size()
    policy = words.agreed("hw:cpu_policy", "hw_cpu_policy")
    hardware = Hardware(
        machine=_machine(words, secure),
        firmware=_firmware(words, secure),
        secure_boot=secure,
        tpm=_tpm(words),
        watchdog=_watchdog(words),
        boot_menu=_is_on((words.image("hw_boot_menu") or words.flavor("hw:boot_menu") or "").lower(), "true"),
        rng=False if rng is not None and rng.lower() == "false" else None,
        rng_bytes=words.flavor("hw_rng:rate_bytes"),
        rng_period=words.flavor("hw_rng:rate_period"),
        disk_bus=words.image("hw_disk_bus"),
        interface_model=words.image("hw_vif_model"),
        cpu_model=words.flavor("hw:cpu_model"),
        dedicated=_is_on(policy, "dedicated"),
        page_size=_kib(page) if page is not None and page[0].isdigit() else None,
        any_huge_page=_is_on(page, "large"),
        numa_nodes=_numa_nodes(words, size.vcpus),
        vif_inbound=_bandwidth(words, "inbound"),
        vif_outbound=_bandwidth(words, "outbound"),
        root_disk_limits=_disk_limits(words),
    )
    # What can be plugged in has its place in the layout from the start.
    most = size.vcpus if hardware.fixed_size else size.max_vcpus or size.vcpus
    hardware = hardware.model_copy(update={"topology": _topology(words, most)})
    return hardware if hardware.dump() else None


def hardware_traits(hardware: Hardware | None) -> frozenset[str]:
    """Give the traits without which a host cannot give that."""
    if hardware is None:
        return frozenset()
    found: set[str] = set()
    if hardware.machine is MachineType.Q35:
        found.add("CUSTOM_MACHINE_Q35")
    if hardware.firmware is Firmware.UEFI:
        found.add("COMPUTE_FIRMWARE_UEFI")
    if hardware.secure_boot:
        found.add("COMPUTE_SECURITY_UEFI_SECURE_BOOT")
    if hardware.tpm is not None:
        version, model = hardware.tpm.version.replace(".", "_"), hardware.tpm.model.removeprefix("tpm-").upper()
        found |= {f"COMPUTE_SECURITY_TPM_{version}", f"COMPUTE_SECURITY_TPM_{model}"}
    if hardware.watchdog is not None:
        found.add("CUSTOM_WATCHDOG_I6300ESB")
    if hardware.disk_bus is not None:
        found.add(f"COMPUTE_STORAGE_BUS_{hardware.disk_bus.upper()}")
    if hardware.interface_model is not None:
        found.add(f"COMPUTE_NET_VIF_MODEL_{hardware.interface_model.upper()}")
    if hardware.cpu_model is not None:
        found.add(cpu_model_trait(hardware.cpu_model))
    return frozenset(found)


class _Words:
    """The words of a flavor and of an image."""

    def __init__(self, specs: Mapping[str, str], properties: Mapping[str, str]) -> None:
        self._specs = specs
        self._properties = properties

    def flavor(self, key: str) -> str | None:
        return self._specs.get(key)

    def image(self, key: str) -> str | None:
        return self._properties.get(key)

    def agreed(self, spec: str, key: str) -> str | None:
        """Give a value that both may say, but not differently."""
        given, asked = self.flavor(spec), self.image(key)
        if given is not None and asked is not None and given != asked:
            _conflict(f"{spec}={given}", f"{key}={asked}")
        return given if given is not None else asked

    def page_size(self) -> str | None:
        """Give the size of pages; an image may choose where the flavor asks for large or any."""
        given, asked = self.flavor("hw:mem_page_size"), self.image("hw_mem_page_size")
        if asked is None or asked == given:
            return given
        if given != "any" and not (given == "large" and asked[0].isdigit()):
            _conflict(f"hw:mem_page_size={given or 'small'}", f"hw_mem_page_size={asked}")
        return asked


def _understood(what: str, table: Mapping[str, str], words: tuple[Word, ...]) -> None:
    known = {word.key for word in words}
    strange = sorted(set(table) - known)
    if strange:
        message = (
            f"hardware: {what} {strange[0]}={table[strange[0]]} is not understood; permanent: use a flavor and image "
            f"without it (understood: {', '.join(sorted(known))})"
        )
        raise refuse(ScheduledReason.HARDWARE_CONFLICT, message)


def _conflict(one: str, other: str, remedy: str = "use another flavor or image") -> NoReturn:
    raise refuse(ScheduledReason.HARDWARE_CONFLICT, f"hardware: {one} does not go with {other}; permanent: {remedy}")


def _is_on(value: str | None, on: str) -> bool | None:
    return True if value == on else None


def _machine(words: _Words, secure: bool | None) -> str | None:
    asked = words.image("hw_machine_type")
    if secure and asked == MachineType.PC:
        _conflict("secure boot", "hw_machine_type=pc")
    chosen = asked or (MachineType.Q35 if secure else None)
    if chosen == MachineType.Q35 and words.image("hw_disk_bus") == "ide":
        _conflict("hw_disk_bus=ide", "machine type q35")
    return chosen


def _firmware(words: _Words, secure: bool | None) -> str | None:
    asked = words.image("hw_firmware_type")
    if secure and asked == Firmware.BIOS:
        _conflict("secure boot", "hw_firmware_type=bios")
    return asked or (Firmware.UEFI if secure else None)


def _tpm(words: _Words) -> TPM | None:
    version = words.agreed("hw:tpm_version", "hw_tpm_version")
    model = words.agreed("hw:tpm_model", "hw_tpm_model")
    if version is None:
        return None
    if model == TPMModel.CRB and version != TPMVersion.V2_0:
        _conflict("TPM model tpm-crb", f"TPM version {version}")
    return TPM(version=TPMVersion(version), model=TPMModel(model or TPMModel.TIS))


def _watchdog(words: _Words) -> str | None:
    action = words.image("hw_watchdog_action") or words.flavor("hw:watchdog_action")
    return None if action == "disabled" else action


def _bandwidth(words: _Words, way: str) -> Bandwidth | None:
    average, peak, burst = (words.flavor(f"quota:vif_{way}_{kind}") for kind in ("average", "peak", "burst"))
    if average is None:
        return None
    return Bandwidth(
        average=int(average),
        peak=int(peak) if peak is not None else None,
        burst=int(burst) if burst is not None else None,
    )


def _disk_limits(words: _Words) -> AssignedLimits | None:
    given: dict[str, int] = {}
    for unit in ("bytes", "iops"):
        for kind in ("total", "read", "write"):
            base, most = (words.flavor(f"quota:disk_{kind}_{unit}_sec{end}") for end in ("", "_max"))
            if base is not None:
                given[f"{kind}_{unit}"] = int(base)
            if base is not None and most is not None and int(most) > int(base):
                given[f"{kind}_{unit}_burst"] = int(most)
    return AssignedLimits(**given) if given else None


def _topology(words: _Words, vcpus: int) -> Topology | None:
    """Choose a layout: as asked; where it is open more sockets rather than cores, and cores rather than threads."""
    asked = [_number(words, name) for name in _LAYOUT]
    most = [_number(words, f"max_{name}") for name in _LAYOUT]
    if not any((*asked, *most)):
        return None
    fitting = [
        (sockets, vcpus // sockets // threads, threads)
        for sockets in range(1, vcpus + 1)
        for threads in range(1, vcpus + 1)
        if vcpus % (sockets * threads) == 0
    ]
    limits = list(zip(asked, most, strict=True))
    fitting = [
        layout
        for layout in fitting
        if all(
            (wish is None or part == wish) and (top is None or part <= top)
            for part, (wish, top) in zip(layout, limits, strict=True)
        )
    ]
    if not fitting:
        told = ", ".join(
            [f"{name}={value}" for name, value in zip(_LAYOUT, asked, strict=True) if value]
            + [f"max_{name}={value}" for name, value in zip(_LAYOUT, most, strict=True) if value]
        )
        _conflict(f"a layout of {told}", f"{vcpus} vCPUs, with those that can be plugged in")
    sockets, cores, threads = max(fitting, key=lambda layout: (layout[0], layout[1]))
    return Topology(sockets=sockets, cores=cores, threads=threads)


def _number(words: _Words, name: str) -> int | None:
    """Give a number of the layout; an image's goes before the flavor's, but no maximum of the flavor is exceeded."""
    given, asked = words.flavor(f"hw:cpu_{name}"), words.image(f"hw_cpu_{name}")
    if given is None or asked is None:
        return int(given or asked or 0) or None
    return min(int(given), int(asked)) if name.startswith("max_") else int(asked)


def _numa_nodes(words: _Words, vcpus: int) -> int | None:
    given = words.agreed("hw:numa_nodes", "hw_numa_nodes")
    if given is None:
        return None
    if int(given) > vcpus:
        _conflict(f"numa_nodes={given}", f"{vcpus} vCPUs")
    return int(given)


def _kib(size: str) -> int:
    digits = size.rstrip("KkMGiB")
    return int(digits) * _UNITS[size[len(digits) :]]
