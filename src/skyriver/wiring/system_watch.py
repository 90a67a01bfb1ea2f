"""The thread of the control plane that watches the system: looks, writes incidents, mends what it may, tells receivers.

It only reads what the reconcile loop knows, and writes nothing but incidents and, of what it mends, the rows that an
operator's command would write. It may fail at any line: the next look is whole again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from skyriver.adapters.processes.identity import send_signal
from skyriver.adapters.processes.runs import RunFiles
from skyriver.control.loop import ControlLoop
from skyriver.control.signing import Signer
from skyriver.control.store import Store
from skyriver.core.clock import Clock
from skyriver.core.errors import SkyriverError
from skyriver.core.resources import AuditEntry, Change, Put, Resource, Snapshot
from skyriver.observe.healing import Remedy
from skyriver.observe.sight import Machine, Problem, Sight, row_of
from skyriver.observe.system import SystemWatch
from skyriver.observe.tracks import LOOK_S
from skyriver.release.operations import plan_rollback
from skyriver.serve.kinds import REPLICA
from skyriver.trust.permissions import FIRST_TENANT, Permission
from skyriver.wiring.alerts import AlertFiles
from skyriver.wiring.attempts import Attempts, OnProblem
from skyriver.wiring.home import Home
from skyriver.wiring.measuring import Measuring
from skyriver.wiring.process import write_atomically

REMEMBER_S: Final = 600.0
BEGIN_S: Final = 10.0
"""The cloud is only starting before."""

log = logging.getLogger("skyriver.watching")


class SystemWatcher:
    """One thread, from `start` to `stop`."""

    def __init__(
        self,
        home: Home,
        *,
        store: Store,
        loop: ControlLoop,
        clock: Clock,
        fence: int,
        alerts: AlertFiles,
        signer: Signer | None = None,
        holds: Callable[[], bool] = lambda: True,
        on_problem: OnProblem = lambda problem: None,
    ) -> None:
        """`on_problem` is called with why it does not watch, whenever that has changed."""
        self._attempts = Attempts(
            log, fails="the system is not watched", works="the system is watched again", on_problem=on_problem
        )
        self._home = home
        self._store, self._loop, self._clock, self._fence = store, loop, clock, fence
        self._alerts, self._signer, self._holds = alerts, signer, holds
        self._memory = home.root / "usual.json"
        self._watch = _remembering(self._memory)
        self._measuring = Measuring(home)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watching", daemon=True)
        self._remembered = time.monotonic()
        self._outcomes: list[tuple[Remedy, str]] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns once it has ended, or after some seconds: what hangs must not keep the control plane."""
        self._stop.set()
        self._measuring.close()
        self._alerts.close()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _run(self) -> None:
        self._stop.wait(BEGIN_S)
        began = time.monotonic()
        while not self._stop.is_set() and self._attempts.attempt(self._look_if_held):
            self._stop.wait(max(0.5, LOOK_S - (time.monotonic() - began)))
            began = time.monotonic()

    def _look_if_held(self) -> None:
        if self._holds():
            self.look()

    def look(self) -> None:
        """One. What cannot be written is told to receivers all the same: a full disk is what they must know of."""
        try:
            snapshot = self._loop.snapshot()
        except SkyriverError:  # the store is away: what was read last
            snapshot = self._loop.seen()
        measured = replace(self._measuring.measure(snapshot.processes), receivers=tuple(self._alerts.failing()))
        sight = self._sight(snapshot, measured)
        outcome = self._watch.look(sight)
        changes = self._with_told(snapshot, outcome.changes)
        if changes:
            self._commit(changes)
        self._outcomes.clear()
        for remedy in outcome.remedies:  # after their record: a remedy that nobody knows of would come again and again
            self._outcomes.append((remedy, self._carry_out(remedy)))
        if time.monotonic() - self._remembered > REMEMBER_S:
            self._remembered = time.monotonic()
            with contextlib.suppress(OSError):
                write_atomically(self._memory, json.dumps(self._watch.remember()).encode())

    def _sight(self, snapshot: Snapshot, machine: Machine) -> Sight:
        health = self._loop.health()
        signing = self._signer.problem if self._signer is not None else None
        return Sight(
            seconds=self._clock.monotonic() / 1e6,
            snapshot=snapshot,
            machine=machine,
            problems={part: _problem(error) for part, error in health.problems.items()},
            # A pass may have ended since the snapshot, while the machine was measured.
            pass_age_s=snapshot.elapsed(min(health.last_pass, snapshot.now)) / 1e6 if health.last_pass else 0.0,
            clock_step_us=health.clock_step_us,
            clock_step_at=health.clock_step_at,
            signing=_problem(signing) if signing is not None else None,
        )

    def _with_told(self, snapshot: Snapshot, changes: Sequence[Change]) -> list[Change]:
        """With what receivers were told and what came of remedies, in the same rows. Receivers are told of rows as they
        are to be, written or not."""
        rows = {row.key: row for row in snapshot.rows.every("incident")}
        written = {change.resource.key: change for change in changes if isinstance(change, Put)}
        gone = [change for change in changes if not isinstance(change, Put)]
        for key, row in rows.items():
            after = self._with_outcomes(written[key].resource if key in written else row)
            if after is not None:
                written[key] = Put(after, row.revision)
        present = {**rows, **{key: put.resource for key, put in written.items()}}
        for (tenant, name), told in self._alerts.told(present.values()).items():
            key = (tenant, "incident", name)
            put = written.get(key) or Put(rows[key], rows[key].revision)
            row = replace(put.resource, status={**put.resource.status, "told": told})
            written[key] = Put(row, put.expected)
        return [*written.values(), *gone]

    def _with_outcomes(self, row: Resource) -> Resource | None:
        """The incident with what came of what was done about it; None where that is no news."""
        healed = [dict(one) for one in row.status["healed"]]
        for one in healed:
            for remedy, outcome in self._outcomes if not one["outcome"] else ():
                if (one["what"], one["subject"]) == (remedy.what, remedy.subject):
                    one["outcome"] = outcome
        if healed == row.status["healed"]:
            return None
        return replace(row, status={**row.status, "healed": healed})

    def _commit(self, changes: Sequence[Change]) -> None:
        self._store.commit(changes, audit=(), fence=self._fence, actor="system", now=self._clock.wall())
        self._loop.wake()

    def _carry_out(self, remedy: Remedy) -> str:
        """What came of it."""
        log.warning("%s %s: %s", remedy.what, remedy.subject, remedy.why)
        tenant, kind, name = row_of(remedy.subject)
        try:
            snapshot = self._loop.snapshot()
            row = snapshot.find(tenant, kind, name)
            if row is None:
                return "it is gone"
            match remedy.what:
                case "restart":
                    return self._end(row)
                case "replace" if (row.state, "drain") in REPLICA.transitions:
                    drained = REPLICA.move(row, "drain", self._clock.wall())
                    self._act(row, remedy, [Put(drained, row.revision)])
                    return "done"
                case "roll back":
                    made = plan_rollback(snapshot, tenant, row.name, {}, {})
                    self._act(row, remedy, [Put(new, 0) for new in made])
                    return f"done by {made[0].name}"
            return f"it is {row.state}"
        except SkyriverError as error:  # there is none before it, or somebody was quicker
            return f"not done, {error.code}: {error.message}"

    def _act(self, row: Resource, remedy: Remedy, changes: Sequence[Change]) -> None:
        who = (row.tenant or FIRST_TENANT, "system", Permission.SERVICES_WRITE.value)
        audit = [AuditEntry(*who, remedy.what.replace(" ", "_"), row.ref, {"why": remedy.why})]
        self._store.commit(changes, audit=audit, fence=self._fence, actor="system", now=self._clock.wall())
        self._loop.wake()

    def _end(self, row: Resource) -> str:
        """Its process, by who it is: it is started again as any that died."""
        run = RunFiles(self._home.run).run(row.process)
        if run is None or run.watched:
            return "its process is not known"
        return f"ended pid {run.pid}" if send_signal(run.identity, signal.SIGKILL) else "it had ended"


def _problem(error: SkyriverError) -> Problem:
    return Problem(error.code, error.message, error.next_action)


def _remembering(path: Path) -> SystemWatch:
    """What is usual is learnt anew where the file cannot be read: it is worth no trouble."""
    try:
        return SystemWatch(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, AttributeError):
        return SystemWatch()
