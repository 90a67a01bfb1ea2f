"""Bodies of a stream's requests, as JSON or MessagePack, and of its answers, as JSON."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, NoReturn, overload

import msgspec
from msgspec import defstruct
from msgspec.structs import asdict, astuple

from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.decide.log.checkpoint import DeadLetter
from skyriver.decide.log.records import DecisionRecord
from skyriver.decide.partition.receipt import LabelReceipt, Receipt, Refused

_decoder = msgspec.json.Decoder()
_unpacker = msgspec.msgpack.Decoder()
_FEATURES = DecisionRecord.__struct_fields__.index("features")
_Shown = defstruct("Decision", [(name, object) for name in DecisionRecord.__struct_fields__], gc=False)
_encoder = msgspec.json.Encoder(enc_hook=str)
encode_json = _encoder.encode


def parse_rows(body: bytes, form: Form) -> list[object]:
    """The rows of a body. Raises InvalidInput (NOT_JSON, NOT_MSGPACK; HTTP 400): nothing of the body is taken then."""
    try:
        match form:
            case Form.LINES:
                return list(_decoder.decode_lines(body))
            case Form.MSGPACK:
                found = msgspec.to_builtins(
                    _unpacker.decode(body), builtin_types=(bytes, datetime), str_keys=True, enc_hook=_no_extension
                )
            case _:
                found = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError) as error:
        raise Unread(body, str(error), form) from error
    return found if isinstance(found, list) else [found]


NAMED_BYTES = 1 << 20
"""Of a larger body it is not looked for which row is wrong."""


def unread_row(body: bytes, form: Form) -> int:
    """The first row of a body, from 1 on, that cannot be read; 0 where there is none that could be named."""
    if len(body) > NAMED_BYTES:
        return 0
    if form is Form.LINES:
        for number, line in enumerate(body.split(b"\n"), 1):
            try:
                if line.strip():
                    _decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return number
    if form is Form.JSON and body.lstrip()[:1] == b"[":
        return _unread_of_array(body.decode(errors="replace"))
    return 0


def _unread_of_array(text: str) -> int:
    """As `unread_row`, of an array: its rows are read one by one, until one is not JSON or no comma follows it."""
    place, number = text.index("[") + 1, 1
    while True:
        try:
            _, place = _row.raw_decode(text, _behind_blanks(text, place))
        except (ValueError, RecursionError):
            return number
        place = _behind_blanks(text, place)
        if text[place : place + 1] != ",":
            return 0 if text[place : place + 1] == "]" else number
        place, number = place + 1, number + 1


def _behind_blanks(text: str, place: int) -> int:
    found = _blank.match(text, place)
    return found.end() if found is not None else place


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


_row = json.JSONDecoder(parse_constant=_no_number)
_blank = re.compile(r"[ \t\n\r]*")


class Form(Enum):
    """How the rows of a body are written."""

    JSON = "JSON"
    """One value, or an array of them."""
    LINES = "lines of JSON"
    MSGPACK = "MessagePack"
    """One map, or an array of them; values are what JSON has too, and bytes and times, which no field takes."""

    @classmethod
    def of(cls, content_type: bytes) -> Form:
        return _FORMS.get(content_type.partition(b";")[0].strip().lower(), cls.JSON)


_FORMS = {
    b"application/x-ndjson": Form.LINES,
    b"application/msgpack": Form.MSGPACK,
    b"application/x-msgpack": Form.MSGPACK,
    b"application/vnd.msgpack": Form.MSGPACK,
}


def _no_extension(value: object) -> NoReturn:
    raise TypeError(f"a {type(value).__name__} is no value of an event")


class Unread(InvalidInput):
    http_status = 400

    def __init__(self, body: bytes, why: str, form: Form) -> None:
        row = unread_row(body, form)
        # Lines as editors count them, rows of an array as `index` of refused ones does.
        where = "" if not row else f"line {row}" if form is Form.LINES else f"index {row - 1}"
        super().__init__(
            f"The body is not read: {why}." if body.strip() else "The body is empty.",
            code="NOT_MSGPACK" if form is Form.MSGPACK else "NOT_JSON",
            where=where,
            next_action="Send a JSON object, an array of them, lines of JSON as application/x-ndjson, or an array of"
            " maps as application/msgpack.",
        )


class RawRows(Sequence[object]):
    """The rows of a body as they were given, parsed when the first of them is asked for: only what is refused is kept
    as it came, and most bodies are taken whole."""

    def __init__(self, body: bytes, form: Form) -> None:
        self._body = body
        self._form = form
        self._rows: list[object] | None = None

    def _parsed(self) -> list[object]:
        if self._rows is None:
            self._rows = parse_rows(self._body, self._form)
        return self._rows

    def __len__(self) -> int:
        return len(self._parsed())

    @overload
    def __getitem__(self, index: int) -> object: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[object]: ...
    def __getitem__(self, index: int | slice) -> object:
        return self._parsed()[index]


class DecisionWriter:
    """`names` of the features that are computed now, by digest: values of others are not named any more."""

    def __init__(self, names: Mapping[str, tuple[str, ...]]) -> None:
        self.names = names
        self._named: dict[tuple[str, ...], tuple[Callable[[bytes], tuple[float, ...]], type[Any]]] = {}

    def to_json(self, record: DecisionRecord) -> object:
        """What is encoded as its object; a struct is encoded in half the time of a dict."""
        values = list(astuple(record))
        values[_FEATURES] = self._features(record)
        return _Shown(*values)

    def to_dict(self, record: DecisionRecord) -> dict[str, object]:
        """The same, to be added to."""
        return {**asdict(record), "features": self._features(record)}

    def _features(self, record: DecisionRecord) -> object:
        names = self.names.get(record.features_digest)
        if not record.features or names is None:
            return None
        unpack, named = self._named.get(names) or self._prepare(names)
        return named(*unpack(record.features))  # NaN is written as null

    def _prepare(self, names: tuple[str, ...]) -> tuple[Callable[[bytes], tuple[float, ...]], type[Any]]:
        places = [f"f{place}" for place in range(len(names))]  # a feature may be named as a method is
        named = defstruct(
            "Features", [(place, float) for place in places], rename=dict(zip(places, names, strict=True)), gc=False
        )
        self._named[names] = found = struct.Struct(f"<{len(names)}f").unpack, named
        return found

    def events(self, receipt: Receipt, *, with_decisions: bool) -> tuple[int, bytes]:
        """HTTP status and body. When there are only refused rows, it is a problem that lists them."""
        if receipt.rejected and not receipt.accepted and not receipt.duplicates:
            return all_rejected(receipt.rejected)
        answer: dict[str, object] = {
            "accepted": receipt.accepted,
            "duplicates": receipt.duplicates,
            "first_offset": receipt.first_offset if receipt.first_offset >= 0 else None,
            "rejected": receipt.rejected,
        }
        if with_decisions:
            answer["decisions"] = [self.to_json(d) if d is not None else None for d in receipt.decisions]
        return 200, encode_json(answer)


def dead_letter_json(letter: DeadLetter) -> dict[str, object]:
    return {name: getattr(letter, name) for name in letter.__struct_fields__}


def labels_answer(receipt: LabelReceipt) -> tuple[int, bytes]:
    if receipt.rejected and not receipt.accepted:
        return all_rejected(receipt.rejected)
    return 200, encode_json(
        {
            "accepted": receipt.accepted,
            "unknown_subjects": receipt.unknown_subjects,
            "rejected": receipt.rejected,
        }
    )


def all_rejected(rejected: Sequence[Refused]) -> tuple[int, bytes]:
    error = InvalidInput(
        f"None of {len(rejected)} rows can be taken; the first: {rejected[0].message}"
        if len(rejected) > 1
        else rejected[0].message,
        code="ALL_REJECTED",
        where=rejected[0].field,
        next_action="Correct and send again; they are kept, with their reasons, in the stream's dead letters.",
    )
    return error.http_status, encode_json({**error.to_problem(), "errors": rejected})


def problem(error: SkyriverError) -> bytes:
    return encode_json(error.to_problem())
