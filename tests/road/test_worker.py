"""A stream's worker as a process: over its socket, with history, a changed model and an orderly end."""

from __future__ import annotations

import json
import stat
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from skyriver.adapters.segments.log import SegmentReader
from skyriver.data.log import RecordKind
from skyriver.decide.log.records import decode_control, decode_dead

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
import worker_process as harness
from worker_process import payment

HOUR = 3_600_000_000


def block(rows: list[dict[str, Any]]) -> bytes:
    schema = {
        "_kind": pl.UInt8,
        "_time": pl.Int64,
        "payment": pl.Int64,
        "at": pl.Int64,
        "customer": pl.Int64,
        "channel": pl.String,
        "amount": pl.Float64,
        "_label": pl.UInt8,
        "_subject": pl.Int64,
        "_value": pl.Float64,
    }
    out = BytesIO()
    pl.DataFrame(rows, schema=schema).write_ipc_stream(out)
    return out.getvalue()


def past(number: int, at: int, customer: int = 1, amount: float = 10.0) -> dict[str, Any]:
    event = payment(number, customer=customer, amount=amount, at=at)
    return {"_kind": 1, "_time": at, **event}


def label(subject: int, at: int) -> dict[str, Any]:
    return {"_kind": 2, "_time": at, "_label": 0, "_subject": subject, "_value": 1.0}


def send_block(http: Any, load: str, sequence: int, data: bytes, *, last: bool = False) -> tuple[int, dict[str, Any]]:
    headers = {"x-load": load, "x-sequence": str(sequence)} | ({"x-last": "1"} if last else {})
    return http.ask("POST", "/internal/history", data, headers)


# The tests of this file share one worker and run in order: its history comes before its live events.


def test_history_is_loaded_block_by_block_while_live_events_wait(http: Any) -> None:
    start = time.time_ns() // 1000 - 2 * HOUR
    first = block([past(1_000, start), past(1_001, start + 1, customer=2), label(1_000, start + 2)])
    status, answer = send_block(http, "load-1", 0, first)
    assert (status, answer) == (200, {"appended": 3, "duplicates": 0, "last_offset": 4})
    assert send_block(http, "load-1", 0, first) == (200, answer)
    status, problem = http.send_events(payment(1))
    assert (status, problem["code"]) == (503, "LOADING")
    second = block([past(1_000, start + 1), past(1_002, start + HOUR, amount=30.0)])
    status, answer = send_block(http, "load-1", 1, second, last=True)
    assert (status, answer) == (200, {"appended": 1, "duplicates": 1, "last_offset": 6})


def test_an_event_is_decided_with_all_that_was_before_it(http: Any) -> None:
    status, answer = http.send_events(payment(1, customer=1, amount=95.0))
    assert (status, answer["accepted"], answer["duplicates"], answer["rejected"]) == (200, 1, 0, [])
    decision = answer["decisions"][0]
    assert (decision["decision"], decision["status"], decision["id"]) == ("block", "decided", 1)
    assert decision["features"] == {"amount": 95.0, "mean_1d": 45.0, "frauds_30d": 1.0}
    assert (decision["model"], decision["version"]) == ("fraud", 1)
    assert answer["first_offset"] == decision["event_offset"]


def test_a_duplicate_gets_the_first_decision(http: Any) -> None:
    _, first = http.send_events(payment(2, amount=50.0))
    status, again = http.send_events([payment(2, amount=99.0), payment(1_002), payment(3)])
    assert (status, again["accepted"], again["duplicates"]) == (200, 1, 2)
    assert again["decisions"][:2] == [first["decisions"][0], None]


def test_shapes_of_bodies(http: Any) -> None:
    lines = b"\n".join(json.dumps(payment(n)).encode() for n in (10, 11)) + b"\n"
    status, answer = http.ask(
        "POST", "/streams/payments/events", lines, {"content-type": "application/x-ndjson; charset=utf-8"}
    )
    assert (status, answer["accepted"]) == (200, 2)
    assert "decisions" not in answer
    assert http.send_events([])[1]["accepted"] == 0


