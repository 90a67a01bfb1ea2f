"""What `skyriver explain decision ID` shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from skyriver.client.screen import Screen, age
from skyriver.client.what_if import show_recomputed


def show_decision(screen: Screen, stream: str, told: Mapping[str, Any]) -> None:
    for line in _lines(stream, told):
        screen.out.print(line)
    for line in reasons(told):
        screen.out.print(line)
    features = told["features"]
    if features:
        table = Table(box=None, pad_edge=False, show_header=False)
        for name, value in features.items():
            table.add_row(f"    {escape(name)}", "missing" if value is None else f"{value:.6g}")
        screen.out.print("  by the features")
        screen.out.print(table)
    if "recomputed" in told:
        show_recomputed(screen, told["recomputed"])


def _lines(stream: str, told: Mapping[str, Any]) -> Iterator[str]:
    word = escape(told["decision"]) or "nothing"
    yield f"[bold]{escape(str(told['id']))} of {escape(stream)}[/]: [bold]{word}[/], {age(told['decided_at_us'])} ago"
    yield f"  why    {_why(told)}"
    if told["score"] is not None:
        arm = f", its {told['arm']}" if told["arm"] else ""
        stood_in = ", which stood in" if told["status"] == "fallback" else ""
        yield f"  score  {told['score']:.6g}, by {escape(told['model'])}:{told['version']}{arm}{stood_in}"
    if told.get("probability") is not None:
        yield f"  which is a probability of {told['probability']:.3g}"
    if told["shadow_version"]:
        said = "nothing in time" if told["shadow_score"] is None else f"{told['shadow_score']:.6g}"
        yield f"  shadow version {told['shadow_version']} said {said}"
    if told.get("shadow_decision"):
        yield f"  beside other rules, {told['shadow_rules'][:12]}, said {escape(told['shadow_decision'])}"
    took = f"{told['latency_us'] / 1000:.3g} ms"
    yield f"  took   {took} from its arrival; the event is at offset {told['event_offset']:,}"


def reasons(told: Mapping[str, Any]) -> Iterator[str]:
    """What moved the score most; nothing is said of a decision without a score."""
    codes = told.get("reasons", ())
    if codes:
        yield f"  moved most by, in {escape(told['reasons_unit'])}"
    for reason in codes:
        yield f"    {reason['contribution']:+8.3f}  {escape(reason['text'])}"
    if told["score"] is not None and not codes and told.get("reasons_why"):
        yield f"  no reasons are told, for {escape(told['reasons_why']).rstrip('.')}"


def _why(told: Mapping[str, Any]) -> str:
    spent = f", and {_spent(told.get('budgets_spent', ()))}" if told["reason"] == "BUDGET_SPENT" else ""
    return f"{_wanted(told)}{spent}"


def _spent(budgets: Sequence[Mapping[str, Any]]) -> str:
    """Which budget was: of which decision, how many within how long."""
    if not budgets:
        return "a budget of what its rules decided was spent; they are not in use any more"
    of: dict[str, list[str]] = {}
    for own in budgets:
        each = f" of one {own['by']}" if own["by"] else ""
        of.setdefault(own["decision"], []).append(f"{own['most']:,} within {own['per']}{each}")
    return " and ".join(
        f"the budget of {escape(word)} was spent ({escape(' or '.join(limits))})" for word, limits in of.items()
    )


def _wanted(told: Mapping[str, Any]) -> str:
    if told["status"] == "late":
        return "it came later than the stream's disorder, so it gets the fallback"
    if told["rule"]:
        without = "" if told["score"] is not None else f", for there was no score ({told['reason']})"
        return f"the rule {escape(told['rule'])} fired{without}"
    if told["score"] is None:
        return f"there was no score ({told['reason']}), so it gets the fallback"
    return "no rule fired"
