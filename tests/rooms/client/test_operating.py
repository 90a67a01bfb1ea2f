"""What is refused before anything is asked of a cloud, and what is said of a row of a list that has ended."""

from __future__ import annotations

from typing import Any

import pytest

from skyriver.client.erasing import _check_key
from skyriver.client.keeping import KeptList
from skyriver.client.lists import _added
from skyriver.core.errors import InvalidInput

FIELDS = [{"name": "customer", "type": "int"}, {"name": "card", "type": "text"}, {"name": "amount", "type": "float"}]
STREAM = {"key": "customer", "fields": FIELDS}
DENIED = KeptList("orders", "denied", "customer", {"customer": "int", "until": "time"}, 0.1)


@pytest.mark.parametrize(("key", "field"), [("17", ""), ("-5", ""), ("c1", "card"), (str((1 << 63) - 1), "customer")])
def test_a_subject_that_can_be(key: str, field: str) -> None:
    _check_key(STREAM, "orders", key, field)


@pytest.mark.parametrize(
    ("key", "field", "code"),
    [
        ("c1", "", "BAD_SUBJECT"),
        ("1.5", "", "BAD_SUBJECT"),
        ("", "", "BAD_SUBJECT"),
        ("", "card", "BAD_SUBJECT"),
        (str(1 << 63), "", "BAD_SUBJECT"),
        ("1", "amount", "UNKNOWN_FIELD"),
        ("1", "nobody", "UNKNOWN_FIELD"),
    ],
)
def test_a_subject_that_cannot_be_is_refused_at_once(key: str, field: str, code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        _check_key(STREAM, "orders", key, field)
    assert (caught.value.code, caught.value.exit_code) == (code, 2)
    assert caught.value.next_action


def test_a_row_that_is_past_puts_nobody_on_a_list() -> None:
    past = 1_700_000_000_000_000
    found: dict[str, Any] = {"fields": {"until": "until"}, "row": None, "history": [{"until": past}]}
    assert _added(DENIED, "17", found) == (
        "[yellow]17 is not on denied[/]: by the stream's time the until of its row, 2023-11-14 22:13:20, is past."
    )
    assert _added(DENIED, "17", {**found, "row": {"until": None}}) == "17 is on denied."
    assert _added(DENIED, "17", {**found, "row": {"until": past}}) == "17 is on denied, until 2023-11-14 22:13:20."
