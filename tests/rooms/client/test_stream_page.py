"""What a person sees of a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rich.console import Console

from skyriver.client import show
from skyriver.client.stream_page import curve, lines, page
from skyriver.core import contract
from skyriver.core.resources import ProcessStatus, Resource, Snapshot
from skyriver.core.units import SECOND
from skyriver.decide.streams.now import stream_now

HOUR = 3_600 * SECOND
NOW = 1_800_000_000 * SECOND

STREAM = {
    "name": "payments",
    "fields": [{"name": "payment", "type": "int"}, {"name": "at", "type": "time"}],
    "id": "payment",
    "time": "at",
    "key": "payment",
}
REPORT = {
    "offset": 1_000,
    "effective_time": 5 * HOUR,
    "events": 500,
    "decided": 500,
    "by_status": {"decided": 480, "late": 20},
    "by_reason": {"LATE": 20},
    "by_decision": {"approve": 500},
    "dead": 2,
    "dead_by_reason": {"MISSING": 2},
    "lists": [
        {"name": "denied", "ids": 1_200, "changed_at": 5 * HOUR},
        {"name": "limits", "ids": 3, "changed_at": 0},
        {"name": "trusted", "ids": 0, "changed_at": None},
    ],
    "events_per_second": 998.4,
    "decision_us": {"p50": 400, "p99": 2_100, "p999": 4_000},
    "stored_bytes": {"log": 8_100_000},
    "feature_keys": 10,
    "feature_bytes": 2_000,
    "first_offset": 0,
    "log_bytes": 5_000_000,
    "local_log_bytes": 5_000_000,
    "tier_lag_bytes": 0,
    "checkpoint_offset": 990,
    "checkpoint_at": 8 * HOUR - 3_000_000,
    "source": None,
    "last_dead": [
        {
            "offset": 7,
            "time": 0,
            "reason": "MISSING",
            "field": "at",
            "message": "at is missing.",
            "raw": '{"payment":[1]}',
        }
    ],
}


@pytest.fixture(autouse=True)
def a_clock_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyriver.client.screen.time.time", lambda: NOW / SECOND)


def now(state: str = "READY", report: dict[str, Any] = REPORT, **row: Any) -> contract.StreamNow:
    decide = {"model": "fraud", "rules": [{"decision": "block", "when": "score >= 0.9"}]}
    spec = {"stream": STREAM, "decide": {**decide, "otherwise": "approve", "fallback": "review"}}
    status = {"model_version": 3}
    since = NOW - 9 * SECOND
    stream = Resource("t", "stream", "payments", spec, status, state, since=since, **row)
    worker = Resource("t", "worker", "payments-0", {"partition": 0}, {}, state, parent=stream.ref)
    table = Resource("t", "table", "payments", status={"version": 2, "rows": 480, "bytes": 9_000, "offset": 899})
    process = ProcessStatus(worker.process, alive=state == "READY", pid=77, report=report)
    rows = {r.key: r for r in (stream, worker, table)}
    return stream_now(Snapshot(rows, {worker.process: process}, {}, now=8 * HOUR), stream)


def printed(renderable: Any, width: int = 200) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def test_a_page_says_what_it_does() -> None:
    text = printed(page(now()))
    for line in (
        "stream payments is READY for 9 s",
        "decides    fraud:3: block if score >= 0.9, otherwise approve; without a score review",
        "now        998 events/s, 0 decisions/s (last 10 s)",
        "append to decision on the disk: p50 0.40 ms, p99 2.10 ms, p99.9 4.00 ms",
        "request to answer: nothing came in the last 10 s",
        "lag        0 rows wait, 0 events without a decision, 100 records not in the tables yet",
        "1970-01-01 05:00:00 UTC by its events, 3 h behind the clock",
        "500 taken: 480 decided, 20 late",
        "no score because: 20 LATE",
        "2 refused: 2 MISSING",
        "3.0 s ago; a restart replays 10 records",
        "denied: 1,200 on it, last changed at 1970-01-01 05:00:00 UTC by its events",
        "limits: 3 on it\n",
        "trusted: 0 on it\n",
        "log 8.1 MB",
        "features 2.0 kB for 10 keys, 200 bytes a key",
        "payments: 480 rows, 9.0 kB, version 2",
        '7       MISSING  at is missing.  {"payment":[1]}',
    ):
        assert line in text


def test_how_a_declared_latency_is_kept_is_told() -> None:
    pace = {
        "step": "full",
        "since": 0,
        "latency_us": 50_000,
        "share": 0.99,
        "in_time": 0.998,
        "shed": 0.0,
        "shed_events": 0,
        "cheaper": 0.0,
        "alone_us": 9_000,
        "rate_in": 700.2,
        "capacity": 2_000.0,
        "why": "",
    }
    assert "  pace " not in printed(page(now()))
    kept = printed(page(now(report={**REPORT, "pace": pace})))
    can = "700 events/s come now, 2,000 can be"
    assert f"pace       every event is scored; 99.0% to be decided within 50ms; 99.8% were (last 10 s); {can}" in kept
    since = NOW - 9 * SECOND
    slow = printed(page(now(report={**REPORT, "pace": {**pace, "alone_us": 31_000}})))
    assert "2,000 can be; out of reach: one event alone takes up to 31.0 ms" in slow
    busy = {"scoring": 0.19, "labels": 0.0, "answering": 0.8}
    late = printed(page(now(report={**REPORT, "pace": {**pace, "late_since": since, "busy": busy}})))
    assert "late for 9 s, not by scoring alone: scoring 19%, labels 0%, answering 80%" in " ".join(late.split())
    threads = {"most": 2, "share": 0.9, "gain": 1.62, "in_vain": False}
    wide = printed(
        page(now(report={**REPORT, "pace": {**pace, "step": "threads", "since": since, "threads": threads}}))
    )
    assert "pace       in 2 threads for 9 s; 99.0% to be decided" in wide
    assert "2,000 can be; 1.62 times as many in 2 threads" in " ".join(wide.split())
    vain = printed(page(now(report={**REPORT, "pace": {**pace, "threads": {**threads, "in_vain": True}}})))
    assert "every event is scored; 99.0% to be decided" in vain
    assert "2 threads brought nothing" in " ".join(vain.split())
    shedding = {**pace, "step": "shedding", "since": since, "in_time": 0.4, "shed": 0.6, "capacity": None}
    text = printed(page(now(report={**REPORT, "pace": shedding})))
    cheap = printed(page(now(report={**REPORT, "pace": {**shedding, "step": "cheaper", "shed": 0.0, "cheaper": 0.9}})))
    assert (
        "pace       by the cheaper version for 9 s; 99.0% to be decided within 50ms; 40.0% were, 90.0% by the" in cheap
    )
    few = printed(page(now(report={**REPORT, "pace": {**pace, "rate_in": 20.0}})))
    assert "20 events/s come now, 2,000 can be (reckoned from small turns)" in " ".join(few.split())
    both = {**shedding, "step": "cheaper", "shed_events": 9, "cheaper": 0.9, "capacity": 900.0}
    told = " ".join(printed(page(now(report={**REPORT, "pace": both}))).split())
    assert "by the cheaper version for 9 s, and events were shed before;" in told
    assert "700 events/s come now, 900 can be by the cheaper version" in told
    assert "pace       shedding for 9 s; 99.0% to be decided within 50ms; 40.0% were, 60.0% shed (last 10 s)" in text


def test_what_the_cheaper_version_scored_has_a_score() -> None:
    text = printed(page(now(report={**REPORT, "by_reason": {"LATE": 20, "CHEAPER": 30}})))
    assert "no score because: 20 LATE\n" in text
    assert "30 scored by the cheaper version in all" in text


def test_why_it_is_not_ready_comes_first() -> None:
    died = {"reason": "PROCESS_DIED", "message": "Its process [ended].", "next_action": "Wait."}
    text = printed(page(now("STARTING", {}, **died)))
    head, why, action, decides, *_ = text.splitlines()
    assert head.startswith("stream payments is STARTING")
    assert why.strip() == "why        PROCESS_DIED: Its process [ended]."
    assert action.strip() == "next       Wait."
    assert decides.strip().startswith("decides    fraud: block"), "which version is not known while the worker is away"
    assert "not begun: no event has come" in text


def test_what_a_worker_goes_on_without_is_told_with_its_code_and_what_to_do() -> None:
    wrong = {"reason": "MODEL_REFUSED", "message": "Version 3 is not used.", "next_action": "Train it again."}
    found = now(report={**REPORT, **wrong})
    assert {k: found["partitions"][0][k] for k in wrong} == wrong  # type: ignore[literal-required]
    text = printed(page(found))
    assert "why        MODEL_REFUSED: Version 3 is not used.\n  next       Train it again." in text
    assert text.count("Version 3 is not used.") == 1


def test_many_are_a_line_each() -> None:
    text = printed(lines([now(), now("DEGRADED", message="Lost.")], {"payments": [1.0, 8.0]}, "Away."), 300)
    head, first, second, *rest = text.splitlines()
    assert head.split()[:3] == ["STREAM", "STATE", "EVENTS/S"]
    assert head.endswith("LAST MINUTE")
    assert first.split()[:3] == ["payments", "READY", "998"]
    assert first.endswith("▂█")
    assert second.split()[1] == "DEGRADED"
    assert "payments: Lost." in text
    assert rest[-1] == "Away."
    assert printed(lines([], {})).startswith("STREAM"), "no stream is no error"


def test_a_curve_is_as_high_as_its_highest() -> None:
    assert curve([5.0]) == ""
    assert curve([0.0, 0.0]) == "▁▁"
    assert curve([0.0, 2.5, 5.0, 10.0]) == "▁▃▅█"


def test_all_that_the_contract_has_is_told() -> None:
    found = now()
    assert set(found) == set(contract.StreamNow.__annotations__)
    assert set(found["partitions"][0]) == set(contract.PartitionNow.__annotations__)
    assert set(found["tables"][0]) == set(contract.TableNow.__annotations__)
    json.dumps(found)


def test_events_that_are_only_kept_do_not_read_as_a_failure() -> None:
    counts = {"by_status": {"fallback": 500}, "by_reason": {"NO_DECISIONS": 500}, "by_decision": {"": 500}}
    text = printed(page(now(report={**REPORT, **counts})))
    assert "500 taken: 500 kept" in text
    assert "NO_DECISIONS" not in text
    assert "fallback" not in text
    assert "  decisions " not in text


def test_what_is_spent_of_budgets_is_told_and_that_the_strictest_decides() -> None:
    whole = {"decision": "block", "most": 100, "per": "1h", "overflow": "review", "by": "", "spent": 37, "keys": None}
    each = {
        "decision": "review",
        "most": 2,
        "per": "1d",
        "overflow": "hold",
        "by": "customer",
        "spent": None,
        "keys": 9,
    }
    report = {**REPORT, "budgets": [whole, each], "by_reason": {"BUDGET_SPENT": 12}}
    text = printed(page(now(report=report)))
    assert "budget     block: 37 of 100 in the last 1h, beyond it review" in text
    assert "budget     review: 2 in 1d for each customer, beyond it hold; 9 of these have some now" in text
    assert "12 events with a score were beyond a budget" in text
    assert "no score because" not in text
    found = now()
    assert found["decides"] is not None
    found["decides"] = {**found["decides"], "combine": ["block", "review"]}
    assert "fraud:3: the strictest (block > review) of block if score >= 0.9, otherwise" in printed(page(found))


def test_keys_are_told_with_what_one_takes() -> None:
    keys = [
        {"by": "customer", "held": 7, "least_bytes": 96, "most_bytes": 96},
        {"by": "terminal", "held": 3, "least_bytes": 136, "most_bytes": 56_136},
    ]
    text = printed(page(now(report={**REPORT, "keys": keys})))
    assert "7 keys of customer, 96 bytes each" in text
    assert "3 keys of terminal, 136 to 56,136 bytes each" in text
    assert "KEYS" in printed(lines([now()], {}))


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("compiling", "features abcdefabcdef are compiled, before they are built from the log: 12.5 s of CPU"),
        ("building", "features abcdefabcdef are building: 41 of 100 records, 12.5 s of CPU, 40,100 events/s, 258 MB"),
        ("waiting", "may decide from 1970-01-01 06:00 UTC of the stream's time on: 258 MB of memory, 22 MB of disk"),
        ("ready", "are ready beside those that decide: 258 MB of memory, 22 MB of disk; built with 12.5 s of CPU"),
    ],
)
def test_changed_features_are_told_with_how_far_they_are_and_what_they_cost(state: str, told: str) -> None:
    change = {"digest": "abcdef" * 10, "state": state, "offset": 41, "end": 100, "events": 30}
    change |= {"events_per_second": 40_100.2, "cpu_seconds": 12.5, "memory_mb": 258, "disk_mb": 21.5}
    found = now(report={**REPORT, "features": {**change, "whole_from": 6 * HOUR if state == "waiting" else None}})
    assert found["partitions"][0]["feature_change"] is not None
    assert told in printed(page(found))


def test_an_explanation_of_a_stream_has_no_counts_of_the_loop_and_no_arm_that_there_is_not() -> None:
    status = {"generation": 1, "canary": 0, "shadow": 2, "model_version": 3, "worker": "READY"}
    assert show._facts_of({"kind": "stream", "status": status}) == {"shadow": 2, "model_version": 3}
