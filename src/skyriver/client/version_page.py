"""How a version looks on the screen: how good it is and where, how its probabilities hold, what the gate measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape

from skyriver.client.screen import Screen

SHOWN_BINS = 8
"""Of a model's reliability."""


def version(screen: Screen, found: Mapping[str, Any]) -> None:
    spec, status = found["spec"], found["status"]
    rows = [(name, f"{value:.4f}") for name, value in sorted(spec["metrics"].items())]
    screen.table(f"{found['name']}  {found['state']}", ("metric", "value"), rows)
    for candidate in spec.get("candidates", ()):
        screen.say(f"  candidate {candidate['name']}: {escape(str(candidate.get('why', '')))}")
    if told := spec.get("examined"):
        examined(screen, told)
    if calibration := spec.get("calibration"):
        _calibration(screen, calibration)
    slices(screen, spec)
    gate(screen, status)


def examined(screen: Screen, told: Mapping[str, Any]) -> None:
    """How it compares with what costs nothing to have, what more rows would bring, and the verdict."""
    metric = told["metric"]
    if search := told.get("search"):
        _search(screen, search)
    rows = [
        (each["name"], f"{each['metrics'][metric]:.4f}", _above(each.get("difference")), f"{each['rows']:,}")
        for each in told.get("baselines", ())
        if metric in each["metrics"]
    ]
    if rows:
        own = ("this version", f"{told['value']:.4f}", "", "")
        columns = ("", metric, "this version's is higher by", "learnt from rows")
        screen.table("Beside baselines, on the test rows", columns, [own, *rows])
    if told.get("trained") is not None:
        screen.say(f"  gap: {metric} {told['trained']:.4f} on training rows, {told['value']:.4f} on test rows")
    if curve := [f"{value:.4f} with {count:,} rows" for count, value in told.get("curve", ())]:
        screen.say(f"  learning curve: {', '.join(curve)}")
    stretches = [each for each in told.get("prequential", ()) if metric in each[5]]
    if stretches:
        values = ", ".join(f"{each[5][metric]:.4f}" for each in stretches)
        screen.say(f"  prequential: {metric} {values} of {len(stretches)} stretches, the test the last of them")
    screen.say(f"  verdict: {escape(told['verdict'])}")


def _above(difference: Sequence[float] | None) -> str:
    return "" if difference is None else f"{difference[0]:+.4f} ({difference[1]:+.4f} to {difference[2]:+.4f})"


def _search(screen: Screen, search: Mapping[str, Any]) -> None:
    counts = search["counts"]
    words = {"pruned": "cut short", "failed": "failed"}
    cut = "".join(f", {counts[state]} {word}" for state, word in words.items() if counts.get(state))
    found = ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in search["params"].items()
    )
    screen.say(
        f"  search: {escape(found)} is the best of {sum(counts.values())} trials{cut}: {search['metric']}"
        f" {search['value']:.4f} on {search['judged']:,} held-out training rows; ended by {search['ended']}"
    )


def slices(screen: Screen, spec: Mapping[str, Any]) -> None:
    """How good it is on parts of the test rows."""
    rows = [
        (
            each["name"],
            f"{each['rows']:,}",
            f"{each['positives']:,}",
            *(_sure(each, metric) for metric in ("average_precision", "auc")),
        )
        for each in spec.get("slices", ())
    ]
    if rows:
        screen.table("Slices of the test rows", ("slice", "rows", "positive", "average precision", "auc"), rows)


def _sure(each: Mapping[str, Any], metric: str) -> str:
    value, ends = each["metrics"].get(metric), each["intervals"].get(metric)
    if value is None:
        return ""
    return f"{value:.4f}" if ends is None else f"{value:.4f} ({ends[0]:.4f} to {ends[1]:.4f})"


def gate(screen: Screen, status: Mapping[str, Any]) -> None:
    """What the gate wanted, what was measured, and how it came out."""
    rows = [
        (
            check["rule"].removesuffix(check.get("wanted", "")).strip(),
            check.get("wanted", ""),
            check.get("measured", ""),
            check.get("evidence") or check["why"],
            _outcome(check),
        )
        for check in status.get("gate", {}).get("checks", ())
    ]
    if rows:
        screen.table("Gate", ("rule", "wanted", "measured", "evidence", ""), rows)
    elif "gate" in status:
        screen.say("  gate: its application declares no rule, so whatever is trained is approved.")
    if any(row[-1] == _NOT_JUDGED for row in rows):
        screen.say(f"  {_NOT_JUDGED}: there is nothing to go by yet, or too little. Such a rule holds no version up.")


_NOT_JUDGED = "not judged"


def _outcome(check: Mapping[str, Any]) -> str:
    if not check.get("judged", True):
        return _NOT_JUDGED
    return "passed" if check["passed"] else "FAILED"


def _calibration(screen: Screen, told: Mapping[str, Any]) -> None:
    """How often what got such a score was true, beside what was said of it; the lowest scores, of which there is little
    to say, together."""
    if not told["method"]:
        screen.say(f"  probability: none, for {escape(told['why'])}")
    else:
        fitted = f"{told['rows']:,} held-out rows, {told['positives']:,} of them positive"
        screen.say(f"  probability: {told['method']}, fitted on {fitted}")
    bins = [list(own) for own in told["reliability"]]
    while len(bins) > SHOWN_BINS:
        bins[:2] = [_together(bins[0], bins[1])]
    rows = [
        (f"{count:,}", f"{score:.4f}", "" if probability is None else f"{probability:.4f}", f"{observed:.4f}")
        for count, score, probability, observed in bins
    ]
    screen.table("Reliability on the test rows", ("rows", "mean score", "mean probability", "observed"), rows)


def _together(one: Sequence[Any], other: Sequence[Any]) -> list[Any]:
    rows = one[0] + other[0]
    means = [None if a is None else (a * one[0] + b * other[0]) / rows for a, b in zip(one[1:], other[1:], strict=True)]
    return [rows, *means]
