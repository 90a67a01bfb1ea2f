"""Bodies of a stream's requests and answers, as JSON."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.decide.checkpoint import DeadLetter
from skyriver.decide.receipt import LabelReceipt, Receipt, Refused
from skyriver.decide.records import DecisionRecord

_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder(enc_hook=str)
encode_json = _encoder.encode


def parse_rows(body: bytes, content_type: bytes) -> list[object]:
    """The rows of a body: one JSON value, an array of them, or a line for each (application/x-ndjson).

    Raises InvalidInput (NOT_JSON, HTTP 400): nothing of the body is taken then.
    """
    kind = content_type.partition(b";")[0].strip().lower()
    try:
        if kind == b"application/x-ndjson":
            return list(_decoder.decode_lines(body))
        found = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotJson(str(error)) from error
    return found if isinstance(found, list) else [found]


class NotJson(InvalidInput):
    http_status = 400

    def __init__(self, why: str) -> None:
        super().__init__(
            f"The body is not read: {why}.",
            code="NOT_JSON",
            next_action="Send a JSON object, an array of them, or lines of JSON as application/x-ndjson.",
        )


class DecisionWriter:
    """`names` and `digest` of the features that are computed now: values of others are not named any more."""

    def __init__(self, names: Sequence[str], digest: str) -> None:
        self._names = names
        self._digest = digest

    def to_json(self, record: DecisionRecord) -> dict[str, object]:
        found: dict[str, object] = {name: getattr(record, name) for name in record.__struct_fields__}
        features = None
        if record.features and record.features_digest == self._digest:
            values = np.frombuffer(record.features, "<f4").tolist()
            features = dict(zip(self._names, values, strict=True))  # NaN is written as null
        found["features"] = features
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
