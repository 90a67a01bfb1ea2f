"""The work of choosing thresholds: the released version's scores of events that it was not trained on, what happened to
them, and what decisions cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyriver.core.calibration import Calibration
from skyriver.core.errors import Conflict, InvalidInput
from skyriver.core.spec import AppSpec, DecideSpec, DecisionRule, FeatureSetSpec, StreamSpec
from skyriver.core.units import DAY, format_duration
from skyriver.data.columns import Column, Columns
from skyriver.decide.rules.columns import Rows
from skyriver.decide.rules.costs import costs_of
from skyriver.decide.rules.ruleset import rules_of
from skyriver.decide.rules.tree import names_in
from skyriver.decide.streams.checking import check_decisions
from skyriver.decide.streams.rules_release import with_rules
from skyriver.decide.streams.tune_request import LEAST_DAYS, TuneRequest
from skyriver.decide.tuning.cells import Part, Question
from skyriver.decide.tuning.thresholds import rewritten
from skyriver.decide.tuning.tuning import Caution, Span, Tuning, tune
from skyriver.features.plan import plan_features
from skyriver.release.manifest import VersionManifest, parse_manifest
from skyriver.train.evaluate import calibration_of, score
from skyriver.train.split import settled
from skyriver.wiring.work.history import History, delay_of, fields_of, newest_history, rows_of
from skyriver.wiring.work.job import Job
from skyriver.wiring.work.lists import list_columns, looked_up

PART_ROWS = 500_000


def work(job: Job) -> dict[str, Any]:
    """Outputs: what `Tuning` tells, what was asked, and the rules as they are and as they would be."""
    app, in_use = job.app, job.inputs["in_use"]
    if in_use is not None:  # others than the application's file has were promoted
        app = with_rules(app, job.target, in_use["rules"])
    request = TuneRequest.of(app, job.target, job.params)
    stream, decide = app.stream(job.target), request.decide
    spec = {k: v for k, v in job.inputs["version"].items() if k in VersionManifest.model_fields}
    version = parse_manifest(spec)
    features = _features_of(version, stream)
    rules = rules_of(decide, stream, features)
    costs = costs_of(request.costs, rules, stream, features)
    question = Question(rules, costs, request.costs.capacity, request.places(rules))
    events = _events(job, request, version, features, question)
    held_out, shorter = _held_out(events, request, version)
    spans = _spans(events, held_out)
    found = tune(question, *spans, seed=request.seed, progress=job.progress)
    changed = _changed(decide, question, found)
    cautions = [*found.cautions, *shorter, *_left_out(question), *_of_rules(app, decide, changed)]
    return {
        **asdict(found),
        "cautions": [asdict(own) for own in cautions],
        "stream": stream.name,
        "model": version.model,
        "version": version.version,
        "rules_version": in_use["version"] if in_use is not None else 0,
        "job": job.name,
        "costs": request.costs.to_json(),
        "seed": request.seed,
        "rules": [{"was": was.to_json(), "now": now.to_json()} for was, now in zip(decide.rules, changed, strict=True)],
    }


def _features_of(version: VersionManifest, stream: StreamSpec) -> FeatureSetSpec:
    """Of the version, if this release still computes them so."""
    assert version.features is not None
    if version.features.spec is not None:
        features = FeatureSetSpec.model_validate(version.features.spec)
        if plan_features(features, stream).digest == version.features.digest:
            return features
    raise Conflict(
        f"The features that {version.model}:{version.version} was trained on cannot be computed any more.",
        code="FEATURES_GONE",
        next_action=f"`skyriver run {version.model}` trains a version with the features that are declared now.",
    )


@dataclass(frozen=True, slots=True)
class _Events:
    """Events that the version was not trained on, and of which the labels are known. `days`: the whole days of the
    calendar (UTC, counted from 1970) among them, from the first one up to the one behind the last."""

    x: NDArray[np.float32]
    scores: NDArray[np.float32]
    calibration: Calibration | None
    columns: Columns
    """Of fields that no rule and no cost reads there is nothing."""
    labels: NDArray[np.bool_]
    times: NDArray[np.int64]
    days: tuple[int, int]

    def __len__(self) -> int:
        return len(self.times)

    def span(self, first_day: int, end_day: int) -> Span:
        start, end = first_day * DAY, end_day * DAY
        first, last = (int(place) for place in np.searchsorted(self.times, [start, end]))
        return Span(lambda: self._parts(first, last), start, end)

    def _parts(self, first: int, last: int) -> Iterator[Part]:
        for start in range(first, last, PART_ROWS):
            end = min(last, start + PART_ROWS)
            scores = self.scores[start:end]
            probabilities = self.calibration.of(scores) if self.calibration is not None else None
            columns = self.columns.part(start, end)
            rows = Rows(scores.astype(np.float64), self.x[start:end], columns, probabilities)
            yield Part(rows, self.labels[start:end], self.times[start:end])


def _events(
    job: Job, request: TuneRequest, version: VersionManifest, features: FeatureSetSpec, question: Question
) -> _Events:
    stream, model = job.app.stream(job.target), job.app.model(version.model)
    assert model.train is not None
    assert version.split is not None
    delay_us = delay_of(model.train, stream)
    assert delay_us is not None
    history = newest_history(job, stream)
    rows = rows_of(job, model, history, features)
    labels, last = settled(model.train, rows, delay_us)
    trained = version.split.train.to_us
    first = int(np.searchsorted(rows.time, trained, side="right"))
    last = max(first, last)
    newest = int(rows.time[-1]) if len(rows.time) else 0
    onnx = job.model_files.get(version.artifact, job.inputs.get("proof"))
    job.progress("score", 0, last - first)
    return _Events(
        rows.x[first:last],
        score(onnx, rows.x[first:last]),
        calibration_of(onnx),
        _columns(job, history, question, rows.time, first, last),
        labels[first:last] == 1,
        rows.time[first:last],
        (-(-(trained + 1) // DAY), (newest - delay_us + 1) // DAY),
    )


def _columns(
    job: Job, history: History, question: Question, times: NDArray[np.int64], first: int, last: int
) -> Columns:
    """What rules and costs read of the events from row `first` to `last`, and of lists."""
    stream, used = job.app.stream(job.target), question.rules.lookups
    trees = [*question.trees, *(tree for cost in question.costs.values() for tree in cost.trees)]
    read = [name.name for tree in trees for name in names_in(tree) if name.place == "field"]
    frame = fields_of(job, history, [*read, *looked_up(stream, used), *(["_offset"] if used else [])], first, last)
    nothing = Column("bool", np.zeros(last - first, np.bool_))
    columns = tuple(
        Column.of_series(own.type, frame[own.name]) if own.name in frame.columns else nothing for own in stream.fields
    )
    found = Columns(columns, last - first)
    if not used or first == last:
        return found
    return list_columns(job, history, used, found, frame["_offset"].to_numpy(), times[first:last])


def _held_out(events: _Events, request: TuneRequest, version: VersionManifest) -> tuple[int, list[Caution]]:
    """How many of the last days are measured on: none with an event of before the version's test, for the gap may have
    chosen the number of trees and the calibration."""
    assert version.split is not None
    first_day, end_day = events.days
    days = max(0, end_day - first_day)
    asked = -(-request.hold_out_us // DAY)
    wanted = asked or max(LEAST_DAYS, days // 2)
    of_gap = int(np.searchsorted(events.times, version.split.test.from_us))
    behind = end_day - max(first_day, int(events.times[of_gap - 1]) // DAY + 1 if of_gap else first_day)
    held_out = min(wanted, behind)
    if days <= wanted or held_out < LEAST_DAYS:
        told = f"{format_duration(wanted * DAY)} are to be held out, and thresholds are chosen on what comes before"
        if days > wanted:
            told = f"{max(0, behind)} of them lie behind the gap before its test, and {LEAST_DAYS} are to be held out"
        raise InvalidInput(
            f"{version.model}:{version.version} was not trained on {days} whole days of events whose labels are known"
            f" ({len(events):,} events): {told}.",
            code="NOT_ENOUGH_DATA",
            next_action='Hold out less (--hold-out), train with more held back (@app.train(..., test="60d")), or wait'
            " for more labels.",
        )
    if held_out == wanted or not asked:
        return held_out, []
    why = f"Held out are {held_out} days, not {asked}: training may have used what lies before for its calibration."
    return held_out, [Caution("HELD_OUT_LESS", why)]


def _spans(events: _Events, held_out: int) -> tuple[Span, Span]:
    """The part that thresholds are chosen on, and the later one."""
    first_day, end_day = events.days
    border = end_day - held_out
    return events.span(first_day, border), events.span(border, end_day)


def _changed(decide: DecideSpec, question: Question, found: Tuning) -> list[DecisionRule]:
    """As declared, with the chosen thresholds."""
    tuned: dict[str, list[tuple[tuple[int, int], float]]] = {}
    for threshold, own in zip(question.thresholds, found.thresholds, strict=True):
        tuned.setdefault(own.rule, []).append((threshold.span, own.chosen))
    changed = []
    for rule in decide.rules:
        pairs = tuned.get(rule.name or rule.decision, [])
        when = rewritten(rule.when, [span for span, _ in pairs], [value for _, value in pairs])
        changed.append(rule.model_copy(update={"when": when}))
    return changed


def _left_out(question: Question) -> Iterator[Caution]:
    """What of the rules' surroundings depends on what was decided before an event, and is not looked at."""
    rules = question.rules
    if rules.counting:
        names = " and ".join(repr(rules.ends[place][1]) for place in rules.counting)
        yield Caution(
            "COUNTERS",
            f"Rules that read counters are left out of both, as if they never fired: {names}. So nothing is proved of"
            " the rules that are in use, and no candidate is made: `skyriver rules add` and `skyriver rules shadow`"
            " compare the chosen ones with them on live events.",
        )
    capacities = {own.decision for own in question.capacity}
    if without := [own.decision for own in rules.budgets if own.by or own.decision not in capacities]:
        names = " and ".join(map(repr, dict.fromkeys(without)))
        yield Caution("BUDGETS", f"Budgets are not looked at, unless a capacity is as large: those of {names}.")


def _of_rules(app: AppSpec, decide: DecideSpec, changed: Sequence[DecisionRule]) -> list[Caution]:
    """What a deployment of these rules would say."""
    with_these = decide.model_copy(update={"rules": tuple(changed)})
    decides = tuple(with_these if own.stream == decide.stream else own for own in app.decides)
    try:
        warnings = check_decisions(app.model_copy(update={"decides": decides}))
    except InvalidInput as error:
        if error.code != "EXAMPLE_FAILED":
            raise
        return [Caution(error.code, f"The examples do not hold any more: {error.where} {error.message}.")]
    return [Caution("NEVER_FIRES", f"{name} {why}.") for name, why in warnings]
