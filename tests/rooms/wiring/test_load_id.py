"""A load is named by what it brings, so that another job can finish it."""

from __future__ import annotations

import skyriver as sr
from skyriver.wiring.work.load import load_id


class Payment(sr.Event):
    payment: int
    at: sr.Time
    customer: int


def test_the_same_files_into_the_same_stream_are_the_same_load() -> None:
    app = sr.App("risk")
    app.stream("payments", Payment, id="payment", time="at", key="customer")
    stream = app.spec.streams[0]
    file = {"digest": "a" * 64, "name": "one.csv", "format": "csv", "label": ""}
    first = load_id(stream, [file])
    assert load_id(stream, [{**file, "name": "renamed.csv"}]) == first
    assert load_id(stream, [{k: v for k, v in file.items() if k != "label"}]) == first
    others = [[{**file, "digest": "b" * 64}], [{**file, "label": "fraud"}], [file, file]]
    ids = {load_id(stream, files) for files in others}
    ids.add(load_id(stream.model_copy(update={"disorder_us": 1}), [file]))
    assert len(ids | {first}) == 5
