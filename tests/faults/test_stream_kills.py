"""A stream whose producers, worker, jobs and control plane are killed at aimed moments (`make faults` kills a thousand
times)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
from cloud_process import Cloud
from kills.stream_acting_examination import (
    Acted,
    compare_cases,
    compare_deliveries,
    compare_list,
    denied,
)
from kills.stream_aims import CREATED, MODIFIED, MOVED, file_event, waits_for_disk
from kills.stream_campaign import StreamCampaign
from kills.stream_examination import Findings, compare_answers, compare_rules, differences
from kills.stream_killer import StreamManner
from kills.stream_log import LogContent
from kills.stream_plan import make_plan
from kills.stream_producer import read_answers

from skyriver.decide.log.records import ControlRecord, ModelInUse

KILLS = 100 if os.environ.get("FAULT_ROUNDS") else 25


def test_kills_at_aimed_moments_lose_no_payment_and_decide_none_twice(tmp_path: Path, kernels: Path) -> None:
    plan = make_plan(tmp_path / "plan", scale="tiny", stream_days=20, chunks=5, seed=3)
    cloud = Cloud(tmp_path, kernels=kernels)
    try:
        outcome = StreamCampaign(cloud, plan, 3, StreamManner(pause=0.5, stops=0.0)).run(KILLS)
    finally:
        cloud.close()
    assert outcome.problems == []
    checked = outcome.found.checked
    assert len(outcome.journal.kills) >= KILLS
    assert checked["acknowledged"] == checked["events_live"] > 10_000
    assert checked["rules_used"] > 1
    assert checked["features_used"] > 1
    assert min(checked["to_deliver"], checked["cases_decided"], checked["rows_of_list"], checked["denied"]) > 20
    assert checked["compared_with_replay"] == checked["compared_with_tables"] > 10_000
    assert checked["compared_with_oracle"] + checked["late"] == checked["events"] == checked["rows_of_payments"]


# That the examination is not blind: what is planted is found.


def content(events: list[tuple[int, int]], decisions: list[tuple[int, int, float]]) -> LogContent:
    """A log with these (offset, payment) and (event offset, payment, score)."""
    first = 1 + max((offset for offset, _ in events), default=-1)
    return LogContent(
        events=pl.DataFrame(events, schema=["_offset", "payment"], orient="row"),
        live=np.ones(len(events), np.bool_),
        labels=pl.DataFrame({"_offset": []}),
        decisions=pl.DataFrame(
            [(first + n, o, p, "decided", "approve", score, 1) for n, (o, p, score) in enumerate(decisions)],
            schema=["_offset", "event_offset", "id", "status", "decision", "score", "version"],
            orient="row",
        ),
        controls=[],
        refused=[],
        end=first + len(decisions),
        problems=[],
    )


def answer(payment: int, offset: int, score: float = 0.5) -> dict[str, Any]:
    return {"rows": 1, "decisions": [[payment, offset, "decided", "approve", score, 1]]}


WHOLE = content([(0, 7), (1, 8)], [(0, 7, 0.5), (1, 8, 0.5)])
BOTH = [answer(7, 0), answer(8, 1)]


@pytest.mark.parametrize(
    ("log", "answers", "lost", "twice", "told"),
    [
        (WHOLE, BOTH, 0, 0, 0),
        (WHOLE, [*BOTH, answer(7, 0)], 0, 0, 0),
        (WHOLE, [*BOTH, answer(7, 1)], 1, 0, 0),  # answered with a place that is another's
        (WHOLE, [*BOTH, answer(7, 0, 0.6)], 0, 1, 0),
        (WHOLE, [*BOTH, answer(9, 5)], 1, 0, 0),
        (WHOLE, BOTH[:1], 0, 0, 1),  # taken, and nobody was told
        (WHOLE, [*BOTH, {"wrong": "rejected"}], 0, 0, 1),
        (WHOLE, [*BOTH, {"decisions": [None]}], 1, 0, 0),
        (content([(0, 7), (1, 8)], [(0, 7, 0.5)]), BOTH, 1, 0, 1),  # no decision
        (content([(0, 7), (1, 7)], [(0, 7, 0.5), (1, 7, 0.5)]), BOTH[:1], 0, 1, 0),
        (content([(0, 7), (1, 8)], [(0, 7, 0.5), (1, 8, 0.5), (1, 8, 0.5)]), BOTH, 0, 1, 0),
        (content([(0, 7), (1, 8)], [(0, 7, 0.5), (1, 7, 0.5)]), BOTH, 0, 1, 1),
    ],
)
def test_a_lost_or_second_decision_is_found(
    log: LogContent, answers: list[dict[str, Any]], lost: int, twice: int, told: int
) -> None:
    found = Findings()
    compare_answers(log, answers, found)
    assert (len(found.lost), len(found.decided_twice), len(found.told)) == (lost, twice, told)


def by_rules(*records: tuple[int, str, float, str, int, str]) -> LogContent:
    """Decisions (offset, rules digest, score, decision, version, features digest) after the CONTROL records at offsets
    0 and 10."""
    controls = [
        (
            offset,
            ControlRecord(ModelInUse("m", version, ""), rules, "approve", "ask", digest, features, 0, 0, 0),
        )
        for offset, version, digest, features, rules in (
            (0, 1, "r", "f", (("block", "score >= 0.9"), ("review", "score >= 0.5"))),
            (10, 2, "s", "g", (("block", "score >= 0.7"),)),
        )
    ]
    names = ["_offset", "rules_digest", "score", "decision", "version", "features_digest"]
    decisions = pl.DataFrame(records, schema=names, orient="row").with_columns(status=pl.lit("decided"))
    return replace(content([], []), controls=controls, decisions=decisions)


@pytest.mark.parametrize(
    ("record", "wrong"),
    [
        ((1, "r", 0.95, "block", 1, "f"), 0),
        ((2, "r", 0.75, "review", 1, "f"), 0),
        ((3, "r", 0.1, "approve", 1, "f"), 0),
        ((11, "s", 0.75, "block", 2, "g"), 0),
        ((4, "r", 0.75, "block", 1, "f"), 1),  # by the rules that came later
        ((11, "r", 0.75, "review", 2, "g"), 1),  # by those of before
        ((11, "s", 0.75, "block", 1, "g"), 1),
        ((12, "s", 0.75, "approve", 2, "g"), 1),
        ((12, "s", 0.75, "block", 2, "f"), 1),  # by the features of before
    ],
)
def test_a_decision_by_other_rules_or_features_than_the_logs_is_found(
    record: tuple[int, str, float, str, int, str], wrong: int
) -> None:
    found = Findings()
    compare_rules(by_rules((1, "r", 0.5, "review", 1, "f"), record), found)
    assert (found.replay, len(found.told)) == (wrong, wrong)


FRAME = pl.DataFrame({"_offset": [3, 5, 6], "amount": [1.0, None, 2.0], "features": [[1.0], None, [2.0]]})


@pytest.mark.parametrize(
    ("table", "number"),
    [
        (FRAME, 0),
        (FRAME[:2], 1),
        (pl.concat([FRAME, FRAME[1:2]]), 1),
        (FRAME[[1, 0, 2]], 1),
        (FRAME.with_columns(amount=pl.Series([1.0, 0.0, 2.5])), 2),
        (FRAME.with_columns(features=pl.Series([[1.0], None, [2.5]])), 1),
        (FRAME.with_columns(_offset=pl.Series([3, 5, 7])), 2),
    ],
)
def test_a_row_of_a_table_that_is_not_the_logs_is_found(table: pl.DataFrame, number: int) -> None:
    assert differences(FRAME, table) == number


SYNCING = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
while True:
    os.write(file, b"x" * 100_000)
    os.fdatasync(file)
    os.ftruncate(file, 0)
"""


