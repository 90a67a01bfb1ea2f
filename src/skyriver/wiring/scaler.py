"""The thread of the control plane that decides how many replicas elastic services have, and when those sleep that may,
every few seconds.

It only reads what the reconcile loop knows, and writes nothing but rows of the kind `scaling`, when they change. It may
fail at any line, or be killed: the rows stand, and so do the replicas; the next look is whole again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from skyriver.adapters.haproxy.access_log import FILE
from skyriver.control.loop import ControlLoop
from skyriver.control.pricing import Pricing
from skyriver.control.schedule.moments import Moment
from skyriver.control.store import Store
from skyriver.core.clock import Clock
from skyriver.core.contract import Objective
from skyriver.core.errors import Conflict
from skyriver.core.jobs import ENDED, Capacity
from skyriver.core.resources import Put, Resource, Snapshot
from skyriver.observe.attainment import Attainment, objective_of
from skyriver.observe.demand import LOOK_S, QUICK_S, DemandMeter, Measured, elastic_services, fixed_services, look_s_of
from skyriver.wiring.attempts import Attempts, OnProblem
from skyriver.wiring.histories import Histories
from skyriver.wiring.home import Home
from skyriver.wiring.leftovers import forget_leftovers
from skyriver.wiring.measuring import FailureLog
from skyriver.wiring.process import write_atomically
from skyriver.wiring.sleepers import Sleepers

if TYPE_CHECKING:
    from skyriver.wiring.pooling import MachinePool
    from skyriver.wiring.scaling import Scaling

REMEMBER_S: Final = 60.0
SLEEPING, FIXED, POOL = "sleeping", "fixed", "pool"
"""In the file, beside the seconds between two looks."""

log = logging.getLogger("skyriver.scaling")


class Scaler:
    """One thread, from `start` to `stop`. `on_problem` is called with why it does not decide, whenever that changed."""

    def __init__(
        self,
        home: Home,
        *,
        store: Store,
        loop: ControlLoop,
        clock: Clock,
        fence: int,
        prices: Pricing,
        capacity: Capacity,
        holds: Callable[[], bool] = lambda: True,
        on_problem: OnProblem = lambda problem: None,
    ) -> None:
        self._store, self._loop, self._clock, self._fence = store, loop, clock, fence
        self._prices, self._holds = prices, holds
        self._attempts = Attempts(
            log, fails="services are not scaled", works="services are scaled again", on_problem=on_problem
        )
        self._capacity = capacity
        self._pool: MachinePool | None = None
        self._home, self._memory = home, home.root / "scaling.json"
        self._scalings: dict[float, Scaling] = {}
        """By the seconds between two looks."""
        self._due: dict[float, float] = {}
        """When the next look is, by a monotonic clock."""
        remembered = _remembered(self._memory)
        self._sleepers = Sleepers(remembered.get(SLEEPING))
        self._sleepers_due = 0.0
        self._fixed = _meter_of(remembered.get(FIXED))
        self._histories = Histories(home.root)
        self.attainment = Attainment()
        self._refused = FailureLog(home.logs / FILE)
        self._names: set[str] | None = None
        """Of services, at the last look."""
        self._remembered = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scaling", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns once it has ended, or after some seconds."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self._attempts.attempt(self._look_if_held):
                return
            due = min(self._due.values(), default=time.monotonic() + QUICK_S)
            due = min(due, max(self._sleepers_due, time.monotonic()))
            self._stop.wait(max(0.1, due - time.monotonic()))
        self._end()

    def _end(self) -> None:
        """In the thread, so that nothing is looked at meanwhile. What another control plane that took over has learnt
        is left alone: the file is its own then."""
        if self._holds():
            self._remember(Moment(self._clock.monotonic() / 1e6, self._clock.wall() / 1e6))

    def _look_if_held(self) -> None:
        if self._holds():
            self.look()

    def look(self) -> None:
        """At those services whose turn it is; looks are as far apart as they should be, however long one takes."""
        snapshot = self._loop.snapshot()
        wanted = {look_s_of(spec) for _, spec in elastic_services(snapshot)}
        for look_s in wanted - self._scalings.keys():
            self._pool = self._pool or _pool_of(self._capacity, _remembered(self._memory).get(POOL))
            self._scalings[look_s] = _remembering(self._memory, look_s, self._pool)
        for look_s in self._scalings.keys() - wanted:
            del self._scalings[look_s]
        now = time.monotonic()
        self._due = {look_s: self._due.get(look_s, now) for look_s in wanted}
        for look_s, due in self._due.items():
            if due <= now:
                self._due[look_s] = max(due + look_s, now)
                self._decide(self._scalings[look_s], snapshot)
        if self._sleepers_due <= now:
            self._sleepers_due = now + LOOK_S
            # with the rows as they are now, for both write the same ones
            self._write(self._sleepers.look(self._loop.snapshot(), self._prices.now()))
            self._measure(snapshot)
        if now - self._remembered > REMEMBER_S:
            self._remember()
            if self._names is not None:
                self._histories.keep(self._names)
                forget_leftovers(self._home, self._trained)
                self.attainment.keep(self._names)

    def _trained(self) -> set[str]:
        """Models that there are, and those whose jobs go on though they are no longer declared."""
        rows = self._loop.snapshot().rows
        going = {f"{job.tenant}/{job.spec.get('target', '')}" for job in rows.every("job") if job.state not in ENDED}
        return going | {f"{model.tenant}/{model.name}" for model in rows.every("model")}

    def objective(self, snapshot: Snapshot, service: Resource) -> Objective | None:
        """Whether it is kept now; for any thread."""
        return objective_of(snapshot, service, self.attainment.of(f"{service.tenant}/{service.name}"))

    def _decide(self, scaling: Scaling, snapshot: Snapshot) -> None:
        second = self._clock.monotonic() / 1e6
        self._write(scaling.look(snapshot, second, self._prices.now(), unseen_s=self._unseen_s(snapshot)))
        self._note(scaling.measured, snapshot, second, scaling.look_s)

    def _measure(self, snapshot: Snapshot) -> None:
        """Of services whose replicas do not follow the load it is only kept what is asked of them."""
        second = self._clock.monotonic() / 1e6
        measured = self._fixed.look(snapshot, second, unseen_s=self._unseen_s(snapshot))
        self._note(measured, snapshot, second, LOOK_S)
        self._names = {f"{service.tenant}/{service.name}" for service in snapshot.rows.every("service")}
        unreached, limited = self._refused.of_models()
        self.attainment.note_refused(unreached, limited, second)

    def _note(self, measured: Mapping[str, Measured], snapshot: Snapshot, second: float, look_s: float) -> None:
        self._histories.note(measured, snapshot.now / 1e6, look_s)
        self.attainment.note(measured, second)
        if self._pool is not None:
            self._pool.note(measured, second)

    def _unseen_s(self, snapshot: Snapshot) -> float:
        passed = self._loop.health().last_pass
        return snapshot.elapsed(min(passed, snapshot.now)) / 1e6 if passed else 0.0

    def _write(self, puts: Sequence[Put]) -> None:
        if puts:
            now = self._clock.wall()
            try:
                self._store.commit(puts, audit=(), fence=self._fence, actor="system", now=now)
            except Conflict as error:
                if error.code == "FENCED":
                    raise
                log.info("somebody was quicker, and the next look goes by that: %s", error)
            self._loop.wake()

    def _remember(self, now: Moment | None = None) -> None:
        """`now`: of the end, where another one may go on from; what is recent is not worth a write each minute."""
        self._remembered = time.monotonic()
        learnt: dict[str, Any] = {str(look_s): scaling.remember(now) for look_s, scaling in self._scalings.items()}
        if sleeping := self._sleepers.remember():
            learnt[SLEEPING] = sleeping
        if fixed := self._fixed.remember():
            learnt[FIXED] = fixed
        if self._pool is not None:
            learnt[POOL] = self._pool.remember()
        if learnt:
            with contextlib.suppress(OSError):  # it is learnt anew then
                write_atomically(self._memory, json.dumps(learnt).encode())


def _remembered(path: Path) -> dict[str, Any]:
    """Empty where there is nothing, or nothing that can be read."""
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _meter_of(remembered: Any) -> DemandMeter:
    """What was learnt is learnt anew where it cannot be read."""
    try:
        return DemandMeter(remembered, services=fixed_services)
    except (ValueError, TypeError, KeyError, AttributeError):
        return DemandMeter(services=fixed_services)


def _pool_of(capacity: Capacity, remembered: Any) -> MachinePool:
    """What was learnt is learnt anew where it cannot be read."""
    from skyriver.wiring.pooling import MachinePool  # numpy, as below

    try:
        return MachinePool(capacity, remembered)
    except (ValueError, TypeError, AttributeError):
        return MachinePool(capacity)


def _remembering(path: Path, look_s: float, pool: MachinePool) -> Scaling:
    """What was learnt is learnt anew where the file cannot be read."""
    from skyriver.wiring.scaling import Scaling  # numpy, which a cloud without elastic services never loads

    try:
        return Scaling(_remembered(path).get(str(look_s)), look_s, pool)
    except (ValueError, TypeError, KeyError, AttributeError):
        return Scaling(look_s=look_s, pool=pool)
