"""The work of a replay: a stretch of a stream's log decided again, and what comes of it compared; or one decision
computed again. It reads the log, and writes rows of its own (artifacts of the job); nothing else changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from skyriver.core.calibration import Calibration
from skyriver.core.errors import InvalidInput, disk_error
from skyriver.core.spec import DecideSpec, StreamSpec
from skyriver.data.log import WholeReader
from skyriver.decide.decision.choice import Choice, Wanted
from skyriver.decide.decision.scorer import OnnxScorer, Scorer
from skyriver.decide.decision.trees import compile_sums
from skyriver.decide.log.checkpoint import NEVER
from skyriver.decide.partition.kernel_windows import WindowsFiles
from skyriver.decide.replay.comparison import Comparison
from skyriver.decide.replay.past import CHUNK, effective_of, offset_at
from skyriver.decide.replay.pricing import Prices
from skyriver.decide.replay.recompute import recompute
from skyriver.decide.replay.replaying import Replay
from skyriver.decide.replay.stretch import Asked, AskedRules, Counts, DecidedAgain
from skyriver.decide.replay.truths import Truths, read_truths
from skyriver.decide.replay.what_if import Summary
from skyriver.decide.streams.asking import DecisionBounds
from skyriver.wiring.logs import log_reader
from skyriver.wiring.tier import open_tier
from skyriver.wiring.work.job import Job

ROWS = 1_000_000
"""Of a file of the result."""
_EVER = 2**62


def work(job: Job) -> dict[str, Any]:
    stream = job.app.stream(job.target)
    decide = next((d for d in job.app.decides if d.stream == stream.name), None)
    if decide is None:
        raise InvalidInput(
            f"{stream.name} declares no decisions.",
            code="NO_DECISIONS",
            next_action="Declare some with app.decide, and deploy.",
        )
    with log_reader(
        stream, job.stream_directory(stream.name), job.home.root, job.tenant, open_tier(job.home)
    ) as reader:
        replayer = _Replayer(job, stream, decide, reader)
        if "offset" in job.params:
            return asdict(recompute(reader, stream, int(job.params["offset"]), replayer.recompute))
        return _WhatIf(job, stream, decide, replayer).run()


class _Replayer:
    """Replays of one log, with this machine's objects and kernels."""

    def __init__(self, job: Job, stream: StreamSpec, decide: DecideSpec, reader: WholeReader) -> None:
        self._job, self._stream, self.reader = job, stream, reader
        train = job.app.model(decide.model).train
        self._declared = job.app.feature_set(train.features) if train is not None else None
        self._files = WindowsFiles(stream, job.work_dir / "side", job.home.kernels)
        self._scorers: dict[tuple[str, int], OnnxScorer] = {}
        self._choice = Choice(stream, decide, self._scorer, self._files.digest_of)
        compile_sums(job.home.kernels)

    def of(self, asked: Asked, decided: Callable[[DecidedAgain], None], chunk: int, *, shadow: bool) -> Replay:
        return Replay(
            self.reader,
            self._stream,
            asked,
            choice=self._choice,
            declared=self._declared,
            digest_of=self._files.digest_of,
            open_windows=lambda features: self._files.open(features, None),
            decided=decided,
            progress=self._job.progress,
            chunk=chunk,
            shadow=shadow,
        )

    def recompute(self, asked: Asked, decided: Callable[[DecidedAgain], None]) -> Counts:
        with closing(self.of(asked, decided, 1, shadow=True)) as replay:
            replay.run()
            return replay.counts

    def _scorer(self, artifact: str, features: int, deadline_us: int) -> tuple[Scorer, Calibration | None]:
        """Without a deadline: what was late then is known, and what is asked now may take its time."""
        key = (artifact, features)
        if key not in self._scorers:
            path = self._job.model_files.open_path(artifact, self._job.inputs.get("signed", {}).get(artifact))
            self._scorers[key] = OnnxScorer.load(path, features, self._job.home.kernels)
        scorer = self._scorers[key]
        return scorer, scorer.calibration


