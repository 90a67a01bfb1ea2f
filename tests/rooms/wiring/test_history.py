"""The rows of a training are read piece by piece."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightgbm
import numpy as np
import polars as pl
import pytest

import skyriver as sr
from skyriver.adapters.delta.tables import DeltaTables
from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.core.errors import Unavailable
from skyriver.core.expr import Aggregate, Binary, Column, Constant, Lookup
from skyriver.core.spec import (
    AppSpec,
    FeatureSetSpec,
    FeatureSpec,
    FieldSpec,
    GateSpec,
    LabelSpec,
    MetricSpec,
    ModelSpec,
    ReferenceSpec,
    SliceSpec,
    StreamSpec,
    TableSpec,
    TrainSpec,
)
from skyriver.release.gate import Measures, evaluate_gate
from skyriver.release.manifest import SourceRef, VersionManifest, parse_manifest
from skyriver.wiring.home import Home
from skyriver.wiring.model_files import ModelFiles
from skyriver.wiring.work import compress, train
from skyriver.wiring.work.history import history_at, newest_history, rows_of
from skyriver.wiring.work.job import Job
from skyriver.wiring.work.kept import Kept

STREAM = StreamSpec(
    name="payments",
    fields=(
        FieldSpec(name="payment", type="int"),
        FieldSpec(name="at", type="time"),
        FieldSpec(name="customer", type="int"),
        FieldSpec(name="amount", type="float", nullable=True),
        FieldSpec(name="note", type="text"),
    ),
    id="payment",
    time="at",
    key="customer",
    labels=(LabelSpec(name="fraud", delay_us=5),),
)
FEATURES = FeatureSetSpec(
    name="behaviour",
    source="payments",
    features=(
        FeatureSpec(name="amount", expr=Column(name="amount")),
        FeatureSpec(name="count", expr=Aggregate(kind="count", by="customer", over_us=10)),
        FeatureSpec(name="frauds", expr=Aggregate(kind="sum", label="fraud", by="customer", over_us=50, delay_us=5)),
    ),
)
MODEL = ModelSpec(
    name="fraud",
    train=TrainSpec(function="fit", features="behaviour", label="fraud"),
    metrics=(MetricSpec(name="cards", k=1, by="customer", per_us=10),),
)
PIECES, PIECE = 8, 50


def job(home: Path) -> Job:
    found: Any = SimpleNamespace(
        home=Home(home),
        work_dir=home,
        table=lambda name: f"acme/{name}",
        app=SimpleNamespace(feature_set=lambda name: FEATURES),
        progress=lambda stage, done, total: None,
    )
    return cast(Job, found)


@pytest.fixture(autouse=True)
def _compiled_once(tmp_path: Path, kernels: Path) -> None:
    folder = Home(tmp_path).kernels
    folder.parent.mkdir(parents=True)
    folder.symlink_to(kernels)


def loaded(home: Path) -> Job:
    """Some events are late; every third one is labelled, eight offsets after it."""
    tables, work = DeltaTables(Home(home).tables), job(home)
    for piece in range(PIECES):
        offsets = np.arange(piece * PIECE, (piece + 1) * PIECE)
        events = pl.DataFrame(
            {
                "payment": offsets,
                "at": offsets,
                "customer": offsets % 4,
                "amount": [None if n % 7 == 0 else float(n) for n in offsets],
                "note": ["words" for _ in offsets],
                "_offset": offsets * 10,
                "_effective": offsets,
                "_late": offsets % 11 == 3,
            }
        )
        tables.append("acme/payments", [events], offset=int(offsets[-1]) * 10, known=piece - 1 if piece else None)
    subjects = np.arange(0, PIECES * PIECE, 3)
    labels = pl.DataFrame(
        {
            "_offset": subjects * 10 + 85,
            "label": ["fraud" for _ in subjects],
            "subject": subjects,
            "value": (subjects % 2).astype(float),
        }
    )
    tables.append("acme/payments.labels", [labels], offset=10**6, known=None)
    return work


def test_the_rows_are_those_that_were_not_late(tmp_path: Path) -> None:
    work = loaded(tmp_path)
    rows = rows_of(work, MODEL, newest_history(work, STREAM))
    wanted = [n for n in range(PIECES * PIECE) if n % 11 != 3]
    assert rows.ids.tolist() == wanted
    assert rows.time.tolist() == wanted
    assert rows.keys["customer"].tolist() == [n % 4 for n in wanted]
    assert np.isnan(rows.y).tolist() == [n % 3 != 0 for n in wanted]
    assert rows.y[~np.isnan(rows.y)].tolist() == [n % 2 for n in wanted if n % 3 == 0]
    assert rows.names == ("amount", "count", "frauds")
    assert rows.x.shape == (len(wanted), 3)
    np.testing.assert_array_equal(rows.x[:, 0], [np.nan if n % 7 == 0 else n for n in wanted])
    counts = [sum(m % 4 == n % 4 and n - 10 < m <= n for m in wanted) for n in wanted]
    assert rows.x[:, 1].tolist() == counts
    assert rows.x[:, 2].any()


SHOPS = ReferenceSpec(
    name="shops",
    fields=(
        FieldSpec(name="customer", type="int"),
        FieldSpec(name="since", type="time"),
        FieldSpec(name="name", type="text", nullable=True),
        FieldSpec(name="risk", type="float", nullable=True),
    ),
    id="customer",
    time="since",
)


def test_what_is_looked_up_is_as_of_each_event(tmp_path: Path) -> None:
    stream = STREAM.model_copy(update={"references": (SHOPS,)})
    lookup = FeatureSpec(name="risk", expr=Lookup(reference="shops", column="risk", by="customer"))
    looking = FEATURES.model_copy(update={"features": (*FEATURES.features, lookup)})
    work = loaded(tmp_path)
    events_alone = newest_history(work, stream)
    assert not events_alone.references
    assert np.isnan(rows_of(work, MODEL, events_alone, looking).x[:, 3]).all()
    tables = DeltaTables(Home(tmp_path).tables)
    given = {"customer": [1, 1, 2], "since": [0, 200, 50], "name": ["a"] * 3, "risk": [0.25, 0.5, None]}
    frame = pl.DataFrame({**given, "_offset": [5, 6, 2001]})
    tables.append("acme/payments.shops", [frame], offset=10**6, known=None)
    history = newest_history(work, stream)
    tables.append("acme/payments.shops", [frame.with_columns(risk=pl.lit(0.125))], offset=10**6 + 1, known=0)
    ref = SourceRef(
        name="payments",
        table_version=history.table.version,
        labels_version=0,
        rows=0,
        reference_versions={name: version.version for name, version in history.references.items()},
    )
    assert ref.reference_versions == {"shops": 0}
    for pinned in (history, history_at(work, stream, ref)):
        rows = rows_of(work, MODEL, pinned, looking)
        wanted = [(0.25 if n < 200 else 0.5) if n % 4 == 1 else np.nan for n in rows.ids.tolist()]
        np.testing.assert_array_equal(rows.x[:, 3], np.array(wanted, np.float32))


def test_the_features_are_a_file_that_goes_with_them(tmp_path: Path) -> None:
    work = loaded(tmp_path)
    before = set(tmp_path.iterdir())
    rows = rows_of(work, MODEL, newest_history(work, STREAM))
    assert isinstance(rows.x.base, np.memmap)
    assert not rows.x.flags.writeable
    assert set(tmp_path.iterdir()) - before <= {Home(tmp_path).kernels.parent, Home(tmp_path).kernels}


def test_without_room_for_the_features_the_job_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = loaded(tmp_path)
    history = newest_history(work, STREAM)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **where: io.FileIO("/dev/full", "wb"))
    with pytest.raises(Unavailable) as refused:
        rows_of(work, MODEL, history)
    assert refused.value.code == "DISK_FULL"


# The gate against the champion


OTHER = FeatureSetSpec(
    name="behaviour",
    source="payments",
    features=(
        FeatureSpec(name="frauds", expr=Aggregate(kind="sum", label="fraud", by="customer", over_us=40, delay_us=5)),
        FeatureSpec(name="amount", expr=Column(name="amount")),
    ),
)


def ran(work: Job, features: FeatureSetSpec, model: ModelSpec, champion: dict[str, Any] | None = None) -> Any:
    """What training and compression are given of an application with these features, and what the training made."""

    def fit(data: Any) -> lightgbm.Booster:
        settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, "seed": 1}
        return lightgbm.train(settings, lightgbm.Dataset(data.x, data.y), 8)

    app = AppSpec(name="risk", streams=(STREAM,), feature_sets=(features,), models=(model,))
    given = SimpleNamespace(
        **{**vars(work), "app": app, "target": "fraud", "name": "fraud-run-1-train", "params": {}, "code": CODE},
        inputs={"champion": champion},
        objects=DirectoryObjects(work.home.objects),
        model_files=ModelFiles(work.home, "acme", DirectoryObjects(work.home.objects)),
        load_app=lambda: SimpleNamespace(functions={"fit": fit}),
        curve=lambda *told: None,
        kept_curve=lambda: None,
        tenant="acme",
    )
    return given, train.work(cast(Job, given))


def trained(work: Job, features: FeatureSetSpec, champion: dict[str, Any] | None = None) -> VersionManifest:
    """What a training job of an application with these features proposes."""
    _, made = ran(work, features, ModelSpec(name="fraud", train=TEST, gate=NO_LOG), champion)
    return parse_manifest(made["manifest"])


NO_LOG = GateSpec(same_features=False)
TEST = TrainSpec(function="fit", features="behaviour", label="fraud", test_us=150)
CODE = {"bundle": "0" * 64, "main": "app.py"}


def test_a_champion_of_other_features_is_judged_by_its_own_of_the_same_rows(tmp_path: Path) -> None:
    work = loaded(tmp_path)
    first = trained(work, FEATURES)
    assert first.champion_metrics is None
    told = first.to_json()
    second = trained(work, OTHER, {**told, "version": 1, "fields": None})
    assert second.features is not None
    assert first.features is not None
    assert second.features.digest != first.features.digest
    # What has no calibration is compared by its scores.
    plain = {f"{name}_calibrated": first.metrics[name] for name in ("brier", "calibration_error")}
    known = plain | dict(first.metrics)
    assert second.champion_metrics == {name: known[name] for name in second.champion_metrics or {}}
    assert "auc" in (second.champion_metrics or {})
    assert second.metrics["auc"] != first.metrics["auc"], "the test would not see them exchanged"
    better = sr.Gate(against="champion", auc=">= 0").spec
    judged = evaluate_gate(better, Measures(second.metrics, second.champion_metrics)).checks[-1]
    assert judged.passed == (second.metrics["auc"] >= first.metrics["auc"])

    unknown = {**told, "version": 1, "fields": None, "features": {**told["features"], "spec": None}}
    blind = trained(work, OTHER, unknown)
    assert blind.champion_metrics == {}, "a version of a release that did not keep how its features are computed"
    assert "is not known" in evaluate_gate(better, Measures(blind.metrics, blind.champion_metrics)).failures


def test_the_next_attempt_reads_what_the_first_one_did_and_the_next_run_what_came_meanwhile(tmp_path: Path) -> None:
    work = cast(Job, SimpleNamespace(**vars(loaded(tmp_path)), tenant="acme", target="fraud", name="fraud-run-1-train"))
    kept = Kept.of(work)
    first = kept.history(work, STREAM)
    tables = DeltaTables(work.home.tables)
    more = next(iter(tables.scan("acme/payments", first.table.version))).drop("_late").with_columns(_late=False)
    tables.append("acme/payments", [more], offset=10**7, known=first.table.version)

    again = Kept.of(work).history(work, STREAM)
    assert (again.table.version, again.labels) == (first.table.version, first.labels)
    np.testing.assert_array_equal(rows_of(work, MODEL, again).x, rows_of(work, MODEL, first).x)
    assert newest_history(work, STREAM).table.version > first.table.version

    work.name = "fraud-run-2-train"  # type: ignore[misc]
    assert Kept.of(work).history(work, STREAM).table.version > first.table.version
    assert not kept.folder.exists(), "a model has those of its last run"
    Kept.of(work).done()
    assert not Kept.of(work).folder.exists()


def test_an_attempt_whose_rows_are_not_known_reads_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = cast(Job, SimpleNamespace(**vars(loaded(tmp_path)), tenant="acme", target="fraud", name="fraud-run-1-train"))
    version = Kept.of(work).history(work, STREAM).table.version
    for damaged in (b"{", b'{"name": "payments", "table_version": 900, "rows": 1}'):
        (Kept.of(work).folder / "history.json").write_bytes(damaged)
        assert Kept.of(work).history(work, STREAM).table.version == version
        assert "The rows of the attempt before cannot be had any more" in capsys.readouterr().err


def test_a_version_that_is_proposed_brings_the_evidence_of_its_gate(tmp_path: Path) -> None:
    work = loaded(tmp_path)
    gate = NO_LOG.model_copy(update={"against": "champion", "tolerance": 0.05, "latency_us": 10**6})
    slices = (
        SliceSpec(name="even", when=Binary(kind="<=", left=Column(name="customer"), right=Constant(value=1))),
        SliceSpec(name="customer", by="customer", most=3, least=1_000),
    )
    model = ModelSpec(name="fraud", train=TEST, gate=gate, slices=slices, description="Whose orders are never paid.")
    first = {**trained(work, OTHER).to_json(), "version": 1, "fields": None}
    given, made = ran(work, FEATURES, model, first)
    given.inputs = {"train": made}
    spec = compress.work(cast(Job, given))["resources"][0]["spec"]
    version = parse_manifest({name: value for name, value in spec.items() if name in VersionManifest.model_fields})

    names = [part.name for part in version.slices]
    assert names[0] == "even"
    assert [name.partition("=")[0] for name in names[1:]] == ["customer"] * 4
    assert version.split is not None
    parts = version.slices[1:]
    assert sum(part.rows for part in parts) == version.split.test.rows
    assert sum(part.positives for part in parts) == version.split.test.positives
    assert version.champion_metrics is not None
    for metric in ("auc", "brier"):
        by = version.differences[metric].by
        assert by == pytest.approx(version.metrics[metric] - version.champion_metrics[metric])
        assert version.intervals[metric].low <= version.metrics[metric] <= version.intervals[metric].high
    assert version.slices[0].champion_metrics is not None
    assert version.speed is not None
    assert version.about == {"description": "Whose orders are never paid."}
    assert version.same_features is None, "the gate does not ask for it"
    checks = evaluate_gate(gate, Measures.of(spec)).checks
    assert [c.rule.partition(":")[0] for c in checks if not c.judged] == names[1:]
    assert next(c for c in checks if "p99" in c.rule).passed


def test_what_a_table_is_split_and_weighed_by_comes_with_its_rows(tmp_path: Path) -> None:
    kinds = {"sale": "int", "at": "time", "shop": "text", "price": "float", "weight": "float", "bought": "int"}
    table = TableSpec(name="sales", fields=tuple(FieldSpec(name=n, type=t) for n, t in kinds.items()), id="sale")
    features = FeatureSetSpec(name="f", source="sales", features=(FeatureSpec(name="p", expr=Column(name="price")),))
    spec = TrainSpec(function="fit", features="f", label="bought", time="at", test_us=5, group="shop", weight="weight")
    number = np.arange(20)
    frame = pl.DataFrame(
        {
            "sale": number,
            "at": 100 - number,
            "shop": ["ab"[n % 2] for n in number],
            "price": number / 2,
            "weight": number * 1.5,
            "bought": number % 2,
        }
    )
    work = job(tmp_path)
    work.app.feature_set = lambda name: features  # type: ignore[method-assign]
    DeltaTables(work.home.tables).append("acme/sales", [frame], offset=1, known=None)
    rows = rows_of(work, ModelSpec(name="m", train=spec), newest_history(work, table))
    assert rows.weights is not None
    assert np.array_equal(rows.weights, (number * 1.5).astype(np.float32))
    assert np.array_equal(rows.keys["at"], 100 - number)
    assert len(set(rows.keys["shop"][::2])) == len(set(rows.keys["shop"][1::2])) == 1
