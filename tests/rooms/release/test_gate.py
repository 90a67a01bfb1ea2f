import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyriver.core.gates import Gate
from skyriver.release.gate import Measures, evaluate_gate
from skyriver.release.measured import (
    Difference,
    FeatureDifference,
    Interval,
    SameFeatures,
    SliceRecord,
    SpeedRecord,
)

REACHED = {"average_precision": 0.64, "auc": 0.87, "log_loss": 0.03}


def test_passes_when_every_rule_holds() -> None:
    result = evaluate_gate(Gate(average_precision=">= 0.6", log_loss="< 0.05").spec, Measures(REACHED, None))
    assert result.passed
    assert [c.rule for c in result.checks] == ["average_precision >= 0.6", "log_loss < 0.05"]
    assert [(c.value, c.target) for c in result.checks] == [(0.64, 0.6), (0.03, 0.05)]
    assert result.failures == ""


def test_one_failing_rule_closes_it_and_says_why() -> None:
    result = evaluate_gate(Gate(average_precision=">= 0.7", auc=">= 0.8").spec, Measures(REACHED, None))
    assert not result.passed
    assert [c.passed for c in result.checks] == [False, True]
    assert result.failures == "average_precision >= 0.7: average_precision is 0.64, wanted >= 0.7"


@pytest.mark.parametrize(("rule", "passed"), [(">= 0.64", True), ("> 0.64", False), ("<= 0.64", True), ("< 0.64", 0)])
def test_the_border_itself(rule: str, passed: bool) -> None:
    assert evaluate_gate(Gate(average_precision=rule).spec, Measures(REACHED, None)).passed == passed


def test_a_metric_nobody_measured_closes_it() -> None:
    result = evaluate_gate(Gate(card_precision=">= 0").spec, Measures(REACHED, None))
    assert not result.passed
    assert result.checks[0].value is None
    assert "there is no metric card_precision; measured were auc, average_precision, log_loss" in result.failures


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", [">= 0.5", "<= 0.5"])
def test_no_number_closes_it_in_both_directions(value: float, rule: str) -> None:
    result = evaluate_gate(Gate(auc=rule).spec, Measures({"auc": value}, None))
    assert not result.passed
    assert result.checks[0].value is None
    assert "could not be computed" in result.failures


def test_an_empty_gate_is_open() -> None:
    assert evaluate_gate(Gate().spec, Measures({}, None)).passed


def test_the_champion_is_compared_on_the_gated_metrics() -> None:
    gate = Gate(against="champion", average_precision=">= 0.6", log_loss="<= 1").spec
    better = {"average_precision": 0.60, "log_loss": 0.02}
    worse = {"average_precision": 0.70, "log_loss": 0.02}
    assert not evaluate_gate(gate, Measures(REACHED, worse)).passed
    assert not evaluate_gate(gate, Measures(REACHED, better)).passed, "a lower log loss is better"
    assert evaluate_gate(gate, Measures(REACHED, {"average_precision": 0.60, "log_loss": 0.04})).passed
    assert evaluate_gate(gate, Measures(REACHED, REACHED)).passed, "as good is not worse"


def test_without_named_metrics_average_precision_is_compared() -> None:
    gate = Gate(against="champion").spec
    assert evaluate_gate(gate, Measures(REACHED, {"average_precision": 0.64})).passed
    assert not evaluate_gate(gate, Measures(REACHED, {"average_precision": 0.641})).passed


def test_tolerance() -> None:
    gate = Gate(against="champion", tolerance=0.01, auc=">= 0").spec
    assert evaluate_gate(gate, Measures({"auc": 0.86}, {"auc": 0.869})).passed
    assert not evaluate_gate(gate, Measures({"auc": 0.86}, {"auc": 0.871})).passed


def test_no_champion_is_no_obstacle_but_an_unmeasured_one_is() -> None:
    gate = Gate(against="champion", auc=">= 0.8").spec
    assert evaluate_gate(gate, Measures(REACHED, None)).passed
    assert "the champion's auc on these test rows is not known" in evaluate_gate(gate, Measures(REACHED, {})).failures


_metrics = st.dictionaries(st.sampled_from(["auc", "average_precision", "log_loss"]), st.floats(allow_nan=True))


