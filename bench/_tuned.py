"""Thresholds by costs: the handbook's payments, the last month held out, beside 0.9 and 0.5; and what DuckDB says of
the same rules."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _payments
import numpy as np
import polars as pl
from _document import tell
from _environments import duckdb_python
from _processes import run
from numpy.typing import NDArray

import skyriver as sr
from skyriver.core.costs import costs_of as declared
from skyriver.core.spec import AppSpec, CostsSpec, DecisionRule
from skyriver.core.units import DAY
from skyriver.data.columns import Column, Columns
from skyriver.decide.rules.columns import Rows
from skyriver.decide.rules.costs import costs_of
from skyriver.decide.rules.ruleset import rules_of
from skyriver.decide.tuning.cells import Part, Question
from skyriver.decide.tuning.tuning import Span, Tuning, tune
from skyriver.train.evaluate import score

if TYPE_CHECKING:
    from decisions import Bench

IN_USE = (0.9, 0.5)
DELAY_DAYS, HELD_OUT_DAYS, CHOSEN_DAYS = 7, 30, 30
REVIEW, MISSED, BLOCKED, CAPACITY = 4.0, 0.1, 25.0, 100
"""What a review takes, and which share of what is lost it does not see; what a customer is worth who is sent away;
reviews a day: the handbook's investigators look at a hundred cards."""
SETTINGS = (
    ("as stated", BLOCKED, REVIEW, CAPACITY),
    ("a block costs four times as much", 4 * BLOCKED, REVIEW, CAPACITY),
    ("a review costs four times as much", BLOCKED, 4 * REVIEW, CAPACITY),
    ("a quarter of the reviewers", BLOCKED, REVIEW, CAPACITY // 4),
    ("as many reviewers as are asked for", BLOCKED, REVIEW, 1_000_000),
)
TEN_MILLION = 10_000_000
PART_ROWS = 500_000


@dataclass(frozen=True, slots=True)
class Scored:
    """Payments that the model was not trained on."""

    at: NDArray[np.int64]
    amount: NDArray[np.float64]
    fraud: NDArray[np.bool_]
    score: NDArray[np.float32]

    def span(self, start: int, end: int) -> Span:
        first, last = (int(place) for place in np.searchsorted(self.at, [start, end]))
        return Span(lambda: self._parts(first, last), start, end)

    def _parts(self, first: int, last: int) -> Iterator[Part]:
        for start in range(first, last, PART_ROWS):
            own = slice(start, min(last, start + PART_ROWS))
            count = own.stop - own.start
            nothing = Column("bool", np.zeros(count, np.bool_))
            fields = (nothing, nothing, nothing, nothing, Column("float", self.amount[own]))
            rows = Rows(self.score[own].astype(np.float64), None, Columns(fields, count))
            yield Part(rows, self.fraud[own], self.at[own])


def measure_tuned(bench: Bench) -> None:
    document, days = bench.document, bench.sizes.days
    app = _payments.declare()
    measure_ten_million(bench, app)  # first: nothing has taken memory yet
    payments = _payments.handbook(days, customers=bench.sizes.customers, terminals=2 * bench.sizes.customers)
    first = int(payments["at"][0]) // DAY
    end = first + days - DELAY_DAYS
    border = end - HELD_OUT_DAYS
    begin = border - CHOSEN_DAYS
    scored = scores(app, payments, (begin - DELAY_DAYS) * DAY, bench.folder / "kernels")
    for name, blocked, review, capacity in SETTINGS:
        question = ask(app, blocked, review, capacity)
        choose, held_out = scored.span(begin * DAY, border * DAY), scored.span(border * DAY, end * DAY)
        found = tune(question, choose, held_out, seed=0, progress=lambda *_: None)
        document.row("skyriver", f"thresholds by costs, {name}", **figures(found))
        if name == SETTINGS[0][0]:
            tell_goals(bench, found, scored, (border, end))


def scores(app: AppSpec, payments: pl.DataFrame, until: int, kernels: Path) -> Scored:
    """By a model that is trained on what came before, with labels that were known at the time."""
    model = _payments.train(app, payments.filter(pl.col("at") < until), kernels)
    features = _payments.features(app, payments, kernels)
    return Scored(
        payments["at"].to_numpy(),
        payments["amount"].to_numpy(),
        payments["fraud"].to_numpy() == 1,
        score(model, features),
    )


def ask(app: AppSpec, blocked: float, review: float, capacity: int) -> Question:
    decide, stream = app.decides[0], app.streams[0]
    rules = tuple(
        DecisionRule(decision=decision, when=f"score >= {value}")
        for decision, value in zip(("block", "review"), IN_USE, strict=True)
    )
    compiled = rules_of(decide.model_copy(update={"rules": rules}), stream, app.feature_sets[0])
    costs = declared(
        sr.Costs(
            {
                "approve": sr.Cost(positive="amount"),
                "block": sr.Cost(negative=blocked),
                "review": sr.Cost(review, positive=f"{MISSED} * amount"),
            },
            capacity={"review": f"{capacity}/1d"},
        )
    )
    assert isinstance(costs, CostsSpec)
    return Question(compiled, costs_of(costs, compiled, stream, None), costs.capacity, frozenset((0, 1)))


def figures(found: Tuning) -> dict[str, Any]:
    tuned, in_use, *always = found.policies
    return {
        "thresholds": {own.rule: [own.chosen, own.low, own.high] for own in found.thresholds},
        "cost_a_day": round(tuned.cost, 1),
        "cost_a_day_in_use": round(in_use.cost, 1),
        "less_a_day": [round(value, 1) for value in (found.gain, found.gain_low, found.gain_high)],
        "cost_ratio": round(tuned.cost / in_use.cost, 4),
        "reviews_a_day": round(next(own.events for own in tuned.decided if own.decision == "review"), 1),
        "busiest_day": tuned.loads[0].busiest,
        "always": {own.name.removeprefix("always "): round(own.cost, 1) for own in always},
        "verdict": found.verdict,
    }


def tell_goals(bench: Bench, found: Tuning, scored: Scored, days: tuple[int, int]) -> None:
    tuned, in_use = found.policies[:2]
    bench.document.measured(
        "cost_ratio_tuned_to_default",
        round(tuned.cost / in_use.cost, 4),
        broken="" if found.gain_low > 0 else "the interval of what is saved includes 0",
        note=f"{found.gain:.0f} a day less (95%: {found.gain_low:.0f} to {found.gain_high:.0f}, days drawn anew) of"
        f" {in_use.cost:.0f}, on {found.held_out.events} payments of {found.held_out.days} days",
    )
    different, file = 0.0, bench.folder / "scored.parquet"
    fields = {"day": scored.at // DAY, "amount": scored.amount, "fraud": scored.fraud}
    pl.DataFrame({**fields, "score": scored.score.astype(np.float64)}).write_parquet(file)
    for policy, values in ((tuned, [own.chosen for own in found.thresholds]), (in_use, IN_USE)):
        cost, events = by_duckdb(file, values, days)
        bench.document.row("duckdb", f"the same rules, {policy.name}", cost_a_day=round(cost, 6), **events)
        different = max(different, abs(cost - policy.cost) / policy.cost)
        different = max(different, *(abs(o.events * HELD_OUT_DAYS - events[o.decision]) for o in policy.decided))
    bench.document.measured("tuned_equal_to_duckdb", int(different < 1e-9), note=f"largest difference {different:.1e}")


def by_duckdb(file: Path, values: Sequence[float], days: tuple[int, int]) -> tuple[float, dict[str, int]]:
    """What a day costs, and how many events each decision gets, in SQL. On a day with more reviews than there may be,
    as many of them as are too many cost what their approval would, at the mean."""
    block, review = values
    query = f"""
        with decided as (
            select *, case when score >= {block!r} then 'block' when score >= {review!r} then 'review'
                           else 'approve' end as decision
            from read_parquet('{file}') where day >= {days[0]} and day < {days[1]}),
        priced as (
            select *, case when fraud then amount else 0 end as approved,
                case decision when 'approve' then case when fraud then amount else 0 end
                              when 'block' then case when fraud then 0 else {BLOCKED} end
                              else {REVIEW} + case when fraud then {MISSED} * amount else 0 end end as cost
            from decided),
        by_day as (
            select day, decision, count(*) as n, sum(cost) as cost,
                case when decision = 'review' then greatest(0, count(*) - {CAPACITY}) * avg(approved - cost)
                     else 0 end as beyond
            from priced group by day, decision)
        select decision, sum(n)::bigint, sum(cost + beyond)::double / {days[1] - days[0]}
        from by_day group by decision"""
    asked = "import duckdb, json, sys; print(json.dumps(duckdb.sql(sys.argv[1]).fetchall()))"
    rows = json.loads(run([duckdb_python(), "-c", asked, query], timeout=300).check().stdout)
    return sum(row[2] for row in rows), {row[0]: row[1] for row in rows}


def measure_ten_million(bench: Bench, app: AppSpec) -> None:
    """What a search takes of as many events as a year of a busy stream has."""
    count, days = bench.sizes.many, 60
    tell(f"choosing thresholds on {count} events ...")
    luck = np.random.default_rng(0)
    fraud = luck.random(count) < 0.01
    raw = luck.normal(0, 1, count) + 3 * fraud - 3
    at = np.sort(luck.integers(0, days * DAY, count))
    scored = Scored(at, luck.gamma(2, 40, count), fraud, (1 / (1 + np.exp(-raw))).astype(np.float32))
    question = ask(app, BLOCKED, REVIEW, count // days // 100)
    begun = time.process_time()
    half = days // 2 * DAY
    tune(question, scored.span(0, half), scored.span(half, days * DAY), seed=0, progress=lambda *_: None)
    bench.document.row(
        "skyriver",
        "thresholds by costs, synthetic events",
        events=count,
        cpu_seconds=round(time.process_time() - begun, 1),
        peak_megabytes_with_the_events=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    )
