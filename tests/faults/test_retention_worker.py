"""A worker that gives up the old part of its log and tiers it: under a steady stream, killed, cut off from the tier."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from s3_server import S3Server

from skyriver.adapters.segments.log import SegmentLog, SegmentReader, open_log
from skyriver.core.errors import Conflict
from skyriver.core.exam import must_raise
from skyriver.data.log import RecordKind
from skyriver.wiring.home import Home
from skyriver.wiring.tier import keep_tier_settings, open_tier

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
import worker_process as harness

MB = 1_000_000
HOUR = 3_600 * MB
DAY = 24 * HOUR
START = 1_700_000_000 * MB
NOTE = "x" * 3_000
SOON = {"skyriver.decide.partition.opening.CHECKPOINT_EVERY_US": MB // 2}
"""A log gives up nothing that no checkpoint has, and most tests here wait for that."""


class Worker(harness.Worker):
    """With a stream of large events, ten days apart in each batch."""

    materialised = -1
    dispatched: int | None = None
    keep: ClassVar[dict[str, int]] = {}
    sent = 0

    def declare(self, **kept: Any) -> None:
        stream = self.app.streams[0].model_copy(update={"dedupe_us": 60 * MB, **kept})
        self.app = self.app.model_copy(update={"streams": (stream,)})

    def write_live(self, model: dict[str, Any] | None) -> None:
        super().write_live(model)
        path = self.directory / "live.json"
        live = {**json.loads(path.read_bytes()), "materialised": self.materialised, "keep": self.keep}
        if self.dispatched is not None:
            live["dispatched"] = self.dispatched
        temporary = path.with_suffix(".newer")
        temporary.write_text(json.dumps(live))
        temporary.replace(path)

    def materialise(self, offset: int) -> None:
        """The tables have the log up to there."""
        self.materialised = offset
        self.release(1)

    def send(self, http: Any, first: int, batches: int, *, step_us: int = MB) -> int:
        """Batches of 100 events; the number of the next event. A tier that is slower than this is waited for."""
        deadline = time.monotonic() + harness.DEADLINE
        for _ in range(batches):
            events = [self.event(first + n, step_us) for n in range(100)]
            status, answer = http.send_events(events, wait=False)
            while status == 503 and answer["code"] == "TIER_BEHIND" and time.monotonic() < deadline:
                time.sleep(0.05)
                status, answer = http.send_events(events, wait=False)
            assert status == 200, answer
            first += 100
        return first

    def send_until(self, http: Any, first: int, held: Callable[[dict[str, Any]], object]) -> int:
        """A trickle, for checkpoints are taken of a stream that moves."""
        deadline, sent = time.monotonic() + 2 * harness.DEADLINE, first
        while not (held(report := self.report()) and report["events"] >= sent):  # one of before says nothing
            assert time.monotonic() < deadline, report
            status, _ = http.send_events([self.event(first)], wait=False)
            assert status == 200
            first += 1
            time.sleep(0.01)
        return first

    @staticmethod
    def event(number: int, step_us: int = MB) -> dict[str, Any]:
        at = START + number * step_us
        return {"payment": number, "at": at, "customer": number % 7, "channel": f"{number % 3}{NOTE}", "amount": 1.0}

    def on_disk(self) -> int:
        total = 0
        for path in self.log_directory.glob("*.log"):
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total


def drained(report: dict[str, Any]) -> bool:
    return bool(report["tier_lag_bytes"] == 0 and report["local_log_bytes"] <= 16 * MB)


@pytest.fixture
def worker(tmp_path: Path, kernels: Path) -> Iterator[Worker]:
    found = Worker(tmp_path / "w", kernels, harness.declare("process"), changed=dict(SOON))
    yield found
    found.close()


def test_the_disk_stays_bounded_and_nothing_goes_that_is_needed(worker: Worker) -> None:
    worker.declare(retention_bytes=16 * MB)
    worker.start()
    number, most = 0, 0
    with worker.connection() as http:
        number = worker.send(http, number, 100)  # 30 MB that no table has
        report = worker.wait_for(lambda r: r["log_bytes"] > 28 * MB)
        assert report["first_offset"] == 0
        for turn in range(4):
            number = worker.send(http, number, 40)
            worker.materialise(2 * number)
            most = max(most, worker.on_disk()) if turn else 0
            number = worker.send_until(http, number, lambda r: r["log_bytes"] < 22 * MB)
        report = worker.report()
        assert report["first_offset"] > 0
        assert worker.on_disk() < 22 * MB
        assert most < 40 * MB
        status, answer = http.ask("GET", "/streams/payments/decisions/5")
        assert (status, answer["code"]) == (404, "OFFSET_GONE")
        assert "The first that is there is" in answer["detail"]
        status, answer = http.ask("GET", f"/streams/payments/decisions/{number - 1}")
        assert (status, answer["id"]) == (200, number - 1)

    # Killed and started again it goes on from its checkpoint, though the log's beginning is gone.
    worker.kill()
    worker.start()
    with worker.connection() as http:
        status, answer = http.send_events([worker.event(number - 1), worker.event(number)])
        assert (answer["accepted"], answer["duplicates"]) == (1, 1)
        assert answer["decisions"][0]["id"] == number - 1
    reader = SegmentReader(worker.log_directory)
    offsets = [record.offset for record in reader.read(reader.first_offset)]
    assert offsets[0] == reader.first_offset >= report["first_offset"]

    # Without a checkpoint its features cannot be built: it says so, and what to do.
    worker.stop()
    for path in (worker.directory / "stream" / "checkpoint").iterdir():
        path.unlink()
    failed = worker.start(wait=False)
    assert failed.wait(harness.DEADLINE) == 6
    told = worker.report()
    assert told["reason"] == "HISTORY_GONE"
    assert str(reader.first_offset) in told["message"]
    assert told["next_action"]


def test_the_log_waits_for_who_acts_on_its_decisions_and_says_so(worker: Worker) -> None:
    worker.declare(retention_bytes=16 * MB)
    worker.dispatched = 0
    worker.start()
    with worker.connection() as http:
        number = worker.send(http, 0, 140)
        worker.materialise(10 * number)
        # Until its first checkpoint, and the tables' word, others need them too: their names may come first.
        held = "the dispatcher still needs them"
        number = worker.send_until(http, number, lambda r: r["reason"] == "RETENTION_WAITS" and held in r["message"])
        assert worker.report()["first_offset"] == 0
        worker.dispatched = 10 * number
        worker.materialise(10 * number)
        worker.send_until(http, number, lambda r: r["log_bytes"] < 22 * MB and not r["reason"])
    assert worker.report()["first_offset"] > 0


def test_changed_limits_of_the_log_are_taken_by_the_worker_that_runs(worker: Worker) -> None:
    worker.declare()
    worker.start()
    with worker.connection() as http:
        number = worker.send(http, 0, 100)  # 30 MB in one segment
        report = worker.wait_for(lambda r: r["log_bytes"] > 28 * MB)
        epoch = report["epoch"]
        worker.keep = {"retention_us": 0, "retention_bytes": 16 * MB, "local_bytes": 0}  # type: ignore[misc]
        worker.materialise(10 * number)
        number = worker.send(http, number, 60)
        worker.send_until(http, number, lambda r: r["log_bytes"] < 22 * MB)
        report = worker.report()
        assert report["first_offset"] > 0
        assert report["epoch"] == epoch, "it was not started again"
        assert max(part.stat().st_size for part in worker.log_directory.glob("*.log")) < 4 * MB
    worker.kill()
    worker.start()  # what is declared counts from the start on
    assert worker.report()["first_offset"] > 0
    with worker.connection() as http:
        number = worker.send(http, number + 10_000, 20)
    assert max(part.stat().st_size for part in worker.log_directory.glob("*.log")) < 4 * MB


def test_verify_begins_where_windows_are_whole_or_says_why_not(worker: Worker) -> None:
    """Windows reach 30 days back. Three months of events, some hours apart, in small segments; then the oldest
    are given up, as the worker would."""
    worker.declare(local_bytes=0)
    worker.start()
    hour = 3_600 * MB
    with worker.connection() as http:
        worker.send(http, 0, 24, step_us=hour)
    worker.stop()
    log = open_log(worker.log_directory, durability="process", segment_bytes=400_000, holder="test")
    whole = worker.verify(log)
    assert (whole.compared, whole.different, whole.first_offset, whole.cut) == (2400, 0, 0, 0)
    log.close()

    cut = rewritten(worker.log_directory, worker.directory / "smaller")
    parts = cut.parts()
    first = cut.remove_before(parts[1].end)
    assert 0 < first < cut.next_offset
    report = worker.verify(cut, begin=SegmentReader(worker.directory / "smaller").begin())
    there = sum(r.count for r in cut.read(first) if r.kind in (RecordKind.EVENT, RecordKind.EVENTS))
    assert report.different == 0
    assert 1000 < report.compared < there < 2400
    assert report.cut + report.compared == report.decisions
    assert report.decided_twice == 0

    cut.remove_before(parts[-1].end)
    begin = SegmentReader(worker.directory / "smaller").begin()
    error = must_raise(Conflict, lambda: worker.verify(cut, begin=begin), "nothing is whole", code="WINDOWS_CUT")
    assert str(begin[0]) in error.message
    cut.close()


def rewritten(source: Path, to: Path) -> SegmentLog:
    """The same records in small segments."""
    log = open_log(to, durability="process", segment_bytes=400_000, holder="test")
    for record in SegmentReader(source).read():
        log.append([record])
        log.sync()
    return log


@pytest.fixture(params=["directory", "s3"])
def tier(request: pytest.FixtureRequest, worker: Worker, tmp_path: Path) -> S3Server | None:
    """The worker's cloud has a tier."""
    if request.param == "directory":
        place, keys = str(tmp_path / "tier"), {}
        server = None
    else:
        server = request.getfixturevalue("s3")
        place, keys = f"s3://exam/{tmp_path.name}", server.settings()
    keep_tier_settings(Home(worker.directory), {"SKYRIVER_TIER": place, **keys})
    return server