@given(_metrics, st.none() | _metrics, st.sampled_from([">=", "<=", ">", "<"]), st.floats(0, 1))
def test_what_passes_was_measured(
    metrics: dict[str, float], champion: dict[str, float] | None, op: str, value: float
) -> None:
    gate = Gate(against="champion", auc=f"{op} {value}", log_loss="<= 0.5").spec
    result = evaluate_gate(gate, Measures(metrics, champion))
    assert result.passed == all(c.passed for c in result.checks)
    if result.passed:
        assert all(math.isfinite(metrics[m]) for m in ("auc", "log_loss"))
        assert champion is None or all(math.isfinite(champion[m]) for m in ("auc", "log_loss"))


def _part(name: str, of: str = "", rows: int = 500, positives: int = 20, **changes: Any) -> SliceRecord:
    given: dict[str, Any] = {
        "metrics": {"auc": 0.8, "average_precision": 0.5},
        "intervals": {"auc": Interval(0.75, 0.85)},
        "champion_metrics": None,
        "differences": {},
    }
    return SliceRecord(name=name, of=of or name, rows=rows, positives=positives, **(given | changes))


SPEED = SpeedRecord(
    row=5, row_p99=900, row_p99_low=800, row_p99_high=1_200, batch=40, batch_rows=64, reference=50, reference_p99=60
)


def test_a_rule_holds_on_each_slice_and_on_a_named_one() -> None:
    gate = Gate(each_slice={"auc": ">= 0.7"}, slices={"country": {"average_precision": ">= 0.6"}}).spec
    measures = Measures({}, slices=(_part("night"), _part("country=DE", "country"), _part("country=FR", "country")))
    result = evaluate_gate(gate, measures)
    assert [c.rule for c in result.checks] == [
        "night: auc >= 0.7",
        "country=DE: auc >= 0.7",
        "country=FR: auc >= 0.7",
        "country=DE: average_precision >= 0.6",
        "country=FR: average_precision >= 0.6",
    ]
    assert [c.passed for c in result.checks] == [True, True, True, False, False]
    assert result.checks[0].evidence == "95%: 0.75 to 0.85; 500 test rows, 20 positive"


def test_slices_nobody_measured_close_it() -> None:
    failures = evaluate_gate(Gate(each_slice={"auc": ">= 0.7"}).spec, Measures({})).failures
    assert failures == "each slice: auc >= 0.7: no slice was measured"
    named = evaluate_gate(Gate(slices={"night": {"auc": ">= 0.7"}}).spec, Measures({}, slices=(_part("day"),)))
    assert named.failures == "night: auc >= 0.7: the slice night was not measured"


def test_a_slice_with_less_than_declared_is_not_judged_and_one_that_cannot_be_computed_fails() -> None:
    gate = Gate(each_slice={"auc": ">= 0.7"}).spec
    few = _part("night", rows=3, positives=0, metrics={}, intervals={})
    closed = evaluate_gate(gate, Measures({}, slices=(few,)))
    assert not closed.passed
    assert "it has 3 test rows, 0 of them positive: least=, or least_positives=" in closed.failures
    for declared in ({"least": 4}, {"least_positives": 1}):
        (check,) = evaluate_gate(gate, Measures({}, slices=(few.model_copy(update=declared),))).checks
        assert (check.passed, check.judged, check.value) == (True, False, None)
        assert check.why.startswith("not judged: ")
        assert check.to_json()["judged"] is False
    enough = few.model_copy(update={"least": 3})
    assert not evaluate_gate(gate, Measures({}, slices=(enough,))).passed


@pytest.mark.parametrize(
    ("difference", "passed"),
    [((-0.1, -0.2, 0.02), True), ((-0.1, -0.15, -0.05), False), ((-0.01, -0.02, -0.005), True), (None, False)],
    ids=["by chance", "surely", "within the tolerance", "nobody knows"],
)
def test_on_a_slice_it_is_refused_what_is_worse_by_more_than_chance(
    difference: tuple[float, float, float] | None, passed: bool
) -> None:
    gate = Gate(against="champion", tolerance=0.02, auc=">= 0").spec
    by = difference[0] if difference else -0.1
    part = _part(
        "night",
        champion_metrics={"auc": 0.8 - by},
        differences={"auc": Difference(*difference)} if difference else {},
    )
    result = evaluate_gate(gate, Measures({"auc": 0.8}, {"auc": 0.8}, slices=(part,)))
    assert [c.passed for c in result.checks] == [True, True, passed]
    assert result.checks[2].rule == "night: auc not worse than the champion's"