def test_a_moment_is_seen_when_it_comes_and_only_then(tmp_path: Path) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    log.mkdir()
    other.mkdir()
    process = subprocess.Popen([sys.executable, "-c", SYNCING, str(log / "1.log")])
    try:
        assert file_event({log: MODIFIED}, lambda name: name == "1.log", 30.0)
        assert not file_event({log: CREATED | MOVED, other: MODIFIED}, lambda _: True, 0.2)
        assert not file_event({log: MODIFIED}, lambda name: name == "2.log", 0.2)
        assert waits_for_disk(process.pid, log, 30.0)
        assert not waits_for_disk(process.pid, other, 0.2)
    finally:
        process.kill()
        process.wait()
    assert not file_event({log: MODIFIED}, lambda _: True, 0.2)
    assert not waits_for_disk(process.pid, log, 0.2)


def test_a_line_that_a_kill_tore_is_not_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    assert read_answers(path) == []
    path.write_text('{"rows":1}\n{"rows":2')
    assert read_answers(path) == [{"rows": 1}]


# The same of what is acted on.

CUSTOMERS = [1, 2, 1, 2]


def acted_on(*kept: tuple[int, int, str | None, int, int | None]) -> LogContent:
    """Payments 10 to 13 of CUSTOMERS at offsets 10, 20, 30 and 40, at as many microseconds: two are denied, two
    reviewed. `kept`: rows of the list, (offset, customer, note, at, until)."""
    offsets = [10, 20, 30, 40]
    events = {"_offset": offsets, "payment": [10, 11, 12, 13], "customer": CUSTOMERS, "_effective": offsets}
    words = ["deny", "check", "deny", "review"]
    decisions = {"event_offset": offsets, "id": [10, 11, 12, 13], "decision": words}
    schema = {
        "_offset": pl.Int64,
        "customer": pl.Int64,
        "note": pl.String,
        "at": pl.Datetime("us"),
        "until": pl.Datetime("us"),
    }
    return replace(
        content([], []),
        events=pl.DataFrame(events),
        live=np.ones(4, np.bool_),
        decisions=pl.DataFrame(decisions),
        labels=pl.DataFrame({"label": ["reviewed", "fraud"], "subject": [11, 13], "value": [1.0, 0.0]}),
        rows=pl.DataFrame(kept, schema=schema, orient="row"),
    )