def test_the_log_leaves_the_disk_for_the_tier_and_is_read_from_there(worker: Worker, tier: S3Server | None) -> None:
    worker.declare(local_bytes=16 * MB)
    worker.start()
    home = Home(worker.directory)
    assert home.tier_settings.stat().st_mode & 0o777 == 0o600
    with worker.connection() as http:
        number, most = 0, 0
        for _ in range(8):
            number = worker.send(http, number, 25)
            worker.wait_for(lambda r, sent=number: r["events"] >= sent and drained(r))  # one of before says nothing
            most = max(most, worker.on_disk())
        report = worker.wait_for(lambda r: r["log_bytes"] > 55 * MB)
        assert most < 17 * MB
        assert (report["first_offset"], report["message"]) == (0, "")
        worker.kill()
        worker.start()
    with worker.connection() as http:
        assert http.ask("GET", "/streams/payments/decisions/5")[1]["id"] == 5
        worker.send(http, number, 1)
    report = worker.verify(SegmentReader(worker.log_directory, open_tier(home)))
    assert (report.events, report.different, report.decided_twice) == (number + 100, 0, 0)
    cache = sum(path.stat().st_size for path in home.tier_cache.glob("??/*"))
    assert cache < 600 * MB
    assert "exam-secret" not in (worker.directory / "log.txt").read_text()


