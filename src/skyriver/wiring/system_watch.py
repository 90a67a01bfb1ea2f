"""The thread of the control plane that watches the system: looks, writes incidents, mends what it may, tells receivers.

It only reads what the reconcile loop knows, and writes nothing but incidents and, of what it mends, the rows that an
operator's command would write. It may fail at any line: the next look is whole again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from skyriver.adapters.processes.runs import RunFiles
from skyriver.control.loop import ControlLoop
from skyriver.control.signing import Signer
from skyriver.control.store import Store
from skyriver.core.clock import Clock
from skyriver.core.errors import SkyriverError
from skyriver.core.resources import AuditEntry, Change, Put, Resource, Snapshot
from skyriver.observe.healing import Remedy
from skyriver.observe.sight import Machine, Problem, Sight
from skyriver.observe.system import SystemWatch
from skyriver.observe.tracks import LOOK_S
from skyriver.release.operations import plan_rollback
from skyriver.serve.kinds import REPLICA
from skyriver.trust.permissions import FIRST_TENANT, Permission
from skyriver.wiring.alerts import AlertFiles
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
    ) -> None:
        self._home = home
        self._store, self._loop, self._clock, self._fence = store, loop, clock, fence
        self._alerts, self._signer, self._holds = alerts, signer, holds
        self._memory = home.root / "usual.json"
        self._watch = SystemWatch(_read(self._memory))
        self._measuring = Measuring(home)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watching", daemon=True)
        self._remembered = time.monotonic()
        self._problem = ""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._measuring.close()
        self._alerts.close()
        self._thread.join(5.0)

    def _run(self) -> None:
        self._stop.wait(BEGIN_S)
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                if self._holds():
                    self.look()
                self._problem = ""
            except SkyriverError as error:
                if error.code == "FENCED":
                    return
                self._tell(f"{error.code}: {error}")
            except OSError as error:
                self._tell(str(error))
            except Exception as error:  # the watching must outlive a mistake in one look
                if self._tell(f"{type(error).__name__}: {error}"):
                    log.exception("a look at the system failed")
            self._stop.wait(max(0.5, LOOK_S - (time.monotonic() - began)))

    def look(self) -> None:
        snapshot = self._loop.snapshot()
        sight = self._sight(snapshot, self._measuring.measure(snapshot.processes))
        outcome = self._watch.look(sight)
        changes = self._with_told(snapshot, outcome.changes)
        if changes:
            self._commit(changes)
        for remedy in outcome.remedies:  # after their record: a remedy that nobody knows of would come again and again
            self._carry_out(remedy)
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
        """With what receivers were told, in the same rows."""
        rows = {row.key: row for row in snapshot.rows.every("incident")}
        written = {change.resource.key: change for change in changes if isinstance(change, Put)}
        gone = [change for change in changes if not isinstance(change, Put)]
        for (tenant, name), told in self._alerts.told(rows.values()).items():
            key = (tenant, "incident", name)
            put = written.get(key) or Put(rows[key], rows[key].revision)
            row = replace(put.resource, status={**put.resource.status, "told": told})
            written[key] = Put(row, put.expected)
        return [*written.values(), *gone]

    def _commit(self, changes: Sequence[Change]) -> None:
        self._store.commit(changes, audit=(), fence=self._fence, actor="system", now=self._clock.wall())
        self._loop.wake()

    def _carry_out(self, remedy: Remedy) -> None:
        log.warning("%s %s: %s", remedy.what, remedy.subject, remedy.why)
        tenant, _, ref = remedy.subject.partition(":")
        row = self._loop.snapshot().find(tenant, *ref.split("/", 1))
        if row is None:
            return
        match remedy.what:
            case "restart":
                self._end(row)
            case "replace" if (row.state, "drain") in REPLICA.transitions:
                drained = REPLICA.move(row, "drain", self._clock.wall())
                self._act(row, remedy, [Put(drained, row.revision)])
            case "roll back":
                snapshot = self._loop.snapshot()
                try:
                    made = plan_rollback(snapshot, tenant, row.name, {}, {})
                except SkyriverError as error:  # there is none before it, or somebody was quicker
                    log.warning("%s is not rolled back: %s", row.name, error)
                    return
                self._act(row, remedy, [Put(new, 0) for new in made])

    def _act(self, row: Resource, remedy: Remedy, changes: Sequence[Change]) -> None:
        who = (row.tenant or FIRST_TENANT, "system", Permission.SERVICES_WRITE.value)
        audit = [AuditEntry(*who, remedy.what.replace(" ", "_"), row.ref, {"why": remedy.why})]
        self._store.commit(changes, audit=audit, fence=self._fence, actor="system", now=self._clock.wall())
        self._loop.wake()

    def _end(self, row: Resource) -> None:
        """Its process, by who it is: it is started again as any that died."""
        run = RunFiles(self._home.run).run(row.process)
        if run is None or run.watched:
            return
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(run.pid)
            try:
                if run.identity.alive():
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)

    def _tell(self, problem: str) -> bool:
        """Says it once; whether it was news."""
        news, self._problem = problem != self._problem, problem
        if news:
            log.warning("the system is not watched: %s", problem)
        return news


def _problem(error: SkyriverError) -> Problem:
    return Problem(error.code, error.message, error.next_action)


def _read(path: Any) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
