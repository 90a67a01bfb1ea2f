"""Tags: what may be one, how many, and that nothing else of the row changes."""

from __future__ import annotations

import pytest

from skyriver.core.errors import InvalidInput, QuotaExceeded
from skyriver.core.resources import Resource
from skyriver.core.tags import LONGEST_VALUE, MOST_CHARACTERS, MOST_TAGS, tagged, tags_of

ROW = Resource("t", "model", "churn", status={"aliases": {"good": 1}, "tags": {"a": "1"}}, revision=4)


def test_tags_are_set_changed_and_taken_away_and_nothing_else_is_touched() -> None:
    after = tagged(ROW, {"b": "", "a": "2", "never_there": None})
    assert tags_of(after) == {"a": "2", "b": ""}
    assert (after.status["aliases"], after.revision) == ({"good": 1}, 4)
    assert tagged(after, {"a": None, "b": None}).status == {"aliases": {"good": 1}}, "the last one leaves no trace"


@pytest.mark.parametrize("key", ["", " a", "a\n", "x" * 251, "skyriver.state"])
def test_what_cannot_be_a_key(key: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        tagged(ROW, {key: "1"})
    assert caught.value.code == "BAD_TAG"
    assert caught.value.next_action


def test_there_are_not_more_than_a_row_can_hold() -> None:
    with pytest.raises(InvalidInput, match="5,001 characters"):
        tagged(ROW, {"a": "x" * (LONGEST_VALUE + 1)})
    full = tagged(ROW, {f"k{n}": "" for n in range(MOST_TAGS - 1)})
    assert len(tags_of(full)) == MOST_TAGS
    long = {f"k{n}": "x" * LONGEST_VALUE for n in range(MOST_CHARACTERS // LONGEST_VALUE)}
    for row, changes in ((full, {"one_more": ""}), (ROW, long)):
        with pytest.raises(QuotaExceeded) as caught:
            tagged(row, changes)  # type: ignore[arg-type]
        assert caught.value.code == "TOO_MANY_TAGS"
