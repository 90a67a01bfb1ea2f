"""Looks that read only what changed, against looks that read everything, on made histories of some services."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from typing import Any

import pytest

import skyriver as sr
from skyriver.core.resources import ProcessStatus, Resource, Snapshot
from skyriver.core.rows import Rows
from skyriver.core.units import SECOND
from skyriver.observe.demand import LOOK_S, DemandMeter
from skyriver.observe.told import Grown, Teller

LOWS = (100, 448, 3_584, 40_960, 49_152, 57_344, 114_688, 917_504)
DECLARED = (
    sr.Service(replicas=(1, 4), latency="50ms"),
    sr.Service(replicas=(0, 4), latency="50ms", wake="2s"),
    sr.Service(replicas=(1, 8)),
    sr.Service(replicas=(2, 8), latency="100ms", share=0.99),
)


class History:
    """Of two services with up to three replicas each, drawn by `seed`. Whatever stays, stays the same object."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.second = 1_000.0
        self.processes: dict[str, ProcessStatus] = {}
        self.sessions: dict[str, int] = {}
        self.rows = Rows()
        for name in ("price", "rent"):
            self._declare(name)
            for number in range(1, 3):
                self._replica(name, number)

    @property
    def now(self) -> int:
        return int(self.second * SECOND)

    def _put(self, *rows: Resource) -> None:
        self.rows = self.rows.changed(rows)

    def _declare(self, name: str) -> None:
        serve = self.chance.choice(DECLARED).to_json()
        spec = {"model": name, "serve": serve, "versions": {"1": {"weight": 100}}}
        self._put(Resource("t", "service", name, spec, state="READY"))

    def _replica(self, name: str, number: int, state: str = "READY") -> None:
        made = self.now - self.chance.randrange(1, 9) * SECOND // 2
        row = Resource("t", "replica", f"{name}-1-{number}", {"version": 1}, state=state, parent=f"service/{name}")
        row = replace(row, created_at=made, since=self.now)
        self._put(row)
        report = {"ready": True, "told_at": self.now, "requests": 0, "overloaded": 0, "expired": 0, "run_us": 0}
        report |= {"waiting": 0, "row_us": 2_000.0, "counted": {"latency_us": []}}
        pid = self.chance.randrange(1, 10**6)
        self.processes[row.process] = ProcessStatus(row.process, True, pid=pid, started_at=made, report=report)

    def step(self) -> None:
        """What may happen between two looks."""
        self.second += LOOK_S * self.chance.choice((1, 1, 1, 1, 1.3, 4))
        for process in list(self.processes.values()):
            if self.chance.random() < 0.6:
                self._tell(process)
        happens = self.chance.random()
        name, number = self.chance.choice(("price", "rent")), self.chance.randrange(1, 4)
        if happens < 0.1:
            self._declare(name)
        elif happens < 0.25:
            self._replica(name, number, self.chance.choice(("READY", "READY", "STARTING", "FAILED", "LOST")))
        elif happens < 0.3 and (row := self.rows.get(("t", "replica", f"{name}-1-{number}"))) is not None:
            self.rows = self.rows.changed((), [row.key])
            self.processes.pop(row.process, None)
        self.sessions = {name: self.chance.choice((0, 0, 3)) for name in self.processes}
        held = {"price": self.chance.choice((0, 0, 4))}
        told = {"price": {"expired": int(self.second) // 7, "refused": 0, "hold_us": [[900_000, int(self.second)]]}}
        report = {"ready": True, "waiting": held, "services": told}
        self.activator = ProcessStatus("t.activator.activator", True, pid=5, report=report)

    def _tell(self, process: ProcessStatus) -> None:
        report: dict[str, Any] = dict(process.report)
        kind = self.chance.random()
        cpu_s = process.cpu_seconds + self.chance.random()
        if kind < 0.03:  # it lies
            what = self.chance.choice(("requests", "run_us", "waiting"))
            report[what] = self.chance.choice((-1, 10**12, "many", None, 0))
        elif kind < 0.6:
            came = self.chance.randrange(200)
            counts = dict(report["counted"]["latency_us"])
            for _ in range(min(came, 5)):
                low = self.chance.choice(LOWS)
                counts[low] = counts.get(low, 0) + came // 5
            of = [
                report[w] if isinstance(report[w], int) else 0 for w in ("requests", "overloaded", "expired", "run_us")
            ]
            requests, overloaded, expired, run_us = of
            report |= {"requests": requests + came, "overloaded": overloaded + self.chance.choice((0, 0, 2))}
            report |= {"expired": expired + self.chance.choice((0, 0, 1)), "run_us": run_us + came * 4_000}
            report |= {"waiting": self.chance.choice((0, 0, 7)), "counted": {"latency_us": sorted(counts.items())}}
        if kind < 0.95:
            report["told_at"] = self.now
        self.processes[process.name] = replace(process, report=report, cpu_seconds=cpu_s)

    def snapshot(self) -> Snapshot:
        processes = {**self.processes, self.activator.name: self.activator}
        return Snapshot(self.rows, processes, dict(self.sessions), self.now)


def read_anew(snapshot: Snapshot) -> Snapshot:
    """The same, of which no part is one that was seen before."""
    rows = [copy.deepcopy(row) for row in snapshot.rows.in_order()]
    processes = {
        name: replace(process, report=copy.deepcopy(process.report)) for name, process in snapshot.processes.items()
    }
    return Snapshot(Rows(rows), processes, dict(snapshot.sessions), snapshot.now)


@pytest.mark.parametrize("seed", range(20))
def test_what_did_not_change_need_not_be_read_again(seed: int) -> None:
    history, quick, plain = History(seed), DemandMeter(), DemandMeter()
    fresh = 0
    for _ in range(60):
        history.step()
        snapshot = history.snapshot()
        seen = quick.look(snapshot, history.second)
        assert seen == plain.look(read_anew(snapshot), history.second)
        fresh += sum(not each.stale and each.requests > 0 for each in seen.values())
    assert quick.remember() == plain.remember()
    assert fresh > 20, "these histories say something"


@pytest.mark.parametrize("latency_us", [0, 50_000])
def test_what_grew_is_what_all_counts_say(latency_us: int) -> None:
    """By histograms that are read whole, as dictionaries."""
    history, tellers = History(1), {}
    before: dict[str, tuple[int, dict[str, Any]]] = {}
    grew = 0.0
    for _ in range(200):
        history.step()
        for name, process in history.processes.items():
            told = process.report
            if any(
                not isinstance(told[w], int) or not 0 <= told[w] < 10**11 for w in ("requests", "run_us", "waiting")
            ):
                continue
            pid, known = before.get(name, (0, {}))
            same = pid == process.pid and known["requests"] <= told["requests"] and known["run_us"] <= told["run_us"]
            if not same:
                tellers[name] = Teller()
            grown = Grown()
            tellers[name].follow(name, process, 0, latency_us, 0, grown)
            before[name] = process.pid, told
            if not same:
                assert grown.answered == grown.slow == 0
                continue
            was, now = (dict(each["counted"]["latency_us"]) for each in (known, told))
            slow = sum(count - was.get(low, 0) for low, count in now.items() if low >= latency_us > 0)
            assert grown.answered == told["requests"] - known["requests"]
            assert grown.slow == slow
            assert tellers[name].fastest_us == min(now, default=0)
            grew += grown.slow
    assert (grew > 100) == bool(latency_us)


def test_what_is_declared_anew_is_counted_by_what_is_declared_now() -> None:
    teller, grown = Teller(), Grown()

    def told(requests: int, slow: int) -> ProcessStatus:
        report = {"requests": requests, "overloaded": 0, "expired": 0, "run_us": 0, "waiting": 0}
        return ProcessStatus("p", True, pid=1, report=report | {"counted": {"latency_us": [[448, 5], [60_000, slow]]}})

    teller.follow("p", told(10, 5), 0, 0, 0, grown)
    teller.follow("p", told(20, 8), 0, 50_000, 0, grown)
    assert grown.slow == 3
