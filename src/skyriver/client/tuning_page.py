"""How thresholds that were chosen by costs look to a person."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.markup import escape

from skyriver.client.screen import Screen
from skyriver.core.units import format_duration

CURVE_LINES = 12
BAR = 32
_EIGHTHS = " ▏▎▍▌▋▊▉"

Told = Mapping[str, Any]


def tuned(screen: Screen, told: Told) -> None:
    """All of a tuning: thresholds, costs, what is decided, the curves, what to be careful about, the rules."""
    unit = f" in {told['costs']['unit']}" if told["costs"].get("unit") else ""
    screen.out.print(escape(_head(told)))
    columns = ("RULE", "IN USE", "CHOSEN", "95% OF CHOICES")
    screen.table(
        "", columns, [(_name(t), _number(t["in_use"]), _number(t["chosen"]), _between(t)) for t in told["thresholds"]]
    )
    screen.out.print(f"\nA day costs{unit}, on {told['held_out']['days']} later days that had no say in the choice:")
    screen.table("", ("RULES", "COST", "95%", *_decisions(told), *_loads(told)), [_policy(p) for p in told["policies"]])
    screen.out.print(f"\n{_verdict(told)}")
    _show_decided(screen, told)
    days = f"on the days it was chosen on, {_days(told['chosen_on'])}"
    for threshold, points in zip(told["thresholds"], told["curves"], strict=True):
        screen.out.print(
            f"\nA day's cost{unit} by the threshold of {escape(_name(threshold))}, the others as chosen, {days}:"
        )
        for line in _curve(threshold, points):
            screen.out.print(line)
    if told["cautions"]:
        screen.out.print()
    for caution in told["cautions"]:
        screen.out.print(f"[yellow]![/] {escape(caution['message'])}")
    screen.out.print("\nThe rules with the chosen thresholds:")
    for line in rule_lines(told):
        screen.out.print(escape(line))


def _head(told: Told) -> str:
    chosen, later = told["chosen_on"], told["held_out"]
    return (
        f"{told['stream']}: thresholds for {told['model']}:{told['version']}, chosen on {_part(chosen)};"
        f" measured on {_part(later)}."
    )


def _days(part: Told) -> str:
    first, last = (datetime.fromtimestamp(at / 1e6, UTC) for at in (part["start"], part["end"] - 1))
    return f"{first:%Y-%m-%d} to {last:%Y-%m-%d}"


def _part(part: Told) -> str:
    return f"{_days(part)} ({part['events']:,} events, {part['positives']:,} positive)"


def _name(threshold: Told) -> str:
    return str(threshold["rule"])


def _number(value: float) -> str:
    return f"{value:.6g}"


def _between(threshold: Told) -> str:
    return f"{_number(threshold['low'])} to {_number(threshold['high'])}"


def _decisions(told: Told) -> list[str]:
    return [f"{own['decision'].upper()} A DAY" for own in told["policies"][0]["decided"]]


def _loads(told: Told) -> list[str]:
    return [
        f"BUSIEST {format_duration(own['per_us'])} OF {own['decision'].upper()}" for own in told["policies"][0]["loads"]
    ]


def _policy(policy: Told) -> list[str]:
    events = [f"{own['events']:,.1f}" for own in policy["decided"]]
    loads = [f"{own['busiest']:,} of {own['most']:,}" for own in policy["loads"]]
    return [
        policy["name"],
        _amount(policy["cost"]),
        f"{_amount(policy['low'])} to {_amount(policy['high'])}",
        *events,
        *loads,
    ]


def _amount(value: float) -> str:
    return f"{value:,.2f}" if abs(value) < 1_000 else f"{value:,.0f}"


def _verdict(told: Told) -> str:
    unit = f" {told['costs']['unit']}" if told["costs"].get("unit") else ""
    in_use, gain = told["policies"][1], told["gain"]
    without = in_use["name"].removeprefix("in use")  # ", without 'warm'": of what is in use it is no share
    share = f", {abs(gain) / in_use['cost']:.1%}" if not without and 0 < abs(gain) <= in_use["cost"] else ""
    word = "less" if gain >= 0 else "more"
    between = f"95%: {_amount(told['gain_low'])} to {_amount(told['gain_high'])} less"
    what = "[green]change[/]" if told["verdict"] == "change" else "[yellow]keep what you have[/]"
    by = f"By the chosen thresholds{escape(without)}{',' if without else ''}"
    return f"{by} a day costs {_amount(abs(gain))}{unit} {word}{share} ({between}): {what}."


def _show_decided(screen: Screen, told: Told) -> None:
    rows = [
        (policy["name"], own["decision"], f"{own['events']:,.1f}", _share(own["precision"]), _share(own["recall"]))
        for policy in told["policies"][:2]
        for own in policy["decided"]
    ]
    screen.out.print()
    screen.table("", ("RULES", "DECISION", "EVENTS A DAY", "OF THEM POSITIVE", "OF ALL POSITIVE"), rows)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _curve(threshold: Told, points: Sequence[Told]) -> Iterator[str]:
    """A line a value, among them the chosen one and the one in use with those beside them."""
    marks = {threshold["in_use"]: "in use", threshold["chosen"]: "chosen"}
    step = max(1, len(points) // CURVE_LINES)
    near = {n + beside for n, p in enumerate(points) if p["value"] in marks for beside in (-1, 0, 1)}
    shown = [p for n, p in enumerate(points) if n % step == 0 or n in near]
    top = max(abs(point["cost"]) for point in shown) or 1.0
    for point in shown:
        bar = _bar(abs(point["cost"]) / top)
        over = f"  [red]{point['over']:,} beyond capacity[/]" if point["over"] else ""
        mark = f"  [bold]{marks[point['value']]}[/]" if point["value"] in marks else ""
        yield f"  {_number(point['value']):>12}  {bar:<{BAR}}  {_amount(point['cost']):>12}{mark}{over}"


def _bar(share: float) -> str:
    eighths = round(share * BAR * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def rule_lines(told: Told) -> Iterator[str]:
    """As they are written in an application."""
    plain = not any(own["now"].get("name") for own in told["rules"])
    plain = plain and len({own["now"]["decision"] for own in told["rules"]}) == len(told["rules"])
    for own in told["rules"]:
        rule = own["now"]
        when, decision = (json.dumps(rule[what], ensure_ascii=False) for what in ("when", "decision"))
        name = f", name={json.dumps(rule['name'])}" if rule.get("name") else ""
        line = f"    {decision}: {when}," if plain else f"    sr.Rule({decision}, {when}{name}),"
        was = f"  # was {own['was']['when']}" if own["was"]["when"] != rule["when"] else ""
        yield line + was
