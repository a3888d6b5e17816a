"""What guests may do with a volume, by its class and its size."""

import pytest

from kumulus_agent.compute.disk_xml import tune_of
from kumulus_api import Volume, VolumeClass
from kumulus_api.testing import make_object
from kumulus_api.volume_limits import AssignedLimits, VolumeLimits
from kumulus_operator.volumes.limits import limits_of, unmet_limits

GIB = 1 << 30


@pytest.mark.parametrize(
    ("qos", "size", "expected"),
    [
        (None, GIB, None),
        ({}, GIB, None),
        ({"iops": {"total": 5}}, GIB, {"total_iops": 5}),
        ({"iopsPerGiB": {"read": 5, "write": 2}}, 3 * GIB, {"read_iops": 15, "write_iops": 6}),
        ({"bytesPerGiB": {"total": "1Mi"}}, GIB + 1, {"total_bytes": 2 << 20}),
        ({"bytesPerGiB": {"total": "1Mi"}, "bytes": {"total": "3Mi"}}, 9 * GIB, {"total_bytes": 3 << 20}),
        (
            {"iops": {"read": 5, "write": 9}, "iopsBurst": {"read": 7, "write": 9}, "burstSeconds": 4},
            GIB,
            {"read_iops": 5, "write_iops": 9, "read_iops_burst": 7, "burst_seconds": 4},
        ),
        ({"iops": {"total": 9}, "iopsBurst": {"total": 3}, "burstSeconds": 4}, GIB, {"total_iops": 9}),
        ({"iopsPerGiB": {"total": 5}, "iopsMinimum": {"total": 12}}, 2 * GIB, {"total_iops": 12}),
        ({"iopsPerGiB": {"total": 5}, "iopsMinimum": {"total": 12}}, 3 * GIB, {"total_iops": 15}),
        (
            {"bytesPerGiB": {"read": "1M"}, "bytesMinimum": {"read": "5M"}, "bytes": {"read": "4M"}},
            GIB,
            {"read_bytes": 4_000_000},
        ),
    ],
)
def test_limits_of_a_volume(qos: object, size: int, expected: dict[str, int] | None) -> None:
    """The lower of what is fixed and what goes by the GiB; a burst only where it is more."""
    spec = {"qos": qos} if qos is not None else {}
    found = VolumeClass.model_validate(make_object(VolumeClass, "fast", **spec))
    assert limits_of(found, size) == (AssignedLimits(**expected) if expected is not None else None)


def test_no_class_limits_nothing() -> None:
    """A volume of no class is used as fast as it can be."""
    assert limits_of(None, GIB) is None


def test_what_libvirt_is_told_takes_back_what_it_was_told() -> None:
    """Each limit that there could be is named, with 0 where there is none; a length is of a burst."""
    assert set(tune_of(None).values()) == {0}
    limits = AssignedLimits(total_iops=5, total_iops_burst=9, burst_seconds=3, read_bytes=7)
    told = {name: value for name, value in tune_of(limits).items() if value}
    assert told == {
        "total_iops_sec": 5,
        "total_iops_sec_max": 9,
        "total_iops_sec_max_length": 3,
        "read_bytes_sec": 7,
    }


@pytest.mark.parametrize(
    ("by_class", "own", "expected", "reason"),
    [
        (None, {"iops": {"total": 5}}, {"total_iops": 5}, None),
        ({"iops": {"total": 9}}, {"iops": {"total": 5}}, {"total_iops": 5}, None),
        ({"iops": {"total": 5}}, {"iops": {"total": 9}}, {"total_iops": 5}, "QoSBeyondClass"),
        (
            {"iops": {"read": 5}, "bytes": {"total": "5k"}},
            {"iops": {"write": 3}},
            {"read_iops": 5, "write_iops": 3, "total_bytes": 5000},
            None,
        ),
        (
            {"iops": {"total": 5}, "bytes": {"total": "5k"}},
            {"iops": {"read": 3}, "bytes": {"total": "3k"}},
            {"total_iops": 5, "total_bytes": 3000},
            "QoSOfAnotherKind",
        ),
        (
            {"iops": {"total": 9}, "iopsBurst": {"total": 90}, "burstSeconds": 8},
            {"iops": {"total": 5}},
            {"total_iops": 5},
            None,
        ),
        (
            {"iops": {"total": 9}, "iopsBurst": {"total": 90}, "burstSeconds": 8},
            {"iops": {"total": 5}, "iopsBurst": {"total": 50}, "burstSeconds": 60},
            {"total_iops": 5, "total_iops_burst": 50, "burst_seconds": 8},
            None,
        ),
        (
            {"iops": {"total": 9}},
            {"iops": {"total": 5}, "iopsBurst": {"total": 50}},
            {"total_iops": 5, "total_iops_burst": 9},
            "QoSBeyondClass",
        ),
        ({"iopsPerGiB": {"total": 5}}, {"iopsPerGiB": {"total": 4}}, {"total_iops": 8}, None),
    ],
)
def test_limits_of_its_own(by_class: object, own: object, expected: dict[str, int], reason: str | None) -> None:
    """A volume may have less than its class allows, and never more; what does not hold as it was asked is told."""
    found = VolumeClass.model_validate(make_object(VolumeClass, "fast", qosPerVolume=True, qos=by_class))
    wished = VolumeLimits.model_validate(own)
    assert limits_of(found, 2 * GIB, wished) == AssignedLimits(**expected)
    volume = Volume.model_validate(make_object(Volume, "data", size="2Gi", qos=own))
    refusal = unmet_limits(volume, found)
    assert (refusal.reason if refusal is not None else None) == reason


def test_a_class_that_allows_none_goes_on_alone() -> None:
    """Without qosPerVolume, or a class, a volume's own limits are told to be none, and the class's hold."""
    volume = Volume.model_validate(make_object(Volume, "data", qos={"iops": {"total": 5}}))
    found = VolumeClass.model_validate(make_object(VolumeClass, "fast", qos={"iops": {"total": 9}}))
    assert limits_of(found, GIB, volume.spec.qos) == AssignedLimits(total_iops=9)
    assert limits_of(None, GIB, volume.spec.qos) is None
    for known in (found, None):
        refusal = unmet_limits(volume, known)
        assert refusal is not None
        assert refusal.reason == "QoSNotAllowed"
