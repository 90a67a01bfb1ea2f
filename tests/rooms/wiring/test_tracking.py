"""What a job tells by step is handed on, told in its log, and goes on in the next attempt."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from skyriver.core.curves import Curves
from skyriver.core.errors import InvalidInput
from skyriver.wiring import tracking
from skyriver.wiring.job import Reporter
from skyriver.wiring.tracking import EVERY_S, LONGEST_LINE_S, Tracking, usage_of_all


class Watched:
    """A tracking by a clock that stands still until it is moved; its thread never gets to look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, known: Mapping[str, Any] | None = None) -> None:
        monkeypatch.setattr(tracking, "EVERY_S", 1e6)
        self.now, self.cpu, self.rss = 100.0, 0.0, 500.0
        self.published: list[Mapping[str, Any]] = []
        self.lines: list[str] = []
        self.of = Tracking(
            self.published.append,
            self.lines.append,
            known,
            clock=lambda: self.now,
            usage=lambda: (self.cpu, self.rss),
        )

    def wait(self, seconds: float, cores: float = 0.0) -> None:
        self.now += seconds
        self.cpu += seconds * cores
        self.of.flush()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def test_a_line_says_how_far_it_is_and_what_it_takes(watched: Watched) -> None:
    watched.of.tell(1, {"loss": 0.9}, 0, 4_000)
    watched.wait(1.0)
    watched.of.tell(1_200, {"loss": 0.312, "auc": 0.91}, 24_800, 4_000)
    watched.rss = 640.0
    watched.wait(2.0, cores=1.8)
    assert watched.lines[-1] == "step 1,200/4,000  loss 0.312  auc 0.91  12,400 samples/s  1.8 cores  640 MB"
    assert watched.of.now["peak_mb"] == 640.0
    watched.of.tell(1_300, {"loss": float("nan")})
    watched.of.finish()
    assert watched.lines[-1].startswith("step 1,300/4,000  loss nan  auc 0.91")


def test_the_last_step_is_told_at_once_and_once_and_with_the_speed_that_it_had(watched: Watched) -> None:
    """Between it and the end a model is evaluated, which is told too, and takes no samples."""
    watched.of.tell(1, {"loss": 0.9}, 100, 50)
    watched.wait(1.0)
    watched.of.tell(50, {"loss": 0.1}, 4_900, 50)
    watched.wait(0.5)
    assert watched.lines[1:] == ["step 50/50  loss 0.1  9,800 samples/s  0.0 cores  500 MB"]
    watched.wait(60.0)
    watched.of.finish()
    assert len(watched.lines) == 2


def test_a_training_that_is_over_in_a_moment_tells_its_speed_too(watched: Watched) -> None:
    watched.of.tell(1, {"loss": 0.9}, 100, 50)
    watched.of.tell(50, {"loss": 0.1}, 4_900, 50)
    watched.wait(0.05)
    assert watched.lines == ["step 50/50  loss 0.1  100,000 samples/s  0.0 cores  500 MB"]


def test_what_has_no_last_step_tells_the_speed_that_it_had(watched: Watched) -> None:
    watched.of.tell(1, {"loss": 0.9}, 100)
    watched.wait(1.0)
    watched.of.tell(2, {"loss": 0.8}, 100)
    watched.wait(1.0)
    watched.wait(60.0)
    watched.of.finish()
    assert watched.lines[1:] == ["step 2  loss 0.8  100 samples/s  0.0 cores  500 MB"]


def test_lines_become_rare_and_nothing_is_handed_on_twice(watched: Watched) -> None:
    for step in range(4_000):
        watched.of.tell(step, {"loss": 1.0})
        watched.wait(1.0)
    assert 60 < len(watched.lines) < 200
    assert LONGEST_LINE_S >= 60
    assert len(watched.published) == 4_000
    watched.wait(1.0)
    watched.of.finish()
    assert len(watched.published) <= 4_001
    assert len(json.dumps(watched.published[-1])) < 20_000


