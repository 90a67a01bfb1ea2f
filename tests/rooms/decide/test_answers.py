"""Bodies that cannot be read: which row of them is wrong."""

from __future__ import annotations

import pytest

from skyriver.core.errors import InvalidInput
from skyriver.decide.worker.answers import NAMED_BYTES, Form, parse_rows


@pytest.mark.parametrize(
    ("body", "form", "where"),
    [
        (b'{"a": 1}\n\n{"a": NaN}\n{"a": 2}', Form.LINES, "line 3"),
        (b'{"a": 1}\n{"a"', Form.LINES, "line 2"),
        (b'[{"a": 1}, {"a": 2},\n {"a": NaN}, {"a": 3}]', Form.JSON, "index 2"),
        (b' [{"a": -Infinity}]', Form.JSON, "index 0"),
        (b'[{"a": "[,]"}, {"a": 1} {"a": 2}]', Form.JSON, "index 1"),
        (b'[{"a": 1}, ', Form.JSON, "index 1"),
        (b'[{"a": 1}', Form.JSON, "index 0"),
        (b"[" * 100_000, Form.JSON, "index 0"),
        (b'[{"a": 1}] x', Form.JSON, ""),
        (b'{"a": NaN}', Form.JSON, ""),
        (b"[1, NaN" + b" " * NAMED_BYTES + b"]", Form.JSON, ""),
        (b"\xc1", Form.MSGPACK, ""),
    ],
)
def test_the_row_that_cannot_be_read_is_named(body: bytes, form: Form, where: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_rows(body, form)
    assert caught.value.where == where
    assert caught.value.http_status == 400
    assert caught.value.next_action


@pytest.mark.parametrize("form", [Form.JSON, Form.MSGPACK])
def test_an_empty_body_is_told_as_that(form: Form) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_rows(b"", form)
    assert caught.value.message == "The body is empty."
