"""Deliveries as rows: one for each decision that a sink is for, which says what becomes of it (the table of states
below). SQL on the database's thread.

Order: deliveries of a sink that is ordered have a lane, a value of the field that it is ordered by. Of the open ones of
a lane only the first is due; the later ones are HELD until it has ended, whatever it waits for. A delivery that is
parked holds its lane too, or lets it pass, as the sink declares.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skyriver.core.spec import SinkSpec
from skyriver.core.units import SECOND
from skyriver.decide.acting.database import Row, Transaction
from skyriver.decide.acting.sinks import Answer, Delivery, Failed, Refused, Taken
from skyriver.decide.acting.stored_id import stored_id

KEPT_DONE = 10_000
"""Of a sink, to be looked at; older ones are forgotten."""
KEPT_ENDED_US = 7 * 86_400 * SECOND
"""What ended otherwise."""
FORGOTTEN = 5_000
"""Rows that a tick works on at most."""
FIRST_WAIT_US, MOST_WAIT_US = SECOND, 1_800 * SECOND

DELIVERY_TRANSITIONS: Mapping[tuple[str, str], str] = {
    ("AWAITING_APPROVAL", "approved"): "WAITING",
    ("AWAITING_APPROVAL", "approved behind another"): "HELD",
    ("AWAITING_APPROVAL", "refused"): "REFUSED",
    ("AWAITING_APPROVAL", "too late"): "EXPIRED",
    ("AWAITING_APPROVAL", "dropped"): "DROPPED",
    ("HELD", "first of its lane"): "WAITING",
    ("HELD", "dropped"): "DROPPED",
    ("HELD", "taken"): "DONE",
    ("HELD", "given up"): "PARKED",
    ("WAITING", "taken"): "DONE",
    ("WAITING", "given up"): "PARKED",
    ("WAITING", "dropped"): "DROPPED",
    ("WAITING", "one before it is tried again"): "HELD",
    ("PARKED", "tried again"): "WAITING",
    ("PARKED", "tried again behind another"): "HELD",
    ("PARKED", "dropped"): "DROPPED",
}
"""Checked of every move, by a trigger. HELD ones that were on their way when they were held back are taken or given up
all the same."""
STATES = ("AWAITING_APPROVAL", "HELD", "WAITING", "PARKED", "DONE", "REFUSED", "EXPIRED", "DROPPED")
ENDED = frozenset(STATES[4:])
ERASED_STATE = "ERASED"
"""Of no row: how many rows were erased is counted as if it was a state."""
_OPEN = "state IN ('AWAITING_APPROVAL', 'HELD', 'WAITING', 'PARKED')"
_SHOWN = (
    "number", "sink", "id", "event", "decision", "lane", "state", "tries", "due", "made", "since", "reason", "message",
    "asked_by", "judged_by", "note",
)  # fmt: skip
_COUNT = (
    "INSERT INTO delivery_counts VALUES (new.sink, new.state, 1, 1)"
    " ON CONFLICT DO UPDATE SET now = now + 1, ever = ever + 1"
)
_ALLOWED = ", ".join(sorted({f"('{before}', '{after}')" for (before, _), after in DELIVERY_TRANSITIONS.items()}))
_UNCOUNT = "UPDATE delivery_counts SET now = now - 1 WHERE sink = old.sink AND state = old.state"
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS deliveries (number INTEGER PRIMARY KEY, sink TEXT NOT NULL, id TEXT NOT NULL,
        event TEXT NOT NULL, decision TEXT NOT NULL, lane TEXT, state TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
        due INTEGER NOT NULL, began INTEGER NOT NULL, made INTEGER NOT NULL, since INTEGER NOT NULL,
        reason TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '', asked_by TEXT NOT NULL DEFAULT '',
        judged_by TEXT NOT NULL DEFAULT '', note TEXT NOT NULL DEFAULT '', body BLOB NOT NULL, UNIQUE (sink, id))""",
    "CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (sink, state, due)",
    "CREATE INDEX IF NOT EXISTS deliveries_event ON deliveries (event)",
    f"CREATE INDEX IF NOT EXISTS deliveries_lane ON deliveries (sink, lane, number) WHERE {_OPEN} AND lane IS NOT NULL",
    "CREATE TABLE IF NOT EXISTS delivery_counts (sink TEXT, state TEXT, now INTEGER, ever INTEGER,"
    " PRIMARY KEY (sink, state)) WITHOUT ROWID",
    f"CREATE TRIGGER IF NOT EXISTS delivery_made AFTER INSERT ON deliveries BEGIN {_COUNT}; END",
    "CREATE TRIGGER IF NOT EXISTS delivery_moved AFTER UPDATE OF state ON deliveries WHEN old.state <> new.state"
    f" BEGIN {_UNCOUNT}; {_COUNT}; END",
    f"CREATE TRIGGER IF NOT EXISTS delivery_forgotten AFTER DELETE ON deliveries BEGIN {_UNCOUNT}; END",
    "CREATE INDEX IF NOT EXISTS deliveries_oldest ON deliveries (sink, made) WHERE state = 'WAITING'",
    # Of this connection alone: a later release may know other moves.
    "CREATE TEMP TRIGGER IF NOT EXISTS delivery_checked BEFORE UPDATE OF state ON main.deliveries"
    f" WHEN old.state <> new.state AND (old.state, new.state) NOT IN (VALUES {_ALLOWED})"
    " BEGIN SELECT RAISE(ABORT, 'no delivery goes from this state to that'); END",
    "CREATE TABLE IF NOT EXISTS delivery_used (number INTEGER NOT NULL)",
    "INSERT INTO delivery_used SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM delivery_used)",
    "CREATE TRIGGER IF NOT EXISTS delivery_number_used AFTER DELETE ON deliveries"
    " BEGIN UPDATE delivery_used SET number = max(number, old.number); END",
)
_NEXT = "(SELECT max(number, (SELECT coalesce(max(number), 0) FROM deliveries)) + 1 FROM delivery_used)"
"""No number is given twice, also not that of a row which is gone: an answer that is on its way would settle another
delivery. `delivery_used`: the highest number of those that are gone."""


