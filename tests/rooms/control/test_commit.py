from dataclasses import replace

import pytest

from skyriver.control.commit import Key, Outcome, check_fence, check_page, decide
from skyriver.core.errors import InvalidInput, StaleWrite
from skyriver.core.resources import AuditEntry, Change, Delete, Put, Resource
from skyriver.trust.audit import EMPTY, verify

A = Resource("t", "job", "a", {"n": 1}, revision=5, generation=3, created_at=7, created_by="first")


def made(*changes: Change, current: tuple[Resource, ...] = (A,), audit: tuple[AuditEntry, ...] = ()) -> Outcome:
    rows: dict[Key, Resource] = {row.key: row for row in current}
    return decide(changes, audit, rows, revision=9, head=EMPTY, actor="me", now=100)


def test_every_change_takes_the_next_revision() -> None:
    outcome = made(Put(A, 5), Put(replace(A, name="b"), 0))
    assert [row.revision for row in outcome.puts] == [10, 11]
    assert outcome.revision == 11
    assert made(Delete("t", "job", "a", 5)).revision == 10
    assert made().revision == 9


def test_the_outcome_says_what_each_key_holds() -> None:
    outcome = made(Delete("t", "job", "a", 5), Put(A, 0))
    assert list(outcome.final) == [A.key]
    assert outcome.final[A.key] is outcome.puts[0]
    assert outcome.puts[0].generation == 1
    assert made(Put(replace(A, name="b"), 0), current=()).final.keys() == {("t", "job", "b")}
    assert made(Delete("t", "job", "a", 5)).final == {A.key: None}


@pytest.mark.parametrize(
    ("given", "generation"),
    [({"n": 1}, 3), ({"n": 2}, 4), ({"n": 1.0}, 4), ({}, 4), ({"n": 1, "m": None}, 4)],
)
def test_generation_counts_changes_of_the_spec(given: dict[str, object], generation: int) -> None:
    (row,) = made(Put(replace(A, spec=given, status={"changed": True}), 5)).puts
    assert row.generation == generation
    assert (row.created_at, row.created_by, row.updated_at, row.updated_by) == (7, "first", 100, "me")


def test_the_same_spec_in_another_order_or_as_a_tuple_is_the_same() -> None:
    row = replace(A, spec={"x": [1, 2], "y": 0})
    assert made(Put(replace(row, spec={"y": 0, "x": (1, 2)}), 5), current=(row,)).puts[0].generation == 3


def test_a_stale_write_says_why() -> None:
    for change, why in [
        (Put(A, 0), "it exists already"),
        (Put(A, 4), "it is at revision 5, not 4"),
        (Put(replace(A, name="b"), 4), r"it does not exist \(any more\)"),
        (Delete("t", "job", "b", 0), r"it does not exist \(any more\)"),
    ]:
        with pytest.raises(StaleWrite, match=why) as caught:
            made(change)
        assert caught.value.where.startswith("t/job/")
        assert caught.value.next_action


@pytest.mark.parametrize(
    "row",
    [
        replace(A, kind=""),
        replace(A, name=""),
        replace(A, message="half \ud800 character"),
        replace(A, name="\udfff"),
        replace(A, spec={"x": "\ud800"}),
        replace(A, status={"x": {1, 2}}),
        replace(A, since=1 << 63),
        replace(A, attempts=-(1 << 63) - 1),
    ],
)
def test_what_no_database_keeps_exactly_is_refused(row: Resource) -> None:
    with pytest.raises(InvalidInput):
        made(Put(row, 0), current=())


def test_a_document_without_end_is_refused() -> None:
    endless: dict[str, object] = {}
    endless["x"] = endless
    with pytest.raises(InvalidInput):
        made(Put(replace(A, spec=endless), 5))
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidInput):
        made(Put(replace(A, spec={"x": deep}), 5))


def test_audit_rows_are_linked_in_their_order() -> None:
    entries = tuple(AuditEntry("t", "ann", "jobs:run", "run", f"{n}", {"n": (n,)}) for n in range(3))
    outcome = made(audit=entries)
    assert [row.target for row in outcome.audit] == ["0", "1", "2"]
    assert [row.details for row in outcome.audit] == [{"n": [0]}, {"n": [1]}, {"n": [2]}]
    assert verify(outcome.audit) == outcome.head == outcome.audit[-1].head
    with pytest.raises(InvalidInput, match="audit entry"):
        made(audit=(AuditEntry("t", "\ud800", "jobs:run", "run", "x"),))


def test_fences_and_pages() -> None:
    check_fence(3, 3)
    for fence in (0, 2, 4):
        with pytest.raises(StaleWrite) as caught:
            check_fence(fence, 3)
        assert caught.value.code == "FENCED"
    check_page("t", "job", "a", 0)
    check_page(None, None, "", None)
    for page in [(None, "job", "a", None), ("t", None, "a", None), ("t", "job", "", -1)]:
        with pytest.raises(InvalidInput) as refused:
            check_page(*page)
        assert refused.value.code == "BAD_PAGE"
