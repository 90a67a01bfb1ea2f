"""The thread of the control plane that counts what is used, and keeps it in rows of the kind `usage`.

It only reads what the reconcile loop knows. What was counted and up to where is written in one commit, every few
seconds: a control plane that is killed in between loses what had just ended, and the next one counts the rest. Where it
is not known whether a commit was made, the rows tell, and it goes on from them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from skyriver.adapters.processes.identity import boot_id
from skyriver.control.loop import ControlLoop
from skyriver.control.pricing import Pricing
from skyriver.control.spending import spending
from skyriver.control.store import Store
from skyriver.core.clock import Clock
from skyriver.core.errors import Conflict, SkyriverError
from skyriver.core.resources import Change, Delete, Put, Resource, Snapshot
from skyriver.core.usage import USAGE, Bucket, Subject, folded
from skyriver.observe.metering import Counter, Look, Mark, meter
from skyriver.trust.permissions import FIRST_TENANT
from skyriver.wiring.attempts import Attempts, OnProblem
from skyriver.wiring.gateway import gateway_of
from skyriver.wiring.home import Home
from skyriver.wiring.stored import stored

LOOK_S: Final = 5.0
FIRST_S: Final = 0.1
WRITE_S: Final = 10.0
GATEWAY_S: Final = 15.0
STORAGE_S: Final = 300.0
FOLD_S: Final = 600.0
BUDGETS_S: Final = 30.0
MARKS: Final = 4
"""Of as many starts of machines it is known up to where everything is counted."""
_MARK: Final = "mark-"

log = logging.getLogger("skyriver.metering")

Sent = Sequence[tuple[Counter, str]]
Stored = Mapping[tuple[str, Subject], int]


class Meter:
    """One thread, from `start` to `stop`. `sent` and `stored` measure what a snapshot does not tell; `boot` names the
    start of the machine that the clock's monotonic time is of."""

    def __init__(
        self,
        *,
        store: Store,
        loop: ControlLoop,
        clock: Clock,
        fence: int,
        pricing: Pricing,
        boot: str,
        sent: Callable[[], Sent] = lambda: (),
        stored: Callable[[Snapshot], Stored] = lambda snapshot: {},
        holds: Callable[[], bool] = lambda: True,
        on_problem: OnProblem = lambda problem: None,
    ) -> None:
        """`on_problem` is called with why it does not count, whenever that has changed."""
        self._attempts = Attempts(
            log, fails="what is used is not counted", works="what is used is counted again", on_problem=on_problem
        )
        self._store, self._loop, self._clock, self._fence = store, loop, clock, fence
        self._pricing, self._boot, self._holds = pricing, boot, holds
        self._measure_sent, self._measure_stored = sent, stored
        self._sent: Sent = ()
        self._stored: Stored = {}
        self._due: dict[str, float] = {}
        self._mark: Mark | None = None
        self._is_read = False
        self._open: dict[tuple[str, int], Bucket] = {}
        self._dirty: set[tuple[str, int]] = set()
        self._marked = 0
        """The revision of the mark's row."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metering", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """With a last look, and after some seconds at the latest."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _run(self) -> None:
        # At once: what begins from now on is counted whole. But not before it is known what runs.
        while not self._loop.health().passes and not self._stop.wait(FIRST_S):
            pass
        last = False
        while self._attempts.attempt(partial(self._look_if_held, write=last)) and not last:
            last = self._stop.wait(LOOK_S)

    def _look_if_held(self, *, write: bool) -> None:
        if self._holds() and self._loop.health().passes:
            self.look(write=write)

    def look(self, *, write: bool = False) -> None:
        """Counts, and writes where it is time to."""
        try:
            snapshot = self._loop.snapshot()
        except SkyriverError:  # the store is away: what was read last
            snapshot = self._loop.seen()
        if not self._is_read:
            self._read(snapshot)
        if self._is_due("gateway", GATEWAY_S):
            self._sent = self._measure_sent()
        if self._is_due("storage", STORAGE_S):
            self._stored = self._measure_stored(snapshot)
        look = Look(snapshot, self._boot, self._clock.monotonic() // 1_000, self._sent, self._stored)
        self._mark, counted = meter(self._mark, look)
        prices = self._pricing.now()
        for place, used in counted.items():
            self._open[place] = self._bucket(snapshot, *place).add(prices, used)
            self._dirty.add(place)
        if write or self._is_due("write", WRITE_S):
            self._write(snapshot)

    def _is_due(self, what: str, every_s: float) -> bool:
        now = self._clock.monotonic() / 1e6
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + every_s
        return True

    def _read(self, snapshot: Snapshot) -> None:
        """Where the rows say that it stood."""
        marks = _marks(snapshot)
        own = next((row for row in marks if row.name == self._mark_name), None)
        newest = own or (marks[-1] if marks else None)
        self._mark = Mark.of(newest.status) if newest is not None else None
        self._marked = own.revision if own is not None else 0
        self._open, self._dirty, self._is_read = {}, set(), True

    @property
    def _mark_name(self) -> str:
        return f"{_MARK}{self._boot[:13]}"

    def _bucket(self, snapshot: Snapshot, tenant: str, hour: int) -> Bucket:
        known = self._open.get((tenant, hour))
        if known is not None:
            return known
        new = Bucket(tenant, hour)
        row = snapshot.find(tenant, USAGE, new.name)
        return Bucket.of(row) if row is not None else new

    def _write(self, snapshot: Snapshot) -> None:
        besides = self._folded(snapshot) if self._is_due("fold", FOLD_S) else []
        besides += spending(snapshot, self._pricing.now()) if self._is_due("budgets", BUDGETS_S) else []
        if self._mark is None or not (self._dirty or besides or not self._marked):
            return
        dirty = sorted(self._dirty)
        changes: list[Change] = [Put(self._open[place].to_row(), self._open[place].revision) for place in dirty]
        mark = Resource(FIRST_TENANT, USAGE, self._mark_name, status=self._mark.to_json(), state="KEPT")
        changes += [Put(mark, self._marked), *besides]
        try:
            written = self._store.commit(changes, audit=(), fence=self._fence, actor="system", now=self._clock.wall())
        except SkyriverError as error:
            if error.code == "FENCED":
                raise
            # Somebody else's row, or nobody knows whether it was written: from the rows on it is counted again.
            self._is_read = not (isinstance(error, Conflict) or error.code == "STORE_UNSURE")
            raise
        self._marked = next(row.revision for row in written if row.name == self._mark_name)
        for place, row in zip(dirty, written, strict=False):
            self._open[place] = Bucket.of(row)
        last = max((hour for _, hour in dirty), default=0)
        self._open = {place: bucket for place, bucket in self._open.items() if place[1] == last}
        self._dirty.clear()

    def _folded(self, snapshot: Snapshot) -> list[Change]:
        """Of rows that nothing is written to now."""
        names = {(tenant, self._open[tenant, hour].name) for tenant, hour in self._open}
        tenants = {row.tenant for row in snapshot.rows.every(USAGE)}
        found = [folded(snapshot.all(tenant, USAGE)) for tenant in sorted(tenants)]
        whole = [one for one in found if not {_key(change) for change in one} & names]
        old = [row for row in _marks(snapshot) if row.name != self._mark_name][:-MARKS]
        return [*(change for one in whole for change in one), *(Delete(*row.key, row.revision) for row in old)]


def _marks(snapshot: Snapshot) -> list[Resource]:
    """The newest last."""
    rows = (row for row in snapshot.all(FIRST_TENANT, USAGE) if row.name.startswith(_MARK))
    return sorted(rows, key=lambda row: row.revision)


def _key(change: Change) -> tuple[str, str]:
    row = change.resource if isinstance(change, Put) else change
    return row.tenant, row.name


def meter_of(
    home: Home,
    *,
    store: Store,
    loop: ControlLoop,
    clock: Clock,
    fence: int,
    pricing: Pricing,
    holds: Callable[[], bool],
    on_problem: OnProblem,
) -> Meter:
    """Of this machine."""
    last: list[Sent] = [()]

    def sent() -> Sent:
        try:
            told = gateway_of(home).sent()
        except (SkyriverError, OSError):  # it is away, and tells it later
            return last[0]
        last[0] = [(Counter(f"gateway {key}", "since it began", count), name) for key, name, count in told]
        return last[0]

    return Meter(
        store=store,
        loop=loop,
        clock=clock,
        fence=fence,
        pricing=pricing,
        boot=boot_id(),
        sent=sent,
        stored=lambda snapshot: stored(home, snapshot),
        holds=holds,
        on_problem=on_problem,
    )
