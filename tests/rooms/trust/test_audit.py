from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyriver.core.errors import Corrupt
from skyriver.core.resources import AuditEntry
from skyriver.trust.audit import EMPTY, AuditHead, AuditRow, check_row, link, row_digest, verify


def chain(length: int) -> list[AuditRow]:
    rows, head = [], EMPTY
    for number in range(length):
        entry = AuditEntry("acme", "ann", "jobs:run", "job.run", f"job/{number}", {"n": number, "x": [0.1, None]})
        rows.append(link(head, entry, 1000 + number))
        head = rows[-1].head
    return rows


ROWS = chain(6)
CHANGES = {
    "at": 1,
    "tenant": "other",
    "actor": "bob",
    "permission": "jobs:read",
    "action": "job.stop",
    "target": "job/9",
    "details": {"n": 99},
    "digest": "f" * 64,
}


def test_the_digest_is_what_the_text_says() -> None:
    # By hand: printf '["0...0",1,1000,"acme","ann","jobs:run","job.run","job/0",{"n":0,"x":[0.1,null]}]' | sha256sum
    assert ROWS[0].digest == "b5357a4812409240f360af70a67c672fc65f7f9a17fe67d0448dbe5e817fca3e"
    assert row_digest(ROWS[0]) == ROWS[0].digest


def test_a_whole_chain_ends_in_its_last_row() -> None:
    assert verify(ROWS) == ROWS[-1].head
    assert verify([]) == EMPTY
    assert verify(ROWS[3:], start=ROWS[2].head) == ROWS[-1].head


@pytest.mark.parametrize("field", CHANGES)
@pytest.mark.parametrize("at", range(len(ROWS)))
def test_a_changed_row_breaks_the_chain(at: int, field: str) -> None:
    changed = replace(ROWS[at], **{field: CHANGES[field]})
    with pytest.raises(Corrupt, match=f"row {at + 1}:") as caught:
        verify([*ROWS[:at], changed, *ROWS[at + 1 :]])
    assert caught.value.code == "AUDIT_TAMPERED"
    with pytest.raises(Corrupt):
        check_row(changed)


def test_a_changed_row_signed_anew_breaks_the_row_after_it() -> None:
    changed = replace(ROWS[2], actor="bob")
    signed = replace(changed, digest=row_digest(changed))
    with pytest.raises(Corrupt, match="row 4: it does not follow"):
        verify([*ROWS[:2], signed, *ROWS[3:]])


def test_a_missing_or_moved_row_is_named() -> None:
    with pytest.raises(Corrupt, match="row 3: it is missing"):
        verify([*ROWS[:2], *ROWS[3:]])
    with pytest.raises(Corrupt, match="row 2"):
        verify([ROWS[0], ROWS[2], ROWS[1]])
    with pytest.raises(Corrupt, match="row 1: it is missing"):
        verify(ROWS[1:])


def test_a_head_seen_before_shows_what_the_chain_alone_does_not() -> None:
    seen = ROWS[4].head
    assert verify(ROWS, seen=seen) == ROWS[-1].head
    assert verify(ROWS[:4]) == ROWS[3].head  # cut off: whole in itself
    with pytest.raises(Corrupt, match="row 5: it was seen and is missing"):
        verify(ROWS[:4], seen=seen)
    anew, head = [], EMPTY
    for row in ROWS:  # written anew, all of it
        anew.append(link(head, AuditEntry("acme", "bob", "jobs:run", "job.run", row.target, {}), row.at))
        head = anew[-1].head
    assert verify(anew) == head
    with pytest.raises(Corrupt, match="row 5: it is not the row that was seen"):
        verify(anew, seen=seen)
    assert verify(ROWS, seen=EMPTY) == ROWS[-1].head
    assert verify(ROWS[3:], start=ROWS[2].head, seen=AuditHead(1, "of a part that is not examined")) == ROWS[-1].head


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(texts, texts, texts, texts, texts), min_size=2, max_size=4, unique=True))
def test_fields_cannot_be_shifted_into_each_other(entries: list[tuple[str, str, str, str, str]]) -> None:
    digests = {link(EMPTY, AuditEntry(*fields), 1).digest for fields in entries}
    assert len(digests) == len(entries)
