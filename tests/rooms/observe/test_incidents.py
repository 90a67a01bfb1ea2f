"""One incident for one root, and what it is put down to."""

from __future__ import annotations

from skyriver.observe.incidents import Change, Condition, incidents

GRAPH = {"service/a": ("model/m",), "service/b": ("model/m",), "model/m": ("stream/s",), "x": ("y",), "y": ("x",)}


def ill(subject: str, since: float = 1000.0) -> Condition:
    return Condition(subject, "failed", since, f"{subject} fails", f"look at {subject}")


def change(subject: str, kind: str, at: float) -> Change:
    return Change(subject, kind, at, f"{kind} of {subject}", f"undo {kind}")


def test_what_depends_on_something_wrong_is_not_told_by_itself() -> None:
    (one,) = incidents([ill("service/a", 990.0), ill("service/b"), ill("stream/s", 1005.0)], GRAPH, [])
    assert (one.root, [c.subject for c in one.conditions]) == ("stream/s", ["stream/s", "service/a", "service/b"])
    assert one.next_action == "look at stream/s"


def test_what_has_nothing_to_do_with_each_other_is_two() -> None:
    assert [one.root for one in incidents([ill("service/a"), ill("service/b", 1.0)], GRAPH, [])] == [
        "service/b",
        "service/a",
    ]


def test_a_circle_has_one_root_and_the_same_condition_counts_once() -> None:
    (one,) = incidents([ill("x", 5.0), ill("y", 4.0), ill("y", 4.0)], GRAPH, [])
    assert (one.root, len(one.conditions)) == ("y", 2)


def test_causes_by_time_graph_and_kind() -> None:
    changes = [
        change("model/m", "rollout", 990.0),
        change("service/a", "deploy", 400.0),
        change("service/a", "load", 995.0),
        change("service/b", "death", 999.0),
        change("service/a", "death", 1011.0),
        change("service/a", "deploy", -30_000.0),
    ]
    (one,) = incidents([ill("service/a")], GRAPH, changes)
    assert [(c.change.subject, c.change.kind) for c in one.causes] == [
        ("model/m", "rollout"),
        ("service/a", "load"),
        ("service/a", "deploy"),
        ("service/a", "itself: failed"),
    ]
    assert (one.causes[0].evidence, one.next_action) == (
        "rollout of model/m, 10 s before.",
        "undo rollout look at service/a",
    )


def test_nobody_is_sent_to_the_same_place_twice() -> None:
    explains = "`skyriver explain quote` tells why."
    late = Condition("service/quote", "late", 1000.0, "It is late.", explains)
    took = Change("service/quote", "rollout", 990.0, "2 took over", "`skyriver explain quote` has the rollout.")
    [one] = incidents([late], {}, [took])
    assert one.next_action == took.next_action
    other = Change("service/quote", "rollout", 990.0, "2 took over", "`skyriver rollback quote` takes it back.")
    [one] = incidents([late], {}, [other])
    assert one.next_action == f"{other.next_action} {explains}"
