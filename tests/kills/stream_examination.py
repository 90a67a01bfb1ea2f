"""Whether all that was acknowledged is there, decided once, computed alike, and in the tables; the cloud is down."""

from __future__ import annotations

import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from kills.stream_acting_examination import Acted, compare_acting, denied
from kills.stream_log import LogContent, read_log
from skyriver.adapters.delta.tables import DeltaTables
from skyriver.adapters.segments.log import SegmentReader
from skyriver.client.appfile import load_app
from skyriver.core.spec import AppSpec, FeatureSetSpec
from skyriver.data.materialise import materialise
from skyriver.data.operations import tables_of_stream
from skyriver.decide.replay.verify import verify_stream
from skyriver.features.backfill import Backfill, backfill
from skyriver.features.plan import FeaturePlan, plan_features

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))  # where the oracle is
from _compare import compare

TENANT = "default"
_FIRST = 20
"""So many of a kind are told."""


@dataclass
class Findings:
    """Each problem is told once; of differences, how many values or rows."""

    lost: list[str] = field(default_factory=list)
    decided_twice: list[str] = field(default_factory=list)
    replay: int = 0
    oracle: int = 0
    tables: int = 0
    acting: list[str] = field(default_factory=list)
    """What of deliveries, reviews and the list is not as it must be."""
    told: list[str] = field(default_factory=list)
    """What the differences are, and what else is wrong."""
    checked: Counter[str] = field(default_factory=Counter)

    @property
    def problems(self) -> list[str]:
        found = [*self.lost, *self.decided_twice, *self.acting, *self.told]
        return found if found or not (self.replay or self.oracle or self.tables) else [f"differences: {self}"]


def examine(home: Path, example: Path, work: Path, answers: Iterable[Mapping[str, Any]], acted: Acted) -> Findings:
    """Of the stream in `home`, whose application and data are in `example`. Brings its tables up to date first."""
    found = Findings()
    app = load_app(example / "risk.py").spec
    log = read_log(home / "streams" / TENANT / app.streams[0].name / "log", app.streams[0])
    found.told += log.problems[:_FIRST]
    compare_answers(log, answers, found)
    compare_rules(log, found)
    found.acting += compare_acting(log, home, acted, found.checked)
    _bring_up_to_date(home, app)
    compare_tables(log, home, app, found)
    _replay(log, home, app, found)
    _oracle(log, home, example, work, found)
    return found


def compare_answers(log: LogContent, answers: Iterable[Mapping[str, Any]], found: Findings) -> None:
    """Each answer against the log: that the event is there once, with one decision, which is the one of the answer."""
    live = log.events.filter(pl.Series(log.live))
    ids = Counter(live["payment"].to_list())
    found.decided_twice += [f"payment {i} is in the log {n} times" for i, n in ids.items() if n > 1][:_FIRST]
    by_offset = dict(zip(live["_offset"].to_list(), live["payment"].to_list(), strict=True))
    decisions: dict[int, tuple[Any, ...]] = {}
    names = ("event_offset", "id", "status", "decision", "score", "version")
    for offset, *rest in log.decisions.select(names).iter_rows():
        if offset in decisions:
            found.decided_twice.append(f"the event at offset {offset} has two decisions")
        elif by_offset.get(offset) != rest[0]:
            found.told.append(f"the decision on payment {rest[0]} names offset {offset}, which is not its event's")
        decisions[offset] = tuple(rest)
    undecided = by_offset.keys() - decisions.keys()
    found.told += [f"the event at offset {offset} has no decision" for offset in sorted(undecided)[:_FIRST]]
    acknowledged: set[int] = set()
    for line in answers:
        if "wrong" in line:
            found.told.append(line["wrong"])
        for answer in line.get("decisions", ()):
            if answer is None:
                found.lost.append(f"an event was answered without a decision: {str(line)[:200]}")
                continue
            payment, offset, *rest = answer
            acknowledged.add(payment)
            if by_offset.get(offset) != payment or offset in undecided:
                found.lost.append(f"payment {payment} was acknowledged at offset {offset}, and is not there")
            elif decisions[offset] != (payment, *rest):
                found.decided_twice.append(f"payment {payment} was answered {answer}, the log has {decisions[offset]}")
    found.lost, found.decided_twice = found.lost[:1_000], found.decided_twice[:1_000]
    found.checked["acknowledged"] = len(acknowledged)
    found.checked["events_live"] = len(live)
    found.checked["events"] = len(log.events)
    found.checked["decisions"] = len(log.decisions)
    statuses = log.decisions["status"].value_counts().iter_rows()
    found.checked.update({f"status_{status}": count for status, count in statuses})
    if never := set(ids) - acknowledged:
        found.told.append(f"{len(never)} events are in the log and were never answered, as {sorted(never)[:3]}")


