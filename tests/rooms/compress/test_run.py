from typing import Any

import lightgbm
import numpy as np
import pytest

from skyriver.compress.run import Candidate, compress, fewest_trees
from skyriver.core.errors import InvalidInput
from skyriver.core.spec import CompressSpec, ModelSpec, TrainSpec
from skyriver.train.calibrate import calibrate
from skyriver.train.data import TrainingData
from skyriver.train.evaluate import calibration_of, evaluate, score
from skyriver.train.metrics import average_precision
from skyriver.train.split import Rows, split_rows
from skyriver.train.trees_onnx import read_lightgbm, to_onnx

SPEC = ModelSpec(
    name="model",
    train=TrainSpec(function="fit", features="f", label="y", test_share=0.3),
    compress=CompressSpec(max_loss=0.02),
)


def _rows(n: int = 20000) -> Rows:
    luck = np.random.default_rng(5)
    x = luck.normal(size=(n, 4)).astype(np.float32)
    y = (x[:, 0] + 0.3 * x[:, 1] + luck.normal(size=n) > 1.2).astype(np.float32)
    return Rows(("a", "b", "c", "d"), x, y, np.zeros(n, dtype=np.int64), np.arange(n), {})


def _text(rows: Rows, trees: int = 80, **settings: Any) -> bytes:
    split = split_rows(SPEC.train, rows, None, validate=True)  # type: ignore[arg-type]
    data = TrainingData(rows.x[split.train], rows.y[split.train], rows.names, rows.time[split.train])
    given = {"objective": "binary", "verbose": -1, "num_threads": 1, "num_leaves": 4, "max_depth": 2, **settings}
    return lightgbm.train(given, lightgbm.Dataset(data.x, data.y), trees).model_to_string().encode()


def _compress(
    rows: Rows, text: bytes, spec: ModelSpec = SPEC, gate: str = "", *, known: bool = True
) -> tuple[Candidate, ...]:
    split = split_rows(SPEC.train, rows, None, validate=True)  # type: ignore[arg-type]
    onnx, _ = calibrate(spec.calibrate, to_onnx(read_lightgbm(text.decode())), rows, split)
    metrics = evaluate(onnx, rows, split, ())
    return compress(
        spec,
        rows,
        delay_us=None,
        onnx=onnx,
        model_text=text if known else None,
        metrics=metrics | {"onnx_max_difference": 0.0},
        gate=lambda _: gate,
        progress=lambda *_: None,
    )


def test_fewer_trees_with_its_price(capsys: pytest.CaptureFixture[str]) -> None:
    rows = _rows()
    text = _text(rows)
    trained, smaller = _compress(rows, text, SPEC.model_copy(update={"calibrate": "isotonic"}))
    assert (trained.name, trained.trees, trained.kept) == ("trained", 80, True)
    assert smaller.name == "fewer-trees"
    assert smaller.trees < 80
    assert len(smaller.onnx) < len(trained.onnx)
    assert smaller.kept
    assert trained.metrics["average_precision"] - smaller.metrics["average_precision"] <= 0.02
    assert smaller.metrics["onnx_max_difference"] < 1e-6
    assert set(smaller.metrics) == set(trained.metrics)
    (whole, fitted), (fewer, refitted) = ((calibration_of(c.onnx), c.calibrated) for c in (trained, smaller))
    assert whole is not None
    assert fewer is not None
    assert whole.points != fewer.points, "other trees give other scores"
    assert fitted.method == refitted.method == "isotonic"
    assert fitted.rows == refitted.rows == len(split_rows(SPEC.train, rows, None, validate=True).validation)  # type: ignore[arg-type]
    assert trained.speed.row > 0
    assert smaller.speed.row > 0
    assert f"80 -> {smaller.trees} trees, average precision" in smaller.why
    assert "x smaller" in smaller.why
    assert smaller.why in capsys.readouterr().err
    booster = lightgbm.Booster(model_str=text.decode())
    np.testing.assert_allclose(
        score(smaller.onnx, rows.x), booster.predict(rows.x, num_iteration=smaller.trees), atol=1e-6
    )


