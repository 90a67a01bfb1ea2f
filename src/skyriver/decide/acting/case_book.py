"""The cases of a stream in a SQLite database, beside what else lies there: every change is made in the transaction of
the caller.

`doc` is the case; the other columns of its row are what is looked for. Cases are bounded: those that wait by the
review's `most_waiting`, those that are closed by its `keep`, after which they are sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from skyriver.core.errors import NotFound
from skyriver.decide.acting import cases
from skyriver.decide.acting.case_queues import CaseQueues
from skyriver.decide.acting.cases import CLOSED, WAITING, Case, CaseState, ClosedWhy, Reviewer
from skyriver.decide.acting.database import Transaction
from skyriver.decide.acting.stored_id import stored_id
from skyriver.decide.log.records import Id

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS cases (
        id INTEGER PRIMARY KEY,
        event TEXT NOT NULL,
        key TEXT,
        decision TEXT NOT NULL,
        state TEXT NOT NULL,
        lane TEXT NOT NULL,
        closed INTEGER NOT NULL,
        overdue INTEGER NOT NULL,
        holder TEXT NOT NULL,
        opened_at INTEGER NOT NULL,
        closed_at INTEGER NOT NULL,
        closed_why TEXT NOT NULL,
        within_us INTEGER NOT NULL,
        next_at INTEGER NOT NULL,
        probability REAL NOT NULL,
        miss_cost REAL NOT NULL,
        truth REAL,
        truth_at INTEGER NOT NULL,
        doc BLOB NOT NULL,
        rank REAL NOT NULL DEFAULT 0
    )""",
    "CREATE INDEX IF NOT EXISTS cases_next ON cases (next_at) WHERE next_at > 0",
    "CREATE INDEX IF NOT EXISTS cases_state ON cases (state, lane)",
    "DROP INDEX IF EXISTS cases_decision",
    "CREATE INDEX IF NOT EXISTS cases_closed ON cases (closed_at) WHERE closed = 1",
    "CREATE INDEX IF NOT EXISTS cases_truth ON cases (id, truth, truth_at) WHERE truth IS NOT NULL",
    # What statistics read of cases, so that they need not read the cases themselves.
    "CREATE INDEX IF NOT EXISTS cases_told ON cases"
    " (closed, lane, state, closed_why, opened_at, closed_at, within_us, holder)",
    "CREATE INDEX IF NOT EXISTS cases_key ON cases (key, id)",
    "CREATE INDEX IF NOT EXISTS cases_event ON cases (event)",
    """CREATE TABLE IF NOT EXISTS opinions (
        case_id INTEGER NOT NULL,
        place INTEGER NOT NULL,
        by TEXT NOT NULL,
        value REAL NOT NULL,
        at INTEGER NOT NULL,
        took_us INTEGER NOT NULL,
        PRIMARY KEY (case_id, place)
    ) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS opinions_by ON opinions (by, at)",
    """CREATE TABLE IF NOT EXISTS case_labels (
        case_id INTEGER PRIMARY KEY,
        event TEXT NOT NULL,
        label TEXT NOT NULL,
        value REAL NOT NULL,
        known_at INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        try_at INTEGER NOT NULL DEFAULT 0,
        refused TEXT NOT NULL DEFAULT ''
    )""",
    """CREATE TABLE IF NOT EXISTS case_sums (
        by TEXT NOT NULL,
        what TEXT NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (by, what)
    ) WITHOUT ROWID""",
)
"""`case_labels`: answers that the stream's log does not have yet. `case_sums`: of cases that are kept no more; of whom
(by '': of nobody), what, how many."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Case)
_id = msgspec.json.Decoder(int | str)

FIRST = ((1 << 63) - 1, 0)
"""Before all closed cases: (closed_at, id)."""
_RANK = "probability * miss_cost + ? * (? - opened_at) / within_us"
_ORDER = f"overdue DESC, state = 'ESCALATED' DESC, {_RANK} DESC, id"
"""With what a miss typically costs, and the time."""


@dataclass(frozen=True, slots=True)
class DueLabel:
    """An answer that is to be sent to the stream as a label."""

    case: int
    event: Id
    label: str
    value: float
    known_at: int
    attempts: int


