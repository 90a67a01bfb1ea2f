"""What travels between the control plane and its callers: one definition, which the API answers with and the client
returns. Published as OpenAPI in docs/openapi.json. Times are wall microseconds.

Callers must bear fields that are not here: a newer cloud may tell more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # typing's own is not introspected by pydantic before Python 3.12

from skyriver.core.contract_deliveries import Delivery as Delivery
from skyriver.core.contract_deliveries import DeliveryPage as DeliveryPage
from skyriver.core.contract_deliveries import DispatcherMetrics as DispatcherMetrics
from skyriver.core.contract_deliveries import DispatcherNow as DispatcherNow
from skyriver.core.contract_deliveries import JudgedDeliveries as JudgedDeliveries
from skyriver.core.contract_deliveries import RetriedDeliveries as RetriedDeliveries
from skyriver.core.contract_deliveries import ReviewsNow as ReviewsNow
from skyriver.core.contract_deliveries import SinkNow as SinkNow
from skyriver.core.contract_deliveries import UnjudgedDelivery as UnjudgedDelivery


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


class DamagedRow(TypedDict):
    """One that is not what was written: nothing more is told of it, for nobody knows whether it is true."""

    name: str
    code: str
    message: str
    next_action: str


class ResourcePage(TypedDict):
    items: Sequence[Resource]
    """In the order of names."""
    next: str | None
    """The cursor of the next page; null on the last one."""
    damaged: NotRequired[Sequence[DamagedRow]]
    """Those that belong to this page and cannot be shown, whatever was asked for; not there where all are whole."""


class PlanLine(TypedDict):
    """One thing that a deployment does, or finds as it should be."""

    action: Literal["create", "update", "keep", "remove", "orphan", "warn"]
    """`orphan`: no longer in the file, and left; pruning removes it. `warn`: it is taken, and is hardly meant so."""
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


class DeadLetter(TypedDict):
    """A refused event or label, as it came: `message` and `raw` are cut; all of it is in the table NAME.dead."""

    offset: int
    """Where it stands in the log."""
    time: int
    """The stream's time then."""
    reason: str
    field: str
    message: str
    raw: str


class Quantiles(TypedDict):
    """Of the last 10 s, in microseconds; 0 where nothing came."""

    p50: int
    p99: int
    p999: int


class SourceNow(TypedDict):
    """What comes from a broker, counted since the worker's start."""

    name: str
    state: Literal["STARTING", "READY", "DEGRADED"]
    reason: str
    message: str
    next_action: str
    since: int
    lag: int | None
    """Messages that the broker holds undelivered; null where it cannot tell."""
    messages: int
    """That are in the log and acknowledged to the broker."""
    redelivered: int
    events: int
    duplicates: int
    dead: int
    connections: int


class KeysNow(TypedDict):
    """The keys of one field by which features are computed, or the rows of a reference that they look up."""

    by: str
    held: int
    """That have a place in memory: those with an event in their longest window, and idle ones until others need it."""
    least_bytes: int
    """What one takes in memory."""
    most_bytes: int
    """With as many values to remember as a minimum, distinct count or decayed mean may have."""


class ListNow(TypedDict):
    """A list, which rules read."""

    name: str
    ids: int
    """That are on it, or are so up to an `until`."""
    changed_at: int | None
    """The stream's time when it changed last; None: it never did."""


class BudgetNow(TypedDict):
    """A budget of a decision. Exactly one of the last two is there."""

    decision: str
    most: int
    per: str
    overflow: str
    """The decision of events that are beyond it."""
    by: str
    spent: int | None
    """Events within its window, of the whole stream."""
    keys: int | None
    """Values of its field that had such an event."""


class FeatureChangeNow(TypedDict):
    """Changed features, computed beside those that decide."""

    digest: str
    state: Literal["compiling", "building", "joining", "saving", "waiting", "ready"]
    """`compiling`: a process of its own compiles them, up to a minute; `building`: it reads the log; `joining`: the
    worker reads what came since; `saving`: a checkpoint is taken; `waiting`: until they have seen all that they look
    back to; `ready`: a version trained on them may decide."""
    offset: int
    """How far the log was read."""
    end: int
    events: int
    """Read by the process that builds, since it was begun."""
    events_per_second: float
    """That it gets on with; it takes half of a core at most."""
    cpu_seconds: float
    """That it took."""
    memory_mb: float
    disk_mb: float
    whole_from: int | None
    """The stream's time at which `waiting` ends."""