def test_the_shortest_prefix_that_is_good_enough_on_validation_rows() -> None:
    rows = _rows()
    text = _text(rows)
    split = split_rows(SPEC.train, rows, None, validate=True)  # type: ignore[arg-type]
    x, y = rows.x[split.validation], rows.y[split.validation]
    booster = lightgbm.Booster(model_str=text.decode())
    reached = [average_precision(y, np.asarray(booster.predict(x, num_iteration=k))) for k in range(1, 81)]
    needed = 1 + max((k for k in range(1, 81) if reached[k - 1] < reached[-1] - 0.01), default=0)
    found = fewest_trees(read_lightgbm(text.decode()), x, split, 0.02)
    assert 0 <= found - needed <= 1, "64 lengths are tried of 80"


def test_the_test_rows_choose_nothing() -> None:
    rows = _rows()
    text = _text(rows)
    split = split_rows(SPEC.train, rows, None, validate=True)  # type: ignore[arg-type]
    spoiled = rows.x.copy()
    spoiled[split.test] = 0.0
    other = Rows(rows.names, spoiled, rows.y, rows.time, rows.ids, rows.keys)
    assert _compress(other, text)[1].trees == _compress(rows, text)[1].trees


def test_a_closed_gate_keeps_the_model_as_trained() -> None:
    rows = _rows()
    trained, smaller = _compress(rows, _text(rows), gate="average_precision >= 0.99: too low")
    assert trained.kept
    assert not smaller.kept
    assert smaller.why.endswith("the gate: average_precision >= 0.99: too low")


def test_a_loss_on_the_test_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyriver.compress.run.fewest_trees", lambda *_: 1)
    rows = _rows()
    smaller = _compress(rows, _text(rows))[1]
    assert smaller.trees == 1
    assert not smaller.kept
    assert "may fall by at most 0.02" in smaller.why


def test_where_every_tree_is_needed_there_is_no_candidate(capsys: pytest.CaptureFixture[str]) -> None:
    rows = _rows()
    assert len(_compress(rows, _text(rows, trees=1))) == 1
    assert "all 1 trees are needed" in capsys.readouterr().err


def test_validation_rows_that_cannot_tell_keep_every_tree() -> None:
    rows = _rows()
    text = _text(rows)
    split = split_rows(SPEC.train, rows, None, validate=True)  # type: ignore[arg-type]
    labels = split.labels.copy()
    labels[split.validation] = 0.0
    blind = split_rows(SPEC.train, rows, None, validate=True)  # type: ignore[arg-type]
    object.__setattr__(blind, "labels", labels)
    assert fewest_trees(read_lightgbm(text.decode()), rows.x[split.validation], blind, 0.01) == 80


def test_too_few_positives_choose_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    rows = _rows(1000)
    assert len(_compress(rows, _text(rows))) == 1
    assert "validation positives, 50 are needed" in capsys.readouterr().err


def test_not_asked_for_is_not_done() -> None:
    rows = _rows()
    assert len(_compress(rows, _text(rows), SPEC.model_copy(update={"compress": None}))) == 1


def test_a_ready_file_has_no_trees_to_cut() -> None:
    with pytest.raises(InvalidInput, match="ready file"):
        _compress(_rows(), _text(_rows(), trees=1), ModelSpec(name="model", onnx="model.onnx"))


def test_of_a_model_without_text_only_the_trained_one_is_measured() -> None:
    rows, spec = _rows(), SPEC.model_copy(update={"compress": None})
    (with_text,) = _compress(rows, _text(rows), spec)
    (without,) = _compress(rows, _text(rows), spec, known=False)
    assert (without.name, without.trees, without.kept) == ("trained", 0, True)
    assert (without.onnx, without.metrics) == (with_text.onnx, with_text.metrics)
    with pytest.raises(InvalidInput, match="none of LightGBM") as refused:
        _compress(rows, _text(rows), known=False)
    assert refused.value.code == "NOT_COMPRESSIBLE"