def test_among_many_slices_more_is_needed_to_be_more_than_chance() -> None:
    gate = Gate(against="champion", auc=">= 0").spec
    worse = {"champion_metrics": {"auc": 0.9}, "differences": {"auc": Difference(-0.1, -0.19, -0.01)}}
    few = {"champion_metrics": {}, "metrics": {}, "least": 501}  # which is not judged counts for none
    for slices, passed in (([worse], False), ([worse, few], False), ([worse] * 3, True)):
        parts = tuple(_part(f"s{n}", **given) for n, given in enumerate(slices))
        checks = evaluate_gate(gate, Measures({"auc": 0.8}, {"auc": 0.8}, slices=parts)).checks
        assert checks[2].passed == passed
    assert checks[2].why.endswith("no more than chance, among 3 comparisons")


def test_where_less_is_better_worse_is_more() -> None:
    gate = Gate(against="champion", log_loss="<= 1").spec
    for difference, passed in (((0.1, 0.05, 0.15), False), ((0.1, -0.01, 0.2), True), ((-0.1, -0.2, -0.05), True)):
        part = _part(
            "night",
            metrics={"log_loss": 0.3},
            champion_metrics={"log_loss": 0.3 - difference[0]},
            differences={"log_loss": Difference(*difference)},
        )
        checks = evaluate_gate(gate, Measures({"log_loss": 0.3}, {"log_loss": 0.3}, slices=(part,))).checks
        assert checks[2].passed == passed


def test_of_all_rows_the_tolerance_decides_whatever_the_interval_is() -> None:
    gate = Gate(against="champion", tolerance=0.01, auc=">= 0").spec
    differences = {"auc": Difference(-0.02, -0.1, 0.06)}
    measures = Measures({"auc": 0.8}, {"auc": 0.82}, rows=900, positives=9, differences=differences)
    check = evaluate_gate(gate, measures).checks[1]
    assert not check.passed
    assert check.evidence == "-0.02 (95%: -0.1 to +0.06) on the same 900 test rows, 9 positive"
    assert check.wanted == ">= 0.81"


@pytest.mark.parametrize(("limit", "passed"), [("900us", True), ("899us", False), ("1ms", True)])
def test_latency_is_the_p99_of_a_row_alone(limit: str, passed: bool) -> None:
    (check,) = evaluate_gate(Gate(latency=limit).spec, Measures({}, speed=SPEED)).checks
    assert check.passed == passed
    assert check.measured == "900 us"
    assert "the rounds' p99 from 800 us, three quarters up to 1.2 ms" in check.evidence
    assert "busy" not in check.why
    noisy = SPEED.model_copy(update={"reference_p99": 120})
    (check,) = evaluate_gate(Gate(latency=limit).spec, Measures({}, speed=noisy)).checks
    assert ("busy" in check.why) == (not passed), "it is told, and changes nothing"
    assert check.passed == passed


def test_size_is_that_of_the_file() -> None:
    gate = Gate(size="20KB").spec
    assert evaluate_gate(gate, Measures({}, bytes=20_000)).passed
    assert evaluate_gate(gate, Measures({}, bytes=20_001)).failures == "size <= 20 KB: it is 20 KB, wanted <= 20 KB"


@pytest.mark.parametrize("gate", [Gate(latency="1ms"), Gate(size="1MB")], ids=["latency", "size"])
def test_what_was_not_measured_closes_it(gate: Gate) -> None:
    assert evaluate_gate(gate.spec, Measures({})).failures.endswith("it was not measured")


def test_features_that_differ_from_what_the_stream_recorded_close_it() -> None:
    first = (FeatureDifference("7", "amount", 1.5, None),)
    differ = SameFeatures(compared=100, different=2, first=first)
    result = evaluate_gate(Gate().spec, Measures({}, same_features=differ))
    assert result.failures == (
        "features as the stream recorded them: 2 of 100 recorded rows differ from what the training computes: amount of"
        " 7 recorded 1.5, computed nothing"
    )
    assert evaluate_gate(Gate(same_features=False).spec, Measures({}, same_features=differ)).checks == ()
    same = SameFeatures(compared=100, different=0, first=())
    assert evaluate_gate(Gate().spec, Measures({}, same_features=same)).checks[0].passed
    none = SameFeatures(compared=0, different=0, first=(), why="nothing was decided by these features")
    (check,) = evaluate_gate(Gate().spec, Measures({}, same_features=none)).checks
    assert (check.passed, check.judged) == (True, False)


