"""Which case that waits is next, and which ranks lowest, without a look at all of them.

A rank (`decide.acting.cases`) grows with time, but of cases that have the same `within` all grow alike: their order
stays. So those of one decision, state and `within` are a queue, in the order of the column `rank`, which is the rank
without what the time adds to all; an index has it. There are few queues, and only their heads are compared at a time.

What a miss typically costs is a part of each rank. It is the average of what waits, taken anew when that has doubled or
halved: then all are ranked anew. `case_queues` counts by triggers, so that nobody has to count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from skyriver.decide.acting.cases import WAITING, Case, CaseState
from skyriver.decide.acting.database import Transaction

_STATES = f"({', '.join(sorted(repr(str(state)) for state in WAITING))})"
_OF = "decision = {0}.decision AND state = {0}.state AND overdue = {0}.overdue AND within_us = {0}.within_us"
_COME = (
    "INSERT INTO case_queues SELECT new.decision, new.state, new.overdue, new.within_us, 1, new.miss_cost"
    f" WHERE new.state IN {_STATES}"
    " ON CONFLICT DO UPDATE SET count = count + 1, miss_cost = miss_cost + excluded.miss_cost"
)
_GO = (
    f"UPDATE case_queues SET count = count - 1, miss_cost = miss_cost - old.miss_cost WHERE {_OF.format('old')};"
    f" DELETE FROM case_queues WHERE count = 0 AND {_OF.format('old')}"
)
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS case_unit (unit REAL NOT NULL)",
    """CREATE TABLE IF NOT EXISTS case_queues (
        decision TEXT NOT NULL,
        state TEXT NOT NULL,
        overdue INTEGER NOT NULL,
        within_us INTEGER NOT NULL,
        count INTEGER NOT NULL,
        miss_cost REAL NOT NULL,
        PRIMARY KEY (decision, state, overdue, within_us)
    ) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS cases_rank ON cases (decision, state, overdue, within_us, rank DESC)"
    f" WHERE state IN {_STATES}",
    f"CREATE TRIGGER IF NOT EXISTS case_came AFTER INSERT ON cases BEGIN {_COME}; END",
    "CREATE TRIGGER IF NOT EXISTS case_moved AFTER UPDATE OF state, overdue ON cases"
    f" WHEN (old.state, old.overdue) <> (new.state, new.overdue) BEGIN {_GO}; {_COME}; END",
    f"CREATE TRIGGER IF NOT EXISTS case_gone AFTER DELETE ON cases BEGIN {_GO}; END",
)
_RANK = "probability * miss_cost + ? * (? - opened_at) / within_us"
_WITHOUT_TIME = "probability * miss_cost - ? * opened_at / within_us"
_OF_QUEUE = f"state IN {_STATES} AND decision = ? AND state = ? AND overdue = ? AND within_us = ?"


@dataclass(frozen=True, slots=True)
class Queue:
    decision: str
    state: CaseState
    overdue: bool
    within_us: int

    @property
    def key(self) -> tuple[str, str, int, int]:
        return self.decision, str(self.state), int(self.overdue), self.within_us


class CaseQueues:
    """For one transaction; over the table `cases`."""

    def __init__(self, do: Transaction) -> None:
        self._do = do

    def prepare(self) -> None:
        """Also where the cases were written before there were queues."""
        ranked = any(column == "rank" for _, column, *_ in self._do.run("PRAGMA table_info(cases)"))
        if not ranked:
            self._do.run("ALTER TABLE cases ADD COLUMN rank REAL NOT NULL DEFAULT 0")
        for statement in _SCHEMA:
            self._do.run(statement)
        if not ranked:
            self._do.run(
                "INSERT INTO case_queues SELECT decision, state, overdue, within_us, COUNT(*), SUM(miss_cost)"
                f" FROM cases WHERE state IN {_STATES} GROUP BY 1, 2, 3, 4"
            )
            self.rank_anew(self._average() or 1.0)

    def ranked(self, cases: Iterable[Case]) -> Iterator[tuple[Case, float]]:
        """New ones, with what the column has of each."""
        unit = self.unit()
        for case in cases:
            yield case, case.probability * case.miss_cost - unit * case.opened_at / case.within_us

    def unit(self) -> float:
        """What a miss typically costs."""
        known = self._do.run("SELECT unit FROM case_unit")
        average = self._average()
        if known and (not average or known[0][0] / 2 <= average <= known[0][0] * 2):
            return float(known[0][0])
        return self.rank_anew(average or 1.0)

    def rank_anew(self, unit: float) -> float:
        self._do.run("DELETE FROM case_unit")
        self._do.run("INSERT INTO case_unit VALUES (?)", (unit,))
        self._do.run(f"UPDATE cases SET rank = {_WITHOUT_TIME} WHERE closed = 0", (unit,))
        return unit

    def count(self, decision: str = "") -> int:
        """Cases that wait; "": for any decision."""
        [(count,)] = self._do.run(
            "SELECT COALESCE(SUM(count), 0) FROM case_queues WHERE ? IN ('', decision)", (decision,)
        )
        return int(count)

    def first(self, states: Iterable[CaseState], decision: str, not_of: str, now: int) -> int | None:
        """The case that is next, of those about which `not_of` has said nothing: overdue ones first, then escalated
        ones, then by rank."""
        best: tuple[bool, bool, float, int] | None = None
        unit = self.unit()
        for queue in self._queues(decision):
            if queue.state not in states:
                continue
            for number, rank in self._do.run(
                f"SELECT id, {_RANK} FROM cases INDEXED BY cases_rank WHERE {_OF_QUEUE}"
                " AND NOT EXISTS (SELECT 1 FROM opinions WHERE case_id = cases.id AND by = ?)"
                " ORDER BY rank DESC, id LIMIT 1",
                (unit, now, *queue.key, not_of),
            ):
                head = queue.overdue, queue.state is CaseState.ESCALATED, float(rank), -int(number)
                best = max(best, head) if best is not None else head
        return -best[3] if best is not None else None

    def lowest(self, decision: str, most: int, now: int) -> Sequence[int]:
        """Of those that wait, so many whose rank is lowest, the lowest one first."""
        found: list[tuple[float, int]] = []
        unit = self.unit()
        for queue in self._queues(decision):
            asked = f"SELECT id, {_RANK} FROM cases INDEXED BY cases_rank WHERE {_OF_QUEUE}"
            rows = self._do.run(f"{asked} ORDER BY rank, id DESC LIMIT ?", (unit, now, *queue.key, most))
            found += [(float(rank), -int(number)) for number, rank in rows]
        return [-number for _, number in sorted(found)[:most]]

    def _queues(self, decision: str) -> Sequence[Queue]:
        rows = self._do.run(
            "SELECT decision, state, overdue, within_us FROM case_queues WHERE ? IN ('', decision)", (decision,)
        )
        return [Queue(word, CaseState(state), bool(overdue), within) for word, state, overdue, within in rows]

    def _average(self) -> float:
        """What a miss costs on the average of what waits; 0: nothing waits, or it costs nothing."""
        [(count, cost)] = self._do.run("SELECT SUM(count), SUM(miss_cost) FROM case_queues")
        return max(0.0, cost / count) if count else 0.0
