"""Biopsies: thirty measures of cell nuclei in, the chance that the tumour is malignant out.

`skyriver deploy diagnosis.py`, `skyriver table load biopsies biopsies.csv`, `skyriver run malignancy`. It is an
example of a table and a classifier, not a medical device. Where the data comes from stands in README.md.
"""

from __future__ import annotations

import lightgbm

import skyriver as sr

app = sr.App("diagnosis")


class Biopsy(sr.Event):
    """Of each measure: its mean over the nuclei of one image, the standard error, and the mean of the three worst."""

    biopsy: int
    mean_radius: float = sr.field(gt=0)
    mean_texture: float = sr.field(gt=0)
    mean_perimeter: float = sr.field(gt=0)
    mean_area: float = sr.field(gt=0)
    mean_smoothness: float = sr.field(ge=0)
    mean_compactness: float = sr.field(ge=0)
    mean_concavity: float = sr.field(ge=0)
    mean_concave_points: float = sr.field(ge=0)
    mean_symmetry: float = sr.field(ge=0)
    mean_fractal_dimension: float = sr.field(ge=0)
    error_radius: float = sr.field(gt=0)
    error_texture: float = sr.field(gt=0)
    error_perimeter: float = sr.field(gt=0)
    error_area: float = sr.field(gt=0)
    error_smoothness: float = sr.field(ge=0)
    error_compactness: float = sr.field(ge=0)
    error_concavity: float = sr.field(ge=0)
    error_concave_points: float = sr.field(ge=0)
    error_symmetry: float = sr.field(ge=0)
    error_fractal_dimension: float = sr.field(ge=0)
    worst_radius: float = sr.field(gt=0)
    worst_texture: float = sr.field(gt=0)
    worst_perimeter: float = sr.field(gt=0)
    worst_area: float = sr.field(gt=0)
    worst_smoothness: float = sr.field(ge=0)
    worst_compactness: float = sr.field(ge=0)
    worst_concavity: float = sr.field(ge=0)
    worst_concave_points: float = sr.field(ge=0)
    worst_symmetry: float = sr.field(ge=0)
    worst_fractal_dimension: float = sr.field(ge=0)
    malignant: int = sr.field(one_of=(0, 1))


biopsies = app.table("biopsies", Biopsy, id="biopsy")

MEASURES = [name for name in Biopsy.__annotations__ if name not in ("biopsy", "malignant")]
nuclei = app.features("nuclei", biopsies, {name: getattr(biopsies, name) for name in MEASURES})


@app.train(nuclei, label=biopsies.malignant, test=0.3)
def fit(data: sr.TrainingData) -> lightgbm.Booster:
    settings = {"objective": "binary", "num_leaves": 8, "learning_rate": 0.1, "min_data_in_leaf": 8, "verbose": -1}
    return lightgbm.train(settings | {"seed": data.seed}, lightgbm.Dataset(data.x, data.y), 100)


model = app.model(
    "malignancy",
    fit,
    gate=sr.Gate(auc=">= 0.97", average_precision=">= 0.95", against="champion", tolerance=0.01),
)
