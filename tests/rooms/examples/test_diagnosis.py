"""A table goes from file to gate with the very functions that payments use."""

import csv
import importlib.util
from pathlib import Path

import numpy as np

from skyriver.release.gate import Measures, evaluate_gate
from skyriver.train.run import train
from skyriver.train.split import Rows

FOLDER = Path(__file__).parents[3] / "examples" / "diagnosis"


def test_from_file_to_gate() -> None:
    module_spec = importlib.util.spec_from_file_location("example_diagnosis", FOLDER / "diagnosis.py")
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    spec = module.app.spec
    names = spec.feature_set("nuclei").names
    with (FOLDER / "biopsies.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 569
    assert sum(int(row["malignant"]) for row in table) == 212
    assert set(table[0]) == {f.name for f in spec.tables[0].fields}
    rows = Rows(
        names=names,
        x=np.array([[row[n] for n in names] for row in table], dtype=np.float32),
        y=np.array([row["malignant"] for row in table], dtype=np.float32),
        time=np.zeros(len(table), dtype=np.int64),
        ids=np.array([row["biopsy"] for row in table], dtype=np.int64),
        keys={},
    )
    model = spec.model("malignancy")
    trained = train(
        model, rows, module.app.functions["fit"],
        delay_us=None, params={}, seed=0, champion=None, progress=lambda *_: None,
    )  # fmt: skip
    gate = evaluate_gate(model.gate, Measures(trained.metrics))
    assert gate.passed, gate.failures
    assert trained.metrics["auc"] > 0.97
    assert trained.train[2] + trained.test[2] == 569
