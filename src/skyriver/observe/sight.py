"""What the watching of the system looks at: one moment of the cloud, as values. Pure.

Whoever makes it reads the rows, asks the processes and measures the machine; nothing here does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from skyriver.core.resources import Resource, Snapshot

CLOUD = "cloud:"
"""Of what belongs to no tenant: `cloud:disk`, `cloud:gateway`."""
DISK, DISK_SPACE = CLOUD + "disk", CLOUD + "disk space"
"""The one cannot be written well now; the other will be full."""
MEMORY, CLOCK, MACHINE = CLOUD + "memory", CLOUD + "clock", CLOUD + "machine"
RECEIVERS = CLOUD + "alerts"
GATEWAY, CONTROL, SUPERVISOR, SIGNING = (
    CLOUD + "gateway",
    CLOUD + "control plane",
    CLOUD + "supervisor",
    CLOUD + "signing",
)


def subject_of(row: Resource) -> str:
    """`TENANT:KIND/NAME`; a tenant's name has no colon."""
    return f"{row.tenant}:{row.ref}"


def row_of(subject: str) -> tuple[str, str, str]:
    """(tenant, kind, name) of the row that it is, or a part of; the cloud's are of no row."""
    tenant, _, ref = subject.partition(":")
    kind, _, name = ref.partition("/")
    return tenant, kind, name.partition("/")[0]


def tenant_of(subject: str) -> str:
    """ "" for what belongs to no tenant."""
    tenant = subject.partition(":")[0]
    return "" if tenant == CLOUD[:-1] else tenant


@dataclass(frozen=True, slots=True)
class Problem:
    """What some part says of itself."""

    code: str
    message: str
    next_action: str


@dataclass(frozen=True, slots=True)
class Machine:
    """What was measured beside the rows. What could not be measured is 0, or not there: it is no condition."""

    disk_used: int = 0
    """Bytes, of the file system that the cloud's folder is on."""
    disk_total: int = 0
    disk_write_s: float = 0.0
    """How long a small write took until it was on the disk."""
    disk_problem: str = ""
    """Why it could not be written."""
    memory_used: int = 0
    memory_total: int = 0
    parts: Sequence[Mapping[str, Any]] = ()
    """As `skyriver ps` has them: supervisor, control plane, gateway."""
    ends: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """When each part ended lately, wall microseconds: who looks may himself be one that was started again."""
    weights: Mapping[str, int] = field(default_factory=dict)
    """Percent, of the servers behind the gateway that have less than their full share."""
    unanswered: frozenset[str] = frozenset()
    """Processes that live and did not answer when they were asked just now."""
    failed: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Answers of 500 and above at the gateway since the last look, by (tenant, `model/NAME` or `stream/NAME`)."""
    receivers: Sequence[tuple[str, str]] = ()
    """(name, why) of those that do not take what they are told about incidents."""
    certificate_until: int = 0
    """Wall microseconds; 0 without one."""
    gateway_problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """`seconds`: of a clock that nobody sets; `now` in the snapshot is the wall's."""

    seconds: float
    snapshot: Snapshot
    machine: Machine = field(default_factory=Machine)
    problems: Mapping[str, Problem] = field(default_factory=dict)
    """Of the reconcile loop, by part."""
    pass_age_s: float = 0.0
    """Since its last pass."""
    clock_step_us: int = 0
    clock_step_at: int = 0
    signing: Problem | None = None
