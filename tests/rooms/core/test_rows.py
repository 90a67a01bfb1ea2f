"""Rows with their groups: always what a walk over all would find, and never changed by what is made from them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skyriver.core.resources import Key, Resource
from skyriver.core.rows import Rows

names = st.sampled_from("abc")
rows = st.builds(
    Resource,
    tenant=st.sampled_from("st"),
    kind=st.sampled_from(("job", "app")),
    name=names,
    parent=st.sampled_from(("", "app/a", "app/b")),
    revision=st.integers(0, 9),
)
steps = st.lists(st.tuples(st.lists(rows, max_size=4), st.lists(st.tuples(st.sampled_from("st"), names), max_size=2)))


def examine(found: Rows, wanted: dict[Key, Resource]) -> None:
    assert dict(found) == wanted
    in_order = [wanted[key] for key in sorted(wanted)]
    assert list(found.in_order()) == in_order
    for tenant in "st":
        for kind in ("job", "app"):
            assert list(found.all(tenant, kind)) == [r for r in in_order if (r.tenant, r.kind) == (tenant, kind)]
            for parent in ("app/a", "app/b"):
                assert list(found.children(tenant, parent, kind)) == [
                    r for r in in_order if (r.tenant, r.kind, r.parent) == (tenant, kind, parent)
                ]
    assert list(found.every("job")) == [r for r in in_order if r.kind == "job"]


@given(steps)
def test_groups_follow_every_change_and_earlier_rows_stay(
    changes: list[tuple[list[Resource], list[tuple[str, str]]]],
) -> None:
    found, wanted = Rows(), dict[Key, Resource]()
    history = [(found, wanted)]
    for put, gone in changes:
        keys = [(tenant, "job", name) for tenant, name in gone]
        found = found.changed(put, keys)
        wanted = {k: v for k, v in wanted.items() if k not in keys} | {r.key: r for r in put}
        history.append((found, wanted))
    for seen, expected in history:
        examine(seen, expected)