@dataclass(frozen=True, slots=True)
class New:
    """A delivery to be. `key`: the value by which a sink may be ordered."""

    id: str
    event: int | str
    decision: str
    key: object
    body: bytes
    by: str = ""


class DeliveryTable:
    """`luck` spreads tries, so that many do not come back together. `sinks` are those declared now."""

    def __init__(self, luck: random.Random) -> None:
        self._luck = luck
        self.sinks: Mapping[str, SinkSpec] = {}

    def prepare(self, do: Transaction) -> None:
        for statement in _SCHEMA:
            do.run(statement)

    def add(self, do: Transaction, sink: SinkSpec, new: New, now: int) -> None:
        """Nothing where the sink has one of this id."""
        lane = json.dumps(new.key) if sink.ordered else None
        state, due = ("AWAITING_APPROVAL", now + sink.approve_us) if sink.approve else ("WAITING", now)
        if state == "WAITING" and lane is not None and self._first_of(do, sink.to, lane) is not None:
            state = "HELD"
        do.run(
            "INSERT OR IGNORE INTO deliveries (number, sink, id, event, decision, lane, state, due, began, made, since,"
            f" asked_by, body) VALUES ({_NEXT}, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (sink.to, new.id, stored_id(new.event), new.decision, lane, state, due, *[now] * 3, new.by, new.body),
        )

    def due(self, do: Transaction, sink: str, stream: str, now: int, limit: int) -> list[tuple[int, Delivery]]:
        """The first that are due, with their numbers."""
        rows = do.run(
            "SELECT number, id, decision, body FROM deliveries WHERE sink = ? AND state = 'WAITING' AND due <= ?"
            " ORDER BY due, number LIMIT ?",
            (sink, now, limit),
        )
        return [(number, Delivery(id_, stream, word, body)) for number, id_, word, body in rows]

    def settle(self, do: Transaction, number: int, answer: Answer, now: int) -> None:
        """What the receiver said. Of one that was dropped meanwhile nothing is changed."""
        asked = "SELECT sink, lane, tries + 1, began FROM deliveries WHERE number = ? AND state IN ('WAITING', 'HELD')"
        found = do.run(asked, (number,))
        if not found:
            return
        [(sink, lane, tries, began)] = found
        match answer:
            case Taken():
                do.run(
                    "UPDATE deliveries SET state = 'DONE', tries = ?, due = ?, since = ?, reason = '', message = '',"
                    " body = x'' WHERE number = ?",
                    (tries, now, now, number),
                )
                self._go_on(do, sink, lane, now)
            case Refused():
                self._park(do, number, tries, "RECEIVER_REFUSED", answer.message, now)
                self._go_on(do, sink, lane, now)
            case Failed():
                due = now + max(answer.wait_us, back_off(tries, self._luck))
                spec = self.sinks.get(sink)
                if spec is not None and (tries >= spec.tries or due - began > spec.retry_us):
                    why = "TRIES_SPENT" if tries >= spec.tries else "TIME_SPENT"
                    self._park(do, number, tries, why, answer.message, now)
                    self._go_on(do, sink, lane, now)
                else:
                    do.run(
                        "UPDATE deliveries SET tries = ?, due = ?, reason = 'FAILED', message = ? WHERE number = ?",
                        (tries, due, answer.message, number),
                    )

    def retry(self, do: Transaction, now: int, *, number: int = 0, sink: str = "", note: str = "") -> int:
        """One, or all that a sink has parked: at once, with all its tries before it again, each lane in its order. How
        many there were."""
        which, value = ("number = ?", number) if number else ("sink = ? AND state = 'PARKED'", sink)
        lanes = do.run(f"SELECT DISTINCT sink, lane FROM deliveries WHERE {which} AND lane IS NOT NULL", (value,))
        do.run(
            "UPDATE deliveries SET state = 'WAITING', tries = 0, due = ?, began = ?, since = ?, reason = '',"
            f" note = CASE ? WHEN '' THEN note ELSE ? END WHERE {which}",
            (now, now, now, note, note, value),
        )
        count = do.changed
        for of, lane in lanes:
            first = self._first_of(do, of, lane)
            do.run(
                "UPDATE deliveries SET state = 'HELD', since = ? WHERE sink = ? AND lane = ? AND state = 'WAITING'"
                " AND number > ?",
                (now, of, lane, first[0] if first is not None else 0),
            )
        return count

    def release(self, do: Transaction, number: int, now: int, *, by: str, note: str) -> None:
        """One that awaited approval may go, unless another one of its lane is before it."""
        [(sink, lane)] = do.run("SELECT sink, lane FROM deliveries WHERE number = ?", (number,))
        first = self._first_of(do, sink, lane) if lane is not None else None
        state = "HELD" if first is not None and first[0] < number else "WAITING"
        do.run(
            "UPDATE deliveries SET state = ?, due = ?, began = ?, since = ?, judged_by = ?, note = ? WHERE number = ?",
            (state, now, now, now, by, note, number),
        )

    def end(self, do: Transaction, number: int, state: str, now: int, *, by: str, note: str) -> None:
        """It goes to no receiver any more."""
        [(sink, lane)] = do.run("SELECT sink, lane FROM deliveries WHERE number = ?", (number,))
        do.run(
            "UPDATE deliveries SET state = ?, due = ?, since = ?, judged_by = ?, note = ? WHERE number = ?",
            (state, now, now, by, note, number),
        )
        self._go_on(do, sink, lane, now)

    def expire(self, do: Transaction, sink: SinkSpec, now: int) -> None:
        """Those that nobody has judged in time."""
        asked = "SELECT number FROM deliveries WHERE sink = ? AND state = 'AWAITING_APPROVAL' AND due <= ? LIMIT ?"
        for (number,) in do.run(asked, (sink.to, now, FORGOTTEN)):
            note = "Nobody judged it in time."
            if sink.unapproved == "deliver":
                self.release(do, number, now, by="", note=note)
            else:
                self.end(do, number, "EXPIRED", now, by="", note=note)

    def let_pass(self, do: Transaction, sink: str, now: int) -> None:
        """Of a sink that lets lanes pass what is parked, and may have held them before."""
        asked = "SELECT DISTINCT lane FROM deliveries WHERE sink = ? AND state = 'PARKED' AND lane IS NOT NULL"
        for (lane,) in do.run(asked, (sink,)):
            self._go_on(do, sink, lane, now)

    def forget(self, do: Transaction, now: int) -> None:
        for sink, state, count in do.run("SELECT sink, state, now FROM delivery_counts WHERE now > 0"):
            if state == "DONE" and count > KEPT_DONE:
                self._delete(do, sink, state, now + 1, min(FORGOTTEN, count - KEPT_DONE))
            elif state in ENDED and state != "DONE":
                self._delete(do, sink, state, now - KEPT_ENDED_US, FORGOTTEN)

    def erase(self, do: Transaction, now: int) -> int:
        """Those of events in the table `erased`; what they held back goes on."""
        asked = "SELECT number, sink, lane FROM deliveries WHERE event IN (SELECT event FROM erased)"
        found = do.run(asked)
        do.run_many("DELETE FROM deliveries WHERE number = ?", ((number,) for number, _, _ in found))
        for sink, lane in {(sink, lane) for _, sink, lane in found if lane is not None}:
            self._go_on(do, sink, lane, now)
        counted = (
            "INSERT INTO delivery_counts VALUES (?, ?, 0, ?) ON CONFLICT DO UPDATE SET ever = ever + excluded.ever"
        )
        for sink, count in Counter(sink for _, sink, _ in found).items():
            do.run(counted, (sink, ERASED_STATE, count))
        return len(found)

    def counts(self, do: Transaction) -> dict[tuple[str, str], tuple[int, int]]:
        """By sink and state: how many there are now, and how many there ever were."""
        rows = do.run("SELECT sink, state, now, ever FROM delivery_counts")
        return {(sink, state): (now, ever) for sink, state, now, ever in rows}

    def oldest(self, do: Transaction, sink: str) -> int | None:
        """When the first of those that wait was made."""
        [(made,)] = do.run("SELECT min(made) FROM deliveries WHERE sink = ? AND state = 'WAITING'", (sink,))
        return int(made) if made is not None else None

    def page(
        self, do: Transaction, sinks: Sequence[str], state: str, after: int, limit: int, events: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """In the order of their numbers, from the one behind `after` on; `state` "": of any; `events`: only of these,
        as they are stored."""
        states = (state,) if state else STATES
        index = "INDEXED BY deliveries_event" if events else "INDEXED BY deliveries_due" if state else ""  # few of many
        rows = do.run(
            f"SELECT {', '.join(_SHOWN)} FROM deliveries {index} WHERE number > ?"
            f" AND sink IN ({', '.join('?' * len(sinks))}) AND state IN ({', '.join('?' * len(states))})"
            f"{' AND event IN (' + ', '.join('?' * len(events)) + ')' if events else ''} ORDER BY number LIMIT ?",
            (after, *sinks, *states, *events, limit),
        )
        return [_shown(row) for row in rows]

    def awaiting(self, do: Transaction, sink: str, decision: str, before: int, limit: int) -> tuple[list[int], int]:
        """The first of those that await approval for this sink, made before that time, of one `decision` if given; and
        how many there are."""
        which = "sink = ? AND state = 'AWAITING_APPROVAL' AND made < ? AND (? = '' OR decision = ?)"
        given = (sink, before, decision, decision)
        [(total,)] = do.run(f"SELECT COUNT(*) FROM deliveries WHERE {which}", given)
        rows = do.run(f"SELECT number FROM deliveries WHERE {which} ORDER BY number LIMIT ?", (*given, limit))
        return [number for (number,) in rows], int(total)

    def get(self, do: Transaction, number: int) -> dict[str, Any] | None:
        """With what is sent, until that is done."""
        rows = do.run(f"SELECT {', '.join(_SHOWN)}, body FROM deliveries WHERE number = ?", (number,))
        if not rows:
            return None
        body = rows[0][-1]
        return {**_shown(rows[0][:-1]), "body": json.loads(body) if body else None}

    def _park(self, do: Transaction, number: int, tries: int, reason: str, message: str, now: int) -> None:
        do.run(
            "UPDATE deliveries SET state = 'PARKED', tries = ?, since = ?, reason = ?, message = ? WHERE number = ?",
            (tries, now, reason, message, number),
        )

    def _first_of(self, do: Transaction, sink: str, lane: str) -> Row | None:
        """(number, state) of the delivery that the lane waits for."""
        passing = sink in self.sinks and self.sinks[sink].parked == "pass"
        found = do.run(
            f"SELECT number, state FROM deliveries WHERE sink = ? AND lane = ? AND {_OPEN} AND lane IS NOT NULL"
            f"{' AND state <> ' + repr('PARKED') if passing else ''} ORDER BY number LIMIT 1",
            (sink, lane),
        )
        return found[0] if found else None

    def _go_on(self, do: Transaction, sink: str, lane: str | None, now: int) -> None:
        """The next one of a lane, if it was held."""
        first = self._first_of(do, sink, lane) if lane is not None else None
        if first is not None and first[1] == "HELD":
            do.run(
                "UPDATE deliveries SET state = 'WAITING', due = ?, began = ?, since = ? WHERE number = ?",
                (now, now, now, first[0]),
            )

    def _delete(self, do: Transaction, sink: str, state: str, before: int, count: int) -> None:
        do.run(
            "DELETE FROM deliveries WHERE number IN (SELECT number FROM deliveries WHERE sink = ? AND state = ?"
            " AND due < ? ORDER BY due LIMIT ?)",
            (sink, state, before, count),
        )


def back_off(tries: int, luck: random.Random) -> int:
    """Microseconds to the next try after so many: twice as long each time, half of it by luck."""
    longest = min(MOST_WAIT_US, FIRST_WAIT_US << min(tries - 1, 20))
    return longest // 2 + luck.randrange(longest // 2 + 1)


def _shown(row: Row) -> dict[str, Any]:
    found = dict(zip(_SHOWN, row, strict=True))
    return found | {"event": json.loads(found["event"])}
