"""Lists as the command line keeps them: which is meant, and what a file changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from skyriver.client import keeping
from skyriver.client.api import Client
from skyriver.client.keeping import KeptList, find_list, id_of, lists_in, load_list, remove_from
from skyriver.client.lists import _changed
from skyriver.client.rows import numbered_rows
from skyriver.client.screen import Screen
from skyriver.core.errors import InvalidInput, NotFound

DENIED = KeptList("payments", "denied", "customer", {"customer": "int", "note": "text", "at": "time"}, 0.25)


class Cloud:
    """One stream's list: ids with their notes. A customer that is no whole number is a bad row."""

    def __init__(self, **on: str) -> None:
        self.on: dict[int, str | None] = {int(own[1:]): note for own, note in on.items()}
        self.asked: list[tuple[str, int]] = []
        self.meanwhile: int | None = None

    def send_references(self, stream: str, name: str, rows: Sequence[Mapping[str, Any]], *, how: str) -> dict[str, Any]:
        assert (stream, name) == ("payments", "denied")
        self.asked.append((how, len(rows)))
        bad = [n for n, row in enumerate(rows) if not isinstance(row.get("customer"), int)]
        rejected = [
            {"index": n, "reason": "WRONG_TYPE", "message": f"customer is {rows[n]['customer']!r}"} for n in bad
        ]
        news = 0
        for row in () if how == "check" else [row for n, row in enumerate(rows) if n not in bad]:
            if how == "off":
                news += self.on.pop(row["customer"], "none") != "none"
            else:
                news += self.on.get(row["customer"], "none") != row.get("note")
                self.on[row["customer"]] = row.get("note")
        if self.meanwhile is not None and how == "aside":
            self.on[self.meanwhile] = None
        return {"accepted": len(rows) - len(bad), "news": news, "rejected": rejected}

    def list_page(self, stream: str, name: str, start: int) -> dict[str, Any]:
        ids = [*self.on][start : start + 2]
        return {"items": [{"customer": own} for own in ids], "next": start + 2 if len(ids) == 2 else None}

    def list(self, kinds: str) -> Iterator[dict[str, Any]]:
        def reference(name: str, **more: str) -> dict[str, Any]:
            return {"name": name, "id": "customer", "fields": [{"name": "customer", "type": "int"}], **more}

        denied, limits = reference("denied", until="until"), reference("limits", until="until")
        for stream, references in (("payments", [denied, reference("shops")]), ("orders", [denied, limits])):
            yield {"spec": {"stream": {"name": stream, "max_bad": 0.05, "references": references}}}


def client(cloud: Cloud) -> Client:
    return cast("Client", cloud)


def test_of_a_stream_that_is_not_there_those_that_are_there_are_told() -> None:
    with pytest.raises(NotFound, match="There is no stream 'nope'") as caught:
        find_list(client(Cloud()), "denied", "nope")
    assert caught.value.next_action == "There are payments, orders."
    with pytest.raises(NotFound, match="payments has no list 'limits'"):
        find_list(client(Cloud()), "limits", "payments")


def load(cloud: Cloud, path: Path, *, replace: bool = False) -> keeping.Changed:
    rows = numbered_rows(path, DENIED.types)
    return load_list(client(cloud), DENIED, rows, replace=replace, told=lambda *_: None)


def test_a_file_changes_what_is_new_in_it(tmp_path: Path) -> None:
    path = tmp_path / "denied.csv"
    path.write_text('customer,note\n1,"stolen\ncard"\n2,lost\n\nx7,bad\n3,\n')
    cloud = Cloud(c2="lost", c9="old")
    changed = load(cloud, path)
    assert cloud.on == {1: "stolen\ncard", 2: "lost", 3: None, 9: "old"}
    assert (changed.rows, changed.news, changed.removed) == (4, 2, 0)
    assert [(bad["line"], bad["message"]) for bad in changed.bad] == [(6, "customer is 'x7'")]
    assert [how for how, _ in cloud.asked] == ["check", "aside"]


def test_who_is_named_twice_is_told_with_the_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "denied.csv"
    path.write_text("customer,note,at\n1,a,\n2,b,\n1,c,\n3,d,2024-01-01\n3,e,2024-02-01\nx,f,\n1,g,\n")
    cloud = Cloud()
    changed = load(cloud, path)
    assert cloud.on[1] == "g"
    assert changed.twice == [{"id": 1, "lines": [2, 4, 8]}], "of several times each row counts; a bad row never does"
    screen = Screen(as_json=False)
    _changed(screen, DENIED, changed)
    said = " ".join(capsys.readouterr().err.split())
    assert "customer 1 is named more than once, lines 2, 4, 8: the last counts" in said
    assert "1 id is named more than once in the file." in said


def test_what_is_not_in_the_file_is_taken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "BATCH", 3)
    path = tmp_path / "denied.jsonl"
    path.write_text("".join(f'{{"customer": {n}}}\n' for n in (1, 2, 3, 4)) + '{"customer": "9"}\n')
    cloud = Cloud(c9="its row is bad", c8="gone", c7="gone", c1="stays")
    cloud.meanwhile = 55
    changed = load(cloud, path, replace=True)
    assert sorted(cloud.on) == [1, 2, 3, 4, 9, 55], "who came meanwhile stays, and who is meant by a bad row"
    assert (changed.news, changed.removed, len(changed.bad)) == (4, 2, 1)
    assert [how for how, _ in cloud.asked] == ["check", "check", "aside", "aside", "off"]


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (
            "customer\n1\nx\n2\n",
            "TOO_MANY_BAD_ROWS",
            "1 of 3 rows are bad, more than 25%, so nothing was changed; line",
        ),
        ("customer,note\n", "EMPTY_FILE", "no rows"),
        ("client\n1\n", "MISSING_COLUMN", "no column 'customer'"),
        ("customer,note\n1\n", "UNREADABLE_FILE", "The row has 1 cells"),
    ],
)
def test_a_file_that_is_refused_changes_nothing(tmp_path: Path, text: str, code: str, words: str) -> None:
    path = tmp_path / "denied.csv"
    path.write_text(text)
    cloud = Cloud(c1="old")
    with pytest.raises(InvalidInput) as caught:
        load(cloud, path, replace=True)
    assert caught.value.code == code
    assert words in caught.value.message
    assert cloud.on == {1: "old"}


def test_which_list_is_meant() -> None:
    cloud = client(Cloud())
    assert [(kept.stream, kept.name) for kept in lists_in(cloud)] == [
        ("payments", "denied"),
        ("orders", "denied"),
        ("orders", "limits"),
    ]
    assert find_list(cloud, "limits").stream == "orders"
    assert find_list(cloud, "denied", "payments").stream == "payments"
    with pytest.raises(InvalidInput, match="payments and orders have a list 'denied' each") as caught:
        find_list(cloud, "denied")
    assert caught.value.code == "WHICH"
    with pytest.raises(NotFound) as nothing:
        find_list(cloud, "limit")
    assert nothing.value.next_action == "Did you mean limits?"
    with pytest.raises(NotFound):
        find_list(cloud, "shops")


def test_ids_are_what_the_list_has() -> None:
    assert id_of(DENIED, "7") == 7
    with pytest.raises(InvalidInput, match="'x7' is no customer"):
        id_of(DENIED, "x7")
    assert id_of(KeptList("s", "l", "shop", {"shop": "text"}, 0), "7") == "7"
    assert remove_from(client(Cloud(c1="on")), DENIED, [1, 2]) == 1
