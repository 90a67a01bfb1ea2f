"""The look for drift: what it reads of a stream's log, and what it keeps for the next one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.adapters.segments.log import open_log
from skyriver.core.spec import FieldSpec, StreamSpec
from skyriver.data.decisions import Status
from skyriver.data.log import Record, RecordKind
from skyriver.decide.log.records import DecisionRecord, Reason
from skyriver.release.profiled import profile_model
from skyriver.wiring.home import Home
from skyriver.wiring.work import watch
from skyriver.wiring.work.job import Job

DAY = 86_400_000_000
FIELDS = (FieldSpec(name="order", type="int"), FieldSpec(name="at", type="time"), FieldSpec(name="who", type="text"))
STREAM = StreamSpec(name="orders", fields=FIELDS, id="order", time="at", key="who")
RNG = np.random.default_rng(3)
X = RNG.normal(size=(4_000, 1)).astype(np.float32)
PROFILE = profile_model(("x",), X, np.arange(4_000), X[:, 0])


class Orders:
    """A stream whose log has an event and its decision, one after the other."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.now, self.next = home, 1_000 * DAY, 0
        self.objects = DirectoryObjects(home / "objects")
        self.profile = self.objects.put(PROFILE.model_dump_json().encode())
        clock = SimpleNamespace(time_ns=lambda: self.now * 1_000)
        monkeypatch.setattr(watch, "time", clock)
        self.seen: dict[str, Any] = {}

    def decide(self, rows: int, shift: float = 0.0, *, who: str = "", version: int = 1) -> None:
        log = open_log(self.home / "orders" / "log", durability="process", holder="test")
        for _ in range(rows):
            name = who or f"customer {RNG.integers(500)}"
            event = Record(RecordKind.EVENT, 0, msgspec.msgpack.encode((0, self.next, self.now, name)))
            features = np.array([RNG.normal() + shift], np.float32)
            told = DecisionRecord(
                2 * self.next, self.next, Status.DECIDED, "yes", float(features[0]), features.tobytes(), "m", version,
                "r" * 64, "d", Reason.NONE, self.now, 0,
            )  # fmt: skip
            log.append([event, Record(RecordKind.DECISION, 0, msgspec.msgpack.encode(told))])
            self.next += 1
        log.sync()
        log.close()

    def look(self, version: int = 1) -> dict[str, Any]:
        inputs = {
            "version": version,
            "profile": self.profile,
            "features": "d",
            "stream": "orders",
            "window_us": 4 * DAY,
            "before": self.seen.get("counted"),
        }
        app = SimpleNamespace(stream=lambda name: STREAM)
        job: Any = SimpleNamespace(
            home=Home(self.home), tenant="t", inputs=inputs, objects=self.objects, app=app,
            stream_directory=lambda name: self.home / name,
        )  # fmt: skip
        self.seen = watch.work(cast(Job, job))
        return self.seen


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Orders:
    return Orders(tmp_path, monkeypatch)


def days(orders: Orders, count: int, **decided: Any) -> None:
    for _ in range(count):
        orders.decide(200, **decided)
        orders.look()
        orders.now += DAY


def test_a_whole_window_is_compared_and_what_was_counted_goes_along(orders: Orders) -> None:
    days(orders, 4)
    assert orders.seen["drift"]["verdict"] == "unknown"
    days(orders, 1)
    assert (orders.seen["drift"]["verdict"], orders.seen["drift"]["rows"], orders.seen["share"]) == ("none", 1_000, 1.0)
    days(orders, 5, shift=2.0)
    assert orders.seen["drift"]["verdict"] == "drifted"
    kept = [path for path in (orders.home / "objects").rglob("*") if path.is_file()]
    assert len(kept) <= 3, "the profile, what was counted last, and what was before it"


def test_what_one_customer_orders_is_no_drift(orders: Orders) -> None:
    days(orders, 5)
    orders.decide(500, 6.0, who="a firm")
    found = orders.look()["drift"]
    assert found["verdict"] == "none"
    assert "but for those of a few keys: " in found["message"]
    assert {c["column"] for c in found["columns"] if c.get("of_few")} == {"x", "its score"}


def test_after_a_pause_it_looks_at_parts_that_lie_evenly_and_says_so(
    orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    days(orders, 5)
    monkeypatch.setattr(watch, "READ_OFFSETS", 400)
    for _ in range(4):  # nobody looked
        orders.decide(200)
        orders.now += DAY
    found = orders.look()
    assert found["share"] == 0.25
    assert "Of what came in the window 25% was looked at, evenly." in found["drift"]["message"]
    assert 190 <= found["drift"]["rows"] <= 200, "of four days, not of the last one"


def test_another_version_begins_anew_and_so_does_what_was_counted_by_an_earlier_release(orders: Orders) -> None:
    days(orders, 5)
    first = orders.seen["counted"]["object"]
    orders.decide(100, version=2)
    assert (orders.look(2)["drift"]["verdict"], orders.seen["version"]) == ("unknown", 2)
    assert not orders.objects.has(first)
    orders.seen["counted"] = {"version": 2, "window_us": 4 * DAY, "next_offset": 5, "since": 9, "quarters": []}
    assert orders.look(2)["drift"]["verdict"] == "unknown"
    orders.objects.delete(orders.seen["counted"]["object"])
    assert orders.look(2)["drift"]["rows"] == 100, "somebody took it away: it is counted again"


@pytest.mark.parametrize(("start", "end"), [(0, 10), (5, 5), (0, 1_000_000), (3, 50_000_003)])
def test_pieces_are_as_many_offsets_as_a_look_reads(start: int, end: int) -> None:
    found = list(watch.pieces(start, end))
    assert sum(last - first for first, last in found) == min(end - start, watch.READ_OFFSETS)
    assert all(a < b <= c for (a, b), (c, _) in pairwise(found))
    assert found[-1][1] == end
