"""The gate: what a version must reach before it may be released. Pure, and closed by default.

A rule whose value is missing or is no number has not been met: nothing passes because it could not be measured.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from skyriver.core.spec import GateRule, GateSpec

Op = Literal[">=", "<=", ">", "<"]

DEFAULT_METRIC: Final = "average_precision"
"""What a candidate is compared on when the gate names the champion but no metric."""

_COMPARE: Final[Mapping[Op, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True, slots=True)
class Check:
    """One rule and how it came out. `value` is None where the metric is missing or no number."""

    rule: str
    value: float | None
    target: float | None
    passed: bool
    why: str


@dataclass(frozen=True, slots=True)
class GateResult:
    passed: bool
    checks: tuple[Check, ...]

    @property
    def failures(self) -> str:
        """What did not hold, for a person; "" when everything did."""
        return "; ".join(f"{c.rule}: {c.why}" for c in self.checks if not c.passed)


def evaluate_gate(
    gate: GateSpec, metrics: Mapping[str, float], champion_metrics: Mapping[str, float] | None
) -> GateResult:
    """Whether a version with `metrics` may be released.

    `champion_metrics` are the champion's on the same test rows: None when there is no champion (then there is
    nothing to be worse than), empty when there is one that could not be measured (then the gate stays closed).
    """
    checks = [_reaches(rule, metrics) for rule in gate.rules]
    if gate.against == "champion" and champion_metrics is not None:
        compared = {r.metric: r.op for r in gate.rules} or {DEFAULT_METRIC: ">="}
        checks += [_not_worse(m, op, gate.tolerance, metrics, champion_metrics) for m, op in compared.items()]
    return GateResult(all(c.passed for c in checks), tuple(checks))


def _reaches(rule: GateRule, metrics: Mapping[str, float]) -> Check:
    text = f"{rule.metric} {rule.op} {rule.value:g}"
    value = _number(metrics, rule.metric)
    if value is None:
        return Check(text, None, rule.value, False, _unknown(rule.metric, metrics))
    passed = _COMPARE[rule.op](value, rule.value)
    return Check(text, value, rule.value, passed, f"{rule.metric} is {value:.4g}, wanted {rule.op} {rule.value:g}")


def _not_worse(
    metric: str, op: Op, tolerance: float, metrics: Mapping[str, float], champion: Mapping[str, float]
) -> Check:
    text = f"{metric} not worse than the champion's"
    value, best = _number(metrics, metric), _number(champion, metric)
    if value is None:
        return Check(text, None, best, False, _unknown(metric, metrics))
    if best is None:
        return Check(text, value, None, False, f"the champion's {metric} on these test rows is not known")
    # The rule's direction says which way is better.
    passed = value >= best - tolerance if op in (">=", ">") else value <= best + tolerance
    allowed = f" (tolerance {tolerance:g})" if tolerance else ""
    return Check(text, value, best, passed, f"{metric} is {value:.6g}, the champion's {best:.6g}{allowed}")


def _number(metrics: Mapping[str, float], name: str) -> float | None:
    value = metrics.get(name)
    return float(value) if value is not None and math.isfinite(value) else None


def _unknown(metric: str, metrics: Mapping[str, float]) -> str:
    if metric in metrics:
        return f"{metric} could not be computed on the test rows"
    return f"there is no metric {metric}; measured were {', '.join(sorted(metrics)) or 'none'}"
