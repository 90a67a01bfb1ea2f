"""The card of a version: what it is for, from what it was made, how good it is and where, and what nobody measured.
Pure, and from its record alone.

The sections are those of M. Mitchell et al., Model Cards for Model Reporting, FAT* 2019. What a record cannot know
(whom its errors hurt, whether it ought to be used) it does not make up; what was not declared it names as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from skyriver.core.contract_cards import CardSection, ModelCard
from skyriver.core.resources import Resource
from skyriver.core.spec import SLICED
from skyriver.core.units import format_bytes, utc_time
from skyriver.release.manifest import Part, VersionManifest, parse_manifest
from skyriver.release.measured import Interval, SliceRecord

FEW_POSITIVES: Final = 50
"""Below these an interval of 95% holds the truth less often than that (docs/decisions/0040)."""
SHOWN_BINS: Final = 10
OF_TRAINING: Final = "train_"


@dataclass(frozen=True, slots=True)
class _Section:
    title: str
    text: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def card_of(version: Resource) -> ModelCard:
    """`version` is of the kind version, in any state. Raises InvalidInput (BAD_MANIFEST)."""
    known = VersionManifest.model_fields
    manifest = parse_manifest({name: value for name, value in version.spec.items() if name in known})
    checks = (version.status.get("gate") or {}).get("checks", ())
    sections = [
        _details(manifest, version),
        _use(manifest),
        _factors(manifest),
        _metrics(manifest),
        _evaluation(manifest),
        _training(manifest),
        *_compared(manifest),
        *_analyses(manifest),
        _speed(manifest),
        _gate(checks),
        _limits(manifest, checks),
    ]
    told: list[CardSection] = [
        {"title": s.title, "text": list(s.text), "columns": list(s.columns), "rows": [list(row) for row in s.rows]}
        for s in sections
    ]
    return {
        "version": version.name,
        "state": version.state,
        "sections": told,
        "markdown": _markdown(f"Model card: {version.name}", sections),
    }


def _details(manifest: VersionManifest, version: Resource) -> _Section:
    signature = manifest.signature
    facts = [
        ("version", version.name),
        ("state", f"{version.state}{f', {version.reason}' if version.reason else ''}"),
        ("made", f"{utc_time(manifest.trained_at)} UTC, by the job {manifest.job}"),
        ("form", "ONNX" if manifest.features is None else "boosted trees, as ONNX"),
        ("file", f"{format_bytes(manifest.bytes)}, SHA-256 {manifest.artifact}"),
        ("takes", ", ".join(f"{t.name} {t.datatype}{list(t.shape)}" for t in signature.inputs)),
        ("gives", ", ".join(f"{t.name} {t.datatype}{list(t.shape)}" for t in signature.outputs)),
        *_code(manifest),
        ("parameters", ", ".join(f"{name}={value}" for name, value in manifest.params.items()) or "none were given"),
        *((word, manifest.about[word]) for word in ("licence", "contact") if manifest.about.get(word)),
    ]
    rows = [
        *facts,
        *((f"candidate {c.name}", f"{'kept' if c.kept else 'not kept'}: {c.why}") for c in manifest.candidates),
    ]
    return _Section("Model details", (), ("", ""), rows)


def _code(manifest: VersionManifest) -> Iterator[tuple[str, str]]:
    if manifest.code:
        yield "code", f"bundle {manifest.code[:12]}, specification {manifest.spec_digest[:12]}"
    for word, text in manifest.origin.items():
        yield f"origin: {word}", text


def _use(manifest: VersionManifest) -> _Section:
    told = manifest.about.get("description", "")
    how = "`--description` of `skyriver model import`" if not manifest.code else "`description=` of `app.model`"
    return _Section("Intended use", (told or f"It was not declared ({how}).",))


def _factors(manifest: VersionManifest) -> _Section:
    declared = list(dict.fromkeys(part.of for part in manifest.slices))
    if not declared:
        return _Section("Factors", ("It was not measured on parts of the rows: no slices are declared.",))
    return _Section("Factors", (f"It was measured on its own on slices of the test rows: {', '.join(declared)}.",))


def _metrics(manifest: VersionManifest) -> _Section:
    metrics, champion = manifest.metrics, manifest.champion_metrics or {}
    rows = []
    for name, value in sorted(metrics.items()):
        if name.startswith(OF_TRAINING):
            continue
        known, differs = metrics.get(f"{OF_TRAINING}{name}"), manifest.differences.get(name)
        rows.append(
            (
                name,
                _figure(value),
                _between(manifest.intervals.get(name)),
                _figure(known),
                _figure(champion.get(name)),
                "" if differs is None else f"{differs.by:+.4f} ({differs.low:+.4f} to {differs.high:+.4f})",
            )
        )
    columns = ("metric", "test rows", "95% interval", "training rows", "champion, same rows", "difference")
    told = (
        "Intervals are of 95%: by the bootstrap for `auc` and `average_precision` (percentiles, Poisson weights,"
        " seeded), else by the central limit theorem. A metric without one has none that is to be trusted."
    )
    if not rows:
        return _Section("Metrics", ("Nothing was measured: it came as a ready file.",))
    return _Section("Metrics", (told,), columns, rows)


def _evaluation(manifest: VersionManifest) -> _Section:
    if manifest.split is None:
        return _Section("Evaluation data", ("There is none: it came as a ready file.",))
    return _Section("Evaluation data", (f"The test part, which the training never saw: {_part(manifest.split.test)}",))


def _training(manifest: VersionManifest) -> _Section:
    source, split, features = manifest.source, manifest.split, manifest.features
    if source is None or split is None or features is None:
        return _Section("Training data", ("Nothing is known of it: the model came as a ready file.",))
    labels = f", labels at version {source.labels_version}" if source.labels_version is not None else ""
    references = "".join(f", {name} at version {number}" for name, number in source.reference_versions.items())
    return _Section(
        "Training data",
        (
            f"{source.name} at version {source.table_version} ({source.rows:,} rows){labels}{references}."
            f" The training part: {_part(split.train)}",
            f"Features ({len(features.names)}, {features.set}, plan {features.digest[:12]}):"
            f" {', '.join(features.names)}.",
        ),
    )


def _part(part: Part) -> str:
    when = f", from {utc_time(part.from_us)} to {utc_time(part.to_us)} UTC" if part.to_us else ""
    share = f" ({part.positives / part.rows:.2%})" if part.rows else ""
    return f"{part.rows:,} rows, {part.positives:,} of them positive{share}{when}."


def _compared(manifest: VersionManifest) -> Iterator[_Section]:
    found = manifest.examined
    if found is None:
        return
    told = [f"In {found.metric}, of the test rows: {found.verdict}."]
    if found.curve:
        points = ", ".join(f"{_figure(point.value)} with {point.rows:,}" for point in found.curve)
        told.append(f"Fitted on fewer training rows: {points}.")
    stretches = [each for each in found.prequential if found.metric in each.metrics]
    if stretches:
        values = ", ".join(_figure(each.metrics[found.metric]) for each in stretches)
        told.append(f"Prequential, over {len(stretches)} stretches up to the test: {values}.")
    if found.search is not None:
        count = sum(found.search.counts.values())
        told.append(
            f"Its parameters are the best of {count} trials, by {found.search.metric} on held-out training rows."
        )
    rows = [(each.name, _figure(each.metrics.get(found.metric)), f"{each.rows:,}") for each in found.baselines]
    yield _Section("Comparison with baselines", told, ("baseline", found.metric, "learnt from rows"), rows)


def _analyses(manifest: VersionManifest) -> Iterator[_Section]:
    if manifest.slices:
        shown = [name for name in SLICED[:4] if any(name in part.metrics for part in manifest.slices)]
        rows = [
            (
                part.name,
                f"{part.rows:,}",
                f"{part.positives:,}",
                *(_measured(part, name) for name in shown),
                "" if part.champion_metrics is None else _figure(part.champion_metrics.get("average_precision")),
            )
            for part in manifest.slices
        ]
        columns = ("slice", "rows", "positive", *shown, "champion's average_precision")
        yield _Section("Quantitative analyses: slices", (), columns, rows)
    if manifest.calibration is not None:
        told = manifest.calibration
        how = (
            f"Scores become probabilities by the method {told.method}, fitted on {told.rows:,} rows that no training"
            f" saw, {told.positives:,} of them positive."
            if told.method
            else f"Its scores are no probabilities: {told.why}."
        )
        bins = told.reliability[-SHOWN_BINS:]
        left = len(told.reliability) - len(bins)
        rows = [(f"{b.rows:,}", _figure(b.score), _figure(b.probability), _figure(b.observed)) for b in bins]
        also = (f"The {left} bins of the lowest scores are left out here.",) if left else ()
        columns = ("test rows", "mean score", "mean probability", "observed")
        yield _Section("Quantitative analyses: calibration", (how, *also), columns, rows)


def _speed(manifest: VersionManifest) -> _Section:
    size, speed = f"The file has {manifest.bytes:,} bytes.", manifest.speed
    if speed is None:
        return _Section("Size and latency", (size, "Its latency was not measured."))
    rows = [
        ("a row alone, median", _microseconds(speed.row)),
        (
            "a row alone, p99",
            f"{_microseconds(speed.row_p99)} (rounds from {_microseconds(speed.row_p99_low)}, three quarters up to"
            f" {_microseconds(speed.row_p99_high)})",
        ),
        (f"{speed.batch_rows} rows together, median", _microseconds(speed.batch)),
        (
            "for comparison, hashing 64 KiB in the same rounds",
            f"{_microseconds(speed.reference)}, p99 {_microseconds(speed.reference_p99)}",
        ),
    ]
    told = "In one thread of the machine that trained it, without the way through a network."
    return _Section("Size and latency", (size, told), ("", ""), rows)


def _gate(checks: Sequence[Mapping[str, Any]]) -> _Section:
    if not checks:
        return _Section("Gate", ("No rule was judged.",))
    rows = [
        (
            check["rule"],
            check.get("measured") or _figure(check["value"]),
            check.get("evidence") or check["why"],
            _outcome(check),
        )
        for check in checks
    ]
    return _Section("Gate", (), ("rule", "measured", "evidence", ""), rows)


def _outcome(check: Mapping[str, Any]) -> str:
    if not check.get("judged", True):
        return "not judged"
    return "passed" if check["passed"] else "failed"


def _limits(manifest: VersionManifest, checks: Sequence[Mapping[str, Any]]) -> _Section:
    found = [*_of_data(manifest), *_of_slices(manifest.slices)]
    if manifest.calibration is None or not manifest.calibration.method:
        found.append("What it gives is a score, not a probability.")
    if manifest.champion_metrics == {}:
        found.append("The version that served could not be scored on the same rows: nobody knows which is better.")
    found += [f"Not judged: {check['rule']}: {check['why']}." for check in checks if not check.get("judged", True)]
    found.append("Whom its errors hurt, and whether it ought to decide at all, no record of its training can tell.")
    return _Section("Caveats and limits", [f"- {each}" for each in found])


def _of_data(manifest: VersionManifest) -> Iterator[str]:
    if manifest.split is None:
        yield "It came as a ready file: nothing was measured here but its size."
        return
    train, test = manifest.split.train, manifest.split.test
    if train.to_us:
        yield (
            f"It knows what happened up to {utc_time(train.to_us)} UTC, and was tested on what happened up to"
            f" {utc_time(test.to_us)} UTC; what has changed since is in no figure here."
        )
    else:
        yield "Its test rows are of the same table as its training rows: what changes with time is in no figure."
    if test.positives < FEW_POSITIVES:
        yield f"With {test.positives:,} positive test rows its intervals hold the truth in less than 95 of 100 cases."


def _of_slices(slices: Iterable[SliceRecord]) -> Iterator[str]:
    for part in slices:
        if part.too_few:
            yield f"{part.name}: too few rows to judge it there: {part.too_few}."
        elif part.positives < FEW_POSITIVES:
            yield f"{part.name}: {part.rows:,} test rows, {part.positives:,} of them positive, tell little."


def _measured(part: SliceRecord, name: str) -> str:
    ends = part.intervals.get(name)
    return _figure(part.metrics.get(name)) + (
        f" ({_between(ends)})" if ends is not None and name in part.metrics else ""
    )


def _between(ends: Interval | None) -> str:
    return "" if ends is None else f"{ends.low:.4f} to {ends.high:.4f}"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _microseconds(value: float) -> str:
    return f"{value / 1e3:.3g} ms" if value >= 1_000 else f"{value:.3g} us"


def _markdown(title: str, sections: Iterable[_Section]) -> str:
    lines = [f"# {title}"]
    for section in sections:
        lines += ["", f"## {section.title}"]
        items = bool(section.text) and all(text.startswith("- ") for text in section.text)
        lines += ["", *section.text] if items else [line for text in section.text for line in ("", text)]
        if section.rows:
            lines += ["", _line(section.columns), _line(["---"] * len(section.columns))]
            lines += [_line(row) for row in section.rows]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
