"""What the commands for review show. Ages and dues are by the dispatcher's clock, which told them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from skyriver.client.decision_page import reasons
from skyriver.client.screen import Screen
from skyriver.core.contract_reviews import (
    Difference,
    ReviewCase,
    ReviewCaseInFull,
    ReviewCaseList,
    ReviewerStats,
    ReviewStats,
    Share,
)
from skyriver.core.units import SECOND

_OUTCOMES = {
    "UNANSWERED": "expired: nobody answered in time",
    "QUEUE_FULL": "closed unanswered: too many waited, and it ranked lowest",
}


def show_list(screen: Screen, stream: str, found: ReviewCaseList, event: str = "") -> None:
    if not found["items"]:
        none = (
            f"No such case of {stream} is of the event {escape(event)}." if event else f"No case of {stream} is there."
        )
        screen.say(f"No such case of {stream}." if found["total"] else none)
        return
    now = found["now"]
    columns = ("CASE", "EVENT", "DECISION", "LANE", "STATE", "EXPECTED", "AGE", "DUE", "BY")
    screen.table("", columns, [_line(case, now) for case in found["items"]])
    if len(found["items"]) < found["total"]:
        more = " `--all` shows all, `--limit` more." if found["next"] is not None else ""
        screen.say(f"[dim]{len(found['items']):,} of {found['total']:,}.{more} Times are UTC.[/]")


def _line(case: ReviewCase, now: int) -> tuple[object, ...]:
    closed = case["closed_at"] is not None
    due = case["outcome"] if closed else _due(case["due_at"], now)
    by = case["holder"] or (case["closed_why"].lower() if closed else "")
    return (
        case["id"],
        case["event"],
        case["decision"],
        case["lane"],
        case["state"],
        f"{case['expected_cost']:.4g}",
        _span(now - case["opened_at"]),
        due,
        by,
    )


def show_case(screen: Screen, stream: str, case: ReviewCaseInFull, decision: Mapping[str, Any] | None) -> None:
    """`decision`: as the worker tells it, with the reasons of its score; None where it cannot."""
    for line in _lines(stream, case):
        screen.out.print(line)
    if decision is not None:
        for line in reasons(decision):
            screen.out.print(line)
    _show_values(screen, "event", {n: _value(v) for n, v in case["values"].items()})
    features = {n: "missing" if v is None else f"{v:.6g}" for n, v in case["features"].items()}
    _show_values(screen, "by the features", {n: v for n, v in features.items() if n not in case["values"]})
    for line in _said(stream, case):
        screen.out.print(line)


def _lines(stream: str, case: ReviewCaseInFull) -> Iterator[str]:
    now = case["now"]
    opened = f"{_span(now - case['opened_at'])} ago"
    head = f"[bold]case {case['id']} of {escape(stream)}[/]: {escape(case['decision'])} of {escape(str(case['event']))}"
    yield f"{head}, {opened}"
    yield f"  state     {_state(case)}"
    if case["closed_at"] is None:
        last = f", expires {_until(case['expires_at'], now)}" if case["expires_at"] is not None else ""
        yield f"  due       {_until(case['due_at'], now)}{last}"
    yield f"  why       {_why(case)}"
    chance = f"a probability of {case['probability']:.3g}"
    yield f"  expected  {case['expected_cost']:.4g}, from {chance} and a miss that costs {case['miss_cost']:.4g}"
    if case["truth"] is not None:
        yield f"  truth     {escape(case['label'])} = {case['truth']:g}, by a label from elsewhere"


def _state(case: ReviewCaseInFull) -> str:
    now = case["now"]
    if case["holder"] and case["lease_until"] is not None:
        lease = f"for another {_span(case['lease_until'] - now)} (claim {case['claim']})"
        return f"{case['state']}: {escape(case['holder'])} holds it {lease}"
    if case["state"] == "DECIDED":
        said = [o["by"] for o in case["opinions"] if o["answer"] == case["outcome"]]
        return f"DECIDED: {escape(case['outcome'])}, by {escape(' and '.join(said))}"
    if case["closed_why"]:
        return f"{case['state']}: {escape(case['outcome'])}, {_OUTCOMES.get(case['closed_why'], case['closed_why'])}"
    wants = {"SECOND": "another person must answer too", "ESCALATED": _escalated(case)}
    return f"{case['state']}: {wants.get(case['state'], 'it waits for somebody to claim it')}"


def _escalated(case: ReviewCaseInFull) -> str:
    if case["escalated_by"]:
        return f"{escape(case['escalated_by'])} handed it up: {escape(case['escalated_why'])}"
    return "two people disagree"


def _why(case: ReviewCaseInFull) -> str:
    rule = f"the rule {escape(case['rule'])} fired" if case["rule"] else "no rule fired"
    if case["score"] is None:
        return f"{rule}; there was no score ({escape(case['reason'] or case['status'])})"
    return f"{rule}; the score is {case['score']:.6g}, by {escape(case['model'])}:{case['version']}"


def _said(stream: str, case: ReviewCaseInFull) -> Iterator[str]:
    now = case["now"]
    if case["opinions"]:
        yield "  said"
    for opinion in case["opinions"]:
        word = f"{escape(opinion['answer'])}: {escape(opinion['reason'])}" if opinion["answer"] else "not told yet"
        yield f"    {escape(opinion['by'])}, {_span(now - opinion['at'])} ago: {word}"
    if case["earlier"]:
        yield f"  before, with the key {escape(str(case['key']))}"
    for other in case["earlier"]:
        word = escape(other["outcome"] or other["state"])
        reason = f": {escape(other['reason'])}" if other["reason"] else ""
        truth = f" (true: {other['truth']:g})" if other["truth"] is not None else ""
        yield f"    case {other['id']}, {_span(now - other['opened_at'])} ago, {word}{truth}{reason}"
    if case["closed_at"] is None:
        answers = escape(" or ".join(case["answers"]))
        agree = "; two people must agree" if case["second_opinion"] else ""
        yield f"  answers   {answers}{agree}"
        verb = "decide" if case["holder"] else "claim"
        rest = ' ANSWER --reason "..."' if case["holder"] else ""
        yield f"  [bold]→[/] skyriver review {verb} {escape(stream)} {case['id']}{rest}"


def became(stream: str, case: ReviewCaseInFull) -> str:
    """One line: what an act made of a case."""
    return f"Case {case['id']} of {escape(stream)} is {_state(case)}."


def show_stats(screen: Screen, stream: str, told: ReviewStats) -> None:
    lanes = [
        (lane["lane"], lane["waiting"], lane["held"], _span(lane["oldest_us"]) if lane["oldest_us"] else "")
        for lane in told["lanes"]
    ]
    screen.table(f"Cases of {stream}", ("LANE", "WAIT", "HELD", "OLDEST"), lanes)
    closed = told["closed"]
    full = f", {closed['queue_full']:,} closed because too many waited" if closed["queue_full"] else ""
    screen.out.print(
        f"Closed: {closed['decided']:,} decided, {closed['unanswered']:,} expired{full};"
        f" in time {_share(closed['in_time'])}"
    )
    labels = told["labels"]
    if labels["unsent"] or labels["refused"]:
        screen.out.print(f"Answers that are no labels yet: {labels['unsent']:,}, refused {labels['refused']:,}")
    if told["reviewers"]:
        columns = ("REVIEWER", "ANSWERS", "MEDIAN", "POSITIVE", "AGREES", "TRUTH", "CHANGE")
        screen.out.print()
        screen.table("", columns, [_reviewer(reviewer) for reviewer in told["reviewers"]])
    if told["pairs"]:
        rows = [
            (f"{p['a']}, {p['b']}", p["both"], _share(p["agreed"]), _kappa(p["kappa"], p["low"], p["high"]))
            for p in told["pairs"]
        ]
        screen.out.print()
        screen.table("", ("PAIR", "BOTH", "AGREE", "KAPPA"), rows)
    _say_before(screen, told)


def _reviewer(reviewer: ReviewerStats) -> tuple[object, ...]:
    truth = reviewer["truth"]
    right = truth["true_positives"] + truth["true_negatives"]
    known = right + truth["false_positives"] + truth["false_negatives"]
    return (
        reviewer["by"],
        reviewer["answered"],
        _span(reviewer["median_us"]),
        _share(reviewer["positives"]),
        _share(reviewer["agreed"]),
        f"{right} of {known} right" if known else "none known",
        _change(reviewer["change"]["difference"], reviewer["change"]["others"]),
    )


def _change(mine: Difference | None, others: Difference | None) -> str:
    if mine is None:
        return "too few"
    told = f"{100 * mine['by']:+.0f}% ({100 * mine['low']:+.0f} to {100 * mine['high']:+.0f})"
    if mine["low"] <= 0 <= mine["high"]:
        return f"{told}, may be chance"
    return f"{told}, others {100 * others['by']:+.0f}%" if others is not None else told


def _say_before(screen: Screen, told: ReviewStats) -> None:
    cases = next((sums["counts"] for sums in told["before"] if not sums["by"]), None)
    if cases is not None:
        screen.say(f"[dim]{sum(cases.values()):,} older cases are kept as counts alone, and are not in these.[/]")


def _share(share: Share) -> str:
    if share["share"] is None:
        return "none"
    return f"{share['hits']} of {share['of']} ({100 * share['low']:.0f} to {100 * share['high']:.0f}%)"


def _kappa(kappa: float | None, low: float | None, high: float | None) -> str:
    return "too few" if kappa is None else f"{kappa:.2f} ({low:.2f} to {high:.2f})"


def _show_values(screen: Screen, title: str, values: dict[str, str]) -> None:
    if not values:
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in values.items():
        table.add_row(f"    {escape(name)}", escape(value))
    screen.out.print(f"  {title}")
    screen.out.print(table)


def _value(value: Any) -> str:
    return "missing" if value is None else str(value)


def _span(microseconds: int) -> str:
    seconds = max(0, microseconds) / SECOND
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _due(moment: int, now: int) -> str:
    at = time.strftime("%m-%d %H:%M", time.gmtime(moment / SECOND))
    return f"in {_span(moment - now)} ({at})" if moment >= now else f"OVERDUE by {_span(now - moment)} ({at})"


def _until(moment: int, now: int) -> str:
    return f"in {_span(moment - now)}" if moment >= now else f"{_span(now - moment)} ago"
