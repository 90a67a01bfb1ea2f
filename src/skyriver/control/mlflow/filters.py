"""What MLflow's searches can ask: `metrics.auc > 0.8 and params.kind = 'tree'`, in which order, page by page. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

from skyriver.control.mlflow import like
from skyriver.control.mlflow.like import is_like
from skyriver.control.mlflow.protocol import Asked, bad
from skyriver.control.paging import decode, encode

Row = TypeVar("Row")
Value = str | float | int | None
Look = Callable[[Row, str, str], Value]
"""(row, "metrics", "auc") -> its value; None where it has none. The kind is "" for an attribute."""

LONGEST = 5_000
LONGEST_ORDER = 500
MOST_TERMS = 50
HEAVIEST = 8_000_000
"""Characters of a page. JSON is written with all of the process waiting."""
_KINDS: Mapping[str, str] = {
    **dict.fromkeys(("metric", "metrics"), "metrics"),
    **dict.fromkeys(("param", "params", "parameter", "parameters"), "params"),
    **dict.fromkeys(("tag", "tags"), "tags"),
    **dict.fromkeys(("attribute", "attributes", "attr", "run"), ""),
}
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<quoted>`[^`]+`)
    |(?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))|(?P<op>!=|>=|<=|=|>|<)
    |(?P<mark>[(),.])|(?P<word>[A-Za-z_][\w/\-]*))""",
    re.VERBOSE,
)
_ACTION = "Write terms as metrics.auc > 0.8, params.kind = 'tree', tags.team LIKE 'a%', joined by AND."


@dataclass(frozen=True, slots=True)
class Term:
    kind: str
    name: str
    operator: str
    value: str | float | tuple[str, ...]

    def holds(self, found: Value) -> bool:
        """Of what a row does not have nothing is true, as in SQL."""
        if self.operator == "IS NULL":
            return found is None
        if self.operator == "IS NOT NULL":
            return found is not None
        if found is None:
            return False
        if self.kind == "metrics" or (isinstance(found, int | float) and not isinstance(self.value, tuple)):
            return _compared(float(found), self.operator, _as_number(self))
        text = str(found)
        match self.operator:
            case "IN":
                return text in self.value  # type: ignore[operator]
            case "NOT IN":
                return text not in self.value  # type: ignore[operator]
            case "LIKE" | "ILIKE":
                return is_like(text, str(self.value), either_case=self.operator == "ILIKE")
            case _:
                return _compared(text, self.operator, str(self.value))


