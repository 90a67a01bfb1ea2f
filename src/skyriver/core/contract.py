"""What travels between the control plane and its callers: one definition, which the API answers with and the client
returns. Published as OpenAPI in docs/openapi.json. Times are wall microseconds.

Callers must bear fields that are not here: a newer cloud may tell more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # typing's own is not introspected by pydantic before Python 3.12


class Problem(TypedDict):
    """Why a request was refused or failed (RFC 9457)."""

    type: str
    """`urn:skyriver:error:` and the code in small letters."""
    title: str
    status: int
    code: str
    """Stable; what programs should compare."""
    detail: str
    """What happened and why, for people."""
    where: NotRequired[str]
    """The field, file and line, or row that is meant."""
    next_action: NotRequired[str]
    """What to do about it."""
    errors: NotRequired[Sequence[Mapping[str, Any]]]
    """The single mistakes, where there are several, or details for programs."""


class Live(TypedDict):
    live: bool


class WhoAmI(TypedDict):
    """Whose token this is."""

    tenant: str
    name: str
    role: str


class Resource(TypedDict):
    """One row of the control state: `spec` is what is wanted, `status` what was seen."""

    tenant: str
    kind: str
    name: str
    spec: Mapping[str, Any]
    status: Mapping[str, Any]
    state: str
    """A word of its kind's table of states (docs/states.md)."""
    reason: str
    """Why it is in this state: a closed word, empty when all is well."""
    message: str
    """The reason for people."""
    next_action: str
    """What to do about it."""
    since: int
    """When `state` last changed."""
    parent: str
    """`kind/name` of the resource that this one belongs to and ends with."""
    attempts: int
    revision: int
    """Changes with every write; the ETag."""
    generation: int
    """Changes when `spec` does."""
    created_at: int
    created_by: str
    updated_at: int
    updated_by: str


class ResourcePage(TypedDict):
    items: Sequence[Resource]
    """In the order of names."""
    next: str | None
    """The cursor of the next page; null on the last one."""


class PlanLine(TypedDict):
    """One thing that a deployment does, or finds as it should be."""

    action: Literal["create", "update", "keep", "remove", "orphan"]
    """`orphan`: no longer in the file, and left; pruning removes it."""
    kind: str
    name: str
    detail: str


class Deployed(TypedDict):
    plan: Sequence[PlanLine]
    plan_digest: str
    """Stands for the plan and the state that it rests on."""
    applied: bool
    """False for a dry run."""
    operations: Sequence[str]
    """Names of the operations that go on now."""


class Removed(TypedDict):
    plan: Sequence[PlanLine]
    applied: bool


class Accepted(TypedDict):
    """Work that goes on; the header Location says where to look for it."""

    operation: str
    action: str
    target: str


class Uploaded(TypedDict):
    digest: str
    """SHA-256 of the content, by which it is known."""
    bytes: int


class Process(TypedDict):
    """A process of the cloud with the state of what it carries."""

    kind: str
    name: str
    parent: str
    state: str
    pid: int
    alive: bool
    started_at: int
    rss_mb: float
    cpu_seconds: float
    report: Mapping[str, Any]
    """What it said of itself last."""


class ProcessList(TypedDict):
    items: Sequence[Process]


class Wait(TypedDict):
    """Something that is waited for, with why it is not there yet."""

    ref: str
    """`kind/name`."""
    by: str
    """Who waits for it."""
    progress: Any
    state: str
    reason: str
    message: str
    next_action: str


class Explained(TypedDict):
    """Why something is as it is."""

    kind: str
    name: str
    state: str
    reason: str
    message: str
    next_action: str
    since: int
    spec: Mapping[str, Any]
    status: Mapping[str, Any]
    waits_for: Sequence[Wait]
    """Down to the cause, which is last."""
    tried: Sequence[Mapping[str, Any]]
    """Earlier attempts."""
    next_pass: Sequence[str]
    """What the control plane does about it next."""
    helps: Sequence[str]
    """All that could be done about it."""
    processes: Mapping[str, Mapping[str, Any]]
    log: Sequence[str]
    """The last lines that its processes printed."""


class ExplainedList(TypedDict):
    items: Sequence[Explained]


class LogPart(TypedDict):
    """A piece of what one process printed."""

    name: str
    """`kind/name` of what the process carries."""
    text: str
    next: int
    """The offset at which it goes on."""


class LogParts(TypedDict):
    items: Sequence[LogPart]


class AuditRow(TypedDict):
    """Who did what, under which permission."""

    seq: int
    at: int
    tenant: str
    actor: str
    permission: str
    action: str
    target: str
    details: Mapping[str, Any]


class AuditPage(TypedDict):
    items: Sequence[AuditRow]
    """Oldest first."""
    next: str | None
