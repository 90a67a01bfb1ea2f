"""Desired and observed state as rows, and the pure plan that moves one to the other.

Everything the cloud keeps is a `Resource`: `spec` is what is wanted, `status` what was seen, `state` a word of its
kind's transition table. A *kind* is a table and a pure function `step(snapshot, resource) -> actions`; the control
plane knows no more of it (DESIGN section 4). `reconcile` runs the steps of all kinds over one snapshot; the live
loop, the dry run, `explain` and a simulator call it alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from skyriver.core.errors import Conflict, NotFound
from skyriver.core.rows import Rows

Key = tuple[str, str, str]
"""(tenant, kind, name) of a row."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One row of the control state. `revision` changes with every write of the row, `generation` with its spec."""

    tenant: str
    kind: str
    name: str
    spec: Mapping[str, Any] = field(default_factory=dict)
    status: Mapping[str, Any] = field(default_factory=dict)
    state: str = ""
    reason: str = ""
    """Closed word, empty in the happy state; with `message`, `since` and `next_action` for people."""
    message: str = ""
    next_action: str = ""
    since: int = 0
    """Wall time, microseconds, of the last change of `state`."""
    parent: str = ""
    """`kind/name` of the resource this one belongs to and ends with."""
    attempts: int = 0
    revision: int = 0
    generation: int = 1
    created_at: int = 0
    created_by: str = ""
    updated_at: int = 0
    updated_by: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.tenant, self.kind, self.name)

    @property
    def ref(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def process(self) -> str:
        """Name of the process that carries this resource, for kinds that have one (job, replica, worker)."""
        return f"{self.tenant}.{self.kind}.{self.name}"


@dataclass(frozen=True, slots=True)
class Put:
    """Write a row. `expected` is the revision it was read at; 0 means that it MUST not exist yet."""

    resource: Resource
    expected: int


@dataclass(frozen=True, slots=True)
class Delete:
    tenant: str
    kind: str
    name: str
    expected: int


Change = Put | Delete


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what, under which permission; written in the transaction of the change itself."""

    tenant: str
    actor: str
    permission: str
    action: str
    target: str
    details: Mapping[str, Any] = field(default_factory=dict)


UNDECLARED_MB: Final = 512
"""Of a process whose memory nobody declares; of a replica until it is measured, and declared it is as if nobody had."""


GPU: Final = "gpu"
"""The accelerators of a machine that jobs ask for, all of one kind."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process is held to; 0 and {} are no limit. `seconds` is its wall time by a monotonic clock."""

    cpus: float = 0.0
    memory_mb: int = 0
    """MB are 10^6 bytes."""
    accelerators: Mapping[str, int] = field(default_factory=dict)
    """How many by kind."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process that should run: `python -m skyriver.wiring.<module> CONFIG`, with `config` written as its file.

    `name` is unique in the cloud. Two specs with the same `name` and `config` are the same process; `live` is what
    may change while it runs: a file beside the config, replaced atomically, that the process watches. A process
    with `once` is started once and not again after it ended (a job); its end is told by `ProcessStatus`.
    """

    name: str
    module: Literal["job", "replica", "worker", "dispatcher", "activator"]
    tenant: str
    config: Mapping[str, Any]
    live: Mapping[str, Any] = field(default_factory=dict)
    once: bool = False
    limits: Limits = Limits()
    environment: str = ""
    """Digest of the users' environment whose interpreter runs it; "" is the product's own."""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """What is seen of a process. `report` is the last status file it wrote itself, {} before the first."""

    name: str
    alive: bool
    pid: int = 0
    exit_code: int | None = None
    """Negative is a signal. Of a process with `once` also known when it ended while nobody looked."""
    out_of_memory: bool = False
    """It was ended because it wanted more memory than its limit, or than the machine has."""
    timed_out: bool = False
    """It was ended because it ran longer than its limit."""
    stopped: bool = False
    """It was ended with everything else, because somebody took the cloud down."""
    peak_mb: float = 0.0
    """The most memory it ever held, once it has ended; 0 where that is not known."""
    held_by: str = ""
    """How it is held to its limits, in words; "" where it has none."""
    config_digest: str = ""
    socket: str = ""
    started_at: int = 0
    rss_mb: float = 0.0
    cpu_seconds: float = 0.0
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Server:
    """One replica or worker behind the gateway."""

    name: str
    socket: str
    holds: bool = False
    """It holds requests and works on none: as many may be under way to it as it takes."""


@dataclass(frozen=True, slots=True)
class RequestLimit:
    """How much may come through the gateway; 0 is no limit."""

    per_second: int = 0
    at_once: int = 0


NO_LIMIT = RequestLimit()


@dataclass(frozen=True, slots=True)
class Route:
    """Requests of `tenant` for `kind`/`name` go to pools by weight. kind `model`: `/v2/models/NAME/...` and
    `/predict/NAME`; kind `stream`: `/streams/NAME/...`. A pool's name is `model:version` or the stream's."""

    tenant: str
    kind: Literal["model", "stream"]
    name: str
    split: tuple[tuple[str, int], ...]
    """(pool, weight); weights are whole numbers that add up to 100. Empty: known, but nothing serves it now."""
    owner: str = ""
    """`kind/name` of the row that wants it; the gateway keeps it and makes nothing of it."""
    limit: RequestLimit = NO_LIMIT
    """Of all requests by this route, and of those straight to one version of the model."""
    steady: str = ""
    """The pool that is known to be good, of several that have a weight; "" where there is none of that kind."""


@dataclass(frozen=True, slots=True)
class Pool:
    tenant: str
    name: str
    servers: tuple[Server, ...]
    owner: str = ""


@dataclass(frozen=True, slots=True)
class RouteTable:
    routes: tuple[Route, ...] = ()
    pools: tuple[Pool, ...] = ()
    tokens: tuple[tuple[str, str], ...] = ()
    """(SHA-256 hex of the token, tenant)."""
    read_only: tuple[str, ...] = ()
    """Those tokens, by the same hex, that may only look at streams. A field of its own, so that the table of a release
    that does not know it is read as it was meant."""
    limits: tuple[tuple[str, RequestLimit], ...] = ()
    """(tenant, what all requests of its tokens to models and streams together may not exceed)."""


@dataclass(frozen=True, slots=True)
class Aside:
    """A row whose step failed, or whose change could not be written: left as it is, while the others go on. It is
    tried again when it changes, and with growing pauses."""

    message: str
    attempts: int
    since: int
    """Wall microseconds, of the first failure."""
    again: int
    """Wall microseconds, of the next try."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a step may know. Steps are pure: no clock, no disk, no randomness but what stands here."""

    resources: Mapping[Key, Resource]
    processes: Mapping[str, ProcessStatus]
    sessions: Mapping[str, int]
    """Requests under way per gateway server name; a server that is not listed is not in the gateway."""
    now: int
    started: int = 0
    """When this control plane began to look, wall microseconds: time in which nobody looked does not count against
    anyone. It begins to look anew when the wall clock was set."""
    aside: Mapping[Key, Aside] = field(default_factory=dict)
    asked_by: str = ""
    """Whose token it is that asks for what is planned; "" where the loop goes on by itself."""

    def __post_init__(self) -> None:
        if not isinstance(self.resources, Rows):
            object.__setattr__(self, "resources", Rows(self.resources.values()))

    @property
    def rows(self) -> Rows:
        assert isinstance(self.resources, Rows)
        return self.resources

    def find(self, tenant: str, kind: str, name: str) -> Resource | None:
        return self.resources.get((tenant, kind, name))

    def all(self, tenant: str, kind: str) -> Sequence[Resource]:
        """In the order of names."""
        return self.rows.all(tenant, kind)

    def children(self, parent: Resource, kind: str) -> Sequence[Resource]:
        """What belongs to `parent`, in the order of names."""
        return self.rows.children(parent.tenant, parent.ref, kind)

    def elapsed(self, since: int) -> int:
        """Microseconds in which somebody looked since the wall time `since`. A clock that was set makes it too
        small, never too large: nothing is given up because a clock jumped."""
        seen = self.started if since > self.now else max(since, self.started)
        return max(0, self.now - seen)


@dataclass(frozen=True, slots=True)
class Want:
    """This process should run (level, not edge: said in every pass in which it holds)."""

    process: ProcessSpec


@dataclass(frozen=True, slots=True)
class WantRoute:
    route: Route


@dataclass(frozen=True, slots=True)
class WantPool:
    pool: Pool


Action = Put | Delete | Want | WantRoute | WantPool

Step = Callable[[Snapshot, Resource], Iterable[Action]]
Waits = Callable[[Snapshot, Resource], Iterable[str]]


def _nothing(snapshot: Snapshot, resource: Resource) -> Iterable[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of thing: its words, which event moves which state where, and its step."""

    name: str
    initial: str
    """The state in which a step may make one."""
    transitions: Mapping[tuple[str, str], str]
    """(state, event) -> state."""
    final: frozenset[str]
    """States in which nothing happens any more: such a row is not stepped."""
    step: Step
    waits: Waits = _nothing
    """What a row waits for now, as kind/name, for `explain`."""
    moves: frozenset[tuple[str, str]] = field(init=False)
    """(state, state) that some event makes."""

    def __post_init__(self) -> None:
        moves = {(before, after) for (before, _), after in self.transitions.items()}
        object.__setattr__(self, "moves", frozenset(moves))

    def move(self, resource: Resource, event: str, now: int, **changes: Any) -> Resource:
        """The resource after `event`; an event that the table does not have in this state is refused and
        changes nothing (Conflict). reason, message and next_action are cleared unless given."""
        state = self.transitions.get((resource.state, event))
        if state is None:
            raise Conflict(
                f"{resource.ref} is {resource.state}: {event} is not possible now.",
                code="REFUSED_TRANSITION",
                next_action=f"`skyriver explain {resource.name}` tells what it waits for, and what can be done.",
            )
        cleared = {"reason": "", "message": "", "next_action": ""} | changes
        return replace(resource, state=state, since=now if state != resource.state else resource.since, **cleared)


WantAction = Want | WantRoute | WantPool


@dataclass(frozen=True, slots=True)
class Plan:
    """What one pass wants, by the row whose step said it."""

    writes: Mapping[Key, tuple[Change, ...]] = field(default_factory=dict)
    """What a step writes goes to the store together or not at all."""
    wants: Mapping[Key, tuple[WantAction, ...]] = field(default_factory=dict)
    """Levels, put right by difference."""
    poisoned: Mapping[Key, str] = field(default_factory=dict)
    """Rows whose step raised, with the error: set aside, the rest went on."""

    @property
    def changes(self) -> tuple[Change, ...]:
        return tuple(change for written in self.writes.values() for change in written)


def reconcile(snapshot: Snapshot, kinds: Mapping[str, Kind], *, skip: Set[Key] = frozenset()) -> Plan:
    """One pass over all resources but those in `skip`: pure, and the same for the live loop, the dry run, `explain` and
    the simulator.

    When two steps write the same row, the first one's writes are taken and the second step waits for the next pass.
    A step that makes a row in a state that its kind's table does not allow has failed like one that raises.
    """
    writes: dict[Key, tuple[Change, ...]] = {}
    wants: dict[Key, tuple[WantAction, ...]] = {}
    poisoned: dict[Key, str] = {}
    taken: set[Key] = set()
    for resource in snapshot.rows.in_order():
        kind = kinds.get(resource.kind)
        if kind is None or resource.state in kind.final:
            continue
        key = resource.key
        if key in skip:
            continue
        try:
            actions = list(kind.step(snapshot, resource))
            written = {_target(a): a for a in actions if isinstance(a, Put | Delete)}
            for change in written.values():
                _check_move(snapshot, kinds, change)
        except Exception as error:  # a poisonous row must not stop the others
            poisoned[key] = f"{type(error).__name__}: {error}"
            continue
        if written and not written.keys() & taken:
            taken |= written.keys()
            writes[key] = tuple(written.values())
        if wanted := tuple(a for a in actions if isinstance(a, Want | WantRoute | WantPool)):
            wants[key] = wanted
    return Plan(writes, wants, poisoned)


def _check_move(snapshot: Snapshot, kinds: Mapping[str, Kind], change: Change) -> None:
    """Raises Conflict (REFUSED_TRANSITION) for a state that no event of the table leads to."""
    if isinstance(change, Delete) or change.resource.kind not in kinds:
        return
    after, kind = change.resource, kinds[change.resource.kind]
    before = snapshot.resources.get(after.key)
    if before is None:
        allowed = after.state == kind.initial
    else:
        allowed = after.state == before.state or (before.state, after.state) in kind.moves
    if not allowed:
        was = before.state if before is not None else "not there"
        raise Conflict(
            f"{after.ref} was {was} and cannot become {after.state}.",
            code="REFUSED_TRANSITION",
            next_action="Read it again: somebody else has changed it, or it must change otherwise first.",
        )


def _target(change: Change) -> tuple[str, str, str]:
    return change.resource.key if isinstance(change, Put) else (change.tenant, change.kind, change.name)


def need(resource: Resource | None, kind: str, name: str) -> Resource:
    """`resource`, or NotFound saying which `kind` named `name` is missing."""
    if resource is None:
        raise NotFound(f"There is no {kind} {name!r}.", next_action=f"`skyriver {kind} list` shows what there is.")
    return resource
