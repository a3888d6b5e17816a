"""How fast guests may use a volume (Cinder's QoS specs with the consumer front-end)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kumulus_api.base import Model, Quantity, Rule, validated, whole

_MOST = 1_000_000_000
_TOTAL_OR_PARTS = Rule(
    "has(self.total) != (has(self.read) || has(self.write))", "give total, or read and write, or one of these"
)


class Operations(Model):
    """Numbers of operations."""

    total: Annotated[int, Field(ge=1, le=_MOST)] | None = None
    """Reading and writing together."""
    read: Annotated[int, Field(ge=1, le=_MOST)] | None = None
    write: Annotated[int, Field(ge=1, le=_MOST)] | None = None

    model_config = validated(_TOTAL_OR_PARTS)


class Throughput(Model):
    """Amounts of bytes."""

    total: Quantity | None = None
    """Reading and writing together."""
    read: Quantity | None = None
    write: Quantity | None = None

    model_config = validated(
        _TOTAL_OR_PARTS,
        Rule(
            "[?self.?total, ?self.?read, ?self.?write].all(x, !quantity(x).isLessThan(quantity('1k'))"
            " && !quantity(x).isGreaterThan(quantity('1T')))",
            "bytes are at least 1k and at most 1T",
        ),
    )


def _parts(field: str, of: str, message: str) -> Rule:
    """Give the rule that a field's parts are parts of another field."""
    kinds = ("total", "read", "write")
    base = " || ".join(f"(has(self.{field}.{kind}) && !has(self.{of}.{kind}))" for kind in kinds)
    return Rule(f"!has(self.{field}) || (has(self.{of}) && !({base}))", message, f".{field}")


def _bursts(name: str) -> Rule:
    return _parts(f"{name}Burst", name, f"{name}Burst goes beyond {name}: give that too, for each of its parts")


def _minima(name: str) -> Rule:
    told = f"{name}Minimum is for what {name}PerGiB gives: give that too, for each of its parts"
    return _parts(f"{name}Minimum", f"{name}PerGiB", told)


class VolumeLimits(Model):
    """Each per second. What is not limited is left out."""

    iops: Operations | None = None
    iops_burst: Operations | None = None
    """For a while, where it is more than `iops`."""
    iops_per_gib: Operations | None = Field(default=None, alias="iopsPerGiB")
    """For each GiB of the volume; where `iops` limits the same, the lower counts."""
    iops_minimum: Operations | None = None
    """What a small volume has, where `iopsPerGiB` gives less (Cinder: `total_iops_sec_per_gb_min`)."""
    bytes: Throughput | None = None
    bytes_burst: Throughput | None = None
    """For a while, where it is more than `bytes`."""
    bytes_per_gib: Throughput | None = Field(default=None, alias="bytesPerGiB")
    """For each GiB of the volume; where `bytes` limits the same, the lower counts."""
    bytes_minimum: Throughput | None = None
    """What a small volume has, where `bytesPerGiB` gives less."""
    burst_seconds: Annotated[int, Field(ge=1, le=3600)] | None = None
    """How long a burst lasts; 1 if it is left out."""

    model_config = validated(
        _bursts("iops"),
        _bursts("bytes"),
        _minima("iops"),
        _minima("bytes"),
        Rule(
            "!has(self.burstSeconds) || has(self.iopsBurst) || has(self.bytesBurst)",
            "burstSeconds is for iopsBurst and bytesBurst",
            ".burstSeconds",
        ),
        *(
            Rule(
                f"!has(self.{name}) || !has(self.{name}PerGiB)"
                f" || has(self.{name}.total) == has(self.{name}PerGiB.total)",
                f"{name} and {name}PerGiB limit the same: total both, or read and write both",
                f".{name}PerGiB",
            )
            for name in ("iops", "bytes")
        ),
    )


Rate = Annotated[int, Field(ge=1)]


class AssignedLimits(Model):
    """The limits of one volume, by its size: operations and bytes per second, as QEMU is told them."""

    total_iops: Rate | None = None
    read_iops: Rate | None = None
    write_iops: Rate | None = None
    total_iops_burst: Rate | None = None
    read_iops_burst: Rate | None = None
    write_iops_burst: Rate | None = None
    total_bytes: Rate | None = None
    read_bytes: Rate | None = None
    write_bytes: Rate | None = None
    total_bytes_burst: Rate | None = None
    read_bytes_burst: Rate | None = None
    write_bytes_burst: Rate | None = None
    burst_seconds: Rate | None = None

    model_config = whole()