def test_who_asks_for_a_decision_that_the_tier_has_lost_is_told_alone(worker: Worker, tmp_path: Path) -> None:
    keep_tier_settings(Home(worker.directory), {"SKYRIVER_TIER": str(tmp_path / "tier")})
    worker.declare(local_bytes=16 * MB)
    worker.start()
    with worker.connection() as http:
        number = worker.send(http, 0, 40)

        def gone(report: dict[str, Any]) -> bool:  # the part with the decision that is asked for
            return report["events"] >= number and drained(report) and not any(worker.log_directory.glob(f"{0:020}-*"))

        worker.wait_for(gone)
        assert worker.stop() == 0  # what it has in memory would answer
        worker.start()
        for path in (tmp_path / "tier").glob("??/*"):
            path.unlink()
    with worker.connection() as http, worker.connection() as other:
        epoch = worker.report()["epoch"]
        for _ in range(3):
            status, answer = http.ask("GET", "/streams/payments/decisions/5")
            assert (status, answer.get("code")) == (500, "TIER_CORRUPT"), answer
            status, answer = other.send_events([worker.event(number)])
            assert (status, answer["accepted"]) == (200, 1)
            number += 1
        report = worker.wait_for(lambda r: r["events"] >= number)
        assert (report["ready"], report["epoch"]) == (True, epoch)
        assert "open at" not in (worker.directory / "log.txt").read_text().split("an old decision was not found")[1]


