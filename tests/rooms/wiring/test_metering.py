"""The metering over a control plane in memory: what is in the rows, over its end, and over a store that is away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from skyriver.adapters.memory.store import MemoryStore
from skyriver.control.pricing import OWNED
from skyriver.core.errors import SkyriverError, Unavailable
from skyriver.core.prices import CORE, STORAGE, Prices
from skyriver.core.resources import ProcessStatus, Put, Resource
from skyriver.core.usage import HOUR, USAGE, Subject, buckets
from skyriver.wiring import stored as of_stored
from skyriver.wiring.home import Home
from skyriver.wiring.metering import MARKS, Meter
from skyriver.wiring.simulation import Simulation
from skyriver.wiring.stored import stored

SHOP = Subject("shop", "service", "comes_back")
PAID = Prices("list paid", date(2026, 11, 1), "EUR", {CORE: Decimal(1)})


class Tariff:
    def __init__(self) -> None:
        self.prices = OWNED

    def now(self) -> Prices:
        return self.prices

    def problem(self) -> SkyriverError | None:
        return None


class Shaky(MemoryStore):
    """Its next commits fail, before or after they were made."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: list[tuple[str, bool]] = []

    def commit(self, changes: Sequence[Any], **told: Any) -> list[Resource]:
        if not self.fails:
            return super().commit(changes, **told)
        code, made = self.fails.pop()
        if made:
            super().commit(changes, **told)
        raise Unavailable("The store is away.", code=code, next_action="Wait.")


class Stage:
    def __init__(self) -> None:
        self.store = Shaky()
        self.world = Simulation({}, store=self.store)
        self.world.clock.advance(495_000 * HOUR + 60_000_000)
        self.tariff = Tariff()
        serve = {"replicas": 1, "cpus": 0.5, "memory_mb": 200}
        spec = {"model": "comes_back", "serve": serve, "versions": {}}
        rows = [
            Resource("default", "service", "comes_back", spec=spec, parent="app/shop", state="READY"),
            Resource("default", "replica", "comes_back-1-1", parent="service/comes_back", state="READY"),
        ]
        self.commit(*[Put(row, 0) for row in rows])
        self.boot = "aaaaaaaa-boot"
        self.meter = self.begin()

    def commit(self, *changes: Any) -> None:
        self.store.commit(changes, audit=(), fence=self.world.fence, actor="test", now=self.world.clock.wall())

    def begin(self) -> Meter:
        """Another control plane."""
        self.world.start_control()
        return Meter(
            store=self.store,
            loop=self.world.loop,
            clock=self.world.clock,
            fence=self.world.fence,
            pricing=self.tariff,
            boot=self.boot,
        )

    def run(self) -> None:
        name = "default.replica.comes_back-1-1"
        status = ProcessStatus(name, alive=True, pid=5, started_at=self.world.clock.wall())
        self.world.loop._snapshot = replace(self.world.loop._snapshot, processes={name: status})

    def look(self, seconds: float, *, write: bool = False) -> None:
        processes = self.world.loop._snapshot.processes
        self.world.clock.advance(round(seconds * 1e6))
        self.world.loop._snapshot = replace(self.world.loop._snapshot, processes=processes)
        self.meter.look(write=write)

    def counted(self) -> int:
        """Core milliseconds that the rows have, of half a core."""
        found = buckets(self.store.rows("default", USAGE))
        return sum(part.used[SHOP][CORE] for bucket in found for part in bucket.parts) // 500


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_it_writes_what_was_used_every_ten_seconds(stage: Stage) -> None:
    stage.look(0)
    stage.run()
    for _ in range(12):
        stage.look(5)
    assert stage.counted() == 60_000
    [bucket] = buckets(stage.store.rows("default", USAGE))
    assert bucket.parts[0].used[SHOP] == {CORE: 500 * 60_000, "memory_gb_hour": 200 * 60_000}
    before = stage.store.revision()
    stage.look(5)
    assert stage.store.revision() == before


