"""What a worker measures and tells of itself: rates and latencies of the last seconds, sizes, and the text for
Prometheus. All of it in fixed memory: histograms of fixed buckets, and copies of them over a window that goes on."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from skyriver.data.retention import Kept
from skyriver.decide.log.checkpoint import Counters
from skyriver.decide.log.lists import ListSize
from skyriver.features.state import KeyMemory
from skyriver.serve.metrics import Histogram, escape, resident_bytes

WINDOW_US = 10_000_000
"""What is said of now is said of so long."""
LOOK_US = 500_000
"""Between two looks at the counters."""
QUANTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
PARTITION = "0"
STORED = ("log", "side", "ids", "checkpoint")
"""Folders of a partition."""


@dataclass(frozen=True, slots=True)
class Recent:
    """The last WINDOW_US, or as long as there is something to look back on. Quantiles by the names of QUANTILES,
    microseconds, 0 where nothing came."""

    events_per_second: float = 0.0
    decisions_per_second: float = 0.0
    decision_us: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(QUANTILES, 0))
    answer_us: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(QUANTILES, 0))


@dataclass(frozen=True, slots=True)
class _Look:
    at: int
    events: int
    decisions: int
    decision_counts: list[int]
    answer_counts: list[int]


class Meter:
    """Latencies since the start, and looks back over the last seconds. One thread."""

    def __init__(self) -> None:
        self.decision_us = Histogram()
        """Of events: from their append to the log to the moment at which their decision is durable."""
        self.answer_us = Histogram()
        """Of requests with events: from their last byte to their answer."""
        self.read_rows = 0
        """Whose features were read by key."""
        self._looks: deque[_Look] = deque(maxlen=WINDOW_US // LOOK_US + 1)

    def look(self, now: int, counters: Counters | None) -> None:
        """Call it every LOOK_US; `now` is monotonic, microseconds. Without an engine there are no counters, and what
        the next one has counted in the log did not come just now."""
        last = self._looks[-1] if self._looks else None
        if counters is None:
            self._looks.clear()
            return
        events, decided = counters.events, counters.decided
        if last is not None and (events < last.events or decided < last.decisions):  # a new engine counts the log anew
            self._looks.clear()
        self._looks.append(_Look(now, events, decided, self.decision_us.counts.copy(), self.answer_us.counts.copy()))

    def recent(self) -> Recent:
        if len(self._looks) < 2:
            return Recent()
        first, last = self._looks[0], self._looks[-1]
        seconds = max(last.at - first.at, 1) / 1e6
        return Recent(
            events_per_second=round((last.events - first.events) / seconds, 1),
            decisions_per_second=round((last.decisions - first.decisions) / seconds, 1),
            decision_us=_quantiles(self.decision_us, first.decision_counts),
            answer_us=_quantiles(self.answer_us, first.answer_counts),
        )


def _quantiles(histogram: Histogram, before: list[int]) -> dict[str, int]:
    return {name: round(histogram.quantile(share, before)) for name, share in QUANTILES.items()}


def stored_bytes(partition: Path) -> dict[str, int]:
    """What each folder of a partition takes on the disk."""
    return {name: sum(_allocated(partition / name)) for name in STORED}


def _allocated(folder: Path) -> Iterator[int]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _allocated(Path(entry.path))
            else:
                yield entry.stat(follow_symlinks=False).st_blocks * 512
        except FileNotFoundError:
            pass  # removed meanwhile


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a worker tells of its partition at one moment. Times are wall microseconds."""

    counters: Counters
    recent: Recent
    offset: int
    """That the next record gets."""
    waiting_rows: int
    effective_time: int | None
    materialised: int | None
    """The last offset that the stream's tables cover; None where nobody has told."""
    checkpoint_offset: int
    checkpoint_at: int
    checkpoint_pause_us: int
    stored: Mapping[str, int]
    feature_keys: int
    feature_bytes: int
    epoch: int
    keys: tuple[KeyMemory, ...] = ()
    kept: Kept = field(default_factory=Kept)
    lists: tuple[ListSize, ...] = ()
    budgets: Sequence[Mapping[str, Any]] = ()
    """See `Tallies.to_json`."""

    @property
    def undecided(self) -> int:
        """Events in the log that have no decision yet: in a restart only, or half-way through a batch."""
        return self.counters.events - self.counters.decided

    @property
    def not_materialised(self) -> int | None:
        return None if self.materialised is None else max(0, self.offset - 1 - self.materialised)

    def to_json(self) -> dict[str, object]:
        return {
            "offset": self.offset,
            "effective_time": self.effective_time,
            "events": self.counters.events,
            "decided": self.counters.decided,
            "by_status": dict(self.counters.by_status),
            "by_decision": dict(self.counters.by_decision),
            "by_reason": dict(self.counters.by_reason),
            "dead": self.counters.dead,
            "dead_by_reason": dict(self.counters.dead_by_reason),
            "duplicates": self.counters.duplicates,
            "history_rows": self.counters.history_rows,
            "labels": self.counters.labels,
            "reference_rows": self.counters.reference_rows,
            "lists": [each._asdict() for each in self.lists],
            "budgets": list(self.budgets),
            "waiting_rows": self.waiting_rows,
            "undecided": self.undecided,
            "not_materialised": self.not_materialised,
            "events_per_second": self.recent.events_per_second,
            "decisions_per_second": self.recent.decisions_per_second,
            "decision_us": self.recent.decision_us,
            "answer_us": self.recent.answer_us,
            "p50_us": self.recent.answer_us["p50"],
            "p99_us": self.recent.answer_us["p99"],
            "checkpoint_offset": self.checkpoint_offset,
            "checkpoint_at": self.checkpoint_at,
            "checkpoint_pause_us": self.checkpoint_pause_us,
            "stored_bytes": self.stored,
            "feature_keys": self.feature_keys,
            "feature_bytes": self.feature_bytes,
            "keys": [asdict(key) for key in self.keys],
            "epoch": self.epoch,
            "first_offset": self.kept.first_offset,
            "log_bytes": self.kept.bytes,
            "local_log_bytes": self.kept.local_bytes,
            "tier_lag_bytes": self.kept.lag_bytes,
        }