def test_a_tier_that_is_away_is_told_and_the_disk_is_bounded_all_the_same(worker: Worker, tmp_path: Path) -> None:
    worker.declare(local_bytes=16 * MB)
    server = S3Server()
    try:
        settings = {"SKYRIVER_TIER": "s3://exam/away", **server.settings()}
        keep_tier_settings(Home(worker.directory), settings)
        worker.start()
        with worker.connection() as http:
            number = worker.send(http, 0, 20)
            server.kill()
            refused, deadline = None, time.monotonic() + harness.DEADLINE
            while refused is None and time.monotonic() < deadline:
                status, answer = http.send_events([worker.event(number + n) for n in range(100)], wait=False)
                if status == 503:
                    refused = answer
                else:
                    number += 100
                time.sleep(0.15)  # 2 MB a second: how much lies there is looked at twice a second, or less often
            assert refused is not None
            assert (refused["code"], "not in the tier" in refused["detail"]) == ("TIER_BEHIND", True)
            assert refused["next_action"]
            assert worker.on_disk() < 22 * MB
            told = worker.wait_for(lambda r: "OBJECTS" in r["message"] or "does not answer" in r["message"])
            assert told["ready"]
            assert told["tier_lag_bytes"] > 0
            assert http.ask("GET", f"/streams/payments/decisions/{number - 1}")[0] == 200  # reading goes on
            server.start()
            worker.wait_for(drained)
            number = worker.send(http, number, 20)
        report = worker.verify(SegmentReader(worker.log_directory, open_tier(Home(worker.directory))))
        assert (report.events, report.different, report.undecided) == (number, 0, 0)
    finally:
        server.close()


@pytest.mark.parametrize("place", ["s3://exam?x", "s3://not/there", "/proc/none/here", "relative"])
def test_a_tier_that_cannot_be_used_does_not_keep_the_stream_from_its_work(worker: Worker, place: str) -> None:
    settings = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    # As one that could be used when it was set.
    Home(worker.directory).tier_settings.write_text(json.dumps({"place": place, "keys": settings}))
    worker.declare(local_bytes=16 * MB)
    worker.start()
    with worker.connection() as http:
        worker.send(http, 0, 20)
        told = worker.wait_for(lambda r: "tier" in r["message"] or "stays where it is" in r["message"])
        assert told["ready"]


# Features over a log that has given up its beginning; windows look 30 days back.


def cut(worker: Worker, http: Any, step_us: int) -> int:
    """Sends events in such steps until the log's beginning is gone; the number of the next one."""
    number = worker.send(http, 0, 80, step_us=step_us)
    worker.materialise(2 * number)
    deadline = harness.until(lambda: trickle(worker, http, step_us) and worker.report()["first_offset"] > 0)
    assert deadline, worker.report()
    worker.materialise(worker.report()["first_offset"])  # no more is given up
    return worker.sent


def trickle(worker: Worker, http: Any, step_us: int) -> bool:
    """One event more: checkpoints are taken of a stream that moves."""
    worker.sent = max(worker.sent, worker.report()["events"])
    status, _ = http.send_events([worker.event(worker.sent, step_us)], wait=False)
    worker.sent += 1
    return bool(status == 200)


