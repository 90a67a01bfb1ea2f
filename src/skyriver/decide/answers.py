"""Bodies of a stream's requests, as JSON or MessagePack, and of its answers, as JSON."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, NoReturn, overload

import msgspec
from msgspec import defstruct
from msgspec.structs import asdict, astuple

from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.decide.checkpoint import DeadLetter
from skyriver.decide.receipt import LabelReceipt, Receipt, Refused
from skyriver.decide.records import DecisionRecord

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
        raise Unread(str(error), form) from error
    return found if isinstance(found, list) else [found]


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

    def __init__(self, why: str, form: Form) -> None:
        super().__init__(
            f"The body is not read: {why}.",
            code="NOT_MSGPACK" if form is Form.MSGPACK else "NOT_JSON",
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
