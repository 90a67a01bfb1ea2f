"""What `skyriver stream replay` asks with and shows, and what a decision that is computed again looks like."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from skyriver.client.screen import Screen
from skyriver.core.errors import InvalidInput
from skyriver.core.units import format_span

_WORDS = {"live": ("then", "now"), "history": ("now", "asked")}
"""What the two are called that are compared."""
MOVES = 3
"""Of a segment, that are shown; JSON output has more."""


def rules_in(path: Path, stream: str) -> dict[str, Any]:
    """The rules of an application's file (`app.decide`), or of a JSON document: {"rules": [{"decision", "when",
    "name"?}, ...], "otherwise", "fallback"}; what that leaves out stays as it is declared."""
    if path.suffix == ".py":
        from skyriver.client.appfile import load_app  # executes the file, as `skyriver deploy` does

        decides = load_app(path).spec.decides
        found = next((d for d in decides if d.stream == stream), None)
        if found is None:
            raise InvalidInput(
                f"{path} declares no decisions on {stream}.", code="NO_DECISIONS", next_action="Check its app.decide."
            )
        rules = [[r.decision, r.when, *([r.name] if r.name else [])] for r in found.rules]
        told = found.to_json()
        bounds = {word: list(told.get(word) or ()) for word in ("budgets", "counters", "combine")}
        return {"rules": rules, "otherwise": found.otherwise, "fallback": found.fallback, **bounds}
    if path.suffix != ".json":
        raise InvalidInput(
            f"{path.name} is neither an application's file nor JSON.",
            code="UNKNOWN_FORMAT",
            next_action="Give APP.py with changed rules, or a .json with them.",
        )
    try:
        told = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InvalidInput(f"There is no file {path}.", code="NO_FILE", next_action="Check its path.") from error
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"{path} cannot be read: {error}.",
            code="UNREADABLE_FILE",
            where=str(path),
            next_action='Write JSON, as {"rules": [{"decision": "block", "when": "score >= 0.9"}]}.',
        ) from error
    return {"rules": told} if isinstance(told, list) else told


def show_replay(screen: Screen, told: Mapping[str, Any], name: str) -> None:
    for line in _head(told):
        screen.out.print(line)
    for part in ("live", "history"):
        if told["parts"][part] is not None:
            _show_part(screen, told, part)
    if told["first_changed"]:
        rows = [
            (c["offset"], c["then"], c["now"], _number(c["then_score"]), _number(c["now_score"]))
            for c in told["first_changed"]
        ]
        screen.table("The first that change", ("EVENT OFFSET", "THEN", "NOW", "SCORE THEN", "NOW"), rows)
    screen.say(f"[dim]Each event has a row, with its id and offset: `skyriver job artifacts {name} --download DIR`.[/]")


def _head(told: Mapping[str, Any]) -> Iterator[str]:
    span, seconds = told["span_seconds"], told["seconds"]
    rules = "the rules given" if told["rules"] else "the rules of then"
    how = f"{told['model'] or 'the versions of then'}, {rules}"
    yield f"[bold]{escape(told['stream'])} decided again[/], {told['from']} to {told['to']}"
    yield f"  by         {'what it was decided by then' if told['as_it_was'] else escape(how)}"
    yield f"  events     {_events(told)}"
    events = told["events"] + told["history"]
    times = f", x{span / seconds:,.0f}" if seconds else ""
    rate = f"{events / max(seconds, 1e-3):,.0f} events/s"
    yield f"  speed      {format_span(round(span * 1e6))} in {seconds:.3g} s{times}; {rate}"
    if told["compared"]:
        same = told["compared"] - told["changed"]
        share = _share(told["changed"], told["compared"])
        yield f"  decisions  {same:,} stay, [bold]{told['changed']:,} change[/] ({share})"
    if told["as_it_was"] and told["compared"]:
        fields = ", ".join(f"{field} of {count:,}" for field, count in sorted(told["differences"].items()) if count)
        yield f"  records    {fields or 'every field equals its record, to the bit'}"
        if told["first_different"]:
            first = ", ".join(map(str, told["first_different"]))
            yield f"             the first ones have the offsets {first}"
    by_time = {reason: count for reason, count in told["by_time"].items() if count}
    if by_time:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(by_time.items()))
        yield f"  [yellow]by time[/]    {reasons}: the time caused what was decided, and another version is asked now"
    for field, why in (
        ("cut", "not decided: their features look back to what the log has given up"),
        ("untold", "not decided: the log no longer tells what decided them"),
        ("recorded_features", "by the features of their records: the log has given up what these look back to"),
        ("budgets_cut", "held to budgets or counters, of which the log has not all decisions any more"),
        ("lists_cut", "by lists of which the log may have given up rows: they may have been on one that is not known"),
        ("erased", "more were of subjects that are erased"),
        ("undecided", "have no decision in the log yet"),
    ):
        if told[field]:
            yield f"  [yellow]{'of them':<10}[/] {told[field]:,} {why}"


def _events(told: Mapping[str, Any]) -> str:
    parts = []
    if told["events"]:
        late = f" ({told['late']:,} late)" if told["late"] else ""
        parts.append(f"{told['events']:,} that were decided then{late}")
    if told["history"]:
        parts.append(f"{told['history']:,} of loaded history, decided for the first time")
    return ", ".join(parts) or "none"


def _show_part(screen: Screen, told: Mapping[str, Any], part: str) -> None:
    found = told["parts"][part]
    names = _WORDS[part] if found["compared"] else ("", "now")
    title = {"live": "Then (down) and now", "history": "Loaded history, by what decides now (down) and what is asked"}
    if found["compared"]:
        words = sorted({c[when] for c in found["cross"] for when in ("then", "now")})
        count = {(c["then"], c["now"]): c["events"] for c in found["cross"]}
        rows = [
            (then or '""', *(f"{count[then, now]:,}" if (then, now) in count else "" for now in words))
            for then in words
        ]
        heads = (names[0].upper(), *(f"{names[1].upper()} {word}" for word in words))
        screen.table(title[part], heads, rows)
    else:
        cells = [(c["now"], f"{c['events']:,}", _share(c["events"], found["events"])) for c in found["cross"]]
        screen.table("Loaded history", ("DECISION", "EVENTS", "SHARE"), cells)
    if found["labels"] is not None:
        _show_labels(screen, told["label"], found["labels"], names)
    if found["cost"] is not None:
        screen.out.print(_cost(found["cost"], told["unit"], names))
    for by in found["segments"]:
        _show_segments(screen, by, compared=found["compared"])


def _cost(cost: Mapping[str, Any], unit: str, names: tuple[str, str]) -> str:
    if not cost["events"]:
        return "What it costs cannot be said: of no event is the label known yet"
    of = f"the {cost['events']:,} events whose label is known"
    word = f" {unit}" if unit else ""
    if cost["then"] is None:
        return f"By the declared costs {of} would have cost [bold]{cost['now']:,.2f}{word}[/]"
    less = cost["then"] - cost["now"]
    change = f"{abs(less):,.2f}{word} {'less' if less >= 0 else 'more'}"
    then, now = f"{cost['then']:,.2f}{word}", f"{cost['now']:,.2f}{word}"
    return f"By the declared costs {of}: {names[0]} {then}, {names[1]} {now}: [bold]{change}[/]"


def _show_labels(screen: Screen, label: str, found: Mapping[str, Any], names: tuple[str, str]) -> None:
    title = f"By {label}: {found['positives']:,} of {found['known']:,} that are known"
    whens = ("then", "now") if names[0] else ("now",)
    called = dict(zip(("then", "now"), names, strict=True))
    columns = [f"{what} {called[when]}".upper() for when in whens for what in (label, "precision", "recall")]
    rows = [
        (
            d["decision"],
            *(
                text
                for when in whens
                for text in (f"{d[when]['positives']:,}", _percent(d[when]["precision"]), _percent(d[when]["recall"]))
            ),
        )
        for d in found["decisions"]
    ]
    screen.table(title, ("DECISION", *columns), rows)


def _show_segments(screen: Screen, by: Mapping[str, Any], *, compared: bool) -> None:
    if compared:
        rows = [
            (
                _segment(s),
                f"{s['events']:,}",
                f"{s['changed']:,}",
                _share(s["changed"], s["events"]),
                _moves(s["moves"]),
            )
            for s in by["segments"]
        ]
        screen.table(f"By {by['by']}", ("SEGMENT", "EVENTS", "CHANGE", "SHARE", "MOST"), rows)
    else:
        cells = [
            (_segment(s), f"{s['events']:,}", ", ".join(f"{m['now']} {m['events']:,}" for m in s["moves"][:MOVES]))
            for s in by["segments"]
        ]
        screen.table(f"By {by['by']}", ("SEGMENT", "EVENTS", "DECISIONS"), cells)


def _segment(segment: Mapping[str, Any]) -> str:
    if "value" in segment:
        return "missing" if segment["value"] is None else str(segment["value"]).removesuffix(".0")
    low, high = segment["low"], segment["high"]
    if segment["missing"]:
        return "missing"
    if low is None and high is None:
        return "all"
    if low is None:
        return f"below {high:.6g}"
    return f"from {low:.6g}" if high is None else f"{low:.6g} to {high:.6g}"


def _moves(moves: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{m['then']} to {m['now']} {m['events']:,}" for m in moves[:MOVES])


def show_recomputed(screen: Screen, told: Mapping[str, Any]) -> None:
    features, parts = told["features"], [*told["fields"], *told["features"]]
    if told["equal"]:
        screen.out.print(
            f"  [green]again[/]  computed from the log with what was used then: {len(told['fields'])} fields and"
            f" {len(features)} features equal the record, to the bit"
        )
    for part in parts:
        if not part["equal"]:
            screen.out.print(
                f"  [red]again[/]  {escape(part['name'])} is recorded as {_shown(part['recorded'])}, and computed as"
                f" {_shown(part['computed'])}"
            )
    if told["believed"]:
        screen.out.print(f"         taken from the record: {escape(told['believed'])}")


def _shown(value: object) -> str:
    if value is None:
        return "missing"
    return escape(repr(value) if isinstance(value, float) else str(value) or '""')


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}%" if whole else ""


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}%"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
