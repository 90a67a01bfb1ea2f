import errno
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import skyriver as sr
from skyriver.control.pricing import OWNED
from skyriver.core.errors import InvalidInput, JobFailed, Unavailable
from skyriver.core.prices import CORE, Prices
from skyriver.core.resources import Limits
from skyriver.core.spec import SearchSpec, TrainSpec
from skyriver.train.data import TrainingData
from skyriver.train.search.budget import Budget, Spent
from skyriver.train.search.halving import goes_on, is_rung
from skyriver.train.search.journal import Journal
from skyriver.train.search.looking import Look
from skyriver.train.search.sampling import Sampler
from skyriver.train.search.study import Found, HeldOut, Searching, judge_of
from skyriver.train.search.trial import Trial
from skyriver.train.search.watch import PATIENCE, Predict, Pruned, Trying, Until, Watch
from skyriver.train.split import Rows, Split

SPACE: dict[str, Any] = {"rate": sr.Float(0.001, 1.0, log=True), "leaves": sr.Int(2, 64), "kind": sr.Choice("a", "b")}
LUCK = np.random.default_rng(5)
LABELS = (LUCK.random(400) < 0.3).astype(np.float32)
NOISE = LUCK.normal(size=400)


def _spec(**given: Any) -> SearchSpec:
    return sr.Search(given.pop("space", SPACE), **{"trials": 12, **given}).spec


def _fit(params: Mapping[str, Any], watch: Watch) -> Predict:
    """The better, the nearer its rate is to 0.1; it gets better by steps, up to the tenth."""
    away = abs(math.log10(params["rate"]) + 1) + (params.get("kind") == "b")

    def after(step: int) -> Predict:
        return lambda x: LABELS + NOISE * (0.3 + away + 0.1 * abs(10 - step))

    for step in range(1, 31):
        if watch.enough(step, after(step)):
            break
    return after(step)


FOREST = {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}


