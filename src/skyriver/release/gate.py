"""The gate: what a version must reach before it may be released. Pure, and closed by default.

A rule whose value is missing or is no number has not been met: nothing passes because it could not be measured. The one
exception is declared: a slice with fewer rows than the application says (`least`, `least_positives`) is not judged, and
is named as such.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any, Final, Literal

from skyriver.core.spec import SLICED, GateRule, GateSpec
from skyriver.core.units import format_bytes
from skyriver.release.measured import Difference, Interval, SameFeatures, SliceRecord, SpeedRecord

Op = Literal[">=", "<=", ">", "<"]

DEFAULT_METRIC: Final = "average_precision"
"""What a candidate is compared on when the gate names the champion but no metric."""
CONFIDENCE: Final = 0.95
"""Of intervals."""
BUSY: Final = 2.0
"""How much longer than its median the reference's p99 takes on a machine that was busy with something else."""

_COMPARE: Final[Mapping[Op, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True, slots=True)
class Measures:
    """What the gate looks at. `champion` are the champion's metrics on the same test rows: None when there is no
    champion (then there is nothing to be worse than), empty when there is one that could not be measured (then the gate
    stays closed)."""

    metrics: Mapping[str, float]
    champion: Mapping[str, float] | None = None
    rows: int = 0
    positives: int = 0
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)
    slices: tuple[SliceRecord, ...] = ()
    bytes: int | None = None
    speed: SpeedRecord | None = None
    same_features: SameFeatures | None = None
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Their metrics on the same test rows, by their names."""

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Measures:
        """`manifest`: a version's spec."""
        speed, same, split = manifest.get("speed"), manifest.get("same_features"), manifest.get("split") or {}
        test = split.get("test") or (0, 0, 0, 0)
        return cls(
            metrics=manifest.get("metrics") or {},
            champion=manifest.get("champion_metrics"),
            rows=int(test[2]),
            positives=int(test[3]),
            intervals={name: Interval(*ends) for name, ends in (manifest.get("intervals") or {}).items()},
            differences={name: Difference(*ends) for name, ends in (manifest.get("differences") or {}).items()},
            slices=tuple(SliceRecord.model_validate(each) for each in manifest.get("slices") or ()),
            bytes=manifest.get("bytes"),
            speed=SpeedRecord.model_validate(speed) if speed else None,
            same_features=SameFeatures.model_validate(same) if same else None,
            baselines={b["name"]: b["metrics"] for b in (manifest.get("examined") or {}).get("baselines", ())},
        )

    def within(self, part: SliceRecord) -> Measures:
        """The same of a slice."""
        return Measures(
            part.metrics, part.champion_metrics, part.rows, part.positives, part.intervals, part.differences
        )


@dataclass(frozen=True, slots=True)
class Check:
    """One rule and how it came out. `value` is None where it could not be measured. `wanted`, `measured` and `evidence`
    (on what, how sure) are for a person; `judged` is False where the rule does not hold by declaration."""

    rule: str
    value: float | None
    target: float | None
    passed: bool
    why: str
    wanted: str = ""
    measured: str = ""
    evidence: str = ""
    judged: bool = True

    def to_json(self) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in self.__slots__}
        return told if not self.judged else {name: value for name, value in told.items() if name != "judged"}


@dataclass(frozen=True, slots=True)
class GateResult:
    passed: bool
    checks: tuple[Check, ...]

    @property
    def failures(self) -> str:
        """What did not hold, for a person; "" when everything did."""
        return "; ".join(f"{c.rule}: {c.why}" for c in self.checks if not c.passed)


