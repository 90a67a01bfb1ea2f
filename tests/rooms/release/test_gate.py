import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyriver.core.terms import Gate
from skyriver.release.gate import evaluate_gate

REACHED = {"average_precision": 0.64, "auc": 0.87, "log_loss": 0.03}


def test_passes_when_every_rule_holds() -> None:
    result = evaluate_gate(Gate(average_precision=">= 0.6", log_loss="< 0.05").spec, REACHED, None)
    assert result.passed
    assert [c.rule for c in result.checks] == ["average_precision >= 0.6", "log_loss < 0.05"]
    assert [(c.value, c.target) for c in result.checks] == [(0.64, 0.6), (0.03, 0.05)]
    assert result.failures == ""


def test_one_failing_rule_closes_it_and_says_why() -> None:
    result = evaluate_gate(Gate(average_precision=">= 0.7", auc=">= 0.8").spec, REACHED, None)
    assert not result.passed
    assert [c.passed for c in result.checks] == [False, True]
    assert result.failures == "average_precision >= 0.7: average_precision is 0.64, wanted >= 0.7"


@pytest.mark.parametrize(("rule", "passed"), [(">= 0.64", True), ("> 0.64", False), ("<= 0.64", True), ("< 0.64", 0)])
def test_the_border_itself(rule: str, passed: bool) -> None:
    assert evaluate_gate(Gate(average_precision=rule).spec, REACHED, None).passed == passed


def test_a_metric_nobody_measured_closes_it() -> None:
    result = evaluate_gate(Gate(card_precision=">= 0").spec, REACHED, None)
    assert not result.passed
    assert result.checks[0].value is None
    assert "there is no metric card_precision; measured were auc, average_precision, log_loss" in result.failures


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", [">= 0.5", "<= 0.5"])
def test_no_number_closes_it_in_both_directions(value: float, rule: str) -> None:
    result = evaluate_gate(Gate(auc=rule).spec, {"auc": value}, None)
    assert not result.passed
    assert result.checks[0].value is None
    assert "could not be computed" in result.failures


def test_an_empty_gate_is_open() -> None:
    assert evaluate_gate(Gate().spec, {}, None).passed


def test_the_champion_is_compared_on_the_gated_metrics() -> None:
    gate = Gate(against="champion", average_precision=">= 0.6", log_loss="<= 1").spec
    better = {"average_precision": 0.60, "log_loss": 0.02}
    worse = {"average_precision": 0.70, "log_loss": 0.02}
    assert not evaluate_gate(gate, REACHED, worse).passed
    assert not evaluate_gate(gate, REACHED, better).passed, "a lower log loss is better"
    assert evaluate_gate(gate, REACHED, {"average_precision": 0.60, "log_loss": 0.04}).passed
    assert evaluate_gate(gate, REACHED, REACHED).passed, "as good is not worse"


def test_without_named_metrics_average_precision_is_compared() -> None:
    gate = Gate(against="champion").spec
    assert evaluate_gate(gate, REACHED, {"average_precision": 0.64}).passed
    assert not evaluate_gate(gate, REACHED, {"average_precision": 0.641}).passed


def test_tolerance() -> None:
    gate = Gate(against="champion", tolerance=0.01, auc=">= 0").spec
    assert evaluate_gate(gate, {"auc": 0.86}, {"auc": 0.869}).passed
    assert not evaluate_gate(gate, {"auc": 0.86}, {"auc": 0.871}).passed


def test_no_champion_is_no_obstacle_but_an_unmeasured_one_is() -> None:
    gate = Gate(against="champion", auc=">= 0.8").spec
    assert evaluate_gate(gate, REACHED, None).passed
    assert "the champion's auc on these test rows is not known" in evaluate_gate(gate, REACHED, {}).failures


_metrics = st.dictionaries(st.sampled_from(["auc", "average_precision", "log_loss"]), st.floats(allow_nan=True))


@given(_metrics, st.none() | _metrics, st.sampled_from([">=", "<=", ">", "<"]), st.floats(0, 1))
def test_what_passes_was_measured(
    metrics: dict[str, float], champion: dict[str, float] | None, op: str, value: float
) -> None:
    gate = Gate(against="champion", auc=f"{op} {value}", log_loss="<= 0.5").spec
    result = evaluate_gate(gate, metrics, champion)
    assert result.passed == all(c.passed for c in result.checks)
    if result.passed:
        assert all(math.isfinite(metrics[m]) for m in ("auc", "log_loss"))
        assert champion is None or all(math.isfinite(champion[m]) for m in ("auc", "log_loss"))
