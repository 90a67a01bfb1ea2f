"""Whether what was decided was acted on: delivered, reviewed, and decided by the list as it was at each event."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from kills.stream_log import LogContent

DELIVERED = ("deny", "block")
REVIEWED = ("review", "check")
LABEL = "reviewed"
ANSWERS = {"block": 1.0, "approve": 0.0}
_FIRST = 5


@dataclass(frozen=True, slots=True)
class Acted:
    """What those who act have seen."""

    bank: Sequence[Mapping[str, Any]]
    """Deliveries that it acted on, in their order."""
    ledger: Sequence[Mapping[str, Any]]
    refuses: Callable[[int], bool]
    """Which payments the ledger never takes."""
    parked: Sequence[Mapping[str, Any]]
    came: int
    """Deliveries that came, repeated ones among them."""
    unsigned: int
    said: Mapping[tuple[int, str], str]
    """Answers of people that were accepted, by case and person."""
    kept: Sequence[tuple[int, str | None]]
    """Acknowledged changes of the list, in their order."""
    listed: Sequence[int]


def compare_acting(log: LogContent, home: Path, acted: Acted, checked: Counter[str]) -> list[str]:
    cases = read_cases(home / "streams" / "default" / "payments" / "dispatch" / "state.sqlite")
    checked["deliveries_came"] = acted.came
    found = [f"{acted.unsigned} deliveries were not signed well"] if acted.unsigned else []
    found += compare_deliveries(log, cases, acted, checked)
    found += compare_cases(log, cases, acted.said, checked)
    return found + compare_list(log, acted, checked)


def compare_deliveries(
    log: LogContent, cases: Sequence[Mapping[str, Any]], acted: Acted, checked: Counter[str]
) -> list[str]:
    """Each decision of the sinks' kinds, the log's and the people's, acted on once, those of a customer in their order,
    the refused ones parked. Of people the order is that of their answers."""
    rows = log.decisions.filter(pl.col("decision").is_in(DELIVERED)).select("event_offset", "id", "decision")
    turn = {_Due(*row, False): row[0] for row in rows.iter_rows()}
    turn |= {_Due(c["id"], c["event"], c["outcome"], True): c["closed_at"] for c in _delivered(cases)}
    refused = {due for due in turn if acted.refuses(due.payment)}
    checked["to_deliver"], checked["refused"] = len(turn), len(refused)
    checked["to_deliver_by_people"] = sum(due.by_people for due in turn)
    found = []
    bank, ledger = ([_due(body) for body in bodies] for bodies in (acted.bank, acted.ledger))
    for name, got, wanted in (("bank", bank, turn.keys()), ("ledger", ledger, turn.keys() - refused)):
        found += _some(wanted - set(got), f"were not delivered to {name}")
        found += _some(set(got) - wanted, f"were delivered to {name} and are none of its")
        found += _some({due for due, times in Counter(got).items() if times > 1}, f"were acted on twice by {name}")
    customers = dict(log.events.select("_offset", "customer").iter_rows())
    last: dict[tuple[int, bool], _Due] = {}
    for due in bank:
        of = customers.get(due.event_offset, -1), due.by_people
        if of in last and turn.get(last[of], 0) > turn.get(due, 0):
            found.append(f"of customer {of[0]}, {due} was delivered after {last[of]}")
        last[of] = due
    listed = Counter((item["sink"], item["event"]) for item in acted.parked)
    due_parked = {("ledger", due.payment) for due in refused}
    found += _some(due_parked - listed.keys(), "were refused and are not listed as parked")
    found += _some(listed.keys() - due_parked, "are listed as parked and were not refused")
    found += _some({key for key, times in listed.items() if times > 1}, "are listed as parked twice")
    return found


class _Due(NamedTuple):
    event_offset: int
    payment: int
    decision: str
    by_people: bool


def _due(body: Mapping[str, Any]) -> _Due:
    return _Due(body["event_offset"], body["event_id"], body["decision"], body["id"].endswith(":review"))


def _delivered(cases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [case for case in cases if case["state"] == "DECIDED" and case["outcome"] in DELIVERED]


def read_cases(path: Path) -> list[dict[str, Any]]:
    """All, as they are on disk."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return [json.loads(doc) for (doc,) in database.execute("SELECT doc FROM cases ORDER BY id")]