class CaseBook:
    """For one transaction."""

    def __init__(self, do: Transaction) -> None:
        self._do = do
        self._queues = CaseQueues(do)

    def prepare(self) -> None:
        for statement in SCHEMA:
            self._do.run(statement)
        self._queues.prepare()

    # What comes from the log

    def add(self, opened: Iterable[Case]) -> None:
        """One that is there already stays as it is."""
        rows = [(*_row(case), rank) for case, rank in self._queues.ranked(opened)]
        self._do.run_many(f"INSERT OR IGNORE INTO cases {_COLUMNS} VALUES {_PLACES}", rows)

    def note_label(self, event_offset: int, label: str, value: float, known_at: int, now: int) -> None:
        """A label of an event stands in the log: the answer that was sent, or what was found out elsewhere."""
        known = self._find(event_offset)
        if known is None or known.label != label:
            return
        if known.state is CaseState.DECIDED and known.closed_at == known_at:
            self._do.run("DELETE FROM case_labels WHERE case_id = ?", (event_offset,))
        else:  # an answer that is sent behind it would override it
            self._do.run("DELETE FROM case_labels WHERE case_id = ? AND attempts = 0", (event_offset,))
            self._save(replace(known, truth=value, truth_at=now))

    def pass_time(self, now: int, most: int = 1_000) -> list[Case]:
        """Leases end, cases become overdue and expire: those that changed. What is beyond `most` comes with the next
        call."""
        due = self._cases("next_at > 0 AND next_at <= ? ORDER BY next_at LIMIT ?", now, most)
        return [self._save(cases.pass_time(case, now)) for case in due]

    def trim(self, decision: str, most_waiting: int, now: int) -> list[Case]:
        """Closes what waits beyond the limit, the lowest rank first; those that were closed."""
        beyond = self.count_waiting(decision) - most_waiting
        if beyond <= 0:
            return []
        lowest = self._queues.lowest(decision, beyond, now)
        return [self._save(cases.give_up(self.get(case), ClosedWhy.QUEUE_FULL, now)) for case in lowest]

    # What people do

    def claim(self, who: Reviewer, now: int, case: int | None = None, decision: str = "") -> Case:
        """A case for this person: that one, or the first that waits for somebody like him. Raises NotFound (NO_CASE)
        and what `cases.claim` does."""
        found = self.get(case) if case is not None else self._next(who, now, decision)
        return self._save(cases.claim(cases.pass_time(found, now), who, now))

    def change(self, case: int, now: int, act: Callable[[Case], Case]) -> Case:
        """The case after `act`, which gets it as it is at `now`; an answer that closes it is to be sent as a label.
        Raises what `act` does: nothing is changed then."""
        before = cases.pass_time(self.get(case), now)
        after = act(before)
        if after == before:
            return after
        for place, opinion in enumerate(after.opinions[len(before.opinions) :], len(before.opinions)):
            value = after.answers[opinion.answer]
            row = (case, place, opinion.by, value, opinion.at, opinion.took_us)
            self._do.run("INSERT INTO opinions VALUES (?, ?, ?, ?, ?, ?)", row)
        if after.state is CaseState.DECIDED and after.truth is None:  # what was found out is not overridden
            label = (case, stored_id(after.event), after.label, after.answers[after.outcome], after.closed_at)
            self._do.run(
                "INSERT INTO case_labels (case_id, event, label, value, known_at) VALUES (?, ?, ?, ?, ?)", label
            )
        return self._save(after)

    # What is sent to the stream

    def due_labels(self, now: int, most: int = 100) -> list[DueLabel]:
        rows = self._do.run(
            "SELECT case_id, event, label, value, known_at, attempts FROM case_labels"
            " WHERE refused = '' AND try_at <= ? ORDER BY known_at, case_id LIMIT ?",
            (now, most),
        )
        return [
            DueLabel(case, _id.decode(event), label, value, at, tries) for case, event, label, value, at, tries in rows
        ]

    def note_sending(self, case: int, until: int) -> bool:
        """It is about to be sent: it is due again at `until`, unless the log has it before. False: it must not be, as
        it was erased since it was due, or what was found out elsewhere would be overridden."""
        known = self._find(case)
        if known is None or known.truth is not None:
            self._do.run("DELETE FROM case_labels WHERE case_id = ?", (case,))
            return False
        self._do.run("UPDATE case_labels SET attempts = attempts + 1, try_at = ? WHERE case_id = ?", (until, case))
        return self._do.changed > 0

    def put_off_label(self, case: int, until: int) -> None:
        """It could not be sent."""
        self._do.run("UPDATE case_labels SET try_at = ? WHERE case_id = ?", (until, case))

    def refuse_label(self, case: int, why: str) -> None:
        """The stream does not take it as it is: it stays, and is told."""
        self._do.run("UPDATE case_labels SET refused = ? WHERE case_id = ?", (why[:500], case))

    def labels_waiting(self) -> tuple[int, int]:
        """(answers that are to be sent, answers that the stream refused)."""
        [(all_, refused)] = self._do.run("SELECT COUNT(*), COALESCE(SUM(refused != ''), 0) FROM case_labels")
        return int(all_ - refused), int(refused)

    # Looking

    def get(self, case: int) -> Case:
        """Raises NotFound (NO_CASE)."""
        found = self._find(case)
        if found is None:
            raise NotFound(
                f"There is no case {case}.",
                code="NO_CASE",
                where=str(case),
                next_action="`skyriver review list STREAM` shows those there are.",
            )
        return found

    def earlier(self, case: Case, most: int = 5) -> list[Case]:
        """Cases of the same key before this one, the newest first."""
        if case.key is None:
            return []
        return self._cases("key = ? AND id < ? ORDER BY id DESC LIMIT ?", stored_id(case.key), case.id, most)

    def listed(
        self,
        now: int,
        states: Sequence[str],
        lane: str = "",
        most: int = 100,
        after: tuple[int, int] = FIRST,
        events: Sequence[str] = (),
    ) -> tuple[list[Case], int]:
        """Cases in these states, in the order in which they are claimed, closed ones the newest first; and how many
        there are. `after`: of closed ones those that come after (closed_at, id). `events`: only of these, as they are
        stored."""
        where = f"state IN ({', '.join('?' * len(states))})" + (" AND lane = ?" if lane else "")
        where += f" AND event IN ({', '.join('?' * len(events))})" if events else ""
        given = (*states, *([lane] if lane else []), *events)
        [(total,)] = self._do.run(f"SELECT COUNT(*) FROM cases WHERE {where}", given)
        if CLOSED.issuperset(states):
            index = "cases_event" if events else "cases_closed"
            asked = f"SELECT doc FROM cases INDEXED BY {index} WHERE closed = 1 AND {where}"
            asked += " AND closed_at <= ? AND (closed_at < ? OR id > ?) ORDER BY closed_at DESC, id LIMIT ?"
            docs = self._do.run(asked, (*given, after[0], *after, most))  # of very many
            return [_decoder.decode(doc) for (doc,) in docs], int(total)
        order = f"{where} ORDER BY closed, closed_at DESC, {_ORDER} LIMIT ?"
        return self._cases(order, *given, self._queues.unit(), now, most), int(total)

    def count_waiting(self, decision: str = "") -> int:
        return self._queues.count(decision)

    def count_open(self) -> tuple[int, int]:
        """(Cases that are not closed, those of them that are overdue.)"""
        [(all_, overdue)] = self._do.run("SELECT COUNT(*), COALESCE(SUM(overdue), 0) FROM cases WHERE closed = 0")
        return int(all_), int(overdue)

    def erase(self) -> int:
        """Cases of events in the table `erased`, with what was said of them; how many."""
        run, mine = self._do.run, "SELECT id FROM cases WHERE event IN (SELECT event FROM erased)"
        run(f"DELETE FROM opinions WHERE case_id IN ({mine})")
        run("DELETE FROM case_labels WHERE event IN (SELECT event FROM erased)")
        run("DELETE FROM cases WHERE event IN (SELECT event FROM erased)")
        return self._do.changed

    def newest(self) -> int:
        """When something was done last, as far as it shows."""
        [(at,)] = self._do.run(
            "SELECT MAX(at, closed) FROM (SELECT COALESCE(MAX(at), 0) AS at FROM opinions),"
            " (SELECT COALESCE(MAX(closed_at), 0) AS closed FROM cases)"
        )
        held = self._cases("closed = 0 AND holder != ''")
        return max([int(at), *(case.claimed_at for case in held)])

    # Inside

    def _next(self, who: Reviewer, now: int, decision: str) -> Case:
        states = WAITING if who.senior else WAITING - {CaseState.ESCALATED}
        found = self._queues.first(states, decision, who.name, now)
        if found is None:
            others = self.count_waiting(decision)
            raise NotFound(
                f"No case waits for you; {others} wait for somebody else." if others else "No case waits.",
                code="NO_CASE",
                next_action="Ask again later.",
            )
        return self.get(found)

    def _cases(self, where: str, *values: object) -> list[Case]:
        return [_decoder.decode(doc) for (doc,) in self._do.run(f"SELECT doc FROM cases WHERE {where}", values)]

    def _find(self, case: int) -> Case | None:
        return next(iter(self._cases("id = ?", case)), None)

    def _save(self, case: Case) -> Case:
        self._do.run(f"UPDATE cases SET {_CHANGES} WHERE id = ?", (*_row(case)[1:], case.id))
        return case


def _row(case: Case) -> tuple[object, ...]:
    return (
        case.id,
        stored_id(case.event),
        stored_id(case.key) if case.key is not None else None,
        case.decision,
        str(case.state),
        case.lane,
        int(case.state in CLOSED),
        int(case.overdue),
        case.holder,
        case.opened_at,
        case.closed_at,
        str(case.closed_why),
        case.within_us,
        case.next_at,
        case.probability,
        case.miss_cost,
        case.truth,
        case.truth_at,
        _encoder.encode(case),
    )


_NAMES = (
    *("id", "event", "key", "decision", "state", "lane", "closed", "overdue", "holder", "opened_at", "closed_at"),
    *("closed_why", "within_us", "next_at", "probability", "miss_cost", "truth", "truth_at", "doc"),
)
_COLUMNS = f"({', '.join(_NAMES)}, rank)"
_PLACES = f"({', '.join('?' * len(_NAMES))}, ?)"
_CHANGES = ", ".join(f"{name} = ?" for name in _NAMES[1:])
