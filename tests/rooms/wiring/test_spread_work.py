"""A training on workers as a job does it: its checkpoints outlive whatever may still fail."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from skyriver.train.spread.checkpoints import Checkpoints
from skyriver.wiring.work import train
from skyriver.wiring.work.spread import spread_of

SPEC = SimpleNamespace(workers=2, function="fit", exact=True, gpus=0, features="f")


class Full:
    def put(self, data: bytes) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")


def job(folder: Path) -> Any:
    model = SimpleNamespace(train=SPEC, gate=SimpleNamespace(same_features=False))
    return SimpleNamespace(
        app=SimpleNamespace(model=lambda _: model, feature_set=lambda _: SimpleNamespace(source="s"), source=str),
        app_path=folder / "app.py",
        attempt=3,
        code={"bundle": "b"},
        curve=None,
        inputs={},
        kept_curve=lambda: None,
        load_app=lambda: SimpleNamespace(functions={"fit": None}),
        objects=Full(),
        params={},
        progress=None,
        target="m",
        work_dir=folder,
        workers=0,
    )


def test_its_attempt_is_that_of_the_job(tmp_path: Path) -> None:
    with spread_of(job(tmp_path), SPEC, tmp_path) as spread:  # type: ignore[arg-type]
        assert spread is not None
        assert spread.attempt == 3


def test_checkpoints_are_there_until_what_came_of_them_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when the model is put: the next attempt goes on from the last step."""
    workers = tmp_path / "workers"

    def trained(*_: Any, spread: Any, **__: Any) -> Any:
        spread._kept = Checkpoints(workers / "of").claimed()
        return SimpleNamespace(examined=None, onnx=b"m", model_text=None)

    kept = SimpleNamespace(workers=workers, history=lambda *_: None, trees=lambda *_: None)
    monkeypatch.setattr(train, "Kept", SimpleNamespace(of=lambda _: kept))
    for name in ("rows_of", "look_of", "delay_of", "_champion"):
        monkeypatch.setattr(train, name, lambda *_: None)
    monkeypatch.setattr(train, "train", trained)
    with pytest.raises(OSError, match="No space left"):
        train.work(job(tmp_path))
    assert (workers / "of").exists()