def test_who_told_nothing_has_nothing(watched: Watched) -> None:
    watched.wait(5.0)
    watched.of.finish()
    assert (watched.published, watched.lines) == ([], [])
    assert watched.of.record() is None
    assert watched.of.document() is None


def test_the_next_attempt_goes_on_from_its_first_step(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(1, 101):
        watched.of.tell(step, {"loss": float(step), "auc": 0.5})
    watched.wait(1.0)
    again = Watched(monkeypatch, json.loads(json.dumps(watched.published[-1])))
    again.of.tell(61, {"loss": -1.0})
    again.wait(1.0)
    found = Curves.of_record(again.published[-1]).document()["curves"]
    assert [step for step, _, _ in found["loss"]["points"]] == list(range(1, 62))
    assert found["loss"]["points"][-1][1] == -1.0
    assert found["auc"]["points"][-1][0] == 60
    watched.of.finish()
    again.of.finish()


def test_a_wrong_report_leaves_what_was_told(watched: Watched) -> None:
    watched.of.tell(1, {"loss": 1.0})
    with pytest.raises(InvalidInput):
        watched.of.tell(2, {"loss": "much"})
    watched.of.finish()
    assert watched.published[-1]["step"] == 1


def test_many_names_make_no_endless_line(watched: Watched) -> None:
    watched.of.tell(1, {f"m{n}": 1.0 for n in range(32)})
    watched.wait(1.0)
    assert "and 26 more" in watched.lines[0]


def test_a_process_counts_with_what_it_started() -> None:
    code = "print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        cpu, with_it = usage_of_all()
        child.kill()
    _, without = usage_of_all()
    assert cpu > 0
    assert with_it > without + 5


def test_what_is_told_last_is_handed_on_at_the_end() -> None:
    published: list[Mapping[str, Any]] = []
    lines: list[str] = []
    told = Tracking(published.append, lines.append)
    told.tell(7, {"loss": 1.0})
    told.finish()
    assert published[-1]["step"] == 7
    assert lines[-1].startswith("step 7  loss 1")
    assert EVERY_S <= 1.0  # what was told is there after a kill -9, up to the last second


class Context:
    """Keeps what a job's process reports."""

    def __init__(self, **config: Any) -> None:
        self.config = config
        self.reports: list[dict[str, Any]] = []

    def report(self, status: Mapping[str, Any]) -> None:
        self.reports.append(json.loads(json.dumps(status)))


def test_a_report_has_the_curves_beside_the_progress_and_both_to_the_end() -> None:
    context = Context()
    reporter = Reporter(context)  # type: ignore[arg-type]
    reporter("fit", 0, 0)
    assert context.reports[-1] == {"progress": {"stage": "fit", "done": 0, "total": 0}, "stages": {}}
    reporter.tracking.tell(3, {"loss": 0.5}, 8, 10)
    reporter.tracking.flush()
    assert context.reports[-1]["progress"] == {"stage": "fit", "done": 3, "total": 10}
    reporter("convert", 0, 0)
    assert context.reports[-1]["progress"]["stage"] == "convert"
    assert context.reports[-1]["curve"]["step"] == 3
    reporter.finish({"outcome": "failed", "reason": "USER_ERROR"})
    assert context.reports[-1]["outcome"] == "failed"
    assert Curves.of_record(context.reports[-1]["curve"]).latest == {"loss": 0.5}


def test_a_job_that_tells_nothing_reports_as_before() -> None:
    context = Context()
    reporter = Reporter(context)  # type: ignore[arg-type]
    reporter("load", 1, 2)
    reporter.finish({"outcome": "succeeded", "outputs": {}})
    assert context.reports[-1].keys() == {"stages", "outcome", "outputs"}


def test_an_attempt_that_dies_at_once_leaves_what_the_one_before_told() -> None:
    before = Curves()
    before.tell(5, {"loss": 0.5}, 1)
    context = Context(curve={**before.record(), "now": {}})
    Reporter(context).finish({"outcome": "failed"})  # type: ignore[arg-type]
    assert "curve" not in context.reports[-1]  # its row has it