class _Clock:
    """A second each time it is looked at."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def _search(folder: Path, spec: SearchSpec | None = None, fit: Any = _fit, seed: int = 1, **changes: Any) -> Found:
    spec = spec or _spec()
    journal = Journal(folder / "trials.jsonl", {"space": spec.to_json()["space"], "seed": seed})
    budget = changes.pop("budget", None) or Budget.of(spec, OWNED, Limits())
    rows = np.zeros((len(LABELS), 1), np.float32)
    held_out, clock = HeldOut(rows, rows, LABELS, 1_000), changes.pop("clock", None) or _Clock()
    searching = Searching(spec, spec.space, budget, held_out, fit, journal, seed, clock, lambda *_: None, **changes)
    return searching.found(searching.run())


def test_finds_what_is_near_the_best_and_cuts_what_is_not(tmp_path: Path) -> None:
    found = _search(tmp_path, _spec(trials=30))
    assert found.best.params["kind"] == "a"
    assert 0.03 < found.best.params["rate"] < 0.3
    assert found.best.step == 10, "there it was best"
    assert isinstance(found.watch, Until)
    assert found.ended == "30 trials"
    cut = [trial for trial in found.trials if trial.state == "pruned"]
    assert len(cut) > 10
    assert {len(trial.looks) for trial in cut} <= {2, 6, 18}
    assert max(len(trial.looks) for trial in found.trials) == 10 + PATIENCE
    assert found.best.value == max(t.value or 0 for t in found.trials if t.state == "complete")


def test_the_same_seed_tries_the_same(tmp_path: Path) -> None:
    one, other, third = (_search(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert [t.params for t in one.trials] == [t.params for t in other.trials]
    assert [t.params for t in one.trials] != [t.params for t in third.trials]


@pytest.mark.parametrize("metric", ["average_precision", "log_loss"])
def test_why_a_trial_failed_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], metric: str) -> None:
    def fit(params: Mapping[str, Any], watch: Watch) -> Predict:
        if params["kind"] == "b":
            raise JobFailed("There is no b.", code="USER_ERROR", next_action="Take a.")
        return lambda x: np.full(len(LABELS), 0.3)

    found = _search(tmp_path, _spec(metric=metric), fit=fit)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trial ")]
    assert {trial.state for trial in found.trials} == {"complete", "failed"}
    for trial, line in zip(found.trials, told, strict=True):
        assert ("failed: There is no b." if trial.state == "failed" else f"{metric} 0.") in line


@pytest.mark.parametrize("after", [1, 7, 11])
def test_a_search_that_is_killed_goes_on_as_if_it_had_not_been(tmp_path: Path, after: int) -> None:
    whole = _search(tmp_path / "whole")
    calls = 0

    def killed(params: Mapping[str, Any], watch: Watch) -> Predict:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        return _fit(params, watch)

    with pytest.raises(KeyboardInterrupt):
        _search(tmp_path / "cut", fit=killed)
    again: list[Mapping[str, Any]] = []

    def counted(params: Mapping[str, Any], watch: Watch) -> Predict:
        again.append(params)
        return _fit(params, watch)

    went_on = _search(tmp_path / "cut", fit=counted)
    assert len(again) == 12 - after, "the one that was half done is done again, those before are not"
    assert [(t.params, t.state, t.value) for t in went_on.trials] == [
        (t.params, t.state, t.value) for t in whole.trials
    ]


def test_a_line_that_was_cut_short_is_a_trial_that_was_not_done(tmp_path: Path) -> None:
    _search(tmp_path)
    path = tmp_path / "trials.jsonl"
    written = path.read_bytes()
    path.write_bytes(written[: written.index(b"\n", written.rindex(b'{"number"')) - 9])
    journal = Journal(path, {"space": _spec().to_json()["space"], "seed": 1})
    assert [trial.number for trial in journal.trials] == list(range(11))
    with journal.turn():
        journal.add(Trial(11, {"rate": 0.1}, "failed", None, 1.0, error="no"))
    again = Journal(path, {"space": _spec().to_json()["space"], "seed": 1})
    assert len(again.trials) == 12
    assert not again.begun_anew


def test_another_space_begins_anew(tmp_path: Path) -> None:
    _search(tmp_path)
    journal = Journal(tmp_path / "trials.jsonl", {"space": [], "seed": 1})
    assert (journal.trials, journal.begun_anew) == ([], "space")
    assert not Journal(tmp_path / "trials.jsonl", {"space": [], "seed": 1}).begun_anew


GOOD = {"number": 0, "params": {"a": 1}, "state": "complete", "value": 0.5, "seconds": 1.0, "step": 0, "looks": [],
        "error": "", "at": 0.0}  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        {"number": 0},
        {key: value for key, value in GOOD.items() if key != "looks"},
        {**GOOD, "colour": "red"},
        {**GOOD, "looks": [[1]]},
        {**GOOD, "looks": 7},
        {**GOOD, "params": None},
        {**GOOD, "params": {"a": [1]}},
        {**GOOD, "state": "fine"},
        {**GOOD, "value": "high"},
        {**GOOD, "value": None},
        {**GOOD, "seconds": None},
        [],
        7,
        None,
    ],
    ids=repr,
)
def test_a_line_that_is_no_trial_begins_anew(tmp_path: Path, line: Any) -> None:
    path = tmp_path / "trials.jsonl"
    Journal(path, {"seed": 1})
    head = path.read_bytes()
    path.write_bytes(head + b"".join(json.dumps(each).encode() + b"\n" for each in (GOOD, line, GOOD)))
    journal = Journal(path, {"seed": 1})
    assert (journal.trials, journal.begun_anew) == ([], "the form of line 3")
    assert path.read_bytes() == head
    path.write_bytes(head + json.dumps(GOOD).encode() + b"\n")
    assert Journal(path, {"seed": 1}).trials == [Trial(0, {"a": 1}, "complete", 0.5, 1.0)]


@pytest.mark.parametrize("head", [{"of": {"seed": 1}}, {"of": 7}, [7], 7, None], ids=repr)
def test_a_journal_of_another_format_begins_anew(tmp_path: Path, head: Any) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text(f"{json.dumps(head)}\n{json.dumps(GOOD)}\n")
    journal = Journal(path, {"seed": 1})
    assert (journal.trials, bool(journal.begun_anew)) == ([], True)


class _Fitting:
    """The label is what the first column says; nothing is trained."""

    def __init__(self, spec: TrainSpec, rows: Rows) -> None:
        self.spec, self.rows, self.seed, self.fits = spec, rows, 1, 0
        part = np.arange(300)
        self.split = Split(part, part[:0], np.arange(300, 400), rows.y.copy(), part[:0], 0, 0, 0)

    def __call__(self, part: Any, params: Mapping[str, Any], watch: Watch) -> Predict:
        self.fits += 1
        return lambda x: x[:, 0]


def test_trials_of_other_rows_are_not_gone_on_with(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec = TrainSpec(function="fit", features="f", label="y", search=_spec(space={"leaves": sr.Int(2, 64)}, trials=3))

    def fits(rows: Rows) -> int:
        fitting = _Fitting(spec, rows)
        Look(Budget(trials=3), tmp_path / "trials.jsonl")(fitting, None, {}, lambda *_: None)
        return fitting.fits

    time, ids = np.zeros(400, np.int64), np.arange(400)
    rows = Rows(("a",), NOISE.astype(np.float32)[:, None], LABELS, time, ids, {}, np.ones(400, np.float32))
    assert [fits(rows), fits(rows)] == [3, 0]
    assert "goes on after 3 trials" in capfd.readouterr().err
    corrected, x, weights = rows.y.copy(), rows.x.copy(), np.ones(400, np.float32)
    corrected[[np.argmax(rows.y == 0), np.argmax(rows.y == 1)]] = 1, 0
    x[7], weights[7] = 0.5, 2.0
    for changed in ({"y": corrected}, {"x": x}, {"weights": weights}):
        assert [fits(replace(rows, **changed)), fits(rows)] == [3, 3], changed.keys()
        assert "not those of before: rows" in capfd.readouterr().err
    x = rows.x.copy()
    x[300:] = 0.5
    assert fits(replace(rows, x=x)) == 0, "nothing depends on the test rows"


def test_a_trial_that_fails_is_told_and_the_others_go_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def sometimes(params: Mapping[str, Any], watch: Watch) -> Predict:
        if params["kind"] == "b":
            raise JobFailed("no kind b here", code="USER_ERROR", next_action="x", where="app.py:7")
        return _fit(params, watch)

    found = _search(tmp_path, fit=sometimes)
    failed = [t for t in found.trials if t.state == "failed"]
    assert failed
    assert failed[0].error == "app.py:7: no kind b here"
    assert found.best.params["kind"] == "a"
    assert "failed: app.py:7: no kind b here" in capfd.readouterr().err


def test_where_all_fail_the_last_error_is_told(tmp_path: Path) -> None:
    def never(params: Mapping[str, Any], watch: Watch) -> Predict:
        raise JobFailed("nothing works", code="USER_ERROR", next_action="x")

    with pytest.raises(JobFailed, match="Each of the 5 trials failed, the last one so: nothing works") as caught:
        _search(tmp_path, fit=never)
    assert caught.value.code == "TRIALS_FAILED"


def test_scores_that_are_no_numbers_fail_the_trial(tmp_path: Path) -> None:
    def broken(params: Mapping[str, Any], watch: Watch) -> Predict:
        return lambda x: np.full(len(x), np.nan)

    with pytest.raises(JobFailed, match="some that are no numbers"):
        _search(tmp_path, fit=broken)


def test_a_small_space_ends_when_all_of_it_was_tried(tmp_path: Path) -> None:
    found = _search(tmp_path, _spec(space={"kind": sr.Choice("a", "b"), "leaves": sr.Int(2, 4)}, trials=50),
                    fit=lambda params, watch: _fit({**params, "rate": 0.1}, watch))  # fmt: skip
    assert len({tuple(t.params.items()) for t in found.trials}) == len(found.trials) == 6
    assert found.ended.startswith("the space")


def test_time_ends_it_and_what_is_under_way_is_cut_short(tmp_path: Path) -> None:
    found = _search(tmp_path, _spec(trials=None, minutes=1))
    assert found.ended == "1 minutes"
    assert 60 <= found.seconds < 64, "a look at the clock is a second"
    assert found.trials[-1].state == "pruned"


def test_time_counts_what_was_used_before(tmp_path: Path) -> None:
    spec = _spec(trials=3)
    _search(tmp_path, spec)
    used = sum(
        t.seconds for t in Journal(tmp_path / "trials.jsonl", {"space": spec.to_json()["space"], "seed": 1}).trials
    )
    found = _search(tmp_path, budget=Budget(seconds=used - 0.5), fit=None, clock=_Clock(1_000))
    assert len(found.trials) == 3


def test_a_budget_of_money_is_time_at_the_price_of_what_is_reserved() -> None:
    prices = Prices("here", date(2026, 1, 1), "EUR", {CORE: Decimal("0.36")})
    budget = Budget.of(_spec(trials=None, money="0.01 EUR"), prices, Limits(cpus=1))
    assert budget.per_second == Decimal("0.0001")
    assert budget.over(Spent(10.0, 99.0)) == ""
    assert budget.over(Spent(10.0, 100.0)) == "0.01 EUR"


@pytest.mark.parametrize(
    ("currency", "price", "why"), [("USD", "1", "prices are in USD"), ("EUR", "0", "costs nothing")]
)
def test_money_that_is_no_limit_is_refused(currency: str, price: str, why: str) -> None:
    prices = Prices("here", date(2026, 1, 1), currency, {CORE: Decimal(price)})
    with pytest.raises(InvalidInput, match=why) as caught:
        Budget.of(_spec(money="1 EUR"), prices, Limits(cpus=1))
    assert caught.value.code == "NO_PRICE"


def test_patience() -> None:
    trials = [Trial(i, {}, "complete", value, 1.0) for i, value in enumerate([0.1, 0.5, 0.4, 0.3])]
    assert Budget(patience=3).ended(4, trials, Spent(0, 0)) == ""
    assert Budget(patience=2).ended(4, trials, Spent(0, 0)) == "2 trials in a row that were not better"


def test_time_of_several_at_once_is_theirs_together_and_each_is_paid() -> None:
    assert Spent.of([], []) == Spent(0.0, 0.0)
    assert Spent.of([(5.0, 9.0), (0.0, 4.0), (1.0, 3.0), (3.0, 6.0)], [(0.0, 10.0), (1.0, 9.0)]) == Spent(9.0, 18.0)


class _Killed(BaseException):
    pass


def _several(folder: Path, members: int, luck: int, *, kill: bool = False, at_once: int = 3) -> Found:
    """Members in threads that take their turns in an order that `luck` shuffles; one that is killed leaves its trial,
    and another takes its place."""
    spec, rows = _spec(trials=30), np.zeros((len(LABELS), 1), np.float32)
    random, left, names = np.random.default_rng(luck), [7 if kill else -1], iter(range(1_000))
    lock, dead = threading.Lock(), set()

    def member() -> None:
        name = str(next(names))
        journal = Journal(folder / "trials.jsonl", {}, name)
        journal.is_left = lambda begun: begun.by in dead  # type: ignore[method-assign]  # threads share their locks

        def fit(params: Mapping[str, Any], watch: Watch) -> Predict:
            with lock:
                left[0] -= 1
                pause = random.random() / 300
                if left[0] == 0:
                    dead.add(name)
                    raise _Killed
            time.sleep(pause)
            return _fit(params, watch)

        searching = Searching(
            spec, spec.space, Budget(trials=30), HeldOut(rows, rows, LABELS, 1_000), fit, journal, 1, time.time,
            lambda *_: None, at_once, lambda seconds: time.sleep(0.002)
        )  # fmt: skip
        try:
            searching.run()
        except _Killed:
            member()

    threads = [threading.Thread(target=member) for _ in range(members)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    last = Journal(folder / "trials.jsonl", {}, "last")
    held_out = HeldOut(rows, rows, LABELS, 1_000)
    searching = Searching(
        spec, spec.space, Budget(trials=30), held_out, _fit, last, 1, time.time, lambda *_: None, at_once
    )
    return searching.found(searching.run())


def test_the_same_trials_whoever_does_them_and_whoever_is_killed(tmp_path: Path) -> None:
    alone = _several(tmp_path / "0", 0, 0)
    for number, (members, kill) in enumerate([(1, True), (3, False), (3, True), (2, True)], 1):
        found = _several(tmp_path / str(number), members, number, kill=kill)
        assert [(t.number, t.params, t.state, t.value, t.looks) for t in found.trials] == [
            (t.number, t.params, t.state, t.value, t.looks) for t in alone.trials
        ]
    assert {t.state for t in alone.trials} == {"complete", "pruned"}
    assert len(alone.trials) == 30


def test_who_waits_for_a_trial_that_never_ends_ends_itself(tmp_path: Path) -> None:
    waited: list[float] = []
    journal = Journal(tmp_path / "trials.jsonl", {}, "mine")
    journal.is_left = lambda begun: False  # type: ignore[method-assign]  # somebody hangs
    with journal.turn():
        journal.begin(0, {"rate": 0.1, "leaves": 2, "kind": "a"}, 0.0)
    rows, spec = np.zeros((len(LABELS), 1), np.float32), _spec(trials=30)
    held_out = HeldOut(rows, rows, LABELS, 1_000)
    searching = Searching(
        spec, spec.space, Budget(trials=30), held_out, _fit, journal, 1, time.time, lambda *_: None, 2, waited.append
    )
    assert "does not tell anything" in searching.run()
    assert [trial.number for trial in journal.trials] == [1, 2, 3], "as far as they do not depend on it"
    assert 599 < sum(waited) < 601


def test_a_process_that_is_killed_leaves_its_trial(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    code = (
        "import sys, time; from pathlib import Path; from skyriver.train.search.journal import Journal\n"
        f"journal = Journal(Path({str(path)!r}), {{}}, 'other')\n"
        "with journal.turn(): journal.begin(0, {'a': 1}, 0.0)\n"
        "print('begun', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        journal = Journal(path, {}, "mine")
        with journal.turn():
            assert not journal.is_left(journal.begun[0])
        other.kill()
        other.wait()
        with journal.turn():
            assert journal.is_left(journal.begun[0])


def test_trials_of_a_run_before_are_taken_over_where_they_are_of_the_same(tmp_path: Path) -> None:
    done = Trial(0, {"a": 1}, "complete", 0.5, 1.0)
    for name, of in (("same", {"seed": 1}), ("other", {"seed": 2})):
        journal = Journal(tmp_path / name, of)
        with journal.turn():
            journal.begin(1, {"a": 2}, 0.0)
            journal.add(done)
    before = [tmp_path / "other", tmp_path / "same"]
    assert Journal(tmp_path / "new", {"seed": 1}, before=before).trials == [done]
    assert not Journal(tmp_path / "another", {"seed": 3}, before=before).trials


def test_a_trial_that_gives_signs_of_life_is_waited_for(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "trials.jsonl", {}, "mine")
    other = Journal(tmp_path / "trials.jsonl", {}, "other")
    journal.is_left = lambda begun: False  # type: ignore[method-assign]  # it is of this very process
    with other.turn():
        other.begin(0, {"rate": 0.1, "leaves": 2, "kind": "a"}, 0.0)
    rows, spec, looks = np.zeros((len(LABELS), 1), np.float32), _spec(trials=5), [0]

    def looks_and_ends(seconds: float) -> None:
        looks[0] += 1
        if looks[0] % 5_000 == 0:  # 500 s, of the 600 s that it may be silent
            other.touch()
        if looks[0] == 16_000:
            with other.turn():
                other.add(Trial(0, {"rate": 0.1, "leaves": 2, "kind": "a"}, "complete", 0.5, 1_600.0))

    held_out = HeldOut(rows, rows, LABELS, 1_000)
    searching = Searching(
        spec, spec.space, Budget(trials=5), held_out, _fit, journal, 1, _Clock(), lambda *_: None, 2, looks_and_ends
    )
    assert searching.run() == "5 trials"
    assert [trial.number for trial in journal.trials] == [0, 1, 2, 3, 4]


def test_money_is_spent_by_all_who_are_there_from_when_they_began(tmp_path: Path) -> None:
    path, now, rows = tmp_path / "trials.jsonl", [100.0], np.zeros((len(LABELS), 1), np.float32)
    spec = _spec(trials=None, money="1 EUR")
    budget = Budget(money=Decimal(1), currency="EUR", per_second=Decimal("0.1"))

    def fit(params: Mapping[str, Any], watch: Watch) -> Predict:
        now[0] += 1.0
        return lambda x: LABELS

    def member(name: str, since: float) -> Searching:
        journal = Journal(path, {}, name)
        return Searching(
            spec, spec.space, budget, HeldOut(rows, rows, LABELS, 1_000), fit, journal, 1, lambda: now[0],
            lambda *_: None, 2, since=since,
        )  # fmt: skip

    with (waits := Journal(path, {}, "waits")).turn():
        waits.stay(97.0, 99.0)
    waits.close()
    first = member("first", 95.0)
    assert first.run() == "1 EUR"
    assert len(first.journal.trials) == 3, "2 s of who did nothing, 5 s of a start, 3 s of trials"
    assert first._spent(own=None) == Spent(3.0, 10.0)
    first.journal.close()
    assert member("second", 103.0).run() == "1 EUR"


def test_of_who_is_killed_the_time_until_the_last_sign_of_life_counts(tmp_path: Path) -> None:
    journal, killed = (Journal(tmp_path / "trials.jsonl", {}, name) for name in ("mine", "killed"))
    with killed.turn():
        killed.stay(10.0, 10.0)
        killed.begin(0, {"a": 1}, 12.0)
    os.utime(tmp_path / "trials.jsonl.killed.here", (20.0, 20.0))
    os.close(killed._mine)
    with journal.turn():
        journal.gone(journal.begun[0], 500.0)
    assert journal.stays(500.0) == [(10.0, 20.0)]


def test_who_looks_whether_others_live_is_not_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    Journal(path, {}, "dead").close()
    here = tmp_path / "trials.jsonl.dead.here"
    here.touch()
    code = (
        f"import fcntl, time; file = open({str(here)!r}, 'r+'); fcntl.lockf(file, fcntl.LOCK_SH)\n"
        "print('looks', flush=True); time.sleep(600)"
    )
    slept: list[float] = []
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert not Journal(path, {}, "mine").is_here("dead")

        def ends(seconds: float) -> None:
            slept.append(seconds)
            other.kill()
            other.wait()

        Journal(path, {}, "dead", sleep=ends)
    assert slept, "its own lock is waited for, not done without"


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "DISK_FULL"), (errno.EROFS, "DISK_READ_ONLY"), (errno.EIO, "DISK_FAILED")]
)
def test_what_the_disk_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str) -> None:
    journal = Journal(tmp_path / "trials.jsonl", {})

    def fails(*given: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "truncate", fails)
    with pytest.raises(Unavailable, match="cannot be kept") as caught, journal.turn():
        pass
    assert caught.value.code == code


def test_trials_that_were_removed_are_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "trials.jsonl", {"seed": 1})
    Journal(tmp_path / "trials.jsonl", {"seed": 2}, "other")
    with pytest.raises(Unavailable) as caught, journal.turn():
        pass
    assert caught.value.code == "STUDY_GONE"


def test_halving_keeps_the_best_third() -> None:
    assert [looks for looks in range(1, 100) if is_rung(looks)] == [2, 6, 18, 54]
    others = [[(10, 0.0), (20, value), (30, 0.0)] for value in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert goes_on(2, 0.45, others)
    assert not goes_on(2, 0.35, others)
    assert goes_on(3, -1.0, others), "nobody is compared between"
    assert goes_on(6, -1.0, others), "the first one that comes so far"


def test_the_sampler_learns() -> None:
    spec = _spec(space={"rate": sr.Float(0.0, 1.0)})
    sampler, away = Sampler(spec.space, 3), []
    for number in range(40):
        rate = float(sampler.ask(number)["rate"])
        away.append(abs(rate - 0.7))
        sampler.tell(Trial(number, {"rate": rate}, "complete", -away[-1], 1.0))
    assert np.median(away[20:]) < np.median(away[:10]) / 2


def test_losses_are_lower_where_they_are_better() -> None:
    judge = judge_of("log_loss", LABELS)
    assert judge(np.clip(LABELS, 0.1, 0.9)) > judge(np.full(len(LABELS), 0.3)) > judge(1 - np.clip(LABELS, 0.1, 0.9))


def test_a_training_without_a_search_is_never_stopped() -> None:
    watch = Watch()
    assert not watch.enough(10**6, lambda x: x)
    assert watch.after_tree(None) is None  # type: ignore[func-returns-value]


RARELY_DROPS = {"drop_rate": 0.05, "skip_drop": 0.8}


@pytest.mark.parametrize(
    ("settings", "anew"),
    [
        ({}, 2),
        ({"boosting": "gbrt"}, 2),
        ({"boosting_type": "goss"}, 2),
        ({"boosting": "dart"}, 10),
        *(({name: "dart", "seed": 2, **RARELY_DROPS}, 10) for name in ("boosting", "boosting_type", "boost")),
        ({"objective": "regression"}, 10),
        (FOREST, 10),
    ],
)
def test_looks_at_trees_say_what_the_model_says(settings: dict[str, Any], anew: int) -> None:
    import lightgbm

    luck = np.random.default_rng(0)
    x = luck.normal(size=(500, 3)).astype(np.float32)
    y = (x[:, 0] + luck.normal(size=500) > 0).astype(np.float32)
    seen: list[Any] = []
    truth: list[Any] = []
    whole: list[int] = []

    def judge(scores: Any) -> float:
        seen.append(scores.copy())
        return float(len(seen))

    class Model:
        """Counts how often all trees are walked."""

        def __init__(self, model: lightgbm.Booster) -> None:
            self._model = model

        def predict(self, x: Any, **given: Any) -> Any:
            if "start_iteration" not in given:
                whole.append(given["num_iteration"])
            return self._model.predict(x, **given)

    watch = Trying(x[:100], judge)

    def look(env: Any) -> None:
        watch.after_tree(replace(env, model=Model(env.model)))
        if len(seen) > len(truth):  # now: a tree of later changes what dart says of these
            truth.append(env.model.predict(x[:100], num_iteration=env.iteration + 1))

    lightgbm.train(
        {"objective": "binary", "verbose": -1, "num_threads": 1, "num_leaves": 4, **settings},
        lightgbm.Dataset(x, y),
        100,
        callbacks=[look],
    )
    assert [step for step, _ in watch.looks] == [*range(10, 110, 10)]
    assert len(whole) == anew
    for said, true in zip(seen, truth, strict=True):
        np.testing.assert_allclose(said, true, atol=1e-6)


def test_a_lucky_look_is_not_the_best() -> None:
    values = iter([0.5, 0.9, 0.5, 0.6, 0.7, 0.72, 0.7, 0.6])
    watch = Trying(np.zeros((1, 1), np.float32), lambda scores: next(values))
    for step in range(1, 9):
        watch.enough(step, lambda x: [0.0])
    assert watch.best == (6, pytest.approx((0.7 + 0.72 + 0.7) / 3))


def test_what_is_cut_short_makes_no_model() -> None:
    import lightgbm

    luck = np.random.default_rng(0)
    x = luck.normal(size=(300, 3)).astype(np.float32)
    data = TrainingData(x, (x[:, 0] > 0).astype(np.float32), ("a", "b", "c"), np.zeros(300, np.int64))
    watch = Trying(x[:100], judge_of("auc", data.y[:100]), lambda looks, value: looks < 3)
    data = replace(data, watch=watch)
    with pytest.raises(Pruned):
        lightgbm.train({"objective": "binary", "verbose": -1}, data.dataset(), 500, callbacks=[data.early_stopping])
    assert (watch.pruned, len(watch.looks)) == (True, 3)


def test_trials_of_the_same_rows_have_one_dataset() -> None:
    import lightgbm

    luck = np.random.default_rng(0)
    x = luck.normal(size=(300, 2)).astype(np.float32)
    weights = luck.random(300).astype(np.float32)
    data = TrainingData(x, (x[:, 0] > 0).astype(np.float32), ('a "b"', "c"), np.zeros(300, np.int64), weights=weights)
    other = replace(data, params={"leaf": 7})
    assert data.dataset() is other.dataset()
    assert data.dataset(max_bin=15) is not data.dataset()
    terms = {"objective": "binary", "verbose": -1, "num_threads": 1}
    for leaf in (50, 3, 20):
        own = lightgbm.Dataset(x, data.y, weight=weights, params={"feature_pre_filter": False})
        models = [lightgbm.train({**terms, "min_data_in_leaf": leaf}, rows, 5) for rows in (data.dataset(), own)]
        np.testing.assert_array_equal(models[0].predict(x), models[1].predict(x))
    with pytest.raises(lightgbm.basic.LightGBMError, match="Cannot change max_bin"):
        lightgbm.train({**terms, "max_bin": 15}, data.dataset(), 5)


def test_trees_end_where_they_get_no_better() -> None:
    import lightgbm

    luck = np.random.default_rng(0)
    x = luck.normal(size=(300, 3)).astype(np.float32)
    y = (x[:, 0] + luck.normal(size=300) > 0).astype(np.float32)
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "learning_rate": 0.5}
    watch = Trying(x[:100], judge_of("log_loss", (luck.random(100) < 0.5).astype(np.float32)))
    booster = lightgbm.train(settings, lightgbm.Dataset(x, y), 500, callbacks=[watch.after_tree])
    assert len(watch.looks) < 20
    assert booster.best_iteration == watch.best[0]  # type: ignore[index]
    again = lightgbm.train(settings, lightgbm.Dataset(x, y), 500, callbacks=[Until(20).after_tree])
    assert (again.best_iteration, again.num_trees()) == (20, 20)