def evaluate_gate(gate: GateSpec, measures: Measures) -> GateResult:
    """Whether a version of which this was measured may be released."""
    checks = [_reaches(rule, measures) for rule in gate.rules]
    compared = {r.metric: r.op for r in gate.rules} or {DEFAULT_METRIC: ">="}
    if gate.against == "champion" and measures.champion is not None:
        checks += [_not_worse(metric, op, gate.tolerance, measures) for metric, op in compared.items()]
    if gate.beats_baseline:
        checks += [_beats_baseline(metric, op, gate.tolerance, measures) for metric, op in _of_test(compared).items()]
    if gate.max_gap is not None:
        checks += [_gap(metric, gate.max_gap, measures) for metric in _with_gap(compared)]
    checks += _on_slices(gate, measures)
    if gate.against == "champion" and measures.champion:
        checks += _compared_on_slices(gate, compared, measures)
    checks += _of_the_file(gate, measures)
    if gate.same_features and measures.same_features is not None:
        checks.append(_same_features(measures.same_features))
    return GateResult(all(c.passed for c in checks), tuple(checks))


def _reaches(rule: GateRule, measures: Measures) -> Check:
    wanted = f"{rule.op} {rule.value:g}"
    text, evidence = f"{rule.metric} {wanted}", _rows(measures, rule.metric)
    value = _number(measures.metrics, rule.metric)
    if value is None:
        why = _unknown(rule.metric, measures.metrics)
        return Check(text, None, rule.value, False, why, wanted, "", evidence)
    passed = _COMPARE[rule.op](value, rule.value)
    why = f"{rule.metric} is {value:.4g}, wanted {wanted}"
    return Check(text, value, rule.value, passed, why, wanted, f"{value:.4g}", evidence)


def _not_worse(metric: str, op: Op, tolerance: float, measures: Measures) -> Check:
    """By the tolerance, on what was measured. The interval says how sure that is and decides nothing: by its upper end
    whoever tests on fewer rows would pass more easily, by its lower end nobody would whose test is small."""
    text = f"{metric} not worse than the champion's"
    value, best = _number(measures.metrics, metric), _number(measures.champion or {}, metric)
    evidence = _differs(measures, metric)
    if value is None:
        return Check(text, None, best, False, _unknown(metric, measures.metrics), evidence=evidence)
    if best is None:
        why = f"the champion's {metric} on these test rows is not known"
        return Check(text, value, None, False, why, measured=f"{value:.4g}", evidence=evidence)
    # The rule's direction says which way is better.
    upwards = op in (">=", ">")
    passed = value >= best - tolerance if upwards else value <= best + tolerance
    allowed = f" (tolerance {tolerance:g})" if tolerance else ""
    why = f"{metric} is {value:.6g}, the champion's {best:.6g}{allowed}"
    wanted = f"{'>=' if upwards else '<='} {best - tolerance if upwards else best + tolerance:.4g}"
    return Check(text, value, best, passed, why, wanted, f"{value:.4g}", evidence)


def _of_test(compared: Mapping[str, Op]) -> Mapping[str, Op]:
    """Those of `compared` that a baseline can be better in."""
    none = ("positives_share", "onnx_max_difference")
    found = {m: op for m, op in compared.items() if m not in none and not m.startswith(("train_", "prequential_"))}
    return {m: op for m, op in found.items() if not m.endswith("_calibrated")} or {DEFAULT_METRIC: ">="}


def _beats_baseline(metric: str, op: Op, tolerance: float, measures: Measures) -> Check:
    text, value = f"{metric} not worse than the best baseline's", _number(measures.metrics, metric)
    upwards = op in (">=", ">")
    known = {name: _number(metrics, metric) for name, metrics in measures.baselines.items()}
    reached = {name: number for name, number in known.items() if number is not None}
    if value is None:
        return Check(text, None, None, False, _unknown(metric, measures.metrics))
    if not reached:
        why = f"no baseline's {metric} was measured"
        return Check(text, value, None, False, why, measured=f"{value:.4g}", evidence=why)
    name = max(reached, key=lambda each: reached[each] if upwards else -reached[each])
    border = reached[name] - tolerance if upwards else reached[name] + tolerance
    passed = value >= border if upwards else value <= border
    allowed = f" (tolerance {tolerance:g})" if tolerance else ""
    why = f"{metric} is {value:.6g}, that of {name} {reached[name]:.6g}{allowed}"
    wanted = f"{'>=' if upwards else '<='} {border:.4g}"
    return Check(text, value, reached[name], passed, why, wanted, f"{value:.4g}", f"{name}, on the same rows")