def prometheus(
    stream: str,
    seen: Seen,
    meter: Meter,
    more: Sequence[tuple[str, str, str, float]] = (),
    arms: Sequence[Mapping[str, Any]] = (),
    rules: Mapping[str, Any] | None = None,
    *,
    now: int,
) -> bytes:
    """The text exposition format, version 0.0.4. `more`: (name, kind, what it is, value); `arms`: what each of them did
    (see `decide.decision.arms`); `rules`: which decide, and what those tried said; `now`: wall microseconds."""
    text = _Text(f'stream="{escape(stream)}",partition="{PARTITION}"')
    counters, recent = seen.counters, seen.recent
    text.add("skyriver_events_total", "counter", "Events taken.", counters.events)
    text.by("skyriver_event_outcomes_total", "Decision records, by status.", "status", counters.by_status)
    text.by(
        "skyriver_event_reasons_total",
        "Events not decided as their score says, by reason.",
        "reason",
        counters.by_reason,
    )
    text.by("skyriver_decisions_total", "Decision records, by decision.", "decision", counters.by_decision)
    dead = {**counters.dead_by_reason}
    if (untold := counters.dead - sum(dead.values())) > 0:
        dead["UNTOLD"] = untold  # counted by a release that did not tell them apart
    text.by("skyriver_dead_letters_total", "Refused events and labels, by reason.", "reason", dead)
    text.add("skyriver_duplicates_total", "counter", "Events that were known already.", counters.duplicates)
    text.add("skyriver_history_rows_total", "counter", "Rows of bulk loads.", counters.history_rows)
    text.add("skyriver_labels_total", "counter", "Labels taken.", counters.labels)
    text.add("skyriver_reference_rows_total", "counter", "Rows of references taken.", counters.reference_rows)
    text.budgets(seen.budgets)
    if lists := seen.lists:
        told = "On a list, or so up to an end."
        text.by("skyriver_list_ids", told, "list", {each.name: each.ids for each in lists}, kind="gauge")
    text.add("skyriver_events_per_second", "gauge", "Events taken, over the last 10 s.", recent.events_per_second)
    told = "Decisions made, over the last 10 s."
    text.add("skyriver_decisions_per_second", "gauge", told, recent.decisions_per_second)
    told = "From an event's append to its durable decision; quantiles of the last 10 s."
    text.summary("skyriver_append_to_decision_seconds", told, recent.decision_us, meter.decision_us)
    told = "From a whole request with events to its answer; quantiles of the last 10 s."
    text.summary("skyriver_event_request_seconds", told, recent.answer_us, meter.answer_us)
    told = "Rows whose features were read by key."
    text.add("skyriver_feature_rows_read_total", "counter", told, meter.read_rows)
    text.add("skyriver_log_offset", "gauge", "The offset that the next record gets.", seen.offset)
    text.add("skyriver_log_first_offset", "gauge", "The first offset that the log has.", seen.kept.first_offset)
    text.add("skyriver_log_bytes", "gauge", "Of the whole log, in the tier too.", seen.kept.bytes)
    text.add("skyriver_log_local_bytes", "gauge", "Of the log on this disk.", seen.kept.local_bytes)
    text.add("skyriver_tier_lag_bytes", "gauge", "Of closed segments that are not in the tier.", seen.kept.lag_bytes)
    text.add("skyriver_waiting_rows", "gauge", "Rows that wait for the engine.", seen.waiting_rows)
    text.add("skyriver_undecided_events", "gauge", "Events in the log without a decision.", seen.undecided)
    if seen.not_materialised is not None:
        told = "Records in the log that the tables do not have yet."
        text.add("skyriver_not_materialised_records", "gauge", told, seen.not_materialised)
    if seen.effective_time is not None:
        told = "The stream's time, since 1970."
        text.add("skyriver_effective_time_seconds", "gauge", told, seen.effective_time / 1e6)
        told = "The stream's time behind the wall clock."
        text.add("skyriver_effective_time_behind_seconds", "gauge", told, (now - seen.effective_time) / 1e6)
    told = "Since the last checkpoint began."
    text.add("skyriver_checkpoint_age_seconds", "gauge", told, max(0, now - seen.checkpoint_at) / 1e6)
    told = "How long events waited for the last checkpoint."
    text.add("skyriver_checkpoint_pause_seconds", "gauge", told, seen.checkpoint_pause_us / 1e6)
    told = "Records that a restart would replay."
    text.add("skyriver_checkpoint_behind_records", "gauge", told, max(0, seen.offset - seen.checkpoint_offset))
    text.by("skyriver_stored_bytes", "Taken on the disk.", "part", seen.stored, kind="gauge")
    text.add("skyriver_feature_keys", "gauge", "Keys whose feature state is held.", seen.feature_keys)
    text.add("skyriver_feature_state_bytes", "gauge", "Feature state in memory, of all keys.", seen.feature_bytes)
    if keys := seen.keys:
        told = "Keys whose feature state is held, by their field."
        text.by("skyriver_feature_field_keys", told, "field", {k.by: k.held for k in keys}, kind="gauge")
        told = "Feature state of one key in memory, at least."
        text.by("skyriver_feature_key_least_bytes", told, "field", {k.by: k.least_bytes for k in keys}, kind="gauge")
        told = "Feature state of one key in memory, at most."
        text.by("skyriver_feature_key_most_bytes", told, "field", {k.by: k.most_bytes for k in keys}, kind="gauge")
    for name, kind, told, value in more:
        text.add(name, kind, told, value)
    text.arms(arms)
    text.rules(rules or {})
    text.add("process_resident_memory_bytes", "gauge", "Resident memory.", resident_bytes())
    return text.encoded()


