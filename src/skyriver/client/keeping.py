"""Keeping the lists of a stream: which list is meant, what a file changes of it, and what became of the file's rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

from skyriver.client.sending import once_ready
from skyriver.core.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from skyriver.client.api import Client

BATCH = 2_000
"""Rows of a request: the worker decides nothing while it looks at them."""
Row = Mapping[str, Any]
Numbered = Sequence[tuple[int, dict[str, Any]]]
"""Rows with their lines in the file."""
SHOWN_BAD = 20


@dataclass(frozen=True, slots=True)
class KeptList:
    """A list, as its application declares it."""

    stream: str
    name: str
    id: str
    types: Mapping[str, str]
    max_bad: float
    time: str = "at"


@dataclass(slots=True)
class Changed:
    """What a file made of a list. `bad` rows are told with their `line`; `news` are new or changed rows; `twice` are
    ids of which the last row counts, each with the `lines` of its rows."""

    rows: int = 0
    news: int = 0
    removed: int = 0
    bad: list[dict[str, Any]] = field(default_factory=list)
    twice: list[dict[str, Any]] = field(default_factory=list)


def lists_in(client: Client) -> Iterator[KeptList]:
    for stream in client.list("streams"):
        declared = stream["spec"]["stream"]
        for each in declared.get("references") or ():
            if each.get("until"):
                types = {own["name"]: own["type"] for own in each["fields"]}
                time = each.get("time") or "at"
                yield KeptList(declared["name"], each["name"], each["id"], types, declared["max_bad"], time)


def find_list(client: Client, name: str, stream: str = "") -> KeptList:
    """Raises NotFound with the names that are near, InvalidInput (WHICH) where several streams have one of the name."""
    streams = [row["spec"]["stream"]["name"] for row in client.list("streams")]
    if stream and stream not in streams:
        raise NotFound(
            f"There is no stream {stream!r}.",
            next_action=f"There are {', '.join(streams)}." if streams else "Deploy an application that declares it.",
        )
    known = [each for each in lists_in(client) if stream in ("", each.stream)]
    found = [each for each in known if each.name == name]
    if len(found) > 1:
        raise InvalidInput(
            f"{' and '.join(each.stream for each in found)} have a list {name!r} each.",
            code="WHICH",
            next_action="Say which one is meant: --stream NAME.",
        )
    if not found:
        near = get_close_matches(name, [each.name for each in known], n=3)
        raise NotFound(
            f"{stream} has no list {name!r}." if stream else f"There is no list {name!r}.",
            next_action=f"Did you mean {', '.join(near)}?" if near else "`skyriver list list` shows what there is.",
        )
    return found[0]


def ids_on(client: Client, kept: KeptList) -> list[Any]:
    return [row[kept.id] for page in pages(client, kept) for row in page["items"]]


def pages(client: Client, kept: KeptList) -> Iterator[Mapping[str, Any]]:
    following: int | None = 0
    while following is not None:
        page = once_ready(client, kept.stream, partial(client.list_page, kept.stream, kept.name, following))
        yield page
        following = page["next"]


def load_list(
    client: Client, kept: KeptList, rows: Numbered, *, replace: bool, told: Callable[[str, int, int], None]
) -> Changed:
    """The file's rows are checked first: with more bad ones than the stream's `max_bad` nothing is changed. With
    `replace` whoever was on the list before and is not in the file is taken off.

    Raises InvalidInput: EMPTY_FILE, MISSING_COLUMN, TOO_MANY_BAD_ROWS, which lists the bad rows."""
    _check_file(kept, rows)
    bad = [
        {"line": rows[first + refused["index"]][0], **refused}
        for first, answer in _send(client, kept, [row for _, row in rows], "check", told)
        for refused in answer["rejected"]
    ]
    if len(bad) > kept.max_bad * len(rows):
        raise InvalidInput(
            f"{len(bad):,} of {len(rows):,} rows are bad, more than {kept.max_bad:.0%}, so nothing was changed; line"
            f" {bad[0]['line']}: {bad[0]['message']}",
            code="TOO_MANY_BAD_ROWS",
            where=kept.name,
            next_action="Correct the file and load it again.",
            details=tuple(bad[:SHOWN_BAD]),
        )
    before = ids_on(client, kept) if replace else []
    sent = _send(client, kept, [row for _, row in rows], "aside", told)
    changed = Changed(len(rows), sum(answer["news"] for _, answer in sent), 0, bad, _twice(kept, rows, bad))
    named = {str(row.get(kept.id)).strip() for _, row in rows}  # of a bad row, too: it says who is meant
    gone = [{kept.id: own} for own in before if str(own) not in named]
    changed.removed = sum(answer["news"] for _, answer in _send(client, kept, gone, "off", told))
    return changed


def remove_from(client: Client, kept: KeptList, ids: Sequence[Any]) -> int:
    """How many of them were on the list."""
    rows = [{kept.id: own} for own in ids]
    return sum(answer["news"] for _, answer in _send(client, kept, rows, "off", lambda *_: None))


def id_of(kept: KeptList, given: str) -> int | str:
    """As it is given on a command line."""
    if kept.types[kept.id] == "text":
        return given
    try:
        return int(given)
    except ValueError:
        raise InvalidInput(
            f"{given[:80]!r} is no {kept.id}: these are whole numbers.",
            code="BAD_ID",
            where=kept.name,
            next_action="Give the number alone, as in 17.",
        ) from None


def _twice(kept: KeptList, rows: Numbered, bad: Sequence[Row]) -> list[dict[str, Any]]:
    """Ids that good rows name more than once for one time. Of several times each row counts, from its own on."""
    aside = {refused["line"] for refused in bad}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for line, row in rows:
        if line not in aside:
            own = row.get(kept.id)
            named = found.setdefault((str(own).strip(), str(row.get(kept.time))), {"id": own, "lines": []})
            named["lines"].append(line)
    return [named for named in found.values() if len(named["lines"]) > 1]


def _check_file(kept: KeptList, rows: Numbered) -> None:
    if not rows:
        raise InvalidInput(
            "The file holds no rows.",
            code="EMPTY_FILE",
            where=kept.name,
            next_action=f"To take all off, `skyriver list remove {kept.name} ID...`.",
        )
    if not any(kept.id in row for _, row in rows):
        raise InvalidInput(
            f"The file has no column {kept.id!r}.",
            code="MISSING_COLUMN",
            where=kept.name,
            next_action=f"It may have {', '.join(kept.types)}.",
        )


def _send(
    client: Client, kept: KeptList, rows: Sequence[Row], how: str, told: Callable[[str, int, int], None]
) -> list[tuple[int, Mapping[str, Any]]]:
    """(the first row of a request, its answer)."""
    answers: list[tuple[int, Mapping[str, Any]]] = []
    for first in range(0, len(rows), BATCH):
        part = rows[first : first + BATCH]
        send = partial(client.send_references, kept.stream, kept.name, part, how=how)
        answers.append((first, once_ready(client, kept.stream, send)))
        told(_STEPS[how], first + len(part), len(rows))
    return answers


_STEPS = {"check": "checked", "aside": "sent", "off": "taken off"}