@pytest.mark.parametrize("body", [b"", b"{", b'{"payment": 1}{', b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_does_not_parse_is_refused_whole(http: Any, body: bytes) -> None:
    status, problem = http.send_events(body)
    assert (status, problem["code"]) == (400, "NOT_JSON")


def test_bad_rows_are_told_and_kept_and_good_ones_taken(worker: Any, http: Any) -> None:
    dead = worker.report().get("dead", 0)
    status, answer = http.send_events([payment(20), {**payment(21), "amount": -1}, {"payment": 22}, 7])
    assert (status, answer["accepted"]) == (200, 1)
    assert [(r["index"], r["field"], r["reason"]) for r in answer["rejected"]] == [
        (1, "amount", "OUT_OF_RANGE"),
        (2, "at", "MISSING"),
        (3, "", "WRONG_TYPE"),
    ]
    assert [d is not None for d in answer["decisions"]] == [True, False, False, False]
    worker.wait_for(lambda report: report["dead"] == dead + 3)
    records = [r for r in SegmentReader(worker.log_directory).read() if r.kind is RecordKind.DEAD]
    assert json.loads(decode_dead(records[-3].payload).raw)["payment"] == 21


def test_only_bad_rows_are_a_problem_that_lists_them(http: Any) -> None:
    status, problem = http.send_events([{"payment": 30}, {**payment(31), "at": time.time_ns() // 1000 + HOUR}])
    assert (status, problem["code"]) == (422, "ALL_REJECTED")
    assert [e["reason"] for e in problem["errors"]] == ["MISSING", "AHEAD_OF_CLOCK"]


def test_labels_change_later_features(http: Any) -> None:
    http.send_events(payment(40, customer=5))
    status, answer = http.ask(
        "POST", "/streams/payments/labels", [{"payment": 40, "fraud": 1}, {"payment": -1, "fraud": 1}]
    )
    assert (status, answer) == (200, {"accepted": 2, "unknown_subjects": 1, "rejected": []})
    _, answer = http.send_events(payment(41, customer=5))
    assert answer["decisions"][0]["features"]["frauds_30d"] == 1.0
    status, problem = http.ask("POST", "/streams/payments/labels", {"payment": 40, "froud": 1})
    assert (status, problem["code"], problem["errors"][0]["reason"]) == (422, "ALL_REJECTED", "UNKNOWN_FIELD")


def test_a_decision_is_found_by_its_event(http: Any) -> None:
    _, answer = http.send_events(payment(50))
    status, found = http.ask("GET", "/streams/payments/decisions/50")
    (decision,) = answer["decisions"]
    assert (status, {name: found[name] for name in decision}) == (200, decision)
    assert (found["reasons"], found["reasons_why"]) == ([], "version 1 of fraud is not known any more.")
    assert http.ask("GET", "/streams/payments/decisions/51")[0] == 404


@pytest.mark.parametrize("text", ["x", "", "-", "--5", "5-", "1" * 5_000, "9" * 19, "-" * 5_000, "%ff", "%d9%a3", "%"])
def test_what_is_no_id_is_told(http: Any, text: str) -> None:
    status, problem = http.ask("GET", f"/streams/payments/decisions/{text}")
    assert (status, problem["code"]) == (422, "BAD_ID")


def test_numbers_beyond_all_floats_are_told(http: Any) -> None:
    huge = 10**400
    status, problem = http.ask("POST", "/streams/payments/labels", {"payment": 1, "fraud": huge})
    assert (status, problem["code"], problem["errors"][0]["reason"]) == (422, "ALL_REJECTED", "OUT_OF_GRID")
    for field in ("payment", "known_at"):
        status, problem = http.ask("POST", "/streams/payments/labels", {"payment": 1, "fraud": 1, field: huge})
        assert (status, problem["code"], problem["where"]) == (422, "ALL_REJECTED", field)
    for field in ("payment", "at", "amount"):
        status, problem = http.send_events({**payment(1), field: huge})
        assert (status, problem["code"], problem["where"]) == (422, "ALL_REJECTED", field)


def test_history_does_not_come_after_live_events(http: Any) -> None:
    status, problem = send_block(http, "load-2", 0, block([past(2_000, time.time_ns() // 1000 - HOUR)]))
    assert (status, problem["code"]) == (409, "HISTORY_AFTER_LIVE")
    assert http.send_events(payment(60))[0] == 200
    assert send_block(http, "load-2", 0, b"?")[1]["code"] == "BAD_BLOCK"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "UNKNOWN_ROUTE"),
        ("GET", "/streams/others", 404, "UNKNOWN_ROUTE"),
        ("GET", "/streams/payments/events", 405, "WRONG_METHOD"),
        ("POST", "/streams/payments/events?wait=for", 422, "BAD_QUERY"),
        ("POST", "/internal/history", 422, "BAD_BLOCK"),
    ],
)
def test_what_is_no_route_is_told(http: Any, method: str, path: str, status: int, code: str) -> None:
    found, problem = http.ask(method, path, b"[]" if method == "POST" else None)
    assert (found, problem["code"]) == (status, code)


def test_a_body_has_a_limit(http: Any) -> None:
    status, problem = http.send_events(b" " * (16 << 20) + b"[]")
    assert (status, problem["code"]) == (413, "BODY_TOO_LARGE")


def test_it_tells_of_itself(worker: Any, http: Any) -> None:
    assert http.ask("GET", "/internal/ready") == (200, {"ready": True})
    assert http.ask("GET", "/v2/health/ready")[0] == http.ask("GET", "/livez")[0] == 200
    status, report = http.ask("GET", "/streams/payments")
    assert status == 200
    assert report["events"] == report["decided"] == sum(report["by_status"].values())
    assert report["decided"] == sum(report["by_decision"].values())
    assert (report["history_rows"], report["model"]) == (4, {"name": "fraud", "version": 1})
    _, metrics = http.ask("GET", "/metrics")
    assert f'skyriver_events_total{{stream="payments",partition="0"}} {report["events"]}' in metrics["text"]
    measured = ("_seconds", "_per_second", "_bytes", "_records")  # while it is asked for
    through = http.ask("GET", "/streams/payments/metrics")[1]["text"]
    assert [line for line in through.splitlines() if not any(word in line for word in measured)] == [
        line for line in metrics["text"].splitlines() if not any(word in line for word in measured)
    ]
    letters = http.ask("GET", "/streams/payments/dead")[1]["items"]
    assert len(letters) == min(report["dead"], 50)
    assert letters[:5] == report["last_dead"]
    assert sum(report["dead_by_reason"].values()) == report["dead"]
    assert stat.S_IMODE((worker.directory / "s").stat().st_mode) == 0o600
    worker.wait_for(lambda r: r["p50_us"] > 0 or r["offset"] == report["offset"])


def test_a_new_version_decides_from_then_on_and_one_that_does_not_fit_never(worker: Any, http: Any) -> None:
    worker.release(2, factor=0.1)
    worker.wait_for(lambda report: report["model"] == {"name": "fraud", "version": 2})
    _, answer = http.send_events(payment(70, amount=10.0))
    assert (answer["decisions"][0]["version"], answer["decisions"][0]["decision"]) == (2, "block")
    worker.release(3, features=9)
    report = worker.wait_for(lambda report: report["message"])
    assert "Version 3 of fraud" in report["message"]
    assert "the stream computes 3" in report["message"]
    assert report["reason"] == "MODEL_REFUSED"
    assert report["next_action"].startswith("Train it on the features")
    assert report["next_action"] not in report["message"]
    _, answer = http.send_events(payment(71))
    assert answer["decisions"][0]["version"] == 2
    worker.release(3, digest="0" * 64)
    report = worker.wait_for(lambda report: "other features" in report["message"])
    assert f"(000000000000) than payments computes now ({report['features_digest'][:12]})" in report["message"]
    assert http.send_events(payment(73))[1]["decisions"][0]["version"] == 2
    worker.write_live(None)
    worker.wait_for(lambda report: report["model"] is None)
    _, answer = http.send_events(payment(72))
    assert (answer["decisions"][0]["status"], answer["decisions"][0]["reason"]) == ("fallback", "NO_VERSION")
    worker.release(4, digest=report["features_digest"])
    worker.wait_for(lambda report: report["model"] == {"name": "fraud", "version": 4})
    controls = [
        decode_control(r.payload) for r in SegmentReader(worker.log_directory).read() if r.kind is RecordKind.CONTROL
    ]
    assert [c.model and c.model.version for c in controls if c.load is None] == [1, 2, None, 4]


def test_a_canary_and_a_shadow_on_a_real_model(worker: Any, http: Any) -> None:
    released = worker.model(4)
    arms = {"canary": {**worker.model(5, factor=0.02), "percent": 50}, "shadow": worker.model(6, factor=0.5)}
    worker.write_live(released, **arms)
    worker.wait_for(lambda report: report["canary"] and report["shadow"])
    _, answer = http.send_events([payment(200 + n, customer=n, amount=10.0) for n in range(40)])
    by_arm = {arm: {d["version"] for d in answer["decisions"] if d["arm"] == arm} for arm in ("", "canary")}
    assert by_arm == {"": {4}, "canary": {5}}
    beside = [d["shadow_score"] for d in answer["decisions"]]  # nobody waits for a shadow that is slow
    assert {round(score, 4) for score in beside if score is not None} <= {5.0}
    report = worker.wait_for(lambda report: sum(arm["events"] for arm in report["arms"][:2]) == 40)
    assert [arm["arm"] for arm in report["arms"]] == ["released", "canary", "shadow"]
    assert report["canary"] == {"name": "fraud", "version": 5, "percent": 50.0}
    _, metrics = http.ask("GET", "/metrics")
    assert 'skyriver_arm_share{stream="payments",partition="0",arm="canary",version="5"} 50.0' in metrics["text"]
    worker.write_live(released)
    worker.wait_for(lambda report: not report["canary"] and not report["shadow"])


def test_features_that_do_not_fit_the_stream_keep_no_release_from_being_followed(worker: Any) -> None:
    unfit = json.loads(json.dumps(worker.features.to_json()).replace('"amount"', '"amount_eur"'))
    worker.write_live(worker.model(4), features=unfit)
    worker.wait_for(lambda report: "amount_eur" in report["message"])
    worker.write_live(worker.model(5), features=unfit)
    worker.wait_for(lambda report: report["model"] == {"name": "fraud", "version": 5})
    worker.write_live(worker.model(4))
    worker.wait_for(lambda report: report["model"] == {"name": "fraud", "version": 4} and not report["message"])


def test_a_model_that_is_slow_past_its_deadline_is_not_waited_for(worker: Any, http: Any) -> None:
    """ONNX Runtime computes for seconds; the event is decided long before, by a version that has half of the time, and
    that a busy machine may take."""
    slow = worker.model(7, data=harness.slow_model_bytes(3, 2_500))
    worker.write_live(slow, deadline_us=800_000, fallback_by=["last_version"])
    worker.wait_for(lambda report: report["model"] == {"name": "fraud", "version": 7})
    _, answer = http.send_events(payment(300, amount=95.0))
    first = answer["decisions"][0]
    assert (first["reason"], first["status"], first["version"], first["decision"]) == (
        "MODEL_LATE",
        "fallback",
        4,
        "block",
    )
    numbers = iter(range(301, 10_000))

    def send() -> str:
        return str(http.send_events(payment(next(numbers), amount=95.0))[1]["decisions"][0]["reason"])

    assert harness.until(lambda: send() == "MODEL_ASIDE")
    report = worker.wait_for(lambda r: "is not asked for" in r["message"] and r["by_reason"].get("MODEL_ASIDE"))
    assert report["arms"][0]["by_reason"]["MODEL_LATE"] >= 1
    worker.write_live(worker.model(4))
    worker.wait_for(lambda report: report["model"]["version"] == 4)
    assert send() == ""
    events = http.ask("GET", "/streams/payments")[1]["events"]
    worker.wait_for(lambda report: report["events"] == events)


def test_a_model_without_a_deadline_that_does_not_end_does_not_stop_the_stream(worker: Any, http: Any) -> None:
    worker.write_live(worker.model(9, data=harness.endless_model_bytes(3)))
    worker.wait_for(lambda report: report["model"] == {"name": "fraud", "version": 9})
    _, answer = http.send_events(payment(900, amount=10.0))
    assert answer["decisions"][0]["score"] == 10.0
    _, answer = http.send_events(payment(901, amount=9_000.0))
    assert (answer["decisions"][0]["status"], answer["decisions"][0]["reason"]) == ("fallback", "MODEL_LATE")
    _, answer = http.send_events(payment(902, amount=10.0))
    assert answer["decisions"][0]["reason"] == "MODEL_ASIDE"
    worker.wait_for(lambda report: "Version 9 of fraud" in report["message"])
    worker.release(10)
    worker.wait_for(lambda report: report["model"] == {"name": "fraud", "version": 10} and not report["message"])
    _, answer = http.send_events(payment(903, amount=10.0))
    assert answer["decisions"][0]["version"] == 10
    worker.wait_for(lambda report: report["offset"] > answer["decisions"][0]["event_offset"] + 1)


def test_it_ends_in_order_goes_on_and_equals_the_backfill(worker: Any) -> None:
    before = worker.report()
    started = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - started < 60
    assert worker.report()["ready"] is False
    assert not (worker.directory / "s").exists()
    worker.start()
    after = worker.report()
    assert after["epoch"] == before["epoch"] + 1
    same = ("events", "decided", "by_status", "by_decision", "by_reason", "dead", "dead_by_reason", "last_dead")
    same += ("history_rows", "labels", "effective_time")
    assert {k: after[k] for k in same} == {k: before[k] for k in same}
    with worker.connection() as http:
        assert http.send_events(payment(1))[1]["duplicates"] == 1
    with worker.connection() as http:
        _, answer = http.send_events([payment(100 + n, customer=n % 7, amount=n) for n in range(50)])
        assert answer["accepted"] == 50
    assert worker.stop() == 0
    report = worker.verify(SegmentReader(worker.log_directory))
    assert report.first_differences == ()
    assert (report.different, report.compared) == (0, report.decisions)
    assert report.decisions == after["decided"] + 50


def test_events_that_were_known_are_counted_though_nothing_came_after_the_last_checkpoint(worker: Any) -> None:
    worker.start()
    with worker.connection() as http:
        events = worker.report()["events"] + 2
        assert http.send_events([payment(100_000), payment(100_001)])[1]["accepted"] == 2
        before = worker.wait_for(lambda r: r["events"] == events and r["checkpoint_offset"] == r["offset"])
        assert http.send_events([payment(100_000), payment(100_001)])[1]["duplicates"] == 2
    told = worker.wait_for(lambda report: report["duplicates"] == before["duplicates"] + 2)
    assert told["offset"] == told["checkpoint_offset"], "they leave no record"
    assert worker.stop() == 0
    worker.start()
    assert worker.report()["duplicates"] == told["duplicates"]
    assert worker.stop() == 0