def compare_rules(log: LogContent, found: Findings) -> None:
    """Each decision against the CONTROL record before it: by its model, features and rules, and what these say of the
    score, the amount and the list as it was."""
    decisions, on_list = log.decisions, denied(log)
    found.checked["denied"] = len(on_list)
    if "amount" in log.events.columns:
        amounts = log.events.select("amount", event_offset="_offset")
        decisions = decisions.join(amounts, on="event_offset", how="left", maintain_order="left")
    place = np.searchsorted([offset for offset, _ in log.controls], decisions["_offset"].to_numpy())
    decisions = decisions.with_columns(place=pl.Series(place - 1))
    for (number,), part in decisions.group_by("place"):
        if number < 0:
            found.told.append("there are decisions before what they were made with")
            continue
        control = log.controls[int(number)][1]
        version = control.model.version if control.model is not None else 0
        by_rules = pl.lit(control.otherwise)
        for decision, when in reversed(control.rules):
            by_rules = pl.when(_fires(when, on_list)).then(pl.lit(decision)).otherwise(by_rules)
        wanted = pl.when(pl.col("status") == "decided").then(by_rules).otherwise(pl.lit(control.fallback))
        right = (pl.col("decision") == wanted) & (pl.col("rules_digest") == control.rules_digest)
        by_control = (pl.col("version") == version) & (pl.col("features_digest") == control.features_digest)
        right &= (pl.col("status") != "decided") | by_control
        wrong = part.filter(~right)
        found.replay += len(wrong)
        if len(wrong):
            found.told.append(f"{len(wrong)} decisions are not by {control.rules}, as {wrong.rows()[0]}"[:400])
    for what in ("rules", "features"):
        digests = [getattr(control, f"{what}_digest") for _, control in log.controls]
        found.checked[f"{what}_used"] = len(set(digests))
        found.checked[f"changes_of_{what}"] = sum(a != b for a, b in itertools.pairwise(digests))


def _fires(when: str, on_list: list[int]) -> pl.Expr:
    if when == "customer in denied":
        return pl.col("event_offset").is_in(on_list)
    least = re.fullmatch(r"(score|amount) >= ([0-9.]+)", when)
    assert least is not None, when
    return pl.col(least[1]) >= float(least[2])


def _bring_up_to_date(home: Path, app: AppSpec) -> None:
    """As the next job would, from where the killed ones left off."""
    stream = app.streams[0]
    reader = SegmentReader(home / "streams" / TENANT / stream.name / "log")
    materialise(stream, reader, DeltaTables(home / "tables"), TENANT, {}, lambda *_: None)


def compare_tables(log: LogContent, home: Path, app: AppSpec, found: Findings) -> None:
    """Row by row, in order, each offset once."""
    tables = DeltaTables(home / "tables")
    events, labels, decisions, _, rows = tables_of_stream(app.streams[0])
    whole = {events: log.events, labels: log.labels, decisions: log.decisions, rows: log.rows}
    for name, wanted in whole.items():
        full = f"{TENANT}/{name}"
        table = pl.concat(list(tables.scan(full, tables.latest(full).version)))
        different = differences(wanted, table)
        found.tables += different
        found.checked[f"rows_of_{name}"] = len(table)
        if different:
            found.told.append(f"{different} rows of {name} are not those of the log: {len(table)} for {len(wanted)}")


