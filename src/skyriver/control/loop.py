"""The reconcile loop: load, plan, commit, put right (DESIGN section 5).

One pass: take a snapshot (rows from the store, what is seen of processes and gateway), compute the plan with the pure
`reconcile`, commit its changes in one fenced transaction, and only then bring processes and gateway to what the plan
wants. Nothing is acted upon whose reason was not committed; what a crash cut off is put right by the next pass,
for wants are levels, not edges. While the store cannot be read or written, what was committed last goes on being put
right: a replica that dies then is started again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from skyriver.control.aside import AsideRows
from skyriver.control.compute import Compute
from skyriver.control.gateway import Gateway
from skyriver.control.gateway_rules import too_many_pools
from skyriver.control.store import Store
from skyriver.core.clock import Clock
from skyriver.core.errors import Conflict, Corrupt, Internal, InvalidInput, SkyriverError, Unavailable, disk_error
from skyriver.core.resources import (
    NO_LIMIT,
    Key,
    Kind,
    Plan,
    Pool,
    ProcessSpec,
    RequestLimit,
    Resource,
    Route,
    RouteTable,
    Snapshot,
    Want,
    WantAction,
    WantPool,
    WantRoute,
    reconcile,
)
from skyriver.core.rows import Rows
from skyriver.core.units import parse_rate
from skyriver.trust.permissions import Permission, permissions_of

PASS_SECONDS = 0.1
"""The pause between passes; a request that changes something ends it at once."""
SETTLE_PASSES = 20
"""Passes in a row without pause while each still changes something."""
CLOCK_STEP_US = 1_000_000
"""A wall clock that moved by this much more or less than the monotonic one between two passes was set."""

log = logging.getLogger("skyriver.control")


@dataclass(frozen=True, slots=True)
class Health:
    """How the loop is: what `doctor` and the API tell of it. Times are wall microseconds, 0 for never."""

    passes: int
    last_pass: int
    problems: Mapping[str, SkyriverError]
    """What is wrong now, by the part that it is wrong with: `pass` (the last one was given up), `gateway`, `rows` (some
    are set aside)."""
    clock_step_us: int
    """By how much the clock was last set, and when."""
    clock_step_at: int


class ControlLoop:
    """Runs passes in one thread; `snapshot()`, `health()` and `wake()` may be called from any. `on_lost` is called, in
    the loop's thread, when another control plane has taken over: then the loop has ended. `on_problems` is called with
    what is wrong whenever that has changed. Nothing is done to processes
    and gateway unless `holds()`: whether this control plane is (still) the one that may."""

    def __init__(
        self,
        *,
        store: Store,
        compute: Compute,
        gateway: Gateway,
        kinds: Mapping[str, Kind],
        clock: Clock,
        fence: int,
        on_lost: Callable[[SkyriverError], None] = lambda error: None,
        on_problems: Callable[[Mapping[str, SkyriverError]], None] = lambda problems: None,
        holds: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._compute = compute
        self._gateway = gateway
        self._kinds = kinds
        self._clock = clock
        self._fence = fence
        self._on_lost = on_lost
        self._on_problems = on_problems
        self._holds = holds
        self._known: tuple[int, Rows] = (-1, Rows())
        """(revision, rows), replaced as one: the API's threads read it too."""
        self._reached: Set[str] | None = None
        """Servers that the gateway may send to: of the last table that it took, and of those that it did not take
        whole since. None until one was read or taken."""
        self._leaving: set[str] = set()
        self._held: Set[str] = frozenset()
        """Processes that are kept though nobody wants them: the gateway did not take the table without them, or they
        have not answered all that they got until it did."""
        self._aside = AsideRows()
        self._wants: dict[Key, tuple[WantAction, ...]] = {}
        self._started = clock.wall()
        self._offset = self._started - clock.monotonic()
        self._snapshot = Snapshot({}, {}, {}, self._started)
        self._health = Health(0, 0, {}, 0, 0)
        self._looked = threading.Event()
        self._wake = threading.Event()
        self._stop = threading.Event()

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return self._kinds

    def snapshot(self) -> Snapshot:
        """What the last pass saw, with the rows as they are now."""
        return replace(self._snapshot, resources=self._load()[1], now=self._clock.wall())

    def seen(self) -> Snapshot:
        """What the last pass saw, rows included: also while the store cannot be read."""
        return replace(self._snapshot, resources=self._known[1], now=self._clock.wall())

    def health(self) -> Health:
        return self._health

    def await_look(self, seconds: float) -> None:
        """Until a pass has looked at what runs, or was given up; at most so long. Before that `snapshot` knows of no
        process, though those of a control plane before this one may live."""
        self._looked.wait(seconds)

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Passes until `stop`. A part that is away is told once and tried again with the next pass."""
        while not self._stop.is_set():
            self._wake.clear()
            try:
                for _ in range(SETTLE_PASSES):
                    if not self.run_pass() or self._stop.is_set():
                        break
                self._tell("pass", None)
            except SkyriverError as error:
                self._tell("pass", error)
                if error.code == "FENCED":
                    self.stop()
                    self._on_lost(error)
            except OSError as error:  # of the home's disk: full, read-only, failing
                self._tell("pass", disk_error(error, "What is wanted cannot be brought about"))
            except Exception as error:  # the loop must outlive a mistake in one pass
                failed = Internal(f"{type(error).__name__}: {error}", next_action="Report it with control.log.")
                if self._tell("pass", failed):
                    log.exception("pass failed")
            self._looked.set()
            self._wake.wait(PASS_SECONDS)

    def run_pass(self) -> bool:
        """One pass; whether it changed rows (then another one is due at once)."""
        now = self._look_at_clock()
        self._check_lease()
        try:
            revision, rows = self._load()
            seen = Snapshot(rows, self._compute.observe(), self._sessions(), now, self._started, self._aside.told())
            self._snapshot = seen  # also of a pass that is given up: whoever asks is told what is
            self._looked.set()
            plan = reconcile(seen, self._kinds, skip=self._aside.resting(rows, now))
            committed = self._commit(plan, now, revision)
        except SkyriverError as error:
            if self._health.passes and error.code != "FENCED":
                self._hold()
            raise
        if committed is None:
            return True
        self._aside.settle(rows, {**plan.poisoned, **committed}, now)
        self._tell("rows", self._aside.problem())
        self._snapshot = replace(seen, aside=self._aside.told())
        aside = self._aside.keys()
        # A row that was set aside keeps what it had: its process runs on, its routes stay.
        kept = {key: wants for key, wants in self._wants.items() if key in aside}
        self._wants = {key: w for key, w in plan.wants.items() if key not in aside} | kept
        self._put_right(rows, aside)
        self._health = replace(self._health, passes=self._health.passes + 1, last_pass=now)
        return len(plan.writes.keys() - aside) > 0

    def _look_at_clock(self) -> int:
        """Wall time. When the clock was set since the last pass, nothing that waited counts as having waited long."""
        now = self._clock.wall()
        offset = now - self._clock.monotonic()
        step, self._offset = offset - self._offset, offset
        if abs(step) >= CLOCK_STEP_US:
            log.warning("the machine's clock was set by %+.1f s", step / 1e6)
            self._started = now
            self._health = replace(self._health, clock_step_us=step, clock_step_at=now)
        return now

    def _load(self) -> tuple[int, Rows]:
        """The rows, and the revision that they are at (or past). The API's threads load too: what this pass found need
        not be what is known by now."""
        known, rows = self._known
        changes = self._store.since(known) if known >= 0 else None
        if changes is None:  # too much happened since, or nothing is known yet
            revision = self._store.revision()
            found = (revision, Rows(self._store.rows()))
        elif changes.revision != known:
            found = (changes.revision, rows.changed(changes.rows, changes.gone))
        else:
            return known, rows
        self._known = found
        return found

    def _commit(self, plan: Plan, now: int, revision: int) -> dict[Key, str] | None:
        """Writes the changes of a plan that was made at `revision`, at once; the rows whose changes cannot be written,
        with why. None when the plan may not be acted upon.

        When a row moved meanwhile, the plan is dropped and made anew. When none did, some step writes what cannot
        be written, now and in all passes to come: then each step is written alone, and the bad one set aside.
        """
        refused: dict[Key, str] = {}
        if not plan.writes:
            return refused
        try:
            self._store.commit(plan.changes, audit=(), fence=self._fence, actor="reconcile", now=now)
        except (Conflict, InvalidInput, Corrupt) as error:  # corrupt: a row that is not what was written
            if error.code == "FENCED":
                raise  # another control plane has taken over
            if self._store.revision() != revision:
                return None
            for key, changes in plan.writes.items():
                try:
                    self._store.commit(changes, audit=(), fence=self._fence, actor="reconcile", now=now)
                except (Conflict, InvalidInput, Corrupt) as again:
                    if again.code == "FENCED":
                        raise
                    refused[key] = str(again)
        return refused

    def _hold(self) -> None:
        """What was committed before still holds. What cannot be done about it now (the same disk is full) waits."""
        try:
            self._put_right(self._known[1], self._aside.keys())
        except (OSError, SkyriverError) as error:
            log.debug("while the store is away: %s", error)

    def _put_right(self, rows: Rows, aside: Set[Key]) -> None:
        """Brings processes and gateway to what is wanted; those of rows in `aside` are left as they are."""
        # First the gateway: who is asked to end must have got its last request.
        self._check_lease()
        took = self._with_gateway(lambda: self._route(rows, aside))
        if took:
            self._held = self._held & self._leaving
        elif self._reached is not None:
            self._held = self._reached
        else:
            self._held = self._snapshot.processes.keys()
        self._check_lease()
        self._compute.ensure(self._wanted(), keep={rows[key].process for key in aside if key in rows} | self._held)

    def _check_lease(self) -> None:
        """Asked right before each act: a plane may be stopped at any line, and go on after it was replaced."""
        if not self._holds():
            raise Unavailable(
                "The time of this control plane's lease is over: another one may have taken over.",
                code="LEASE_OVER",
                next_action="Nothing: it goes on when the lease is renewed, and ends when another one has it.",
            )

    def _wanted(self) -> dict[str, ProcessSpec]:
        return {w.process.name: w.process for ws in self._wants.values() for w in ws if isinstance(w, Want)}

    def _with_gateway(self, act: Callable[[], Sequence[Pool]]) -> bool:
        """Whether it took the table. It may be away: jobs and replicas are looked after all the same, and it is tried
        again."""
        try:
            left = act()
        except SkyriverError as error:
            self._tell("gateway", error)
            return False
        self._tell("gateway", too_many_pools(left) if left else None)
        return True

    def _route(self, rows: Rows, aside: Set[Key]) -> Sequence[Pool]:
        routes: list[Route] = []
        pools: list[Pool] = []
        for key, wants in self._wants.items():
            owner = f"{key[1]}/{key[2]}"
            routes += [replace(w.route, owner=owner) for w in wants if isinstance(w, WantRoute)]
            pools += [replace(w.pool, owner=owner) for w in wants if isinstance(w, WantPool)]
        if (
            lost := aside - self._wants.keys()
        ):  # set aside since this control plane began: what it had, the gateway knows
            before = self._gateway.table()
            owners = {(tenant, f"{kind}/{name}") for tenant, kind, name in lost}
            routes += [r for r in before.routes if (r.tenant, r.owner) in owners]
            pools += [p for p in before.pools if (p.tenant, p.owner) in owners]
        tokens = sorted((str(t.spec["sha256"]), t.tenant, str(t.spec["role"])) for t in rows.every("token"))
        table = RouteTable(
            routes=tuple(sorted(routes, key=lambda r: (r.tenant, r.kind, r.name))),
            pools=tuple(sorted(pools, key=lambda p: (p.tenant, p.name))),
            tokens=tuple((digest, tenant) for digest, tenant, _ in tokens),
            read_only=tuple(d for d, _, role in tokens if Permission.STREAMS_WRITE not in permissions_of(role)),
            limits=tuple(_limits(rows.every("tenant"))),
        )
        after = _servers(table)
        reached = _servers(self._gateway.table()) if self._reached is None else self._reached
        self._reached = reached | after
        left = self._gateway.apply(table)  # in each pass: another one, now stale, may have had the last word
        self._reached = after
        self._leaving |= reached - after
        return left

    def _sessions(self) -> Mapping[str, int]:
        """Asks the gateway only while a server is on its way out."""
        if not self._leaving:
            return {}
        sessions = self._gateway.sessions()
        self._leaving &= {name for name, count in sessions.items() if count}
        return sessions

    def _tell(self, part: str, error: SkyriverError | None) -> bool:
        """Keeps what is wrong, and says it in the log when it is news: a full disk must not fill its log. Whether it
        was."""
        before = self._health.problems.get(part)
        if (str(before), before is None) == (str(error), error is None):
            return False
        others = {name: problem for name, problem in self._health.problems.items() if name != part}
        problems = others if error is None else {**others, part: error}
        self._health = replace(self._health, problems=problems)
        self._on_problems(problems)
        log.warning("%s: %s", part, f"{error.code}: {error}" if error is not None else "it works again")
        return True


def _servers(table: RouteTable) -> Set[str]:
    return {server.name for pool in table.pools for server in pool.servers}


def _limits(tenants: Iterable[Resource]) -> Iterator[tuple[str, RequestLimit]]:
    """What each tenant is held to, of those that have a limit."""
    for tenant in tenants:
        rate, at_once = tenant.spec.get("rate"), tenant.spec.get("concurrency")
        limit = RequestLimit(parse_rate(rate) if rate else 0, at_once or 0)
        if limit != NO_LIMIT:
            yield tenant.name, limit
