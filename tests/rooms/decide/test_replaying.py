"""History decided again: as it was, to the bit, whatever happened; and by something else, as if that had decided."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import skyriver as sr
from skyriver.adapters.memory.log import MemoryLogReader
from skyriver.core.calibration import Calibration
from skyriver.core.errors import Conflict, NotFound
from skyriver.core.spec import CostSpec, CostsSpec, FeatureSetSpec, StreamSpec
from skyriver.core.units import SECOND
from skyriver.data.decisions import Reason, Status
from skyriver.data.log import Record, RecordKind
from skyriver.decide.decision.choice import Choice, Wanted, WantedModel
from skyriver.decide.decision.deciding import Deciding
from skyriver.decide.decision.model_run import ModelRun, none_of, score_rows
from skyriver.decide.decision.scoring import Effort
from skyriver.decide.log.blocks import events_of
from skyriver.decide.log.history import read_block
from skyriver.decide.log.records import DecisionRecord, LoadStep, ModelInUse, decode_decision, encode, encode_reference
from skyriver.decide.partition.kernel_windows import memory_windows
from skyriver.decide.partition.windows import FeatureSets
from skyriver.decide.replay.comparison import Comparison
from skyriver.decide.replay.past import control_before, offset_at
from skyriver.decide.replay.pricing import Prices
from skyriver.decide.replay.recompute import Recomputed, recompute
from skyriver.decide.replay.replaying import Replay
from skyriver.decide.replay.stretch import Asked, AskedRules, Counts, DecidedAgain
from skyriver.decide.replay.truths import Truths, read_truths
from skyriver.decide.replay.what_if import Summary
from skyriver.decide.worker.border import ReferenceBorder
from skyriver.features.kernel import load_kernel
from skyriver.features.plan import plan_features

House = Any
MakeHouse = Callable[..., Any]
START = 1_700_000_000 * SECOND
EVER = 2**62


class Payment(sr.Event):
    payment: int
    at: sr.Time
    customer: int
    amount: float | None = sr.field(ge=0)


APP = sr.App("risk")
PAYMENTS = APP.stream("payments", Payment, id="payment", time="at", key="customer", disorder="5s", dedupe="1h")
APP.list("denied", of=PAYMENTS, id="customer")
FRAUDS = APP.labels("fraud", of=PAYMENTS, delay="20s")
SMALL = APP.features(
    "small",
    PAYMENTS,
    {
        "amount": PAYMENTS.amount,
        "mean_1m": sr.mean("amount", by="customer", over="1m"),
        "frauds_1m": sr.sum(FRAUDS, by="customer", over="1m"),
    },
)
LARGE = APP.features("large", PAYMENTS, {"amount": PAYMENTS.amount, "count_30s": sr.count(by="customer", over="30s")})


@APP.train(SMALL, label=FRAUDS)
def fit(data: sr.TrainingData) -> Any: ...


MODEL = APP.model("fraud", fit)
APP.decide(PAYMENTS, MODEL, {"block": "score >= 0.9"}, otherwise="approve", fallback="review")
SPEC = APP.spec
STREAM: StreamSpec = SPEC.streams[0]
SETS = {name: SPEC.feature_set(name) for name in ("small", "large")}
PLANS = {name: plan_features(spec, STREAM) for name, spec in SETS.items()}


class Model:
    """As a net: the last bits hang on how many rows are in a run. Raises for 13, is not finite for 14 and 15."""

    def __init__(self, factor: float) -> None:
        self.factor = np.float32(factor)

    def score(self, features: Any) -> Any:
        amounts = features[:, 0]
        if 13 in amounts:
            raise RuntimeError("unlucky")
        scores = np.nan_to_num(amounts) * self.factor + np.float32(0.001) * np.nan_to_num(features[:, 1])
        scores = scores * np.float32(1 + 1e-6 * (len(amounts) % 5))
        scores[amounts == 14] = np.nan
        scores[amounts == 15] = np.inf
        return scores.astype(np.float32)


class Unsteady(ModelRun):
    """Late now and then, by chance."""

    deadline_us = 0

    def __init__(self, model: Model, luck: random.Random) -> None:
        self.model, self.luck = model, luck

    def run(self, features: Any) -> Any:
        if self.luck.random() < 0.1:
            return none_of(len(features), self.luck.choice([Reason.MODEL_LATE, Reason.MODEL_ASIDE]))
        return score_rows(self.model, features)

    def begin(self, features: Any) -> Any:
        return lambda: self.run(features)[0]


CALIBRATED = {"two": Calibration("isotonic", ((0.0, 0.0), (0.7, 0.2), (1.5, 0.9)))}
MODELS = {"one": Model(0.01), "two": Model(0.02), "three": Model(0.005)}


@dataclass
class World:
    """A house with real features, whose past is random."""

    house: House
    kernels: Path
    luck: random.Random
    set_name: str = "small"
    ids: list[int] = field(default_factory=list)
    wanted: dict[str, Any] = field(default_factory=dict)

    def windows(self, spec: FeatureSetSpec) -> Any:
        plan = plan_features(spec, STREAM)
        return memory_windows(STREAM, plan, load_kernel(plan, self.kernels))

    def begin(self) -> World:
        house = self.house
        house.stream = STREAM

        def open_windows(checkpoint: Any) -> FeatureSets:
            house.windows = FeatureSets(self.windows(SETS[self.set_name]))
            return house.windows

        house._open_windows = open_windows
        house.start(self.deciding())
        return self

    def deciding(self, **wanted: Any) -> Deciding:
        """By live settings."""
        self.wanted = {
            "rules": [
                ["deny", "customer in denied"],
                ["block", "score >= 0.9", "certain"],
                ["call", "amount is missing"],
                ["review", "mean_1m > 60"],
            ],
            "otherwise": "approve",
            "fallback": "review",
            "model": model("one"),
            "deadline_us": 5_000,
            "cheaper": model("three"),
            **wanted,
        }
        if self.set_name == "large":
            self.wanted["rules"] = [["block", "score >= 0.9"], ["review", "count_30s > 3"]]
        load = lambda artifact, *_: (Unsteady(MODELS[artifact], self.luck), CALIBRATED.get(artifact))  # noqa: E731
        choice = Choice(STREAM, SPEC.decides[0], load, lambda spec: plan_features(spec, STREAM).digest)
        plan = PLANS[self.set_name]
        settings = Wanted.of(self.wanted)
        last = self.wanted.get("last")
        if last:
            settings = Wanted(
                **{
                    **{name: getattr(settings, name) for name in Wanted.__slots__},
                    "last": WantedModel(ModelInUse("fraud", last["version"], last["artifact"]), plan.digest, plan.spec),
                }
            )
        return choice.told(settings, plan.digest, plan.spec)

    def use(self, **wanted: Any) -> None:
        if self.set_name == "large":
            wanted.pop("trial", None)
        self.house.engine.use(self.deciding(**wanted))
        self.house.log.sync()

    def send(self, count: int) -> None:
        luck, house = self.luck, self.house
        self.house.clock.pass_(luck.randrange(1, 20) * SECOND)
        rows = []
        for _ in range(count):
            late = luck.random() < 0.05
            amount = luck.choice([None, 13, 14, 15, *(luck.randrange(1, 120) for _ in range(12))])
            at = house.clock.wall_us - START - (luck.randrange(10, 30) * SECOND if late else luck.randrange(3 * SECOND))
            self.ids.append(len(self.ids) + 1)
            rows.append(house.event(self.ids[-1], at / SECOND, luck.randrange(5), amount))
        house.send(*rows, effort=luck.choices([*Effort], [7, 1, 1, 1])[0])
        if luck.random() < 0.5:
            subjects = luck.sample(self.ids, min(3, len(self.ids)))
            house.send_labels(*({"payment": own, "fraud": luck.randrange(2)} for own in subjects))

    def restart(self) -> None:
        """After a batch that was appended and not decided."""
        house, log = self.house, self.house.log

        class Breaks:
            def append(self, records: Any) -> int:
                if records[0].kind in (RecordKind.DECISION, RecordKind.DECISIONS):
                    raise OSError("killed")
                return int(log.append(records))

            def __getattr__(self, name: str) -> Any:
                return getattr(log, name)

        house.engine._log = Breaks()
        with pytest.raises(OSError, match="killed"):
            self.send(self.luck.choice([2, 40]))
        log.sync()
        house.start(self.deciding())

    def live(self, steps: int, without: tuple[int, ...] = ()) -> World:
        luck = self.luck
        for _ in range(steps):
            match luck.choice([step for step in range(12) if step not in without]):
                case 0:
                    self.use(model=model(luck.choice(["one", "two"])))
                case 1:
                    self.use(canary={**model("three"), "percent": 40.0}, shadow=model("two"))
                case 2:
                    self.use(fallback_by=["last_version", "rules"], last=model("two"), model=model("three"))
                case 3:
                    self.restart()
                case 4:
                    self.use(rules=[["block", "score > 0.5"]], model=None)
                case 5:
                    tried = [["block", "probability > 0.5 or score > 0.7"], ["call", "amount is missing"]]
                    self.use(rules_version=1, trial={"number": 2, "percent": 50.0, "rules": tried}, model=model("two"))
                case 6:
                    border = ReferenceBorder(STREAM, 0)
                    rows = [{"customer": luck.randrange(5)}]
                    wall = self.house.clock.wall()
                    off = luck.random() < 0.5
                    self.house.engine.learn([border.take_off(rows) if off else border.take(rows, wall, wall)])
                    self.house.log.sync()
                case 7:
                    self.use(
                        budgets=[{"decision": "review", "most": 3, "per_us": 40 * SECOND, "overflow": "wait"}],
                        counters=[
                            {"name": "blocks", "decision": "block", "over_us": 90 * SECOND, "by": "customer", "most": 5}
                        ],
                        rules=[["hold", "blocks >= 2"], ["block", "score >= 0.6"], ["review", "score > 0.2"]],
                    )
                case _:
                    self.send(luck.choice([1, 2, 5, 40]))
        return self

    def replay(
        self, asked: Asked, decided: Callable[[DecidedAgain], None], *, chunk: int = 10, shadow: bool = False
    ) -> Counts:
        choice = Choice(
            STREAM,
            SPEC.decides[0],
            lambda artifact, *_: (MODELS[artifact], CALIBRATED.get(artifact)),
            lambda s: plan_features(s, STREAM).digest,
        )
        replay = Replay(
            self.house.store.reader(),
            STREAM,
            asked,
            choice=choice,
            declared=SETS["small"],
            digest_of=lambda spec: plan_features(spec, STREAM).digest,
            open_windows=self.windows,
            decided=decided,
            progress=lambda *_: None,
            chunk=chunk,
            shadow=shadow,
        )
        replay.run()
        replay.close()
        return replay.counts

    def compare(self, asked: Asked, by: Sequence[str] = (), chunk: int = 10) -> tuple[Comparison, pl.DataFrame, Counts]:
        frames: list[pl.DataFrame] = []
        comparison = Comparison(STREAM, by, frames.append)
        counts = self.replay(asked, comparison, chunk=chunk)
        return comparison, pl.concat(frames, how="vertical_relaxed") if frames else pl.DataFrame(), counts

    def decisions(self, asked: Asked) -> list[DecisionRecord]:
        """Of the events of a stretch, by their own record."""
        times = {}
        for record in self.house.records(RecordKind.EVENT, RecordKind.EVENTS):
            if record.kind is RecordKind.EVENT:
                times[record.offset] = record.time
            else:
                from skyriver.data.columns import decode_events

                block = decode_events(record.payload, record.count)
                times |= dict(enumerate(block.effective.tolist(), record.offset))
        return [d for d in self.house.decisions() if asked.start <= times[d.event_offset] < asked.end]


def model(name: str) -> dict[str, Any]:
    return {"name": "fraud", "version": [*MODELS].index(name) + 1, "artifact": name}


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "kernels"


@pytest.fixture
def make_world(make_house: MakeHouse, kernels: Path) -> Callable[..., World]:
    def make(seed: int, block_rows: int = 16, part_records: int = 1_000_000) -> World:
        house = make_house(block_rows=block_rows)
        house.store.part_records = part_records
        return World(house, kernels, random.Random(seed)).begin()

    return make


ALL = Asked(-EVER, EVER)
STANDS_IN, LISTED, BUDGETED = 2, 6, 7
"""Steps of `World.live`."""


def test_as_it_was_nothing_differs_whatever_happened(make_world: Callable[..., World]) -> None:
    seen: Counter[str] = Counter()
    for seed in range(9):
        world = make_world(seed, block_rows=[16, 1, 1_000_000][seed % 3]).live(50)
        comparison, rows, counts = world.compare(ALL, chunk=[1, 7, 100_000][seed % 4 % 3])
        tally = comparison.tally
        assert tally.compared == counts.events == len(world.decisions(ALL)) > 100
        assert (tally.changed, tally.different, +tally.differences) == (0, 0, Counter())
        assert (counts.cut, counts.untold, counts.undecided) == (0, 0, 0)
        seen.update(rows["then_reason"])
        seen.update(str(version) for version in rows["then_version"])
        seen.update(rows["now"])
        seen["tried"] += len({d.rules_digest for d in world.decisions(ALL) if d.shadow_rules}) > 1
        seen["sure"] += any(d.probability is not None for d in world.decisions(ALL))
        seen["stood in"] += rows.filter((pl.col("then_reason") != "") & pl.col("then_score").is_not_null()).height
    assert set(seen) >= {
        "",
        "LATE",
        "MODEL_LATE",
        "MODEL_ASIDE",
        "MODEL_FAILED",
        "NO_VERSION",
        "SHED",
        "CHEAPER",
        "0",
        "1",
        "2",
        "3",
    }
    assert all(seen[what] for what in ("stood in", "tried", "sure", "deny", "hold", "wait"))


@pytest.mark.parametrize("seed", range(6))
def test_a_stretch_is_decided_as_when_all_is(make_world: Callable[..., World], seed: int) -> None:
    world = make_world(seed).live(60)
    times = sorted(record.time for record in world.house.records(RecordKind.EVENT, RecordKind.EVENTS))
    asked = Asked(times[len(times) // 3], times[2 * len(times) // 3])
    comparison, rows, counts = world.compare(asked)
    assert comparison.tally.different == 0
    assert rows["event_offset"].to_list() == [d.event_offset for d in world.decisions(asked)]
    assert len(counts.feature_sets) == 1


def test_another_version_and_rules_decide_as_if_they_had(make_world: Callable[..., World]) -> None:
    """Held against the same events decided from their recorded features, one by one, by numpy and if."""
    world = make_world(3, block_rows=16).live(80, without=(STANDS_IN, BUDGETED))
    three = MODELS["three"]
    asked = Asked(
        -EVER,
        EVER,
        WantedModel(ModelInUse("fraud", 3, "three"), PLANS["small"].digest, SETS["small"]),
        AskedRules((("block", "score > 0.4", "high"), ("review", "amount > 90 or frauds_1m >= 1")), "pass", "wait"),
    )
    comparison, rows, counts = world.compare(asked)
    then = {d.event_offset: d for d in world.decisions(ALL)}
    assert counts.events == len(then)
    seen: Counter[str] = Counter()
    for row in rows.rows(named=True):
        record = then[row["event_offset"]]
        decision = "wait"
        if record.status != Status.LATE:
            features = np.frombuffer(record.features, "<f4")
            amount, _, frauds = features.tolist()
            score = np.nan if amount in (13, 14, 15) else float(three.score(features.reshape(1, -1))[0])
            if score == score:
                decision = "block" if score > 0.4 else "review" if amount > 90 or frauds >= 1 else "pass"
                assert row["now_score"] == pytest.approx(score, rel=1e-5)
        assert row["now"] == decision, record
        assert (row["then"], row["then_score"]) == (record.decision, record.score)
        seen[decision] += 1
    assert set(seen) == {"block", "review", "pass", "wait"}
    tally = comparison.tally
    assert tally.changed == sum(row["then"] != row["now"] for row in rows.rows(named=True))
    timed = (Reason.MODEL_LATE, Reason.MODEL_ASIDE, Reason.MODEL_FAILED, Reason.SHED, Reason.CHEAPER)
    late = [d for d in then.values() if d.reason in timed]
    assert sum(tally.by_time.values()) == len(late) > 0
    assert rows.filter(~pl.col("comparable")).height == len(late)
    assert [each.offset for each in tally.first_changed] == [
        row["event_offset"] for row in rows.rows(named=True) if row["then"] != row["now"]
    ][:10]
    # A summary stays when a subject is erased: it names nobody.
    [first, *_] = tally.to_json()["first_changed"]
    assert set(first) == {"offset", "then", "now", "then_score", "now_score"}
    assert set(tally.first_different) <= set(rows["event_offset"])


def test_a_version_of_other_features_gets_these_as_of_then(make_world: Callable[..., World]) -> None:
    world = make_world(4).live(60)
    large = WantedModel(ModelInUse("fraud", 2, "two"), PLANS["large"].digest, SETS["large"])
    _, rows, counts = world.compare(
        Asked(-EVER, EVER, large, AskedRules((("many", "count_30s >= 3"),), "few", "wait")), by=["count_30s"]
    )
    assert counts.feature_sets == {PLANS["large"].digest}
    events = rows.filter(pl.col("now_reason") == "").select("key", "_effective", "by_count_30s", "now")
    every = rows.filter(pl.col("now_reason") != "LATE").select("key", "_effective").with_row_index()
    for row in events.rows(named=True):
        assert row["now"] == ("many" if row["by_count_30s"] >= 3 else "few")
    counted = (
        every.with_columns(one=1).rolling("_effective", period="30000000i", group_by="key").agg(pl.col("one").sum())
    )
    own = rows.filter(pl.col("now_reason") != "LATE").sort("key", maintain_order=True)
    # At one time the last event has seen all of that time, the others not yet.
    last = own.group_by("key", "_effective", maintain_order=True).agg(pl.col("by_count_30s").last())
    theirs = counted.group_by("key", "_effective", maintain_order=True).agg(pl.col("one").last())
    joined = last.join(theirs, on=["key", "_effective"])
    assert joined.height == last.height
    assert joined["by_count_30s"].to_list() == joined["one"].to_list()


def test_changed_features_in_the_middle_of_a_stretch(make_world: Callable[..., World]) -> None:
    world = make_world(5).live(30)
    world.set_name = "large"
    world.house.start(world.deciding(model=model("two")))
    world.live(30)
    comparison, _, counts = world.compare(ALL)
    assert comparison.tally.different == 0
    assert len(counts.feature_sets) == 2


def test_loaded_history_is_decided_for_the_first_time(make_world: Callable[..., World]) -> None:
    world = make_world(6)
    rows = []
    for number in range(200):
        at = START - 3_600 * SECOND + number * SECOND
        rows.append((1, at, 10_000 + number, at, number % 7, float(number % 100), None, None, None, None))
        if number % 10 == 0:
            rows.append((2, at, None, None, None, None, 0, 10_000 + number, float(number % 20 == 0), None))
        if number == 100:
            rows.append((9, at, *[None] * 7, encode_reference(0, [3, None, at, None])))
    load(world.house, rows)
    world.use()
    world.live(10, without=(1, 3, 4, 5, 7))
    world.use()
    asked = Asked(START - 3_600 * SECOND + 50 * SECOND, START - 3_000 * SECOND)
    comparison, found, counts = world.compare(asked, by=["mean_1m", "customer"])
    assert (counts.history, counts.events, comparison.tally.compared) == (150, 0, 0)
    assert found["id"].to_list() == list(range(10_050, 10_200))
    last = control_before(world.house.store.reader(), world.house.log.next_offset)
    assert last is not None
    assert set(found["now_version"]) <= {0, last.model.version if last.model else 0}
    assert found["then"].null_count() == 150
    denied = found.filter(pl.col("now") == "deny")
    assert denied["id"].to_list() == [10_000 + n for n in range(101, 200) if n % 7 == 3 and n % 100 not in (13, 14, 15)]
    means = [np.mean([float(n % 100) for n in range(max(0, i - 59), i + 1) if n % 7 == i % 7]) for i in range(50, 200)]
    assert found["by_mean_1m"].to_list() == [float(np.float32(mean)) for mean in means]
    rules = AskedRules((("hold", "mean_1m > 50 and customer in denied"),), "approve", "wait")
    other = world.compare(Asked(asked.start, asked.end, None, rules))[1]
    assert other["then"].to_list() == found["now"].to_list(), "beside stands what decides now"
    held = found.filter(pl.col("by_mean_1m") > 50, pl.col("id").is_in(denied["id"]))
    assert other.filter(pl.col("now") == "hold")["id"].to_list() == held["id"].to_list() != []
    truth = truths(world, asked)
    labels = truth.of(found["event_offset"].to_numpy(), found["_effective"].to_numpy())
    assert labels.tolist() == [float(n % 20 == 0) for n in range(50, 200)]
    summary = Summary(["mean_1m", "customer"], {"mean_1m": comparison.samples["mean_1m"].edges()})
    summary.add(found.with_columns(label=pl.Series(labels)))
    told = summary.to_json()
    assert told["live"] is None
    assert sum(cell["events"] for cell in told["history"]["cross"]) == 150
    assert told["history"]["labels"]["positives"] == sum(n % 20 == 0 for n in range(50, 200))
    bins = [s["events"] for s in told["history"]["segments"][0]["segments"]]
    assert sum(bins) == 150
    assert all(10 <= events <= 20 for events in bins)


def truths(world: World, asked: Asked) -> Truths:
    reader = world.house.store.reader()
    first, stop = offset_at(reader, asked.start), reader.next_offset
    path = world.kernels.parent / f"truths-{world.luck.random()}"
    found = Truths(path, first, stop, 0, STREAM.labels[0].delay_us)
    read_truths(reader, found, first)
    return found


def load(house: House, rows: Sequence[tuple[Any, ...]]) -> None:
    schema = {
        "_kind": pl.UInt8,
        "_time": pl.Int64,
        "payment": pl.Int64,
        "at": pl.Int64,
        "customer": pl.Int64,
        "amount": pl.Float64,
        "_label": pl.UInt8,
        "_subject": pl.Int64,
        "_value": pl.Float64,
        "_reference": pl.Binary,
    }
    out = BytesIO()
    pl.DataFrame(rows, schema=schema, orient="row").write_ipc_stream(out)
    house.engine.load(read_block(out.getvalue(), house.stream), LoadStep("load-1", 0, 0, True))
    house.log.sync()


def test_costs_of_then_and_now_are_summed_by_the_labels(make_world: Callable[..., World]) -> None:
    costs = CostsSpec(
        of=(
            CostSpec(decision="approve", each="0", positive="amount", negative="0"),
            CostSpec(decision="block", each="1", positive="0", negative="25 + mean_1m"),
            CostSpec(decision="review", each="4", positive="0.5 * amount", negative="0"),
        )
    )
    world = make_world(14).live(40, without=(LISTED,))
    decide = SPEC.decides[0].model_copy(update={"costs": costs})
    frames: list[pl.DataFrame] = []
    rules = AskedRules((("block", "score > 0.4"),), "approve", "review")
    world.replay(
        Asked(-EVER, EVER, None, rules), Comparison(STREAM, ["mean_1m"], frames.append, Prices(STREAM, decide))
    )
    rows = pl.concat(frames, how="vertical_relaxed")
    fields = dict(events_by_offset(world))
    seen: Counter[str] = Counter()
    for row in rows.rows(named=True):
        amount, mean = fields[row["event_offset"]][3], row["by_mean_1m"]
        for when in ("then", "now"):
            for label in (0, 1):
                wanted = {
                    "approve": amount if label else 0.0,
                    "block": 1.0 if label else None if mean is None else 26 + mean,
                    "review": 4.0 if not label else None if amount is None else 4 + 0.5 * amount,
                }.get(row[when])
                assert row[f"_{when}_cost_{label}"] == (None if wanted is None else pytest.approx(wanted))
        seen[row["then"]] += 1
    assert set(seen) > {"approve", "block", "review"}
    labelled = rows.with_columns(label=(pl.col("id") % 2).cast(pl.Float32))
    for when in ("then", "now"):
        cost = pl.when(pl.col("label") > 0.5).then(f"_{when}_cost_1").otherwise(f"_{when}_cost_0")
        labelled = labelled.with_columns(cost.alias(f"{when}_cost"))
    summary = Summary(["mean_1m"], {"mean_1m": [30.0]})
    for part in labelled.iter_slices(50):
        summary.add(part)
    told = summary.to_json()["live"]
    both = labelled.filter(pl.col("then_cost").is_not_null() & pl.col("now_cost").is_not_null())
    assert told["cost"]["events"] == both.height
    assert told["cost"]["then"] == pytest.approx(both["then_cost"].sum())
    assert told["cost"]["now"] == pytest.approx(both["now_cost"].sum())
    segments = told["segments"][0]["segments"]
    assert sum(s["cost"]["now"] for s in segments) == pytest.approx(told["cost"]["now"])
    assert sum(s["changed"] for s in segments) == labelled.filter(pl.col("then") != pl.col("now")).height


def events_by_offset(world: World) -> Iterator[tuple[int, list[Any]]]:
    for record in world.house.records(RecordKind.EVENT, RecordKind.EVENTS):
        for place, (_, values) in enumerate(events_of(record)):
            yield record.offset + place, values


def test_labels_of_live_events_as_they_are_known(make_world: Callable[..., World]) -> None:
    world = make_world(7)
    house = world.house
    house.send(*(house.event(n, n, 1, 10) for n in range(1, 5)))
    house.send_labels({"payment": 1, "fraud": 0}, {"payment": 2, "fraud": 1}, {"payment": 1, "fraud": 1})
    house.clock.pass_(30 * SECOND)
    house.send(house.event(5, 23.5, 1, 10), house.event(6, 29, 1, 10))
    found = truths(world, ALL)
    _, rows, _ = world.compare(ALL)
    labels = found.of(rows["event_offset"].to_numpy(), rows["_effective"].to_numpy())
    # 3 and 4 are 20 s old, so nobody will say that they were; of 5 and 6 nobody can know.
    assert labels.tolist()[:4] == [1, 1, 0, 0]
    assert np.isnan(labels[4:]).all()


def erase_some(world: World, *, emptied: bool = False) -> set[int]:
    """Every third decision, as an erasure leaves it; the offsets of their events. `emptied`: among them some whose
    customer is 0, as that of an event whose fields are emptied."""
    customers = {offset: values[2] for offset, values in events_by_offset(world)}
    gone = {d.event_offset for d in world.decisions(ALL)[::3] if emptied or customers[d.event_offset]}

    def nobodys(payload: bytes) -> bytes:
        own = decode_decision(payload)
        nothing = (Status.ERASED, own.decision, None, b"", "", 0, "", "", Reason.NONE)
        return encode(DecisionRecord(own.event_offset, 0, *nothing, own.decided_at_us, 0))

    class Erased(MemoryLogReader):
        def read(self, start: int = 0, *, end: int | None = None) -> Iterator[Record]:
            for record in super().read(start, end=end):
                if record.kind is RecordKind.DECISION and decode_decision(record.payload).event_offset in gone:
                    record = replace(record, payload=nobodys(record.payload))
                yield record

    store = world.house.store
    store.reader = lambda: Erased(store)
    return gone


@pytest.mark.parametrize("both", [False, True])
def test_events_of_an_erased_subject_are_not_decided_again(make_world: Callable[..., World], both: bool) -> None:
    world = make_world(15, block_rows=1_000_000).live(40, without=(STANDS_IN, BUDGETED))
    gone = erase_some(world)
    two = WantedModel(ModelInUse("fraud", 3, "three"), PLANS["small"].digest, SETS["small"])
    asked = Asked(-EVER, EVER, two, AskedRules((("block", "score > 0.4"),), "pass", "wait")) if both else ALL
    comparison, rows, counts = world.compare(asked)
    assert counts.erased == len(gone)
    assert not gone & set(rows["event_offset"])
    assert counts.events == comparison.tally.compared
    if not both:
        assert comparison.tally.different == 0


@pytest.mark.parametrize("seed", [0, 1, 3, 5])
def test_erased_decisions_count_for_budgets_and_counters_at_their_places(
    make_world: Callable[..., World], seed: int
) -> None:
    world = make_world(seed, block_rows=1_000_000)
    for _ in range(4):
        world.use(
            budgets=[{"decision": "review", "most": 3, "per_us": 40 * SECOND, "overflow": "wait"}],
            counters=[{"name": "blocks", "decision": "block", "over_us": 90 * SECOND, "by": "customer", "most": 5}],
            rules=[["hold", "blocks >= 2"], ["block", "score >= 0.6"], ["review", "score > 0.2"]],
        )
        for count in (5, 40, 1, 2, 40):
            world.send(count)
    times = sorted({decision.event_offset for decision in world.decisions(ALL)})
    gone = erase_some(world)
    comparison, rows, counts = world.compare(ALL, chunk=[10, 1, 1_000][seed % 3])
    assert counts.erased == len(gone)
    assert comparison.tally.compared == counts.events == len(times) - len(gone)
    assert (comparison.tally.different, counts.budgets_cut) == (0, 0)
    assert {"wait", "hold"} <= set(rows["now"])
    middle = int(rows["_effective"].sort()[len(rows) // 2])
    part, _, counts = world.compare(Asked(middle, EVER))
    assert (part.tally.different, counts.budgets_cut) == (0, 0)
    other = AskedRules((("review", "score > 0.3"),), "pass", "wait")
    assert world.compare(Asked(-EVER, EVER, None, other))[2].budgets_cut
    gone |= erase_some(world, emptied=True)  # by whom those with a customer of 0 are to be counted, nobody can say
    customers = {offset: values[2] for offset, values in events_by_offset(world)}
    nobodys = {d.decision for d in world.decisions(ALL) if d.event_offset in gone and not customers[d.event_offset]}
    assert nobodys
    assert bool(world.compare(ALL)[2].budgets_cut) == bool(nobodys & {"block", "review"}), (
        "what counts for nothing may go"
    )


# A log that has given up its beginning


def test_a_cut_log_is_decided_as_far_as_it_goes(make_world: Callable[..., World]) -> None:
    world = make_world(8, part_records=8).live(80, without=(LISTED,))
    house = world.house
    cut = [part for part in house.log.parts() if part.end <= house.log.next_offset * 2 // 3]
    assert house.log.remove_before(cut[-1].end) > 0
    comparison, rows, counts = world.compare(ALL)
    assert comparison.tally.different == 0
    assert counts.recorded_features
    assert counts.cut == 0
    assert comparison.tally.compared + counts.untold == counts.events
    assert len(rows) == comparison.tally.compared > 50
    large = WantedModel(ModelInUse("fraud", 2, "two"), PLANS["large"].digest, SETS["large"])
    rules = AskedRules((("many", "count_30s >= 3"),), "few", "wait")
    _, rows, counts = world.compare(Asked(-EVER, EVER, large, rules))
    assert counts.cut
    assert len(rows) == counts.events - counts.cut - counts.untold


# One decision again


def again(world: World, offset: int) -> Recomputed:
    def replay(asked: Asked, decided: Callable[[DecidedAgain], None]) -> Counts:
        return world.replay(asked, decided, chunk=1, shadow=True)

    return recompute(world.house.store.reader(), STREAM, offset, replay)


@pytest.mark.parametrize("block_rows", [16, 1, 1_000_000])
def test_each_decision_can_be_computed_again(make_world: Callable[..., World], block_rows: int) -> None:
    world = make_world(9, block_rows).live(20)
    world.use(canary={**model("three"), "percent": 40.0}, shadow=model("two"))
    for count in (1, 40, 3, 2, 1):
        world.send(count)
    decisions = world.live(20).decisions(ALL)
    for record in decisions[:: 5 if len(decisions) > 200 else 3]:
        found = again(world, record.event_offset)
        assert found.equal, [part for part in (*found.fields, *found.features) if not part.equal]
        assert found.event_offset == record.event_offset
        assert bool(found.believed) == (
            record.reason in ("MODEL_LATE", "MODEL_ASIDE", "MODEL_FAILED", "SHED", "CHEAPER")
        )
        assert len(found.features) == (3 if record.status != Status.LATE else 0)
    assert any(record.shadow_score is not None for record in decisions)
    assert any(record.arm for record in decisions)


def test_what_differs_is_named(make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(10)
    world.house.send(world.house.event(1, 0, 1, 95))
    record = world.house.decisions()[-1]
    monkeypatch.setitem(MODELS, "one", Model(0.008))  # as if the artifact were another one
    found = again(world, record.event_offset)
    assert not found.equal
    assert {part.name for part in found.fields if not part.equal} == {"score", "decision", "rule"}
    assert all(part.equal for part in found.features)


def test_an_event_without_a_decision_has_none_to_compute(make_world: Callable[..., World]) -> None:
    world = make_world(11)
    with pytest.raises(NotFound, match="no decision"):
        again(world, 0)


def test_history_without_a_version_cannot_be_decided(make_world: Callable[..., World]) -> None:
    world = make_world(12)
    world.use(model=None)
    at = START - 100 * SECOND
    load(world.house, [(1, at, 1, at, 1, 5.0, None, None, None, None)])
    with pytest.raises(Conflict, match="no version"):
        world.compare(ALL)


def test_as_it_was_history_that_no_version_decides_is_only_folded(make_world: Callable[..., World]) -> None:
    world = make_world(12)
    world.use(model=None)
    times = [START - n * SECOND for n in range(30, 0, -1)]
    rows = [(1, at, 10_000 + n, at, 1, 5.0, None, None, None, None) for n, at in enumerate(times)]
    load(world.house, rows)
    world.send(20)
    _, found, counts = world.compare(ALL)
    assert (counts.history, counts.undecided) == (0, 0)
    assert counts.events == len(found) > 0
    assert found["then"].to_list() == found["now"].to_list()
    with pytest.raises(Conflict, match="no version"):
        world.compare(Asked(0, EVER, None, AskedRules((("hold", "amount > 3"),), "approve", "wait")))
