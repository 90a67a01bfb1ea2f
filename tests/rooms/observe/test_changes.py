"""What changed, as causes of what is wrong."""

from __future__ import annotations

import pytest

from skyriver.core.resources import Resource
from skyriver.observe.changes import _of_row


@pytest.mark.parametrize(
    ("origin", "action"),
    [
        ("1", "`skyriver rollback a` lets the version before serve again."),
        (0, "`skyriver explain a` tells what it takes; there is no version before."),
    ],
)
def test_a_rollback_is_offered_where_a_version_was_before(origin: object, action: str) -> None:
    rollout = Resource(
        "t", "rollout", "a-2", spec={"model": "a", "to": 2}, status={"from": origin}, state="DONE", parent="model/a"
    )
    (change,) = _of_row(rollout, None, 1.0)
    assert change.next_action == action