class _WhatIf:
    def __init__(self, job: Job, stream: StreamSpec, decide: DecideSpec, replayer: _Replayer) -> None:
        self._job, self._stream, self._decide, self._replayer = job, stream, decide, replayer
        self._by = tuple(job.params.get("by") or ())
        prices = Prices(stream, decide) if decide.costs is not None else None
        self._comparison = Comparison(stream, self._by, self._keep, prices)
        self._asked = asked_of(job.params)
        self._folder = job.work_dir / "rows"
        self._parts: list[Path] = []
        self._times = (_EVER, NEVER)

    def run(self) -> dict[str, Any]:
        job, began = self._job, time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        with closing(self._replayer.of(self._asked, self._comparison, CHUNK, shadow=False)) as replay:
            replay.run()
        replayed = time.monotonic() - began
        counts = replay.counts
        if not counts.events + counts.history + counts.undecided:
            raise self._nothing()
        truths, label = self._truths(replay)
        edges = {name: sample.edges() for name, sample in self._comparison.samples.items()}
        summary = Summary(self._by, edges)
        artifacts = self._write(summary, truths)
        for digest in set(job.inputs.get("gone", ())) - {kept["digest"] for kept in artifacts.values()}:
            job.objects.delete(digest)  # rows of replays of long ago
        span = self._times[1] - self._times[0]
        return {
            "stream": self._stream.name,
            "from": _iso(self._times[0]),
            "to": _iso(self._times[1]),
            "model": job.params.get("model_name", ""),
            "rules": job.params.get("rules") is not None,
            "as_it_was": self._asked.as_it_was,
            **{name: value for name, value in asdict(counts).items() if name != "feature_sets"},
            "feature_sets": len(counts.feature_sets),
            **self._comparison.tally.to_json(),
            "label": label,
            "unit": self._decide.costs.unit if self._decide.costs is not None else "",
            "parts": summary.to_json(),
            "span_seconds": span / 1e6,
            "seconds": round(replayed, 3),
            "artifacts": artifacts,
        }

    def _keep(self, frame: pl.DataFrame) -> None:
        low, high = frame["_effective"][0], frame["_effective"][-1]
        self._times = min(self._times[0], low), max(self._times[1], high)
        path = self._folder / f"{len(self._parts)}.arrow"
        try:
            frame.write_ipc(path)
        except OSError as error:
            raise disk_error(error, "The rows of the replay cannot be kept", str(path)) from error
        self._parts.append(path)

    def _truths(self, replay: Replay) -> tuple[Truths | None, str]:
        """What is known of the events now, and the label that it is."""
        train = self._job.app.model(self._decide.model).train
        labels = [label.name for label in self._stream.labels]
        if train is None or train.label not in labels:
            return None, ""
        place = labels.index(train.label)
        path = self._job.work_dir / "labels"
        truths = Truths(path, replay.first, replay.stop, place, self._stream.labels[place].delay_us)
        self._job.progress("labels", 0, 0)
        read_truths(self._replayer.reader, truths, replay.first)
        return truths, train.label

    def _write(self, summary: Summary, truths: Truths | None) -> dict[str, dict[str, Any]]:
        """The rows with their labels, as files of the result."""
        artifacts: dict[str, dict[str, Any]] = {}
        gathered: list[pl.DataFrame] = []
        for number, path in enumerate(self._parts, 1):
            rows = pl.read_ipc(path)
            path.unlink()
            label = pl.Series([None] * rows.height, dtype=pl.Float32)
            if truths is not None:
                label = pl.Series(truths.of(rows["event_offset"].to_numpy(), rows["_effective"].to_numpy()))
            rows = rows.with_columns(label=label.fill_nan(None))
            if self._decide.costs is not None:
                one = pl.col("label") > 0.5
                for when in ("then", "now"):
                    cost = pl.when(one).then(f"_{when}_cost_1").when(~one).then(f"_{when}_cost_0")
                    rows = rows.with_columns(cost.alias(f"{when}_cost"))
            summary.add(rows)
            gathered.append(rows.select(pl.exclude("^_.*$")))
            if sum(part.height for part in gathered) >= ROWS or number == len(self._parts):
                file = self._folder / "rows.parquet"
                pl.concat(gathered, how="vertical_relaxed").write_parquet(file)
                gathered = []
                name = f"rows-{len(artifacts) + 1:04d}.parquet"
                artifacts[name] = {"digest": self._job.objects.put_file(file), "bytes": file.stat().st_size}
                file.unlink()
            self._job.progress("compare", number, len(self._parts))
        return artifacts

    def _nothing(self) -> InvalidInput:
        reader = self._replayer.reader
        first = next(iter(reader.read(offset_at(reader, NEVER + 1))), None)
        last = next(iter(reader.read(reader.next_offset - 1)), None) if first is not None else None
        there = ""
        if first is not None and last is not None:
            there = f": it goes from {_iso(int(effective_of(first)[0]))} to {_iso(last.time)}"
        return InvalidInput(
            f"No event of {self._stream.name} lies in this stretch of its log{there}.",
            code="NOTHING_TO_REPLAY",
            next_action="Choose --from and --to within it.",
        )


def asked_of(params: Mapping[str, Any]) -> Asked:
    """As the plan put it. Raises InvalidInput."""
    model = None
    if params.get("model"):
        model = Wanted.of({"rules": [], "otherwise": "", "fallback": "", "model": params["model"]}).model
    rules = params.get("rules")
    asked_rules = None
    if rules is not None:
        bounds = DecisionBounds.of(rules["bounds"]) if rules.get("bounds") else None
        texts = tuple(tuple(rule) for rule in rules["rules"])
        asked_rules = AskedRules(texts, rules["otherwise"], rules["fallback"], bounds)
    return Asked(
        NEVER if params.get("start") is None else int(params["start"]),
        _EVER if params.get("end") is None else int(params["end"]),
        model,
        asked_rules,
    )


def _iso(at: int) -> str:
    """In UTC."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)).strftime("%Y-%m-%dT%H:%M:%S")
