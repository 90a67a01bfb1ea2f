"""The reconcile loop: load, plan, commit, put right (DESIGN section 5).

One pass: take a snapshot (rows from the store, what is seen of processes and gateway), compute the plan with the pure
`reconcile`, commit its changes in one fenced transaction, and only then bring processes and gateway to what the plan
wants. Nothing is acted upon whose reason was not committed; what a crash cut off is put right by the next pass,
for wants are levels, not edges.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from skyriver.control.compute import Compute
from skyriver.control.gateway import Gateway
from skyriver.control.store import Store
from skyriver.core.clock import Clock
from skyriver.core.errors import Conflict, InvalidInput, SkyriverError
from skyriver.core.resources import (
    Key,
    Kind,
    Plan,
    Resource,
    RouteTable,
    Snapshot,
    Want,
    WantAction,
    WantPool,
    WantRoute,
    reconcile,
)

PASS_SECONDS = 0.1
"""The pause between passes; a request that changes something ends it at once."""
SETTLE_PASSES = 20
"""Passes in a row without pause while each still changes something."""
GATEWAY_CHECK_US = 1_000_000

Rows = Mapping[Key, Resource]

log = logging.getLogger("skyriver.control")


class ControlLoop:
    """Runs passes in one thread; `snapshot()` and `wake()` may be called from any."""

    def __init__(
        self,
        *,
        store: Store,
        compute: Compute,
        gateway: Gateway,
        kinds: Mapping[str, Kind],
        clock: Clock,
        fence: int,
    ) -> None:
        self._store = store
        self._compute = compute
        self._gateway = gateway
        self._kinds = kinds
        self._clock = clock
        self._fence = fence
        self._known: tuple[int, Rows] = (-1, {})
        """(revision, rows), replaced as one: the API's threads read it too."""
        self._table: RouteTable | None = None
        self._leaving: set[str] = set()
        self._gateway_checked = 0
        self._gateway_trouble = ""
        self._aside: dict[Key, str] = {}
        self._wants: dict[Key, tuple[WantAction, ...]] = {}
        self._started = clock.wall()
        self._snapshot = Snapshot({}, {}, {}, self._started)
        self._wake = threading.Event()
        self._stop = threading.Event()

    def snapshot(self) -> Snapshot:
        """What the last pass saw, with the rows as they are now."""
        seen = self._snapshot
        return Snapshot(self._load(), seen.processes, seen.sessions, self._clock.wall())

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
        rows = self._load()
        now = self._clock.wall()
        self._with_gateway(lambda: self._keep_gateway(now))
        snapshot = Snapshot(rows, self._compute.observe(), self._sessions(), now, self._started)
        plan = reconcile(snapshot, self._kinds)
        aside = dict(plan.poisoned)
        if not self._commit(plan, aside, now):
            return True
        self._tell_aside(aside)
        self._snapshot = snapshot
        # A row that was set aside keeps what it had: its process runs on, its routes stay.
        kept = {key: wants for key, wants in self._wants.items() if key in aside}
        self._wants = {key: w for key, w in plan.wants.items() if key not in aside} | kept
        wanted = {w.process.name: w.process for ws in self._wants.values() for w in ws if isinstance(w, Want)}
        # First the gateway: who is asked to end must have got its last request.
        self._with_gateway(lambda: self._route(rows))
        self._compute.ensure(wanted, keep={rows[key].process for key in aside if key in rows})
        return len(plan.writes.keys() - aside.keys()) > 0

    def _load(self) -> Rows:
        known, rows = self._known
        revision = self._store.revision()
        if revision != known:
            rows = {r.key: r for r in self._store.rows()}
            self._known = (revision, rows)
        return rows

    def _commit(self, plan: Plan, aside: dict[Key, str], now: int) -> bool:
        """Writes the plan's changes at once; whether the plan may be acted upon.

        When a row moved meanwhile, the plan is dropped and made anew. When none did, some step writes what cannot
        be written, now and in all passes to come: then each step is written alone, and the bad one set aside.
        """
        if not plan.writes:
            return True
        try:
            self._store.commit(plan.changes, audit=(), fence=self._fence, actor="reconcile", now=now)
        except (Conflict, InvalidInput) as error:
            if error.code == "FENCED":
                raise  # another control plane has taken over
            if self._store.revision() != self._known[0]:
                return False
            for key, changes in plan.writes.items():
                try:
                    self._store.commit(changes, audit=(), fence=self._fence, actor="reconcile", now=now)
                except (Conflict, InvalidInput) as again:
                    aside[key] = str(again)
        return True

    def _with_gateway(self, act: Callable[[], None]) -> None:
        """The gateway may be away: jobs and replicas are looked after all the same, and it is tried again."""
        try:
            act()
        except SkyriverError as error:
            if str(error) != self._gateway_trouble:
                log.warning("gateway: %s %s", error.code, error)
            self._gateway_trouble = str(error)
        else:
            self._gateway_trouble = ""

    def _keep_gateway(self, now: int) -> None:
        """Brings the gateway back when it died; its files hold the last table, so that it serves at once."""
        if not 0 <= now - self._gateway_checked < GATEWAY_CHECK_US:
            self._gateway_checked = now
            self._gateway.start()

    def _route(self, rows: Rows) -> None:
        wants = [w for ws in self._wants.values() for w in ws]
        routes = [w.route for w in wants if isinstance(w, WantRoute)]
        pools = [w.pool for w in wants if isinstance(w, WantPool)]
        tokens = (r for r in rows.values() if r.kind == "token")
        table = RouteTable(
            routes=tuple(sorted(routes, key=lambda r: (r.tenant, r.kind, r.name))),
            pools=tuple(sorted(pools, key=lambda p: (p.tenant, p.name))),
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

    def _tell_aside(self, aside: dict[Key, str]) -> None:
        for key, why in aside.items():
            if self._aside.get(key) != why:
                log.error("set aside %s: %s", "/".join(key), why)
        self._aside = aside
