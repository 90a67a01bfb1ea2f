"""Features by key, as they are asked of a worker and answered."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from skyriver.core.errors import InvalidInput
from skyriver.decide.partition.engine import AsOf
from skyriver.decide.partition.windows import FeaturesRead
from skyriver.decide.worker.reading import ReadBorder, encode_as_of
from skyriver.serve.read_format import ReadAnswer

House = Any


def test_fields_that_are_not_given_are_missing(house: House) -> None:
    border = ReadBorder(house.stream)
    digest, rows = border.take(b'{"features": "abc", "rows": [{"customer": 7}, {"customer": 8, "amount": 2}]}')
    names = [f.name for f in house.stream.fields]
    assert digest == "abc"
    assert [dict(zip(names, row, strict=True)) for row in rows] == [
        dict.fromkeys(names) | {"customer": 7},
        dict.fromkeys(names) | {"customer": 8, "amount": 2.0},
    ]


@pytest.mark.parametrize(
    ("body", "code", "where"),
    [
        (b"{", "BAD_READ", ""),
        (b'{"rows": []}', "BAD_READ", ""),
        (b'{"features": "a", "rows": [1]}', "BAD_READ", ""),
        (b'{"features": "a", "rows": [' + b"{}," * 64 + b"{}]}", "BAD_READ", ""),
        (b'{"features": "a", "rows": [], "more": 1}', "BAD_READ", ""),
        (b'{"features": "a", "rows": [{"customer": "seven"}]}', "WRONG_TYPE", "customer"),
        (b'{"features": "a", "rows": [{"colour": 1}]}', "UNKNOWN_FIELD", "colour"),
    ],
)
def test_what_cannot_be_read_is_refused(house: House, body: bytes, code: str, where: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        ReadBorder(house.stream).take(body)
    assert (refused.value.code, refused.value.where) == (code, where)


def test_features_come_as_they_are() -> None:
    features = np.array([[0.1, np.nan], [np.inf, -0.0]], np.float32)
    found = AsOf(41, 1_000, FeaturesRead(("customer", "shop"), np.array([[True, False], [True, True]]), features))
    answer = msgspec.msgpack.decode(encode_as_of(found, 1_250), type=ReadAnswer)
    assert (answer.offset, answer.age_us, answer.keys) == (41, 250, ("customer", "shop"))
    assert answer.known == [b"\x01\x00", b"\x01\x01"]
    assert answer.features == features.astype("<f4").tobytes()
