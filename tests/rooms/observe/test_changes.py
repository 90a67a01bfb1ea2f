"""What changed, as causes of what is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skyriver.core.resources import Resource, Snapshot
from skyriver.observe.changes import Changes, _of_row
from skyriver.observe.sight import GATEWAY, Sight


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


def test_a_tenants_limits_are_named_with_what_they_were_the_first_ones_too() -> None:
    changes, at = Changes(), 1_000.0
    told = []
    for revision, spec in enumerate((None, {"rate": "500/s"}, {"rate": "5/s", "concurrency": 9}, {"rate": "5/s"})):
        rows = []
        if spec is not None:
            rows = [Resource("a", "tenant", "a", spec, state="ACTIVE", revision=revision, updated_by="ana")]
        changes.look(Sight(at, Snapshot({row.key: row for row in rows}, {}, {}, 1_795_000_000_000_000)))
        told.append([(change.subject, change.kind, change.owner, change.told) for change in changes.recent])
        at += 5.0
    assert told[0] == []
    assert told[1] == [(GATEWAY, "limits", "a", "The limits of the tenant a were changed by ana: rate none to 500/s")]
    assert told[2][1:] == [
        (
            *(GATEWAY, "limits", "a"),
            "The limits of the tenant a were changed by ana: rate 500/s to 5/s, concurrency none to 9",
        )
    ]
    assert changes.recent[1].next_action == (
        "`skyriver tenant limit a --rate 500/s --concurrency none` sets them back."
    )
    assert changes.recent[2].told.endswith("concurrency 9 to none")


@pytest.mark.parametrize(
    ("generation", "told", "action"),
    [
        (
            1,
            "The limits of the tenant a were changed by ana: rate none to 300/s",
            "`skyriver tenant limit a --rate none` sets them back.",
        ),
        (
            2,
            "The tenant a was changed by ana: its limits are rate 300/s now",
            "`skyriver audit list --target tenant/a` shows what was done.",
        ),
    ],
)
def test_a_limit_is_not_said_to_be_set_back_to_what_it_may_not_have_been(
    generation: int, told: str, action: str
) -> None:
    now, changes = 1_795_000_000_000_000, Changes()
    row = Resource("a", "tenant", "a", {"rate": "300/s"}, state="ACTIVE", generation=generation, updated_by="ana")
    row = replace(row, created_at=now - 60_000_000)
    changes.look(Sight(1_000.0, Snapshot({row.key: row}, {}, {}, now)))
    (change,) = changes.recent
    assert (change.told, change.next_action) == (told, action)


def test_a_budget_is_no_limit_of_requests() -> None:
    changes = Changes()
    for revision, spec in ((1, {"rate": "5/s"}), (2, {"rate": "5/s", "budget": "9 EUR/30d"})):
        row = Resource("a", "tenant", "a", spec, state="ACTIVE", revision=revision)
        changes.look(Sight(1_000.0 + revision, Snapshot({row.key: row}, {}, {}, 1_795_000_000_000_000)))
    assert changes.recent == ()