class ThreadsNow(TypedDict):
    """Of a model's runs, where they may take more than one."""

    most: int
    share: float | None
    """Of the events of the last 10 s: scored while they could take so many."""
    gain: float
    """Times as many events a second, by their turns; 0: not known."""
    in_vain: bool
    """They brought nothing a short while ago, and are not taken now."""


class PaceNow(TypedDict):
    """How a partition keeps the declared latency of its decisions."""

    step: str
    """full: the released version scores every event; threads: it does in more threads; cheaper: the cheaper one does;
    shedding: events that would be late get the fallback."""
    since: int
    latency_us: int
    share: float
    """Of the events that are to be decided within it."""
    in_time: float | None
    """Of the events of the last 10 s: scored and decided within it; null where none came."""
    shed: float | None
    """Of the same."""
    shed_events: int
    """Since the worker began to keep a latency; declaring another one does not begin it anew."""
    cheaper: float | None
    """Of the events of the last 10 s: scored by the cheaper version."""
    rate_in: float
    """Events a second."""
    capacity: float | None
    """Events a second that can be read, scored in turns that keep it, and answered; null: not known yet."""
    alone_us: int | None
    """Within which the share of turns with one event is done: more than half of the latency cannot be kept."""
    threads: NotRequired[ThreadsNow]
    late_since: NotRequired[int]
    """Since when events are late for another reason than their scores, so that no step is taken; 0: they are not."""
    busy: NotRequired[dict[str, float]]
    """Shares of the last 10 s that went to scoring, recording (features, rules, the log and its disk), labels, and
    answering (and reading)."""
    late_by: NotRequired[str]
    """Which of them takes most while `late_since` is told, else "": it stays until another takes half as much again."""
    why: str
    """Of the step that was taken last."""


class PartitionNow(TypedDict):
    """What one partition of a stream does now, by the word of its worker: up to a second old."""

    partition: int
    worker: str
    state: str
    reason: str
    message: str
    next_action: str
    pid: int
    started_at: int
    rss_mb: float
    cpu_seconds: float
    epoch: int
    """How often its log was opened."""
    offset: int
    """That the next record gets."""
    first_offset: int
    """The first one that the log has: what was before it was given up after the stream's retention."""
    log_bytes: int
    """Of the whole log, wherever it lies."""
    local_log_bytes: int
    """Of it on the worker's disk."""
    tier_lag_bytes: int
    """Closed segments of the log that are not in the tier yet; 0 without one."""
    effective_time: int | None
    """The stream's own time; null before its first event."""
    behind_seconds: float | None
    """How far the stream's time is behind the wall clock."""
    events: int
    decided: int
    by_status: Mapping[str, int]
    by_decision: Mapping[str, int]
    by_reason: Mapping[str, int]
    """Events not decided as their score says."""
    dead: int
    dead_by_reason: Mapping[str, int]
    duplicates: int
    history_rows: int
    labels: int
    reference_rows: int
    """Rows of references that were sent; those of loads are among `history_rows`."""
    lists: Sequence[ListNow]
    budgets: Sequence[BudgetNow]
    waiting_rows: int
    """That came and are not in the log yet."""
    undecided: int
    """Events in the log that have no decision yet."""
    not_materialised: int
    """Records in the log that the tables do not have yet."""
    events_per_second: float
    """Over the last 10 s."""
    decisions_per_second: float
    decision_us: Quantiles
    """From an event's append to its durable decision."""
    answer_us: Quantiles
    """From a whole request to its answer."""
    checkpoint_offset: int
    checkpoint_at: int
    """When the newest one on the disk was begun."""
    checkpoint_pause_us: int
    """How long events waited for it."""
    stored_bytes: Mapping[str, int]
    """On the disk, by part: log, side, ids, checkpoint."""
    feature_keys: int
    feature_bytes: int
    """Of their state in memory."""
    keys: Sequence[KeysNow]
    """Of the features that decide, by field."""
    feature_change: FeatureChangeNow | None
    source: SourceNow | None
    """The broker from which events come beside HTTP; null for none."""
    pace: PaceNow | None
    """Null where no latency is declared."""
    last_dead: Sequence[DeadLetter]
    """The newest first, a few."""