def _with_gap(compared: Mapping[str, Op]) -> tuple[str, ...]:
    """What is measured on training rows too."""
    return tuple(metric for metric in ("average_precision", "auc") if metric in compared) or (DEFAULT_METRIC,)


def _gap(metric: str, most: float, measures: Measures) -> Check:
    wanted = f"<= {most:g}"
    text = f"gap of {metric} {wanted}"
    value, trained = _number(measures.metrics, metric), _number(measures.metrics, f"train_{metric}")
    if value is None or trained is None:
        return Check(text, None, most, False, _unknown(f"train_{metric}", measures.metrics), wanted)
    gap = trained - value
    why = f"{metric} is {trained:.4g} on the training rows and {value:.4g} on the test rows: {gap:.4g} apart"
    evidence = f"{trained:.4g} on training rows, {value:.4g} on test rows"
    return Check(text, gap, most, gap <= most, f"{why}, wanted {wanted}", wanted, f"{gap:.4g}", evidence)


def _on_slices(gate: GateSpec, measures: Measures) -> Iterator[Check]:
    for rule in gate.slices:
        parts = [part for part in measures.slices if rule.slice in ("", part.of)]
        text = f"{rule.metric} {rule.op} {rule.value:g}"
        if not parts:
            why = f"the slice {rule.slice} was not measured" if rule.slice else "no slice was measured"
            yield Check(f"{rule.slice or 'each slice'}: {text}", None, rule.value, False, why)
        for part in parts:
            if part.too_few:
                yield _not_judged(f"{part.name}: {text}", part, rule.value)
                continue
            found = _reaches(rule, measures.within(part))
            if found.value is None:
                found = replace(found, why=f"{found.why}; {_declare(part)}")
            yield replace(found, rule=f"{part.name}: {found.rule}")


def _compared_on_slices(gate: GateSpec, compared: Mapping[str, Op], measures: Measures) -> Iterator[Check]:
    """A slice has few rows, and there are many slices: there it is refused what is worse by more than the tolerance and
    by more than chance, among all these comparisons (Bonferroni). Where too few positives tell no interval, what was
    measured counts."""
    metrics = {metric: op for metric, op in compared.items() if metric in SLICED}
    count = len(metrics) * sum(not part.too_few for part in measures.slices)
    for part in measures.slices:
        within = measures.within(part)
        for metric, op in metrics.items():
            if part.too_few:
                yield _not_judged(f"{part.name}: {metric} not worse than the champion's", part, None)
                continue
            found = _not_worse(metric, op, gate.tolerance, within)
            difference = within.differences.get(metric)
            if not found.passed and difference is None:
                found = replace(found, why=f"{found.why}; {_declare(part)}")
            elif not found.passed and difference is not None and not _beyond_chance(difference, op, count):
                among = f", among {count} comparisons" if count > 1 else ""
                found = replace(found, passed=True, why=f"{found.why}: no more than chance{among}")
            yield replace(found, rule=f"{part.name}: {found.rule}")


def _beyond_chance(difference: Difference, op: Op, count: int) -> bool:
    """Whether the end of the interval that is nearer to 0 is on the bad side, once the interval is as wide as that of
    one among `count` must be for all of them to hold."""
    wider = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / count) / NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    if op in (">=", ">"):
        return difference.by + max(0.0, difference.high - difference.by) * wider < 0
    return difference.by - max(0.0, difference.by - difference.low) * wider > 0


def _not_judged(rule: str, part: SliceRecord, target: float | None) -> Check:
    return Check(rule, None, target, True, f"not judged: {part.too_few}", evidence=part.too_few, judged=False)


def _declare(part: SliceRecord) -> str:
    return (
        f"it has {part.rows:,} test rows, {part.positives:,} of them positive: least=, or least_positives=, of"
        f" sr.Slice says how few are not judged"
    )


