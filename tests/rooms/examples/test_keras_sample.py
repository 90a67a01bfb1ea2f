"""The example's script as the training function that it is, on the rows of its own file."""

import os
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyriver.core.spec import AppSpec
from skyriver.train.evaluate import score
from skyriver.train.run import train
from skyriver.train.split import Rows

FOLDER = Path(__file__).parents[3] / "examples" / "keras_sample"
MOST_LINES = 3


def test_at_most_three_lines_of_the_script_are_changed() -> None:
    lines = (FOLDER / "script.py").read_text().splitlines()
    readme = (FOLDER / "README.md").read_text()
    before = [line.strip() for line in readme.split("it began\n")[1].split("and now")[0].splitlines() if line.strip()]
    assert len([line for line in lines if "# changed" in line]) + len(before) <= MOST_LINES
    assert "model.fit(x, y, epochs=10)" in lines
    assert 'model.save("model.keras")' in lines


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
def test_the_script_is_a_training_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
    monkeypatch.chdir(tmp_path)
    declared = runpy.run_path(str(FOLDER / "sample.py"))
    spec: AppSpec = declared["app"].spec
    given = np.genfromtxt(FOLDER / "points.csv", delimiter=",", names=True)
    ids = given["point"].astype(np.int64)
    rows = Rows(
        ("x",),
        given["x"].astype(np.float32).reshape(-1, 1),
        given["y"].astype(np.float32),
        np.zeros(len(ids), np.int64),
        ids,
        {},
    )
    told: dict[str, Any] = {"delay_us": None, "params": {}, "seed": 0, "champion": None}
    trained = train(spec.model("sample"), rows, declared["fit"], progress=lambda *_: None, **told)
    assert trained.metrics["auc"] > 0.9
    assert trained.metrics["onnx_max_difference"] < 1e-5
    assert (tmp_path / "model.keras").exists(), "the script saves as it always did"
    low, high = score(trained.onnx, np.array([[-1.5], [1.5]], np.float32))
    assert low < 0.3 < 0.7 < high
