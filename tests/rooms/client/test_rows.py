from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from skyriver.client.rows import read_rows
from skyriver.core.errors import InvalidInput

TYPES = {"id": "int", "amount": "float", "zip": "text", "home": "bool", "at": "time"}


def rows_of(folder: Path, text: str, types: dict[str, str] | None = None) -> list[dict[str, Any]]:
    path = folder / "rows.csv"
    path.write_text(text)
    return read_rows(path, types)


def test_a_cell_that_is_wrong_is_wrong_alone(tmp_path: Path) -> None:
    text = (
        "id,amount,zip,home,at\n1,x,007,true,2026-01-31\n2,7,10115,0,1700000000\nc, 1.5 ,,maybe,soon\n+3,,a b,FALSE,\n"
    )
    assert rows_of(tmp_path, text, TYPES) == [
        {"id": 1, "amount": "x", "zip": "007", "home": True, "at": "2026-01-31"},
        {"id": 2, "amount": 7, "zip": "10115", "home": False, "at": 1_700_000_000},
        {"id": "c", "amount": 1.5, "zip": None, "home": "maybe", "at": "soon"},
        {"id": 3, "amount": None, "zip": "a b", "home": False, "at": None},
    ]


def test_a_number_beyond_floats_stays_a_text(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "id,amount\n1,1e999\n2,2e3\n", TYPES) == [
        {"id": 1, "amount": "1e999"},
        {"id": 2, "amount": 2_000.0},
    ]


def test_without_types_a_cell_is_what_it_looks_like(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "a,b,c,d\n1,2.5,true,x\nx,1e3,0,-4\n") == [
        {"a": 1, "b": 2.5, "c": True, "d": "x"},
        {"a": "x", "b": 1_000.0, "c": 0, "d": -4},
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters_and_empty_lines_are_those_of_a_load(tmp_path: Path, delimiter: str) -> None:
    text = "\ufeffid,amount\n\n1,2\n,\n3,4\n".replace(",", delimiter)
    assert rows_of(tmp_path, text, TYPES) == [{"id": 1, "amount": 2}, {"id": 3, "amount": 4}]


def test_a_file_without_rows_has_none(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "") == rows_of(tmp_path, "a,b\n") == []


@pytest.mark.parametrize(
    ("text", "where"),
    [("a,a\n1,2\n", "rows.csv"), ('a,b\n1,"2\n', "rows.csv"), ("a,b\n1,2\n1,2,3\n", "rows.csv:3")],
)
def test_what_is_no_csv_is_refused(tmp_path: Path, text: str, where: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        rows_of(tmp_path, text)
    assert (caught.value.code, caught.value.where) == ("UNREADABLE_FILE", where)
    assert caught.value.next_action


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a,b\n\xff,1\n")
    with pytest.raises(InvalidInput, match="it is not UTF-8 text"):
        read_rows(path)


def test_a_folder_is_told_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is a folder"):
        read_rows(tmp_path)
