"""Two texts with the same key: no event is taken for another one."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import polars as pl
import pytest

import skyriver.data.columns as columns
import skyriver.data.keys as keys
import skyriver.decide.partition.engine as engine
import skyriver.decide.partition.recovery as recovery
from skyriver.core.units import SECOND
from skyriver.decide.log.history import read_block
from skyriver.decide.log.records import LoadStep

START = 1_000_000 * SECOND


@pytest.fixture(params=[1000, 1], ids=["rows", "block"])
def house(request: Any, make_house: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Texts have the key of their first letter."""

    def key(text: str) -> int:
        return ord(text[0])

    for module in (engine, recovery):
        monkeypatch.setattr(module, "key_of_text", key)
    for module in (columns, keys):
        monkeypatch.setattr(module, "keys_of_texts", lambda texts: np.array([key(t) for t in texts], np.int64))
    stream = make_house().stream
    text = stream.fields[0].model_copy(update={"type": "text"})
    house = make_house(stream=stream.model_copy(update={"fields": (text, *stream.fields[1:])}))
    house.block_rows = request.param
    return house.start()


@pytest.fixture(params=["memory", "log"])
def known(request: Any, house: Any) -> Any:
    """Where the decisions of before are."""
    if request.param == "log":
        house.engine._same._recent = lambda _: None
    return house


def test_an_event_is_no_duplicate_of_one_whose_id_has_the_same_key(known: Any) -> None:
    assert known.send(known.event("alice"), known.event("bob")).accepted == 2
    receipt = known.send(known.event("anna"), known.event("bob"), known.event("arthur"), known.event("anna"))
    assert (receipt.accepted, receipt.duplicates) == (2, 2)
    assert [d.id for d in receipt.decisions if d is not None and d.event_offset > 3] == ["anna", "arthur", "anna"]


def test_what_the_log_does_not_have_here_counts_as_the_same_id(known: Any) -> None:
    known.send(known.event("alice"))
    known.engine._same._here = lambda: known.log.next_offset
    in_memory = known.engine._same._recent(1) is not None
    assert known.send(known.event("anna")).duplicates == (0 if in_memory else 1)


def test_a_label_is_not_about_an_event_whose_id_has_the_same_key(house: Any) -> None:
    house.send(house.event("alice"))
    receipt = house.send_labels({"payment": "anna", "fraud": True}, {"payment": "alice", "fraud": True})
    assert (receipt.accepted, receipt.unknown_subjects) == (2, 1)


def test_history_has_no_duplicates_of_ids_with_the_same_key(house: Any) -> None:
    def load(sequence: int, *names: str) -> tuple[int, int]:
        at = [START] * len(names)
        columns = {"_kind": [1] * len(names), "_time": at, "payment": names, "at": at}
        rows = pl.DataFrame(columns, schema_overrides={"_kind": pl.UInt8}).with_columns(
            pl.lit(1).cast(pl.Int64).alias("customer"),
            pl.lit(10.0).alias("amount"),
            pl.lit(None, pl.UInt8).alias("_label"),
            pl.lit(None, pl.String).alias("_subject"),
            pl.lit(None, pl.Float64).alias("_value"),
        )
        out = BytesIO()
        rows.write_ipc_stream(out)
        answer = house.engine.load(read_block(out.getvalue(), house.stream), LoadStep("load-1", sequence, 0, False))
        house.log.sync()
        return answer.appended, answer.duplicates

    assert load(0, "alice", "anna", "alice") == (2, 1)
    assert load(1, "anna", "arthur") == (1, 1)