def _as_number(term: Term) -> float:
    try:
        return float(term.value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise bad(f"{term.name} is a number, and is compared with {term.value!r:.80}.", _ACTION, "filter") from None


def _compared(found: Any, operator: str, value: Any) -> bool:
    match operator:
        case "=":
            return bool(found == value)
        case "!=":
            return bool(found != value)
        case ">":
            return bool(found > value)
        case ">=":
            return bool(found >= value)
        case "<":
            return bool(found < value)
        case "<=":
            return bool(found <= value)
    raise bad(f"Numbers are not compared by {operator}.", _ACTION, "filter")


def parse_filter(text: str) -> tuple[Term, ...]:
    """Raises InvalidInput (BAD_REQUEST)."""
    if len(text) > LONGEST:
        raise bad(f"The filter has over {LONGEST:,} characters.", "Ask for less.", "filter")
    tokens = _tokens(text)
    terms: list[Term] = []
    place = 0
    while place < len(tokens):
        if terms:
            if tokens[place] != ("word", "AND"):
                told = tokens[place][1]
                raise bad(f"Terms of a filter are joined by AND; here is {told!r}.", _ACTION, "filter")
            place += 1
        term, place = _term(tokens, place)
        terms.append(term)
    if len(terms) > MOST_TERMS:
        raise bad(f"The filter has over {MOST_TERMS} terms.", "Ask for less.", "filter")
    return tuple(terms)


_WORDS = frozenset({"AND", "OR", "IN", "NOT", "LIKE", "ILIKE", "IS", "NULL"})


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    place, end = 0, len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            raise bad(f"The filter is not understood from {text[place : place + 40]!r} on.", _ACTION, "filter")
        kind, told = match.lastgroup, match[match.lastgroup]
        if kind in ("text", "quoted"):
            told = re.sub(r"\\(.)", r"\1", told[1:-1]) if kind == "text" else told[1:-1]
        elif kind == "word" and told.upper() in _WORDS:
            told = told.upper()
        found.append((kind, told))
        place = match.end()
    return found


def _term(tokens: Sequence[tuple[str, str]], place: int) -> tuple[Term, int]:
    def at(index: int) -> tuple[str, str]:
        return tokens[index] if index < len(tokens) else ("end", "the end")

    names = []
    while at(place)[0] in ("word", "quoted", "text"):
        names.append(at(place)[1])
        place += 1
        if at(place) != ("mark", "."):
            break
        place += 1
    if not names:
        raise bad(f"A name is wanted in the filter, and here is {at(place)[1]!r}.", _ACTION, "filter")
    kind = _KINDS.get(names[0].lower()) if len(names) > 1 else ""
    if kind is None:
        raise bad(f"{names[0]!r} is neither metrics, params, tags nor attributes.", _ACTION, "filter")
    name = ".".join(names[1:] if len(names) > 1 else names)
    operator, place = _operator(at, place)
    if operator.startswith("IS"):
        return Term(kind, name, operator, ""), place
    if operator.endswith("IN"):
        values, place = _values(at, place)
        return Term(kind, name, operator, values), place
    sort, told = at(place)
    if sort not in ("text", "number", "quoted"):
        raise bad(f"{name} is compared with {told!r}, which is neither a number nor a quoted text.", _ACTION, "filter")
    if operator.endswith("LIKE") and len(told) > like.LONGEST:
        raise bad(f"The pattern for {name} has over {like.LONGEST} characters.", "Ask for less of it.", "filter")
    return Term(kind, name, operator, float(told) if sort == "number" and kind == "metrics" else told), place + 1


def _operator(at: Callable[[int], tuple[str, str]], place: int) -> tuple[str, int]:
    sort, told = at(place)
    if sort == "op" or told in ("LIKE", "ILIKE", "IN"):
        return told, place + 1
    if told == "NOT" and at(place + 1)[1] == "IN":
        return "NOT IN", place + 2
    if told == "IS" and at(place + 1)[1] == "NULL":
        return "IS NULL", place + 2
    if told == "IS" and (at(place + 1)[1], at(place + 2)[1]) == ("NOT", "NULL"):
        return "IS NOT NULL", place + 3
    raise bad(f"A comparison is wanted in the filter, and here is {told!r}.", _ACTION, "filter")


def _values(at: Callable[[int], tuple[str, str]], place: int) -> tuple[tuple[str, ...], int]:
    found: list[str] = []
    if at(place) == ("mark", "("):
        place += 1
        while at(place)[0] in ("text", "number"):
            found.append(at(place)[1])
            place += 1
            if at(place) == ("mark", ")"):
                return tuple(found), place + 1
            if at(place) != ("mark", ","):
                break
            place += 1
    raise bad("After IN come quoted texts in brackets.", _ACTION, "filter")


def ordered(rows: Iterable[Row], order_by: Sequence[str], look: Look[Row]) -> list[Row]:
    """By "metrics.auc DESC", "start_time"; rows without the value come last. The order of `rows` decides ties."""
    found = list(rows)
    for told in reversed(order_by):
        kind, name, down = _order(told)
        have = [row for row in found if look(row, kind, name) is not None]
        have.sort(key=lambda row: _key(look(row, kind, name)), reverse=down)
        found = [*have, *(row for row in found if look(row, kind, name) is None)]
    return found


def _order(told: str) -> tuple[str, str, bool]:
    """Kind, name, and whether the greatest comes first."""
    if len(told) > LONGEST_ORDER:
        raise bad(f"An order has over {LONGEST_ORDER} characters.", "Write it as metrics.auc DESC.", "order_by")
    what, down = told.strip(), False
    words = what.rsplit(None, 1)
    if len(words) == 2 and (way := words[1].upper()) in ("ASC", "DESC"):
        what, down = words[0], way == "DESC"
    head, dot, rest = what.partition(".")
    kind = _KINDS.get(head.strip('`"').lower()) if dot else ""
    name = (rest if dot else head).strip("`\"'")
    if kind is None or not name:
        raise bad(f"{told!r:.80} is no order.", "Write it as metrics.auc DESC, or start_time.", "order_by")
    return kind, name, down


def _key(value: Value) -> tuple[int, float, str]:
    """NaN last; numbers before texts."""
    if isinstance(value, str):
        return (1, 0.0, value)
    number = float(value or 0)
    return (0, number, "") if number == number else (0, float("-inf"), "")


def searched(
    asked: Asked,
    rows: Iterable[Row],
    look: Look[Row],
    *,
    default: int,
    most: int,
    order_by: Sequence[str] | None = None,
    weigh: Callable[[Row], int] = lambda _: 1,
) -> tuple[list[Row], str | None]:
    """The page of `rows` that `filter`, `order_by`, `max_results` and `page_token` ask for; the next one's token. Rows
    are no documents yet: those are made of the page alone. `weigh`: characters of a row's document; a page ends early
    rather than be too long to be written at once."""
    terms = parse_filter(asked.text("filter", "", most=LONGEST))
    kept = [row for row in rows if all(term.holds(look(row, term.kind, term.name)) for term in terms)]
    found = ordered(kept, asked.texts("order_by", most=20) if order_by is None else order_by, look)
    begin, limit = decode(asked.text("page_token", ""), int), asked.whole("max_results", default, least=1, most=most)
    page = found[begin : begin + limit]
    end = next((n for n, total in enumerate(accumulate(map(weigh, page))) if total > HEAVIEST), len(page))
    following = begin + max(1, end)
    return page[: max(1, end)], encode(following) if following < len(found) else None


def paged(token: str | None) -> dict[str, str]:
    return {} if token is None else {"next_page_token": token}