def change_features(worker: Worker) -> tuple[Any, Any]:
    before, kept = worker.features, worker.app.streams
    worker.app = harness.declare("process", more=True).model_copy(update={"streams": kept})
    worker.release(1, trained_on=before)
    return before, worker.features


def in_state(worker: Worker, state: str) -> dict[str, Any]:
    return worker.wait_for(lambda r: r.get("ready") and r["features"] and r["features"]["state"] == state)


def check(worker: Worker) -> Any:
    reader = SegmentReader(worker.log_directory)
    assert reader.first_offset > 0
    report = worker.verify(reader, begin=reader.begin())
    assert (report.different, report.undecided, report.decided_twice, report.unknown) == (0, 0, 0, 0)
    assert report.compared > 0
    return report


def test_changed_features_are_built_from_what_a_cut_log_has(worker: Worker) -> None:
    worker.declare(retention_bytes=16 * MB)
    worker.start()
    with worker.connection() as http:
        number = cut(worker, http, HOUR)
        _, after = change_features(worker)
        report = in_state(worker, "ready")
        assert (report["message"], report["features"]["whole_from"]) == ("", None)
        worker.release(2, trained_on=after)
        worker.wait_for(lambda r: r["model"]["version"] == 2)
        number = worker.send(http, number, 3, step_us=HOUR)
    assert worker.stop() == 0
    assert check(worker).feature_sets == 2

    # Without a checkpoint they are built anew from what there is.
    for path in (worker.directory / "stream" / "checkpoint").iterdir():
        path.unlink()
    worker.start()
    with worker.connection() as http:
        assert http.send_events([worker.event(number - 1, HOUR)])[1]["duplicates"] == 1
        number = worker.send(http, number, 3, step_us=HOUR)
    worker.wait_for(lambda r: r["checkpoint_offset"] > SegmentReader(worker.log_directory).first_offset)
    assert worker.stop() == 0
    check(worker)

    # A damaged side log costs that too; a damaged word about it nothing.
    side = worker.directory / "stream" / "side" / harness.digest_of(worker, after)[:16]
    (side / "side.json").write_bytes(b'{"format": 1, "feat')
    worker.start()
    assert "replayed from" in (worker.directory / "log.txt").read_text()
    assert worker.stop() == 0
    assert "cannot be used" not in (worker.directory / "log.txt").read_text()
    (side / "rows").unlink()
    worker.start()
    assert "cannot be used" in (worker.directory / "log.txt").read_text()
    with worker.connection() as http:
        worker.send(http, number, 3, step_us=HOUR)
    assert worker.stop() == 0
    check(worker)


def test_changed_features_wait_until_a_cut_log_has_all_that_they_look_back_to(worker: Worker) -> None:
    worker.declare(retention_bytes=16 * MB)
    worker.start()
    step = 10 * MB
    with worker.connection() as http:
        number = cut(worker, http, step)
        _, after = change_features(worker)
        report = in_state(worker, "waiting")
        whole_from = report["features"]["whole_from"]
        gone = whole_from - 30 * DAY
        assert START < gone < report["effective_time"]
        worker.release(2, trained_on=after)
        worker.kill()
        worker.start()
    report = in_state(worker, "waiting")
    assert report["features"]["whole_from"] == whole_from, "kept in the checkpoint"
    with worker.connection() as http:

        def send(at: int) -> dict[str, Any]:
            nonlocal number
            number += 1
            status, answer = http.send_events([{**worker.event(number), "at": at}])
            assert status == 200
            return dict(answer["decisions"][0])

        number += 10
        assert send(whole_from - 1)["version"] == 1
        assert in_state(worker, "waiting")["model"]["version"] == 1
        assert send(whole_from)["version"] == 1
        worker.wait_for(lambda r: r["model"]["version"] == 2)
        decided = send(whole_from + HOUR)
        assert (decided["version"], set(decided["features"])) == (2, set(after.names))
    assert worker.stop() == 0
    assert check(worker).feature_sets == 2