def test_measures_are_read_from_a_manifest_with_and_without_what_is_new() -> None:
    assert Measures.of({"metrics": {"auc": 0.8}}) == Measures({"auc": 0.8})
    told = {
        "metrics": {"auc": 0.8},
        "champion_metrics": {"auc": 0.7},
        "split": {"train": [0, 1, 2, 1], "test": [2, 3, 40, 4]},
        "intervals": {"auc": [0.7, 0.9]},
        "differences": {"auc": [0.1, 0.0, 0.2]},
        "slices": [_part("night").to_json()],
        "bytes": 7,
        "speed": SPEED.to_json(),
        "same_features": SameFeatures(compared=1, different=0, first=()).to_json(),
    }
    assert Measures.of(told) == Measures(
        {"auc": 0.8},
        {"auc": 0.7},
        40,
        4,
        {"auc": Interval(0.7, 0.9)},
        {"auc": Difference(0.1, 0.0, 0.2)},
        (_part("night"),),
        7,
        SPEED,
        SameFeatures(compared=1, different=0, first=()),
    )


BASELINES = {"a constant": {"average_precision": 0.1, "auc": 0.5}, "LightGBM": {"average_precision": 0.65, "auc": 0.8}}


@pytest.mark.parametrize(
    ("metrics", "tolerance", "passed"), [({}, 0.0, False), ({}, 0.01, True), ({"auc": 0.9}, 0, False)]
)
def test_beats_the_best_baseline(metrics: dict[str, float], tolerance: float, passed: bool) -> None:
    gate = Gate(beats_baseline=True, tolerance=tolerance).spec
    result = evaluate_gate(gate, Measures({**REACHED, **metrics}, None, baselines=BASELINES))
    assert result.passed == passed
    (check,) = result.checks
    assert check.why.startswith("average_precision is 0.64, that of LightGBM 0.65")
    assert check.evidence == "LightGBM, on the same rows"


def test_baselines_are_compared_on_the_gated_metrics_by_their_direction() -> None:
    gate = Gate(beats_baseline=True, auc=">= 0.6", log_loss="<= 0.5", train_auc=">= 0").spec
    known = {"x": {"auc": 0.86, "log_loss": 0.02}, "y": {"auc": 0.7, "log_loss": 0.04}}
    result = evaluate_gate(gate, Measures({**REACHED, "train_auc": 1.0}, None, baselines=known))
    assert [(c.rule, c.passed) for c in result.checks[3:]] == [
        ("auc not worse than the best baseline's", True),
        ("log_loss not worse than the best baseline's", False),
    ]
    assert result.checks[4].target == 0.02


def test_without_baselines_nothing_is_beaten() -> None:
    result = evaluate_gate(Gate(beats_baseline=True).spec, Measures(REACHED, None))
    assert not result.passed
    assert "no baseline's average_precision was measured" in result.failures


def test_a_gap_of_training_and_test_rows() -> None:
    metrics = {**REACHED, "train_average_precision": 0.8, "train_auc": 0.9}
    assert evaluate_gate(Gate(max_gap=0.17).spec, Measures(metrics, None)).passed
    result = evaluate_gate(Gate(max_gap=0.05, auc=">= 0.5", average_precision=">= 0.5").spec, Measures(metrics, None))
    assert [(c.rule, c.passed) for c in result.checks[2:]] == [
        ("gap of average_precision <= 0.05", False),
        ("gap of auc <= 0.05", True),
    ]
    assert not evaluate_gate(Gate(max_gap=0.9).spec, Measures(REACHED, None)).passed, "it was not measured"


def test_a_manifest_tells_its_baselines() -> None:
    told = {"metrics": REACHED, "examined": {"baselines": [{"name": "x", "metrics": {"auc": 0.5}}]}}
    assert Measures.of(told).baselines == {"x": {"auc": 0.5}}
    assert Measures.of({"metrics": REACHED}).baselines == {}