def differences(wanted: pl.DataFrame, table: pl.DataFrame) -> int:
    """Rows of either that the other has not, or has at another place."""
    table = table.select(wanted.columns).cast(dict(wanted.schema))  # type: ignore[arg-type]
    if table.equals(wanted):
        return 0
    ours, theirs = (frame["_offset"].to_list() for frame in (wanted, table))
    missing = sum((Counter(ours) - Counter(theirs)).values()) + sum((Counter(theirs) - Counter(ours)).values())
    both = wanted.join(table.unique("_offset", keep="first"), on="_offset", suffix="_of_table")
    unequal = pl.any_horizontal(
        ~pl.col(name).eq_missing(pl.col(f"{name}_of_table")) for name in wanted.columns if name != "_offset"
    )
    return missing + both.filter(unequal).height + (not missing and ours != theirs)


def feature_sets(log: LogContent) -> list[FeatureSetSpec]:
    """All that the log says was decided by."""
    specs = {control.features_digest: control.features for _, control in log.controls if control.features}
    return [FeatureSetSpec.model_validate(spec) for spec in specs.values()]


def _replay(log: LogContent, home: Path, app: AppSpec, found: Findings) -> None:
    """The features of every decision, to the last bit: replayed from the log, and computed from the tables; those of
    the set that its record names."""
    stream, features = app.streams[0], app.feature_sets[0]
    reader = SegmentReader(home / "streams" / TENANT / stream.name / "log")
    report = verify_stream(reader, stream, features, home / "cache" / "kernels", lambda *_: None)
    found.checked["compared_with_replay"] = report.compared
    found.replay += report.different
    if report.different:
        found.told.append(f"replay: {report.first_differences[:2]}")
    if report.undecided or report.decided_twice:
        found.told.append(f"verify: {report.undecided} undecided, {report.decided_twice} decided twice")
    if report.unknown:
        found.replay += report.unknown
        found.told.append(f"verify: {report.unknown} decisions are by features that the log does not tell of")
    tables = DeltaTables(home / "tables")
    events, labels, decisions = (
        pl.concat(list(tables.scan(f"{TENANT}/{name}", tables.latest(f"{TENANT}/{name}").version)))
        for name in tables_of_stream(stream)[:3]
    )
    for spec in feature_sets(log):
        plan = plan_features(spec, stream)
        computed = backfill(plan, home / "cache" / "kernels", [events], labels)
        compare_recorded(plan, computed, decisions, found)


def compare_recorded(plan: FeaturePlan, computed: Backfill, decisions: pl.DataFrame, found: Findings) -> None:
    """What was recorded by this plan, to the last bit."""
    recorded = decisions.filter(pl.col("features").is_not_null() & (pl.col("features_digest") == plan.digest))
    place = np.searchsorted(computed.offsets, recorded["event_offset"].to_numpy())
    theirs = recorded["features"].list.to_array(len(plan.names)).to_numpy()
    unequal = (computed.features[place].view(np.uint32) != np.ascontiguousarray(theirs).view(np.uint32)).any(axis=1)
    found.checked["computed_from_tables"] = len(computed.offsets)
    found.checked["compared_with_tables"] += len(recorded)
    found.replay += int(unequal.sum())
    if unequal.any():
        found.told.append(f"{int(unequal.sum())} decisions hold other features than their tables give")


def _oracle(log: LogContent, home: Path, example: Path, work: Path, found: Findings) -> None:
    told = compare(home, example, work, feature_sets(log))
    found.checked["compared_with_oracle"] = told["rows"]
    found.checked["late"] = told["late"]
    found.oracle += told["differences"]
    sent = len(pl.read_parquet(example / "data" / "stream.parquet", columns=["payment"]))
    if told["sent_in_table"] != sent:
        found.tables += abs(told["sent_in_table"] - sent)
        found.told.append(
            f"{sent} payments were sent or loaded after the history, the table has {told['sent_in_table']}"
        )
    if not told["equal"]:
        found.told.append(f"the oracle: {told['different']}")