def test_the_next_control_plane_goes_on_where_the_rows_stand(stage: Stage) -> None:
    stage.look(0)
    stage.run()
    stage.look(5, write=True)
    stage.look(5)  # killed before it is written
    processes = stage.world.loop._snapshot.processes
    stage.meter = stage.begin()
    stage.world.loop._snapshot = replace(stage.world.loop._snapshot, processes=processes)
    stage.look(600, write=True)
    assert stage.counted() == 610_000


@pytest.mark.parametrize("made", [False, True], ids=["was not made", "was made"])
@pytest.mark.parametrize("code", ["UNAVAILABLE", "STORE_UNSURE"])
def test_a_commit_that_failed_is_made_up_for_once(stage: Stage, code: str, made: bool) -> None:
    if code == "UNAVAILABLE" and made:
        return  # it was not, or the store says STORE_UNSURE
    stage.look(0)
    stage.run()
    stage.look(5, write=True)
    stage.store.fails = [(code, made)]
    with pytest.raises(Unavailable):
        stage.look(5, write=True)
    stage.look(5, write=True)
    stage.look(5, write=True)
    assert stage.counted() == 20_000


def test_another_control_plane_that_wrote_meanwhile_is_not_written_over(stage: Stage) -> None:
    stage.look(0)
    stage.run()
    stage.look(5, write=True)
    other, stage.meter = stage.meter, stage.meter
    [row] = [r for r in stage.store.rows("default", USAGE) if r.name.startswith("h")]
    stage.commit(Put(row, row.revision))
    with pytest.raises(SkyriverError):
        stage.look(5, write=True)
    stage.look(5, write=True)
    assert stage.counted() == 15_000
    assert other is stage.meter


def test_prices_that_change_within_an_hour_are_kept_with_what_was_used_by_them(stage: Stage) -> None:
    stage.look(0)
    stage.run()
    stage.look(5)
    stage.tariff.prices = PAID
    stage.look(10, write=True)
    [bucket] = buckets(stage.store.rows("default", USAGE))
    assert [(part.prices.currency, part.used[SHOP][CORE] // 500) for part in bucket.parts] == [
        ("", 5_000),
        ("EUR", 10_000),
    ]


def test_hours_follow_each_other_and_marks_of_old_starts_go(stage: Stage) -> None:
    stage.look(0)
    stage.run()
    for number in range(2 * MARKS):
        stage.boot = f"{number:08}-boot"
        processes = stage.world.loop._snapshot.processes
        stage.meter = stage.begin()
        stage.world.loop._snapshot = replace(stage.world.loop._snapshot, processes=processes)
        stage.look(3_600, write=True)
    rows = [row.name for row in stage.store.rows("default", USAGE)]
    assert len([name for name in rows if name.startswith("mark-")]) <= MARKS + 2
    assert len([name for name in rows if name.startswith("h")]) >= 2 * MARKS


def test_storage_is_what_tables_streams_and_versions_have_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    for folder in (home.tables / "default" / "orders" / "_delta_log", home.streams / "default" / "orders"):
        folder.mkdir(parents=True)
        (folder / "part").write_bytes(b"x" * 10_000)
    digest = "ab" + "0" * 62
    (home.objects / "ab").mkdir(parents=True)
    (home.objects / "ab" / digest).write_bytes(b"y" * 123)
    world = Simulation({})
    rows = [
        Resource("default", "table", "orders", parent="app/shop", state="READY"),
        Resource("default", "stream", "orders", parent="app/shop", state="READY"),
        Resource("default", "model", "fraudless", parent="app/shop", state="READY"),
        Resource(
            "default", "version", "fraudless:1", spec={"model": "fraudless", "artifact": digest}, state="APPROVED"
        ),
        Resource(
            "default", "version", "fraudless:2", spec={"model": "fraudless", "artifact": "f" * 64}, state="APPROVED"
        ),
    ]
    world.store.commit([Put(row, 0) for row in rows], audit=(), fence=world.fence, actor="test", now=0)
    found = stored(home, world.loop.snapshot())
    assert found[("default", Subject("shop", "model", "fraudless"))] == 123
    for kind in ("table", "stream"):
        assert 10_000 <= found[("default", Subject("shop", kind, "orders"))] < 20_000
    monkeypatch.setattr(of_stored, "ENTRIES", 1)
    assert sum(stored(home, world.loop.snapshot()).values()) == 123
    assert STORAGE not in found
