"""A Keras script as an application: `skyriver deploy sample.py`, `skyriver table load points points.csv`, then
`skyriver run sample`. The script itself is the training function; what is around it is declared here.
"""

from __future__ import annotations

import os
import runpy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import skyriver as sr

app = sr.App("keras_sample")


class Point(sr.Event):
    point: int
    x: float
    y: int = sr.field(one_of=(0, 1))


points = app.table("points", Point, id="point")
columns = app.features("columns", points, {"x": points.x})


@app.train(columns, label=points.y, test=0.3)
def fit(data: sr.TrainingData) -> Any:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow" if find_spec("tensorflow") else "torch")
    script = Path(__file__).with_name("script.py")
    return runpy.run_path(str(script), init_globals={"data": data})["model"]


app.model("sample", fit, gate=sr.Gate(auc=">= 0.8"))
