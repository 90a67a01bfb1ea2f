"""Files: what is read from them, and which are refused whole."""

from __future__ import annotations

import gzip
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from skyriver.core.errors import InvalidInput
from skyriver.core.spec import FieldSpec
from skyriver.data import files
from skyriver.data.files import open_source

FIELDS = (
    FieldSpec(name="id", type="int"),
    FieldSpec(name="at", type="time"),
    FieldSpec(name="note", type="text", nullable=True),
    FieldSpec(name="amount", type="float", ge=0),
)
ROWS = [(1, 10, "a", 1.5), (2, 20, None, 2.5), (3, 30, "c,d", 3.5)]


def parquet(frame: pl.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.write_parquet(out)
    return out.getvalue()


FRAME = pl.DataFrame(ROWS, schema=["id", "at", "note", "amount"], orient="row")
GIVEN = {
    "comma": ("csv", b'id,at,note,amount\n1,10,a,1.5\n2,20,,2.5\n3,30,"c,d",3.5\n'),
    "semicolon and byte order mark": (
        "csv",
        b"\xef\xbb\xbfid; at ;note;amount\r\n1;10;a;1.5\r\n2;20;;2.5\r\n3;30;c,d;3.5",
    ),
    "tab, empty lines, other order": (
        "csv",
        b'at\tid\tamount\tnote\n10\t1\t1.5\ta\n\n20\t2\t2.5\t""\n30\t3\t3.5\tc,d\n\n',
    ),
    "gzip": ("csv", gzip.compress(b'id,at,note,amount\n1,10,a,1.5\n2,20,,2.5\n3,30,"c,d",3.5\n')),
    "parquet": ("parquet", parquet(FRAME)),
    "lines": (
        "jsonl",
        b'{"id":1,"at":10,"note":"a","amount":1.5}\n\n{"amount":2.5,"at":"1970-01-01T00:00:00.00002Z","id":2}\r\n'
        b'{"id":3,"at":30,"note":"c,d","amount":3.5,"other":{}}',
    ),
    "lines in gzip": (
        "jsonl",
        gzip.compress(b"\n".join(json.dumps(row).encode() for row in FRAME.to_dicts())),
    ),
}


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "content"
    path.write_bytes(content)
    return path


def read(path: Path, format: str, fields: tuple[FieldSpec, ...] = FIELDS) -> tuple[list[Any], list[Any], list[str]]:
    source = open_source(path, "given.name", format)
    pieces = list(source.clean(fields, frozenset()))
    good = [row for piece in pieces for row in piece.good.rows()]
    bad = [row for piece in pieces for row in piece.bad.select("row", "reason", "field").rows()]
    return good, bad, source.ignored(fields)


@pytest.mark.parametrize("given", GIVEN)
def test_each_format_gives_the_same_rows(given: str, tmp_path: Path) -> None:
    kind, content = GIVEN[given]
    good, bad, ignored = read(write(tmp_path, content), kind)
    assert good == ROWS
    assert bad == []
    assert ignored == (["other"] if given == "lines" else [])


REFUSED: dict[str, tuple[str, bytes, str, str]] = {
    "no such format": ("xlsx", b"PK", "UNKNOWN_FORMAT", ".csv"),
    "no bytes": ("csv", b"", "EMPTY_FILE", ""),
    "a header alone": ("csv", b"id,at,note,amount\n", "EMPTY_FILE", ""),
    "empty lines": ("csv", b"id,at,note,amount\n\n\n", "EMPTY_FILE", ""),
    "a column less": ("csv", b"id,at,note\n1,10,a\n", "MISSING_COLUMN", "'amount'. The file has id, at, note."),
    "a column twice": ("csv", b"id,at,id,note,amount\n1,1,1,a,1\n", "DUPLICATE_COLUMN", "'id'"),
    "a row with more values": ("csv", b"id,at,note,amount\n1,1,a,1\n2,2,b,2,2\n", "UNREADABLE_FILE", "more fields"),
    "a quote never closed": ("csv", b'id,at,note,amount\n1,1,"a,1\n2,2,b,2\n', "UNREADABLE_FILE", ""),
    "not UTF-8": ("csv", "id,at,note,amount\n1,1,a,1\n".encode("utf-16"), "UNREADABLE_FILE", "UTF-8"),
    "not UTF-8 later": ("csv", b"id,at,note,amount\n" * 100_000 + b"1,1,\xff,1\n", "UNREADABLE_FILE", "utf-8"),
    "gzip cut off": ("csv", gzip.compress(b"id,at,note,amount\n1,1,a,1\n" * 9000)[:-9], "UNREADABLE_FILE", ""),
    "no parquet": ("parquet", b"id,at\n1,2\n" * 10, "UNREADABLE_FILE", ""),
    "parquet cut off": ("parquet", parquet(FRAME)[:-20], "UNREADABLE_FILE", ""),
    "parquet of nothing": ("parquet", parquet(FRAME.head(0)), "EMPTY_FILE", ""),
    "parquet with a column less": ("parquet", parquet(FRAME.drop("at")), "MISSING_COLUMN", "'at'"),
    "ids as floats": (
        "parquet",
        parquet(FRAME.with_columns(pl.col("id").cast(pl.Float64))),
        "WRONG_COLUMN_TYPE",
        "'id' is Float64; the field is declared int",
    ),
    "amounts as text": (
        "parquet",
        parquet(FRAME.with_columns(pl.col("amount").cast(pl.String))),
        "WRONG_COLUMN_TYPE",
        "",
    ),
    "no lines": ("jsonl", b"\n\n", "EMPTY_FILE", ""),
    "an array": ("jsonl", b'[\n{"id":1}\n]', "UNREADABLE_FILE", "array"),
    "no JSON at all": ("jsonl", b"id,at\n1,2\n", "UNREADABLE_FILE", "none of its first 2 lines"),
    "lines in gzip cut off": ("jsonl", gzip.compress(b'{"id":1}\n' * 9000)[:-9], "UNREADABLE_FILE", ""),
    "lines in gzip spoilt": ("jsonl", b"\x1f\x8b\x08\0\0\0\0\0\0\0" + b"\xff" * 50, "UNREADABLE_FILE", ""),
    "an endless line": ("jsonl", b" " * (files.LINE_LIMIT + 1), "UNREADABLE_FILE", "bytes"),
}


@pytest.mark.parametrize("given", REFUSED)
def test_a_file_that_is_wrong_as_a_whole_is_refused_whole(given: str, tmp_path: Path) -> None:
    kind, content, code, says = REFUSED[given]
    with pytest.raises(InvalidInput) as caught:
        read(write(tmp_path, content), kind)
    assert caught.value.code == code
    assert caught.value.where == "given.name"
    assert says in f"{caught.value.message} {caught.value.next_action}"
    assert caught.value.next_action


def test_rows_are_numbered_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PIECE_ROWS", 10)
    monkeypatch.setattr(files, "LINE_ROWS", 10)
    bad = {3, 25, 40}
    rows = [{"id": n, "at": n, "note": "x", "amount": -1.0 if n in bad else 1.0} for n in range(1, 41)]
    contents = {
        "csv": pl.DataFrame(rows).write_csv().encode(),
        "parquet": parquet(pl.DataFrame(rows)),
        "jsonl": b"\n".join(json.dumps(row).encode() for row in rows),
    }
    for kind, content in contents.items():
        source = open_source(write(tmp_path, content), "given.name", kind)
        pieces = list(source.clean(FIELDS, frozenset()))
        assert len(pieces) == 4 or kind != "jsonl"
        assert [n for p in pieces for n in p.rows] == [n for n in range(1, 41) if n not in bad]
        assert [n for p in pieces for n in p.bad["row"]] == sorted(bad)
        assert [i for p in pieces for i in p.good["id"]] == [n for n in range(1, 41) if n not in bad]


def test_a_line_that_does_not_parse_is_a_bad_row(tmp_path: Path) -> None:
    lines = [
        b'{"id":1,"at":1,"amount":1}',
        b'{"id":2,"at":',
        b"[]",
        b'"\xff"',
        b"[" * 5000,
        b'{"id":3,"at":3,"amount":-3}',
    ]
    good, bad, _ = read(write(tmp_path, b"\n".join(lines)), "jsonl")
    assert good == [(1, 1, None, 1.0)]
    assert bad == [
        (2, "UNREADABLE", ""),
        (3, "UNREADABLE", ""),
        (4, "UNREADABLE", ""),
        (5, "UNREADABLE", ""),
        (6, "OUT_OF_RANGE", "amount"),
    ]


def test_times_of_parquet_may_be_of_any_type(tmp_path: Path) -> None:
    moments = [datetime(2024, 5, 1, 12, tzinfo=UTC), datetime(1969, 12, 31, 23, tzinfo=UTC)]
    expected = [1_714_564_800_000_000, -3_600_000_000]
    for dtype in (pl.Datetime("ms"), pl.Datetime("us", "UTC"), pl.Datetime("ns", "Europe/Berlin"), pl.String()):
        column = pl.Series(moments, dtype=pl.Datetime("us", "UTC"))
        if isinstance(dtype, pl.String):
            column = column.dt.strftime("%Y-%m-%dT%H:%M:%S+00:00")
        elif dtype.time_zone is None:
            column = column.dt.replace_time_zone(None).cast(dtype)
        else:
            column = column.cast(dtype)
        frame = pl.DataFrame({"id": [1, 2], "at": column, "note": pl.Series([None, None]), "amount": [1, 2]})
        good, bad, _ = read(write(tmp_path, parquet(frame)), "parquet")
        assert [row[1] for row in good] == expected
        assert bad == []


def test_a_column_is_there_or_not(tmp_path: Path) -> None:
    path = write(tmp_path, parquet(FRAME))
    assert open_source(path, "a", "parquet").has("note")
    assert not open_source(path, "a", "parquet").has("fraud")
    assert open_source(write(tmp_path, b"{}"), "a", "jsonl").has("anything")
