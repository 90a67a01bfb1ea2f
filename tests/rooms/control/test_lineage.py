"""From data and code to decisions, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from skyriver.control.lineage import MOST, lineage
from skyriver.core.errors import NotFound
from skyriver.core.resources import Resource, Snapshot

CODE = "c" * 64


def job(name: str, *, needs: Sequence[str] = (), status: Mapping[str, Any] | None = None, **spec: Any) -> Resource:
    body = {"kind": "train", "code": {"bundle": CODE}, "needs": list(needs), **spec}
    return Resource("t", "job", name, spec=body, status=status or {}, state="SUCCEEDED")


def version(number: int, table: int | None) -> Resource:
    source = {"name": "orders", "table_version": table, "labels_version": 2} if table is not None else None
    spec = {"model": "m", "version": number, "source": source, "code": CODE, "job": f"compress-{number}"}
    spec |= {"curve": "d" * 64} if number == 1 else {}
    return Resource("t", "version", f"m:{number}", spec=spec, state="APPROVED")


ROWS = [
    job("load-1", kind="load", inputs={"files": [{"digest": "f" * 64, "name": "old.csv"}]},
        status={"outputs": {"tables": {"orders": {"version": 3}}}}),
    job("fresh-1", kind="materialise", status={"outputs": {"tables": {"orders": {"version": 5}}}}),
    job("train-1", needs=["fresh-1"], status={"outputs": {"curve": "d" * 64}}),
    job("compress-1", needs=["train-1"], status={"created": ["version/m:1"]}),
    job("scored", kind="predict", inputs={"version": {"model": "m", "version": 1}},
        status={"outputs": {"tables": {"answers": {"version": 0}}}}),
    version(1, 5),
    version(2, None),
    Resource("t", "model", "m"),
    Resource("t", "rollout", "m-1", spec={"model": "m", "to": 1}, state="DONE"),
    Resource("t", "rollout", "m-2", spec={"model": "m", "to": 2}, state="ROLLED_BACK"),
    Resource("t", "service", "m", spec={"versions": {"1": {"weight": 100}}}),
    Resource("t", "stream", "orders", spec={"decide": {"model": "m"}}, status={"model_version": 1}),
    Resource("t", "table", "orders", status={"version": 5}),
    Resource("other", "table", "theirs", status={"version": 1}),
    Resource("other", "job", "theirs", spec={"code": {"bundle": CODE}}),
]  # fmt: skip
SNAPSHOT = Snapshot({row.key: row for row in ROWS}, {}, {}, 0)


def reached(name: str, way: str) -> list[str]:
    far = "from" if way == "up" else "to"
    return list(dict.fromkeys(edge[far] for edge in lineage(SNAPSHOT, "t", name) if edge["way"] == way))  # type: ignore[literal-required]


def test_from_data_to_decisions() -> None:
    down = reached("load-1", "down")
    assert down[:2] == ["table/orders@3", "table/orders@5"]
    assert {"version/m:1", "rollout/m-1", "service/m", "decisions/orders", "table/answers@0"} <= set(down)
    assert "version/m:2" not in down


def test_from_decisions_back_to_data_and_code() -> None:
    up = reached("decisions/orders", "up")
    wanted = {"version/m:1", "job/compress-1", "job/train-1", "job/fresh-1", "table/orders@3", "file/old.csv"}
    assert wanted <= set(up)
    assert f"code/{CODE}" in up
    assert f"curve/{'d' * 64}" in up
    assert "rollout/m-2" not in up


@pytest.mark.parametrize("name", ["m:1", "version/m:1"])
def test_a_version_lies_between(name: str) -> None:
    assert {"table/orders@5", "table/orders.labels@2", "job/compress-1"} <= set(reached(name, "up"))
    assert reached(name, "down")[:3] == ["job/scored", "rollout/m-1", "service/m"]


@pytest.mark.parametrize("name", ["orders@3", "table/orders@3", "table/orders"])
def test_a_table_is_named_with_its_version_or_without(name: str) -> None:
    assert "version/m:1" in reached(name, "down")


def test_a_version_that_was_taken_back_led_to_its_rollout_alone() -> None:
    assert reached("m:2", "down") == ["rollout/m-2"]


def test_each_edge_is_told_once_and_a_row_alone_has_none() -> None:
    for name in ("m:1", "orders", "service/m"):
        edges = [tuple(edge.values()) for edge in lineage(SNAPSHOT, "t", name)]
        assert len(edges) == len(set(edges)) < MOST
    assert lineage(SNAPSHOT, "t", "model/m") == []


@pytest.mark.parametrize("name", ["m:3", "theirs", "", "job/nobody"])
def test_what_is_not_known_is_said(name: str) -> None:
    with pytest.raises(NotFound) as caught:
        lineage(SNAPSHOT, "t", name)
    assert "skyriver ps" in caught.value.next_action


def test_a_name_that_is_near_is_told() -> None:
    with pytest.raises(NotFound, match="did you mean 'm:"):
        lineage(SNAPSHOT, "t", "m:3")