class _Text:
    """Families of samples that all carry the same labels."""

    def __init__(self, common: str) -> None:
        self._common = common
        self._lines: list[str] = []

    def add(self, name: str, kind: str, told: str, value: float) -> None:
        self._head(name, kind, told)
        self._sample(name, "", value)

    def by(self, name: str, told: str, label: str, values: Mapping[str, float], *, kind: str = "counter") -> None:
        self._head(name, kind, told)
        for key, value in sorted(values.items()):
            self._sample(name, f',{label}="{escape(key)}"', value)

    def summary(self, name: str, told: str, recent_us: Mapping[str, int], whole: Histogram) -> None:
        self._head(name, "summary", told)
        for key, share in QUANTILES.items():
            self._sample(name, f',quantile="{share}"', recent_us[key] / 1e6)
        self._sample(f"{name}_sum", "", whole.total / 1e6)
        self._sample(f"{name}_count", "", whole.count)

    def budgets(self, budgets: Sequence[Mapping[str, Any]]) -> None:
        families = (
            ("skyriver_budget_spent", "spent", "Events with a decision within the window of its budget."),
            ("skyriver_budget_keys", "keys", "Values of a budget's field that have spent some of it."),
            ("skyriver_budget_most", "most", "So many there may be."),
        )
        for name, what, told in families:
            known = [own for own in budgets if own[what] is not None]
            if known:
                self._head(name, "gauge", told)
            for own in known:
                labels = {what: escape(own[what]) for what in ("decision", "per", "by")}
                self._sample(name, "".join(f',{label}="{value}"' for label, value in labels.items()), own[what])

    def arms(self, arms: Sequence[Mapping[str, Any]]) -> None:
        def family(name: str, kind: str, told: str, of: Callable[[Mapping[str, Any]], Mapping[str, float]]) -> None:
            samples = [
                (f',arm="{escape(arm["arm"])}",version="{arm["version"]}"{more}', value)
                for arm in arms
                for more, value in of(arm).items()
            ]
            if samples:
                self._head(name, kind, told)
            for more, value in samples:
                self._sample(name, more, value)

        def failed(arm: Mapping[str, Any]) -> dict[str, float]:
            return {f',reason="{escape(r)}"': n for r, n in sorted(arm["by_reason"].items()) if r}

        def decided(arm: Mapping[str, Any]) -> dict[str, float]:
            return {f',decision="{escape(d)}"': n for d, n in sorted(arm["by_decision"].items())}

        def scored(arm: Mapping[str, Any]) -> dict[str, float]:
            bins = arm["scores"]
            below = {f',le="{(n + 1) / len(bins):g}"': sum(bins[: n + 1]) for n in range(len(bins))}
            return below | {',le="+Inf"': sum(bins)}

        family("skyriver_arm_share", "gauge", "Share of the keys, in percent.", lambda arm: {"": arm["percent"]})
        family("skyriver_arm_events_total", "counter", "Events it was asked for.", lambda arm: {"": arm["events"]})
        family("skyriver_arm_failures_total", "counter", "Events without its score, by reason.", failed)
        family("skyriver_arm_decisions_total", "counter", "Its events, by decision.", decided)
        family("skyriver_arm_scores_bucket", "counter", "Its scores, at or below a bound.", scored)
        told = "A run of the model over a batch, since it is used."
        family(
            "skyriver_arm_run_seconds",
            "gauge",
            told,
            lambda arm: {
                f',quantile="{share}"': arm["run_us"][key] / 1e6 for key, share in (("p50", 0.5), ("p99", 0.99))
            },
        )
        family("skyriver_arm_late_runs_total", "counter", "Runs past the deadline.", lambda arm: {"": arm["late_runs"]})
        told = "For so long it is not asked, for it was late."
        family("skyriver_arm_aside_seconds", "gauge", told, lambda arm: {"": arm["aside_seconds"]})

    def rules(self, rules: Mapping[str, Any]) -> None:
        if rules.get("version"):
            self.add("skyriver_rules_version", "gauge", "Of the rules that decide.", rules["version"])
        trial = rules.get("trial")
        if not trial:
            return
        name, told = "skyriver_rules_compared_total", "Events, by what the rules that decide and those tried say."
        self._head(name, "counter", told)
        for who, said in trial["said"].items():
            for live, tried, count in said:
                words = f'decision="{escape(live)}",tried_decision="{escape(tried)}"'
                self._sample(name, f',tried="{trial["number"]}",decided_by="{who}",{words}', count)

    def encoded(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode()

    def _head(self, name: str, kind: str, told: str) -> None:
        self._lines += (f"# HELP {name} {told}", f"# TYPE {name} {kind}")

    def _sample(self, name: str, more: str, value: float) -> None:
        self._lines.append(f"{name}{{{self._common}{more}}} {value!r}")
