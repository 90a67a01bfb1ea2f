"""Thresholds from costs: what is chosen and told equals what running the rules event by event gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import skyriver as sr
from skyriver.core.errors import InvalidInput
from skyriver.core.spec import AppSpec
from skyriver.core.units import DAY
from skyriver.data.columns import Columns
from skyriver.decide.rules.columns import Rows
from skyriver.decide.rules.costs import costs_of
from skyriver.decide.rules.ruleset import compile_rules, rules_of, texts_of
from skyriver.decide.tuning.candidates import candidates_of
from skyriver.decide.tuning.cells import Part, Question, gather, survey
from skyriver.decide.tuning.search import Search
from skyriver.decide.tuning.thresholds import rewritten
from skyriver.decide.tuning.tuning import Span, Tuning, interval, tune

RULES = {"block": "score >= 0.9", "review": "score >= 0.5"}
COSTS = {
    "approve": sr.Cost(positive="amount"),
    "block": sr.Cost(negative=25),
    "review": sr.Cost(4, positive="0.1 * amount"),
}


def declare(
    rules: Any = RULES,
    costs: Mapping[str, sr.Cost] = COSTS,
    capacity: Mapping[str, str] | None = None,
    **more: Any,
) -> AppSpec:
    app = sr.App("risk")

    class Payment(sr.Event):
        payment: int
        at: sr.Time
        customer: int
        amount: float | None
        channel: str | None

    payments = app.stream("payments", Payment, id="payment", time="at", key="customer")
    paid = app.labels("paid", of=payments, delay="1d")
    behaviour = app.features("behaviour", payments, {"mean": sr.mean("amount", by="customer", over="1d")})

    @app.train(behaviour, label=paid)
    def fit(data: sr.TrainingData) -> Any: ...

    told = sr.Costs(costs, capacity=capacity or {})
    app.decide(payments, app.model("fraud", fit), rules, otherwise="approve", costs=told, **more)
    return app.spec


def question_of(spec: AppSpec, *only: int) -> Question:
    decide, stream, features = spec.decides[0], spec.streams[0], spec.feature_sets[0]
    assert decide.costs is not None
    rules = rules_of(decide, stream, features)
    of = frozenset(only or range(len(rules.rules)))
    return Question(rules, costs_of(decide.costs, rules, stream, features), decide.costs.capacity, of)


@dataclass(frozen=True)
class Events:
    scores: np.ndarray[Any, np.dtype[np.float32]]
    probabilities: np.ndarray[Any, np.dtype[np.float32]]
    features: np.ndarray[Any, np.dtype[np.float32]]
    values: Sequence[Sequence[Any]]
    labels: np.ndarray[Any, np.dtype[np.bool_]]
    times: np.ndarray[Any, np.dtype[np.int64]]

    def __len__(self) -> int:
        return len(self.times)

    def parts(self, spec: AppSpec, size: int = 300) -> Iterator[Part]:
        for start in range(0, len(self), size):
            own = slice(start, start + size)
            columns = Columns.of_rows(spec.streams[0].fields, self.values[own])
            rows = Rows(self.scores[own].astype(np.float64), self.features[own], columns, self.probabilities[own])
            yield Part(rows, self.labels[own], self.times[own])

    def span(self, spec: AppSpec, start: int, end: int) -> Span:
        first, last = np.searchsorted(self.times, [start, end])
        own = slice(int(first), int(last))
        held = Events(
            self.scores[own],
            self.probabilities[own],
            self.features[own],
            self.values[own],
            self.labels[own],
            self.times[own],
        )
        return Span(lambda: held.parts(spec), start, end)


def simulated(days: int, a_day: int, *, seed: int = 0, missing: float = 0.0, separation: float = 3.0) -> Events:
    luck = np.random.default_rng(seed)
    n = days * a_day
    times = np.sort(luck.integers(0, days * DAY, n))
    labels = luck.random(n) < 0.03
    raw = luck.normal(0, 1, n) + separation * labels - 2
    scores = (1 / (1 + np.exp(-raw))).astype(np.float32)
    amounts = np.round(luck.gamma(2, 40, n), 2)
    gone = luck.random(n) < missing
    values = [
        [i, int(times[i]), i % 7, None if gone[i] else float(amounts[i]), [None, "web", "shop"][i % 3]]
        for i in range(n)
    ]
    features = luck.gamma(2, 20, (n, 1)).astype(np.float32)
    features[luck.random(n) < missing] = np.nan
    return Events(scores, (scores / 2).astype(np.float32), features, values, labels, times)


def one_by_one(spec: AppSpec, rules: Any, events: Events, fills: Mapping[tuple[str, bool], float]) -> dict[str, Any]:
    """Independently: each event decided on its own, its cost added up in Python."""
    decide, stream, features = spec.decides[0], spec.streams[0], spec.feature_sets[0]
    compiled = compile_rules(rules, decide.otherwise, decide.fallback, stream, features)
    assert decide.costs is not None
    costs = costs_of(decide.costs, compiled, stream, features)
    cost, decided, beyond = 0.0, [], []
    for n in range(len(events)):
        before = cost
        vector, values, label = events.features[n].tolist(), events.values[n], bool(events.labels[n])
        place = compiled.decide(float(events.scores[n]), vector, values, float(events.probabilities[n]))
        decision = compiled.ends[place][0]
        own = costs[decision].of(label, vector, values)
        cost += fills[decision, label] if own is None else own
        decided.append(decision)
        missed = costs["approve"].of(label, vector, values)
        beyond.append((fills["approve", label] if missed is None else missed) - (cost - before))
    return {"cost": cost, "decided": np.array(decided), "beyond": np.array(beyond)}


def beyond_capacity(events: Events, alone: Mapping[str, Any], most: int) -> float:
    """What it costs more that some reviews of a day are approved, whichever: as many at their mean."""
    more = 0.0
    for day in set((events.times // DAY).tolist()):
        own = ((events.times // DAY) == day) & (alone["decided"] == "review")
        if own.sum() > most:
            more += (own.sum() - most) * alone["beyond"][own].mean()
    return more


def mean_costs(spec: AppSpec, events: Events) -> dict[tuple[str, bool], float]:
    question = question_of(spec)
    found = {}
    for decision, cost in question.costs.items():
        for label in (False, True):
            known = [
                own
                for n in range(len(events))
                if bool(events.labels[n]) is label
                and (own := cost.of(label, events.features[n].tolist(), events.values[n])) is not None
            ]
            found[decision, label] = float(np.mean(known)) if known else 0.0
    return found


def run(spec: AppSpec, events: Events, border: int, days: int, *only: int) -> Tuning:
    return tune(
        question_of(spec, *only),
        events.span(spec, 0, border * DAY),
        events.span(spec, border * DAY, days * DAY),
        seed=0,
        progress=lambda *_: None,
    )


def chosen_texts(spec: AppSpec, found: Tuning) -> list[tuple[str, ...]]:
    question, texts = question_of(spec), [list(text) for text in texts_of(spec.decides[0])]
    for place, text in enumerate(texts):
        own = [
            (t.span, f.chosen) for t, f in zip(question.thresholds, found.thresholds, strict=True) if t.rule == place
        ]
        text[1] = rewritten(text[1], [span for span, _ in own], [value for _, value in own])
    return [tuple(text) for text in texts]


HARD = [
    sr.Rule("block", "score >= 0.9 and amount > 20", name="large"),
    sr.Rule("approve", "channel == 'web' and not (score > 0.2) and mean < 60", name="known"),
    sr.Rule("review", "(amount is missing and score >= 0.1) or probability * amount >= 30"),
]


@pytest.mark.parametrize("rules", [RULES, HARD, {"block": "0.1 > score", "review": "amount > 150"}])
def test_what_is_told_equals_rules_and_costs_run_event_by_event(rules: Any) -> None:
    spec = declare(rules, capacity={"review": "60/1d"})
    events = simulated(12, 250, missing=0.1)
    found = run(spec, events, 7, 12)
    first, later = (Events(**_cut(events, *days)) for days in ((0, 7), (7, 12)))
    fills = mean_costs(spec, first)
    tuned, in_use, *always = found.policies
    for policy, texts in ((tuned, chosen_texts(spec, found)), (in_use, texts_of(spec.decides[0]))):
        alone = one_by_one(spec, texts, later, fills)
        assert policy.cost == pytest.approx((alone["cost"] + beyond_capacity(later, alone, 60)) / 5)
        for decided in policy.decided:
            own = alone["decided"] == decided.decision
            assert decided.events == own.sum() / 5
            assert decided.positives == later.labels[own].sum() / 5
        reviews = np.bincount((later.times // DAY)[alone["decided"] == "review"] - 7, minlength=5)
        assert policy.loads[0].busiest == reviews.max()
        assert policy.loads[0].events_over == np.maximum(0, reviews - 60).sum()
    for policy in always:
        decision = policy.name.removeprefix("always ")
        costs = question_of(spec).costs[decision]
        if decision == "review":
            continue
        alone_cost = 0.0
        for n in range(len(later)):
            own = costs.of(bool(later.labels[n]), later.features[n].tolist(), later.values[n])
            alone_cost += fills[decision, bool(later.labels[n])] if own is None else own
        assert policy.cost == pytest.approx(alone_cost / 5)
    assert found.gain == pytest.approx(in_use.cost - tuned.cost)
    assert found.gain_low <= found.gain <= found.gain_high


def _cut(events: Events, start: int, end: int) -> dict[str, Any]:
    first, last = np.searchsorted(events.times, [start * DAY, end * DAY])
    return {
        "scores": events.scores[first:last],
        "probabilities": events.probabilities[first:last],
        "features": events.features[first:last],
        "values": events.values[first:last],
        "labels": events.labels[first:last],
        "times": events.times[first:last],
    }


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1_000),
    rules=st.sampled_from([RULES, {"block": "score > 0.7 and amount > 60", "review": "0.3 < score or mean > 80"}]),
    most=st.sampled_from([8, 25, 10_000]),
    missing=st.sampled_from([0.0, 0.2]),
)
def test_of_two_thresholds_the_best_of_all_choices_is_found(seed: int, rules: Any, most: int, missing: float) -> None:
    spec = declare(rules, capacity={"review": f"{most}/1d"})
    events = simulated(4, 120, seed=seed, missing=missing)
    question = question_of(spec)
    parts = lambda: events.parts(spec)  # noqa: E731
    seen = survey(question, parts)
    candidates = [candidates_of(seen.signals[0], seen.labels, 12, [t.value for t in question.thresholds])] * 2
    cells = gather(question, candidates, parts, seen.fills, 0, 4 * DAY)
    assert cells is not None
    weights = np.ones(4)
    search = Search(question, candidates, cells)
    worth, choice = search.best((0, 0), weights, 2)
    every = {at: search.worth(at, weights) for at in product(range(len(candidates[0])), repeat=2)}
    best = min(every.values())
    assert (worth.over, worth.cost) == (best.over, pytest.approx(best.cost))
    assert every[choice].cost == pytest.approx(worth.cost)
    luck = np.random.default_rng(seed)
    fills = mean_costs(spec, events)
    texts = texts_of(spec.decides[0])
    for place in luck.integers(0, len(every), 3):  # each is what the rules with these numbers cost, event by event
        at = list(every)[place]
        changed = [
            (text[0], rewritten(text[1], [own.span], [search.values(at)[n]]))
            for n, (text, own) in enumerate(zip(texts, question.thresholds, strict=True))
        ]
        alone = one_by_one(spec, changed, events, fills)
        assert every[at].cost == pytest.approx(alone["cost"])
        reviews = np.bincount((events.times // DAY)[alone["decided"] == "review"], minlength=4)
        assert every[at].over == np.maximum(0, reviews - most).sum()
    curve, over = search.curve(choice, 1, weights)
    for n in range(len(candidates[1])):
        assert curve[n] == pytest.approx(every[choice[0], n].cost)
        assert over[n] == every[choice[0], n].over


def test_more_thresholds_are_chosen_by_pairs() -> None:
    spec = declare(HARD)
    found = run(spec, simulated(12, 250), 7, 12)
    assert len(found.thresholds) == 4
    worth = [policy.cost for policy in found.policies[:2]]
    assert worth[0] < worth[1]


def test_thresholds_of_some_rules_alone() -> None:
    spec, events = declare(capacity={"review": "60/1d"}), simulated(12, 250, missing=0.1)
    found = run(spec, events, 7, 12, 1)
    assert [(own.rule, own.in_use) for own in found.thresholds] == [("review", 0.5)]
    own = question_of(spec).thresholds[1]
    texts = [("block", "score >= 0.9"), ("review", rewritten("score >= 0.5", [own.span], [found.thresholds[0].chosen]))]
    first, later = (Events(**_cut(events, *days)) for days in ((0, 7), (7, 12)))
    alone = one_by_one(spec, texts, later, mean_costs(spec, first))
    assert found.policies[0].cost == pytest.approx((alone["cost"] + beyond_capacity(later, alone, 60)) / 5)


def test_thresholds_that_cost_less_are_found_and_their_interval_holds_them() -> None:
    found = run(declare(), simulated(60, 300), 30, 60)
    assert found.verdict == "change"
    assert found.gain_low > 0
    assert {caution.code for caution in found.cautions} == set()
    for own in found.thresholds:
        assert own.low <= own.chosen <= own.high
    assert found.chosen_on.days == found.held_out.days == 30


def test_the_same_seed_gives_the_same_and_parts_do_not_matter() -> None:
    spec, events = declare(HARD), simulated(12, 250, missing=0.1)
    once, again = run(spec, events, 7, 12), run(spec, events, 7, 12)
    assert once == again
    whole = lambda start, end: Span(  # noqa: E731
        lambda: Events(**_cut(events, start, end)).parts(spec, 10_000), start * DAY, end * DAY
    )
    pieces = tune(question_of(spec), whole(0, 7), whole(7, 12), seed=0, progress=lambda *_: None)
    assert [own.chosen for own in pieces.thresholds] == [own.chosen for own in once.thresholds]
    assert pieces.gain == pytest.approx(once.gain)


def test_capacity_is_not_exceeded_where_thresholds_are_chosen() -> None:
    events = simulated(30, 300, separation=1.5)
    free, held = run(declare(), events, 15, 30), run(declare(capacity={"review": "5/1d"}), events, 15, 30)
    assert free.policies[0].decided[1].decision == "review"
    assert free.policies[0].decided[1].events > 20
    assert held.policies[0].decided[1].events <= 6
    assert held.policies[1].loads[0].busiest > 5
    assert any("in use" in c.message for c in held.cautions if c.code == "OVER_CAPACITY")
    assert all(point.over == 0 for curve in held.curves for point in curve if point.value in _chosen(held))


def _chosen(found: Tuning) -> list[float]:
    return [own.chosen for own in found.thresholds]


def test_where_nothing_is_to_be_won_it_says_so() -> None:
    spec = declare()
    events = simulated(30, 200)
    first = run(spec, events, 15, 30)
    texts = chosen_texts(spec, first)
    again = run(declare(dict(texts)), events, 15, 30)
    assert again.verdict == "keep"
    assert again.gain == pytest.approx(0.0)
    assert "NO_SURE_GAIN" in {caution.code for caution in again.cautions}


def test_a_few_days_prove_nothing() -> None:
    found = run(declare(), simulated(34, 3_000), 30, 34)
    assert found.gain_low > 0
    assert found.verdict == "keep"
    [why] = [caution.message for caution in found.cautions if caution.code == "NO_SURE_GAIN"]
    assert "4 days prove nothing" in why
    assert "tune again once each part has 14 days and 50 positives" in why


@pytest.mark.parametrize("day", [5, 23, 44])
def test_a_day_whose_labels_have_not_come_is_named_and_nothing_is_proved_on_such_days(day: int) -> None:
    events = simulated(45, 3_000)
    whole = run(declare(), events, 15, 45)
    assert (whole.verdict, "DAYS_WITHOUT_LABELS" in {c.code for c in whole.cautions}) == ("change", False)
    events.labels[(events.times >= day * DAY) & (events.times < (day + 1) * DAY)] = False
    found = run(declare(), events, 15, 45)
    [told] = [caution.message for caution in found.cautions if caution.code == "DAYS_WITHOUT_LABELS"]
    date = np.datetime64("1970-01-01") + day
    assert f"Of {date} there is no positive" in told
    assert found.gain_low > 0  # the costs alone would say `change`
    assert found.verdict == ("change" if day == 5 else "keep")  # 5 is no day that is measured on


def test_what_all_days_cost_at_least_is_in_the_interval() -> None:
    found = run(declare(), simulated(20, 200), 14, 20)
    for policy in found.policies:
        assert policy.low > 0


@pytest.mark.parametrize(("days", "least"), [(6, 0.85), (14, 0.89), (30, 0.9)])
def test_intervals_hold_the_mean_about_as_often_as_they_say_also_of_skewed_days(days: int, least: float) -> None:
    """Days whose cost is the sum of some large losses; drawn percentiles alone hold it 5 to 10% less often."""
    luck = np.random.default_rng(5)
    held = 0
    for _ in range(400):
        by_day = luck.gamma(2.0, 10.0, days)
        low, high = interval(by_day, luck.multinomial(days, [1 / days] * days, 1_000))
        held += low <= 20.0 <= high
    assert least <= held / 400 <= 0.99


def test_of_a_score_that_says_nothing_it_is_told_that_deciding_one_thing_costs_less() -> None:
    found = run(declare(), simulated(20, 200, separation=0.0), 10, 20)
    assert {"TRIVIAL_IS_BETTER", "FEW_DAYS"} <= {caution.code for caution in found.cautions}


@pytest.mark.parametrize(
    ("rules", "costs", "capacity", "code"),
    [
        ({"block": "amount > 5", "review": "mean > 5"}, COSTS, {}, "NO_THRESHOLDS"),
        ([sr.Rule("block", f"score > 0.{n}", name=f"r{n}") for n in range(9)], None, {}, "TOO_MANY_THRESHOLDS"),
        ({"review": "amount > 5", "block": "score > 0.5"}, COSTS, {"review": "3/1d"}, "CAPACITY_TOO_SMALL"),
    ],
)
def test_what_cannot_be_tuned_is_refused(rules: Any, costs: Any, capacity: dict[str, str], code: str) -> None:
    costs = costs or {"approve": sr.Cost(positive="amount"), "block": sr.Cost(negative=25)}
    with pytest.raises(InvalidInput) as caught:
        run(declare(rules, costs, capacity), simulated(10, 50), 5, 10)
    assert caught.value.code == code
    assert caught.value.next_action


def test_the_strictest_wins_where_that_is_declared() -> None:
    """As in the order in which the rules are asked then."""
    events = simulated(12, 250)
    turned = {"review": "score >= 0.5", "block": "score >= 0.9"}
    found = run(declare(turned, combine=sr.Strictest("block", "review")), events, 7, 12)
    assert [own.rule for own in found.thresholds] == ["block", "review"]
    assert found == run(declare(RULES), events, 7, 12)


def test_what_is_beyond_capacity_costs_what_the_budget_turns_it_into() -> None:
    events = simulated(12, 250, separation=1.5)
    capacity = {"review": "5/1d"}
    budgets = {"review": sr.Budget(5, per="1d", overflow="block")}
    lost, blocked = (
        run(declare(capacity=capacity), events, 7, 12),
        run(declare(capacity=capacity, budgets=budgets), events, 7, 12),
    )
    assert lost.policies[1].loads == blocked.policies[1].loads
    assert lost.policies[1].loads[0].periods_over
    assert lost.policies[1].cost != blocked.policies[1].cost


def test_rules_that_read_counters_are_as_if_they_never_fired() -> None:
    events = simulated(12, 250)
    counters = {"blocks": sr.Count("block", by="customer", over="1d")}
    rules = [sr.Rule("block", "blocks >= 2 and score > 0.1", name="again"), *(sr.Rule(*pair) for pair in RULES.items())]
    counted, bare = run(declare(rules, counters=counters), events, 7, 12), run(declare(RULES), events, 7, 12)
    assert [own.chosen for own in counted.thresholds] == [own.chosen for own in bare.thresholds]
    assert counted.gain == bare.gain


def test_of_rules_that_are_left_out_for_their_counters_no_gain_is_claimed() -> None:
    """What is measured is not what is in use: the rows say so, and `change` is never told."""
    events, counters = simulated(30, 3_000), {"blocks": sr.Count("block", by="customer", over="1d")}
    rules = [sr.Rule("block", "score > 0.95 or blocks >= 3", name="warm"), *(sr.Rule(*pair) for pair in RULES.items())]
    assert run(declare(), events, 15, 30).verdict == "change"
    found = run(declare(rules, counters=counters), events, 15, 30)
    assert found.gain_low > 0
    assert found.verdict == "keep"
    assert [own.name for own in found.policies[:2]] == ["tuned, without 'warm'", "in use, without 'warm'"]
    assert "NO_SURE_GAIN" not in {caution.code for caution in found.cautions}


def test_without_positives_nothing_is_chosen() -> None:
    events = simulated(10, 50)
    with pytest.raises(InvalidInput) as caught:
        run(declare(), replace(events, labels=np.zeros(len(events), np.bool_)), 5, 10)
    assert caught.value.code == "ONE_CLASS"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), max_size=60), st.integers(2, 40))
def test_candidates_ascend_and_lie_around_all_signals(signal: list[float], most: int) -> None:
    values = np.array(signal)
    labels = np.arange(len(values)) % 3 == 0
    found = candidates_of(values, labels, most, [0.5])
    assert (np.diff(found) > 0).all()
    assert 0.5 in found
    there = values[~np.isnan(values)]
    if len(there):
        assert found[-1] > there.max()
        assert found[0] <= there.min()