def delivered(offset: int, decision: str = "deny", after: str = "") -> dict[str, Any]:
    id_ = f"t/payments:{offset}{after}"
    return {"event_offset": offset, "event_id": offset // 10 + 9, "decision": decision, "id": id_}


def listed_as_parked(payment: int) -> dict[str, Any]:
    return {"sink": "ledger", "event": payment}


ACTED = Acted(
    bank=[delivered(10), delivered(20, "block", ":review"), delivered(30)],
    ledger=[delivered(30), delivered(20, "block", ":review")],
    refuses=lambda payment: payment == 10,
    parked=[listed_as_parked(10)],
    came=3,
    unsigned=0,
    said={(20, "ana"): "block"},
    kept=[],
    listed=[],
)


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({}, 0),
        ({"bank": ACTED.bank[:2]}, 1),
        ({"bank": [ACTED.bank[0], ACTED.bank[2]]}, 1),  # what people decided
        ({"bank": [*ACTED.bank, delivered(30)]}, 1),
        ({"bank": [*reversed(ACTED.bank)]}, 1),  # customer 1's
        ({"bank": [*ACTED.bank, delivered(20, "check")]}, 1),
        ({"bank": [*ACTED.bank, delivered(40, "block", ":review")]}, 1),
        ({"ledger": [*ACTED.ledger, delivered(10)]}, 1),
        ({"parked": []}, 1),
        ({"parked": [*ACTED.parked, listed_as_parked(12)]}, 1),
        ({"parked": ACTED.parked * 2}, 1),
    ],
)
def test_a_delivery_that_is_lost_repeated_or_out_of_order_is_found(changed: dict[str, Any], wrong: int) -> None:
    assert len(compare_deliveries(acted_on(), CASES, replace(ACTED, **changed), Counter())) == wrong


def case(offset: int, *answers: str, **more: Any) -> dict[str, Any]:
    opinions = [{"by": who, "answer": word} for who, word in zip(("ana", "ben", "eve"), answers, strict=False)]
    state = {"state": "DECIDED", "outcome": answers[-1]} if answers else {"state": "OPEN", "outcome": ""}
    return {"id": offset, "event": offset // 10 + 9, "opinions": opinions, "closed_at": 0, **state, **more}


CASES = [case(20, "block"), case(40)]


@pytest.mark.parametrize(
    ("cases", "wrong"),
    [
        (CASES, 0),
        (CASES[:1], 1),
        ([*CASES, case(10)], 1),
        ([*CASES, case(40)], 1),
        ([case(20, "block", outcome="approve"), case(40)], 1),
        ([case(20, "block", "block"), case(40)], 1),  # ben said nothing
        ([case(20), case(40)], 2),  # ana's answer is lost, and its label nobody's
        ([case(20, "block"), case(40, "block")], 2),  # nobody's answer, without a label
        ([case(20, "approve"), case(40)], 4),
    ],
)
def test_a_case_or_an_answer_that_is_lost_or_doubled_is_found(cases: list[dict[str, Any]], wrong: int) -> None:
    assert len(compare_cases(acted_on(), cases, ACTED.said, Counter())) == wrong


ON_OFF = [(5, 1, "a", 5, None), (25, 1, None, 25, 25), (26, 2, "b", 35, None)]


@pytest.mark.parametrize(
    ("kept", "listed", "wrong"),
    [
        ([(1, "a"), (1, None), (2, "b")], [2], 0),
        ([(1, "a"), (1, None), (2, "b"), (1, "c")], [1, 2], 1),  # acknowledged and not there
        ([(1, "a"), (2, "b")], [1, 2], 1),
        ([(1, None), (1, "a"), (2, "b")], [1, 2], 1),
        ([(1, "a"), (1, None), (2, "b")], [1, 2], 1),
    ],
)
def test_a_change_of_the_list_that_is_lost_is_found(
    kept: list[tuple[int, str | None]], listed: list[int], wrong: int
) -> None:
    assert len(compare_list(acted_on(*ON_OFF), replace(ACTED, kept=kept, listed=listed), Counter())) == wrong


def test_who_is_denied_follows_from_the_rows_before_an_event() -> None:
    assert denied(acted_on()) == []
    assert denied(acted_on(*ON_OFF)) == [10, 40], "off again at 30; a row yet to come does not count at 20"
    assert denied(acted_on((15, 1, "a", 1, None), (16, 2, "b", 1, 40))) == [20, 30], "after 10, until before 40"
