"""The reconcile loop: load, plan, commit, put right (DESIGN section 5).

One pass: take a snapshot (rows from the store, what is seen of processes and gateway), compute the plan with the pure
`reconcile`, commit its changes in one fenced transaction, and only then bring processes and gateway to what the plan
wants. Nothing is acted upon whose reason was not committed; what a crash cut off is put right by the next pass,
for wants are levels, not edges.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from skyriver.control.gateway import Gateway
from skyriver.control.processes import Processes
from skyriver.control.store import Store
from skyriver.core.clock import Clock
from skyriver.core.errors import SkyriverError, StaleWrite
from skyriver.core.resources import Kind, Plan, Resource, RouteTable, Snapshot, reconcile

PASS_SECONDS = 0.1
"""The pause between passes; a request that changes something ends it at once."""
SETTLE_PASSES = 20
"""Passes in a row without pause while each still changes something."""
GATEWAY_CHECK_US = 1_000_000

log = logging.getLogger("skyriver.control")


class ControlLoop:
    """Runs passes in one thread; `snapshot()` and `wake()` may be called from any."""

    def __init__(
        self,
        *,
        store: Store,
        processes: Processes,
        gateway: Gateway,
        kinds: Mapping[str, Kind],
        clock: Clock,
        fence: int,
    ) -> None:
        self._store = store
        self._processes = processes
        self._gateway = gateway
        self._kinds = kinds
        self._clock = clock
        self._fence = fence
        self._revision = -1
        self._rows: dict[tuple[str, str, str], Resource] = {}
        self._table: RouteTable | None = None
        self._leaving: set[str] = set()
        self._gateway_checked = 0
        self._poisoned: dict[tuple[str, str, str], str] = {}
        self._snapshot = Snapshot({}, {}, {}, clock.wall())
        self._wake = threading.Event()
        self._stop = threading.Event()

    def snapshot(self) -> Snapshot:
        """What the last pass saw, with the rows as they are now."""
        self._load()
        return Snapshot(dict(self._rows), self._snapshot.processes, self._snapshot.sessions, self._clock.wall())

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Passes until `stop`. A part that is away is logged and tried again with the next pass."""
        while not self._stop.is_set():
            self._wake.clear()
            try:
                for _ in range(SETTLE_PASSES):
                    if not self.run_pass() or self._stop.is_set():
                        break
            except SkyriverError as error:
                log.warning("pass given up: %s %s", error.code, error)
            except Exception:  # the loop must outlive a mistake in one pass
                log.exception("pass failed")
            self._wake.wait(PASS_SECONDS)

    def run_pass(self) -> bool:
        """One pass; whether it changed rows (then another one is due at once)."""
        self._load()
        now = self._clock.wall()
        self._check_gateway(now)
        snapshot = Snapshot(dict(self._rows), self._processes.observe(), self._sessions(), now)
        plan = reconcile(snapshot, self._kinds)
        self._tell_poisoned(plan)
        if plan.changes:
            try:
                self._store.commit(plan.changes, audit=(), fence=self._fence, actor="reconcile", now=now)
            except StaleWrite:
                if self._store.revision() == self._revision:
                    raise  # no row moved: another control plane has taken the fence
                return True
        self._processes.ensure(plan.processes)
        self._route(plan)
        self._snapshot = snapshot
        return bool(plan.changes)

    def _load(self) -> None:
        revision = self._store.revision()
        if revision != self._revision:
            self._rows = {r.key: r for r in self._store.rows()}
            self._revision = revision

    def _check_gateway(self, now: int) -> None:
        """Brings the gateway back when it died; its files hold the last table, so that it serves at once."""
        if not 0 <= now - self._gateway_checked < GATEWAY_CHECK_US:
            self._gateway_checked = now
            self._gateway.start()

    def _route(self, plan: Plan) -> None:
        tokens = (r for r in self._rows.values() if r.kind == "token")
        table = RouteTable(
            routes=tuple(sorted(plan.routes, key=lambda r: (r.tenant, r.kind, r.name))),
            pools=tuple(sorted(plan.pools, key=lambda p: (p.tenant, p.name))),
            tokens=tuple(sorted((str(t.spec["sha256"]), t.tenant) for t in tokens)),
        )
        if table == self._table:
            return
        before = {s.name for p in self._table.pools for s in p.servers} if self._table else set()
        self._gateway.apply(table)
        self._table = table
        self._leaving |= before - {s.name for p in table.pools for s in p.servers}

    def _sessions(self) -> Mapping[str, int]:
        """Asks the gateway only while a server is on its way out."""
        if not self._leaving:
            return {}
        sessions = self._gateway.sessions()
        self._leaving &= {name for name, count in sessions.items() if count}
        return sessions

    def _tell_poisoned(self, plan: Plan) -> None:
        for key, why in plan.poisoned.items():
            if self._poisoned.get(key) != why:
                log.error("set aside %s: %s", "/".join(key), why)
        self._poisoned = dict(plan.poisoned)