class TableNow(TypedDict):
    """A table that the stream writes, at its newest version."""

    name: str
    version: int
    rows: int
    bytes: int
    updated_at: int


class StreamNow(TypedDict):
    """What a stream is and what it does now."""

    name: str
    state: str
    reason: str
    message: str
    next_action: str
    since: int
    at: int
    """When this was told."""
    durability: str
    decides: Mapping[str, Any] | None
    """`model`, `version` in use (0: none; null: its worker is away), `rules`, their `rules_version`, `otherwise`,
    `fallback`, `trial`: the `version` of rules that is tried beside them, its `state`, `percent` and whether it is
    `in_use`, with `events` and how many of them `differed`, or null; null where nothing is decided."""
    partitions: Sequence[PartitionNow]
    tables: Sequence[TableNow]
    dispatcher: DispatcherNow | None
    """What acts on its decisions; null where nothing is declared to."""


class StreamNowList(TypedDict):
    items: Sequence[StreamNow]


class RulesSaid(TypedDict):
    """Events of which the rules that decide said one word, and the candidate another or the same."""

    live: str
    candidate: str
    events: int
    per_1000: float


class RulesCompared(TypedDict):
    """A candidate and the rules that decide, evaluated on the same events since its trial began."""

    live: int
    """Version of the rules that it was compared with."""
    events: int
    differed: int
    said: Sequence[RulesSaid]
    """Where they differ first, the most frequent first."""
    decided_by_live: Mapping[str, int]
    """Events, by decision."""
    decided_by_candidate: Mapping[str, int]
    """Those of its share of the keys."""


class RulesVersion(TypedDict):
    """A version of the rules of a stream."""

    name: str
    stream: str
    version: int
    state: str
    reason: str
    message: str
    since: int
    rules: Sequence[Mapping[str, str]]
    """`decision`, `when`, `name`, in order."""
    warnings: Sequence[str]
    """Of rules that never fire."""
    origin: str
    """deploy, hand or tune."""
    why: str
    gain: Mapping[str, Any] | None
    """What was measured of it: `value`, `low`, `high`, `unit`, `per`, `job`, and the `rules_version` that it was
    measured against; above 0 is good."""
    percent: float
    """Of the keys that it decides, as a canary."""
    in_use: bool
    """Whether the stream's worker decides with it, or tries it, by now."""
    compared: RulesCompared | None
    history: Sequence[Mapping[str, Any]]
    """`state`, `at`, `by`, `why` of each move."""


class RulesVersions(TypedDict):
    items: Sequence[RulesVersion]
    """By number."""


class LetGo(TypedDict):
    """Of a version: how many answers that were told of are not kept, by the metric that has most of them."""

    version: int
    answers: int
    why: str


class Outcomes(TypedDict):
    """What an application has told of a model's answers."""

    model: str
    outcomes: Mapping[str, Mapping[str, Mapping[str, int]]]
    """By version and metric: `yes` of `of`."""
    let_go: Sequence[LetGo]
    """Of versions that are too old; usually none."""


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


class Objective(TypedDict):
    """Whether a service keeps its objective now, in words and numbers."""

    name: str
    state: Literal["kept", "missed", "few", "idle"]
    """few: more is late than may be, of too few requests to judge by; idle: nobody asks."""
    latency: str
    """ "" where it is only that requests are answered."""
    share: float
    judged: int
    """Requests that were answered, refused for want of room, given up, or that reached no replica; of these `missed`
    not as declared. What a limit of requests refused (429) is not among them."""
    missed: int
    within_s: float
    """So long ago it begins: five minutes, or less where the control plane has only begun to count."""
    message: str
    because: str
    """ "" while it is kept."""
    next_action: str


class ObjectiveList(TypedDict):
    items: Sequence[Objective]


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
    objective: NotRequired[Objective]
    """Of a service that declares one."""


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
    """Oldest first, or newest first, as was asked for."""
    next: str | None
