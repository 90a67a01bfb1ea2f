"""What a stream's dispatcher does with decisions: hands each batch of them to its parts, and remembers how far it is,
in one transaction. So nothing is skipped and nothing comes twice, whenever the process ends.

Parts (`decide.acting.deliveries`, for one) have tables of their own in the one database. All here runs on one thread,
the database's; what waits for networks does so elsewhere, and comes back with what became of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from skyriver.core.errors import Corrupt, InvalidInput, NotFound, Unavailable
from skyriver.core.names import digest
from skyriver.core.units import SECOND
from skyriver.decide.acting.database import Database, Row, Transaction
from skyriver.decide.acting.stored_id import stored_ids
from skyriver.decide.log.following import Decided, Step
from skyriver.decide.log.records import DecisionRecord, Id, LabelRecord

Result = TypeVar("Result")
KEPT_ANSWERS_US = 24 * 3_600 * SECOND
ERASED = "erased"


@dataclass(frozen=True, slots=True)
class Ask:
    """What somebody asks the dispatcher, over the control plane."""

    actor: str = ""
    """Name of the token."""
    path: Mapping[str, str] = field(default_factory=dict)
    """What stands at the `{places}` of the route."""
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    now: int = 0
    key: str = ""
    """A request that is repeated with its key gets the first answer; nothing is done twice."""

    def text(self, name: str, *, most: int = 1_000, default: str | None = None) -> str:
        """Of the body. Raises InvalidInput (BAD_REQUEST)."""
        value = self.body.get(name, default)
        if not isinstance(value, str) or len(value) > most:
            raise InvalidInput(
                f"{name} is to be a text of at most {most} characters.",
                code="BAD_REQUEST",
                where=name,
                next_action=f"Send {name} as such a text.",
            )
        return value

    def number(self, name: str) -> int:
        """Of the path. Raises NotFound."""
        text = self.path[name]
        if not text.isdecimal() or len(text) > 18:
            raise NotFound(
                f"There is no {text[:40]!r} here: they are known by their numbers.",
                next_action="A list of them shows their numbers.",
            )
        return int(text)


Handler = Callable[[Transaction, Ask], Mapping[str, Any]]
"""Answers within a transaction; raises a SkyriverError, and has done nothing then."""
Routes = Mapping[tuple[str, str], Handler]
"""(method, path with `{places}`), as in ("POST", "/deliveries/{number}/retry")."""


class Part(Protocol):
    """Something that acts on decisions.

    `declare` comes first, and whenever the live settings change. `take` MUST be done with what it is given when it
    returns: the next call may be in another process. `tick` comes about once a second.
    """

    def prepare(self, do: Transaction) -> None:
        """Makes its tables, where they are not there."""
        ...

    def declare(self, live: Mapping[str, Any]) -> None:
        """Counts in one moment: `wants` is asked meanwhile, in the thread that reads the log, and what it does not
        want is never read again."""
        ...

    def wants(self, record: DecisionRecord) -> bool: ...

    def take(self, do: Transaction, decided: Sequence[Decided], now: int) -> None:
        """Of what some part wants, in the order of the log; not all of it need be for this one."""
        ...

    def tick(self, do: Transaction, now: int) -> None: ...

    def erase(self, do: Transaction, now: int) -> int:
        """Of the events whose ids are in the table ERASED, as `stored_id` writes them, nothing is left; how many things
        that were."""
        ...

    def routes(self) -> Routes: ...

    def report(self, do: Transaction) -> Mapping[str, Any]:
        """What is told of it, by name."""
        ...

    def full(self) -> str:
        """On any thread. Why nothing more may be taken now; "" if it may."""
        ...


class Learner(Protocol):
    """Something that is told of the labels that came, too."""

    def learn(self, do: Transaction, labels: Sequence[LabelRecord], now: int) -> None:
        """In the order of the log; after the decisions that were read with them."""
        ...


class Dispatch:
    def __init__(self, database: Database, parts: Sequence[Part], learners: Sequence[Learner] = ()) -> None:
        self._database = database
        self._parts = parts
        self._learners = learners
        self._routes = [
            (method, path.split("/"), handler) for part in parts for (method, path), handler in part.routes().items()
        ]
        self.offset = 0
        """Decisions before it have been taken."""
        self.missed = 0
        """Offsets that the log gave up before they were read, ever."""
        self.erasures = 0
        """Since this began: what was read of the log before one of them may have what was erased."""

    def open(self, begin: int, *, began: bool = False, again: int | None = None) -> None:
        """`begin`: what is before this offset of the log was decided when nothing was declared to act on it. `began`:
        there must be something in the database. `again`: where to begin if nothing is, as somebody chose.

        Raises Unavailable (DISPATCH_GONE)."""
        with self._database.transaction() as do:
            do.run("CREATE TABLE IF NOT EXISTS position (next INTEGER, begin INTEGER, missed INTEGER)")
            do.run("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, asked TEXT, answer TEXT, at INTEGER)")
            if not do.run("SELECT next FROM position"):
                if began and again is None:
                    raise _gone()
                do.run("INSERT INTO position VALUES (?, ?, 0)", (begin if again is None else again, begin))
            do.run("UPDATE position SET next = max(next, ?), begin = ? WHERE begin < ?", (begin, begin, begin))
            [(self.offset, self.missed)] = do.run("SELECT next, missed FROM position")
            for part in self._parts:
                part.prepare(do)

    def declare(self, live: Mapping[str, Any]) -> None:
        for part in self._parts:
            part.declare(live)

    def wants(self, record: DecisionRecord) -> bool:
        return any(part.wants(record) for part in self._parts)

    def take(self, step: Step, now: int, erasures: int | None = None) -> str | None:
        """Why nothing more may be taken now; "" if it may. `erasures`: as many were there when the log was begun to be
        read; where one came since, nothing is taken and it is None: it is to be read anew, from `offset` on."""
        if erasures is not None and erasures != self.erasures:
            return None
        with self._database.transaction() as do:
            if step.decided:
                for part in self._parts:
                    part.take(do, step.decided, now)
            if step.labels:
                for learner in self._learners:
                    learner.learn(do, step.labels, now)
            do.run("UPDATE position SET next = ?", (step.next_offset,))
        self.offset = step.next_offset
        return self.full()

    def skip(self, first: int) -> None:
        """The log begins with the offset `first` now."""
        missed = self.missed + first - self.offset
        with self._database.transaction() as do:
            do.run("UPDATE position SET next = ?, missed = ?", (first, missed))
        self.offset, self.missed = first, missed

    def check_end(self, end: int) -> None:
        """Raises Corrupt (DISPATCH_AHEAD) where the log has lost its end."""
        if end < self.offset:
            raise Corrupt(
                f"Decisions up to offset {self.offset} were acted on, but the log ends before {end}: it lost its end.",
                code="DISPATCH_AHEAD",
                next_action="Restore the log. If what is lost will not come back, move the folder `dispatch` of the"
                f" stream away and write {end} into a new file dispatch/begin.",
            )

    def erase(self, ids: Sequence[Id], now: int) -> int:
        """Nothing is left of these events, not in the file either; what was to be done for them is not done any more,
        but for what is on its way to a receiver. How many things that were. The log must not have them any more."""
        self.erasures += 1
        with self._database.transaction() as do:
            do.run(f"CREATE TEMP TABLE IF NOT EXISTS {ERASED} (event TEXT PRIMARY KEY) WITHOUT ROWID")
            do.run(f"DELETE FROM {ERASED}")
            forms = ((form,) for own in ids for form in stored_ids(own))
            do.run_many(f"INSERT OR IGNORE INTO {ERASED} VALUES (?)", forms)
            found = sum(part.erase(do, now) for part in self._parts)
            do.run("DELETE FROM answers")  # they say again what was answered
            do.run(f"DROP TABLE {ERASED}")
        self._database.forget()
        return found

    def tick(self, now: int) -> Mapping[str, Any]:
        """What is told."""
        found: dict[str, Any] = {}
        with self._database.transaction() as do:
            do.run("DELETE FROM answers WHERE at < ?", (now - KEPT_ANSWERS_US,))
            for part in self._parts:
                part.tick(do, now)
                found |= part.report(do)
        return found

    def full(self) -> str:
        return next((why for part in self._parts if (why := part.full())), "")

    def transact(self, work: Callable[[Transaction], Result]) -> Result:
        with self._database.transaction() as do:
            return work(do)

    def answer(self, method: str, path: str, ask: Ask) -> Mapping[str, Any]:
        """Raises NotFound (UNKNOWN_ROUTE), InvalidInput (IDEMPOTENCY_KEY_REUSED), and what the part raises."""
        found = self._find(method, path)
        if found is None:
            raise NotFound(
                f"There is no {method} {path[:200]}.",
                code="UNKNOWN_ROUTE",
                next_action="This dispatcher may be of an earlier release than what asks it: it is renewed by"
                " `skyriver down` and `skyriver up`.",
            )
        handler, places = found
        ask = Ask(ask.actor, places, ask.query, ask.body, ask.now, ask.key)
        with self._database.transaction() as do:
            if not ask.key or method == "GET":
                return handler(do, ask)
            key = digest([ask.actor, ask.key])
            asked = digest([method, path, dict(ask.body)])
            known = do.run("SELECT asked, answer FROM answers WHERE key = ?", (key,))
            if known:
                return _first_answer(known[0], asked)
            answer = handler(do, ask)
            do.run("INSERT INTO answers VALUES (?, ?, ?, ?)", (key, asked, json.dumps(answer), ask.now))
            return answer

    def _find(self, method: str, path: str) -> tuple[Handler, dict[str, str]] | None:
        parts = path.split("/")
        for known, template, handler in self._routes:
            if known == method and len(template) == len(parts):
                places = {t[1:-1]: p for t, p in zip(template, parts, strict=True) if t.startswith("{")}
                if all(t.startswith("{") or t == p for t, p in zip(template, parts, strict=True)):
                    return handler, places
        return None


def _gone() -> Unavailable:
    return Unavailable(
        "The state of the dispatcher is gone, and with it what it had to do.",
        code="DISPATCH_GONE",
        next_action="Restore the file dispatch/state.sqlite of the stream from a backup. Without one, write the offset"
        " from which the log's decisions are to be acted on again into a file dispatch/begin: 0 for all that the log"
        " has; receivers know what they have by its id.",
    )


def _first_answer(known: Row, asked: str) -> Mapping[str, Any]:
    if known[0] != asked:
        raise InvalidInput(
            "This Idempotency-Key came with another request before.",
            code="IDEMPOTENCY_KEY_REUSED",
            where="Idempotency-Key",
            next_action="Use a new key for each thing to be done, and the same one only to repeat a request.",
        )
    found: Mapping[str, Any] = json.loads(known[1])
    return found
