"""BackupPolicy: which volumes and servers are backed up when, and for how long the backups are kept (Freezer's job)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import Column, Definition, Kind, LabelMap, Model, Rule, Status, Timestamp, validated


class BackupSelector(Model):
    """Whose volumes: those that have all the labels."""

    match_labels: LabelMap

    model_config = validated(Rule("self.matchLabels.size() > 0", "name at least one label"))


class BackupRetention(Model):
    """Which backups of a volume or root disk are kept: those that one of the limits keeps. The newest always is."""

    count: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """So many of the newest."""
    days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    """Those that are younger."""


class BackupPolicySpec(Model):
    """What, when, and for how long."""

    schedule: Annotated[str, Field(min_length=9, max_length=100, pattern=r"^[0-9A-Za-z*,/#L -]+$")]
    """Cron: minute, hour, day of the month, month, day of the week."""
    time_zone: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_+/-]+$")] = "UTC"
    """A name of the IANA database, such as Europe/Berlin."""
    volumes: BackupSelector | None = None
    """Volumes of the namespace."""
    servers: BackupSelector | None = None
    """Servers of the namespace: their root disks, and all volumes that they have, one of which they may boot from."""
    incremental: bool = True
    """Between two full backups."""
    full_every: Annotated[int, Field(ge=1, le=1000)] = 7
    """Of so many backups of a volume one is full."""
    retention: BackupRetention | None = None
    """Of the backups that this policy has made; without it all stay."""
    suspend: bool = False
    """No run begins; what runs goes on, and what is old still goes."""
    starting_deadline_seconds: Annotated[int, Field(ge=60, le=31_536_000)] | None = None
    """A run that could not begin for longer is left out. Without it, it begins once when it can."""

    model_config = validated(
        Rule("has(self.volumes) || has(self.servers)", "select volumes, servers or both"),
    )


class BackupPolicyStatus(Status):
    """What was run, and what will be."""

    last_run: Timestamp | None = None
    """The moment of the schedule for which backups were made the last time, or left out."""
    next_run: Timestamp | None = None
    volumes: Annotated[int, Field(ge=0)] | None = None
    """That the last run has backed up."""
    root_disks: Annotated[int, Field(ge=0)] | None = None
    """That it has backed up beside them."""


class BackupPolicyReason(StrEnum):
    """Reasons of a BackupPolicy's Ready condition."""

    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    """Backups of the last run are being made."""
    SUSPENDED = "Suspended"
    INVALID_SCHEDULE = "InvalidSchedule"
    NOTHING_SELECTED = "NothingSelected"
    BACKUPS_FAILED = "BackupsFailed"


class BackupPolicy(Kind):
    """Backs up volumes and servers by a schedule, and deletes the backups that are old (Freezer's job)."""

    definition: ClassVar = Definition(
        plural="backuppolicies",
        short_names=("kbpol",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Schedule", ".spec.schedule"),
            Column("Suspend", ".spec.suspend", "boolean"),
            Column("Last", ".status.lastRun", "date"),
            Column("Next", ".status.nextRun"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        rules=(Rule("self.metadata.name.size() <= 63", "a policy's name becomes a label: at most 63 characters"),),
    )

    spec: BackupPolicySpec
    status: BackupPolicyStatus | None = None