def compare_cases(
    log: LogContent, cases: Sequence[Mapping[str, Any]], said: Mapping[tuple[int, str], str], checked: Counter[str]
) -> list[str]:
    """Each decision that is reviewed has one case, each case what was said of it, each outcome of people one label."""
    wanted = Counter(log.decisions.filter(pl.col("decision").is_in(REVIEWED)).select("event_offset", "id").iter_rows())
    opened = Counter((case["id"], case["event"]) for case in cases)
    found = _some(wanted.keys() - opened.keys(), "are to be reviewed and have no case")
    found += _some(opened.keys() - wanted.keys(), "have a case and are not to be reviewed")
    found += _some({key for key, times in opened.items() if times > 1}, "have two cases")
    told = [(case["id"], opinion["by"], opinion["answer"]) for case in cases for opinion in case["opinions"]]
    accepted = {(case, who, word) for (case, who), word in said.items()}
    found += _some(accepted - set(told), "were accepted as answers and are lost")
    found += _some(set(told) - accepted, "are kept as answers and nobody gave them")
    found += _some({key for key, times in Counter(told).items() if times > 1}, "are kept as answers twice")
    decided = [case for case in cases if case["state"] == "DECIDED"]
    found += _some(
        {case["id"] for case in decided if case["outcome"] != case["opinions"][-1]["answer"]},
        "have an outcome that nobody gave",
    )
    due = Counter((case["event"], ANSWERS[case["opinions"][-1]["answer"]]) for case in decided)
    labels = log.labels.filter(pl.col("label") == LABEL) if "label" in log.labels.columns else log.labels
    logged = Counter(labels.select("subject", "value").iter_rows()) if len(labels) else Counter()
    found += _some((due - logged).keys(), "are answers without their label")
    found += _some((logged - due).keys(), "are labels once too often, or nobody's answer")
    checked["cases"], checked["answers"], checked["cases_decided"] = len(cases), len(said), len(decided)
    return found


def compare_list(log: LogContent, acted: Acted, checked: Counter[str]) -> list[str]:
    """Each acknowledged change is in the log, once and in its order, and the list is what comes of them. That each
    decision follows it is for `compare_rules`, by `denied`."""
    rows = list(_rows(log))
    logged = [(row.customer, None if row.until is not None else row.note) for row in rows]
    found = []
    if logged != list(acted.kept):
        place = next((n for n, (a, b) in enumerate(zip(logged, acted.kept, strict=False)) if a != b), "the end")
        found.append(f"of {len(acted.kept)} acknowledged rows of the list {len(logged)} are logged, unequal at {place}")
    on = {customer for customer, note in dict(acted.kept).items() if note is not None}
    if sorted(on) != sorted(acted.listed):
        found.append(f"{sorted(on)[:9]} are on the list, the cloud says {sorted(acted.listed)[:9]}")
    checked["rows_of_list"] = len(rows)
    return found


@dataclass(frozen=True, slots=True)
class _Row:
    offset: int
    customer: int
    note: str | None
    at: int
    until: int | None

    def holds(self, time: int) -> bool:
        return self.until is None or time < self.until


def _rows(log: LogContent) -> Iterator[_Row]:
    times = [pl.col(name).dt.epoch("us") for name in ("at", "until")]
    if len(log.rows):
        for values in log.rows.select("_offset", "customer", "note", *times).iter_rows():
            yield _Row(*values)


def denied(log: LogContent) -> list[int]:
    """Offsets of the live events whose customer is on the list as of them: of his rows before the event that with the
    newest time up to the event's, if it has not ended."""
    if log.rows.is_empty():
        return []
    rows = _rows(log)
    known: dict[int, list[_Row]] = defaultdict(list)
    following, found = next(rows, None), []
    for offset, customer, time in (
        log.events.filter(pl.Series(log.live)).select("_offset", "customer", "_effective").iter_rows()
    ):
        while following is not None and following.offset < offset:
            known[following.customer].append(following)
            following = next(rows, None)
        of_customer = [row for row in known.get(customer, ()) if row.at <= time]
        if of_customer and max(of_customer, key=lambda row: (row.at, row.offset)).holds(time):
            found.append(offset)
    return found


def _some(keys: Iterable[Any], what: str) -> list[str]:
    some = sorted(keys)
    return [f"{len(some)} {what}, as {some[:_FIRST]}"] if some else []