def _of_the_file(gate: GateSpec, measures: Measures) -> Iterator[Check]:
    if gate.latency_us:
        wanted = f"<= {_time(gate.latency_us)}"
        text, speed = f"p99 of a row alone {wanted}", measures.speed
        if speed is None:
            yield Check(text, None, gate.latency_us, False, "it was not measured", wanted)
        else:
            passed = speed.row_p99 <= gate.latency_us
            why = f"it is {_time(speed.row_p99)}, wanted {wanted}"
            if not passed and speed.reference_p99 > BUSY * speed.reference:
                why += "; the machine was busy with something else, and `skyriver run` measures anew"
            yield Check(text, speed.row_p99, gate.latency_us, passed, why, wanted, _time(speed.row_p99), _spread(speed))
    if gate.size_bytes:
        wanted = f"<= {format_bytes(gate.size_bytes)}"
        if measures.bytes is None:
            yield Check(f"size {wanted}", None, gate.size_bytes, False, "it was not measured", wanted)
        else:
            size = format_bytes(measures.bytes)
            passed, why = measures.bytes <= gate.size_bytes, f"it is {size}, wanted {wanted}"
            evidence = f"the file has {measures.bytes:,} bytes"
            yield Check(f"size {wanted}", measures.bytes, gate.size_bytes, passed, why, wanted, size, evidence)


def _same_features(same: SameFeatures) -> Check:
    rule, wanted = "features as the stream recorded them", "0 differ"
    if not same.compared:
        return Check(rule, None, 0, True, f"not judged: {same.why}", wanted, evidence=same.why, judged=False)
    evidence = f"the stream's last {same.compared:,} decisions by these features"
    if not same.different:
        why = f"{same.compared:,} recorded rows equal the training's, bit for bit"
        return Check(rule, 0, 0, True, why, wanted, "0 differ", evidence)
    shown = ", ".join(
        f"{d.feature} of {d.id} recorded {_maybe(d.recorded)}, computed {_maybe(d.computed)}" for d in same.first[:3]
    )
    why = f"{same.different:,} of {same.compared:,} recorded rows differ from what the training computes: {shown}"
    return Check(rule, same.different, 0, False, why, wanted, f"{same.different:,} differ", f"{evidence}: {shown}")


def _rows(measures: Measures, metric: str) -> str:
    interval = measures.intervals.get(metric)
    sure = f"95%: {interval.low:.4g} to {interval.high:.4g}; " if interval is not None else ""
    return f"{sure}{measures.rows:,} test rows, {measures.positives:,} positive" if measures.rows else ""


def _differs(measures: Measures, metric: str) -> str:
    difference = measures.differences.get(metric)
    if difference is None:
        return _rows(measures, metric) and f"the same {measures.rows:,} test rows, {measures.positives:,} positive"
    return (
        f"{difference.by:+.4g} (95%: {difference.low:+.4g} to {difference.high:+.4g}) on the same"
        f" {measures.rows:,} test rows, {measures.positives:,} positive"
    )


def _spread(speed: SpeedRecord) -> str:
    return (
        f"the rounds' p99 from {_time(speed.row_p99_low)}, three quarters up to {_time(speed.row_p99_high)}; median"
        f" {_time(speed.row)}; {speed.batch_rows} rows together {_time(speed.batch)}; hashing 64 KiB meanwhile"
        f" {_time(speed.reference)}, p99 {_time(speed.reference_p99)}"
    )


def _time(microseconds: float) -> str:
    return f"{microseconds / 1e3:.3g} ms" if microseconds >= 1_000 else f"{microseconds:.3g} us"


def _maybe(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.9g}"


def _number(metrics: Mapping[str, float], name: str) -> float | None:
    value = metrics.get(name)
    return float(value) if value is not None and math.isfinite(value) else None


def _unknown(metric: str, metrics: Mapping[str, float]) -> str:
    if metric in metrics:
        return f"{metric} could not be computed on the test rows"
    return f"there is no metric {metric}; measured were {', '.join(sorted(metrics)) or 'none'}"
