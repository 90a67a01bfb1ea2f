"""What a training is given, as files that all its workers map: their rows are in memory once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skyriver.core.spec_augment import AugmentSpec
from skyriver.train.data import TrainingData

_COLUMNS: Final = ("x", "y", "time")
_WEIGHTS: Final = "weights.npy"


def put(folder: Path, data: TrainingData) -> None:
    """Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _COLUMNS:
        np.save(folder / f"{name}.npy", getattr(data, name))
    if data.weights is not None:
        np.save(folder / _WEIGHTS, data.weights)
    about = {"names": list(data.names), "params": dict(data.params), "seed": data.seed}
    (folder / "about.json").write_text(json.dumps(about))


def get(folder: Path, augment: tuple[AugmentSpec, ...] = ()) -> TrainingData:
    about: Mapping[str, Any] = json.loads((folder / "about.json").read_text())
    x, y, time = (read(folder / f"{name}.npy") for name in _COLUMNS)
    weights = read(folder / _WEIGHTS) if (folder / _WEIGHTS).exists() else None
    return TrainingData(
        x, y, tuple(about["names"]), time, about["params"], about["seed"], weights=weights, augment=augment
    )


def read(path: Path) -> NDArray[Any]:
    """What is written into it is this process's alone: torch takes no array that is only read."""
    found: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    return found
