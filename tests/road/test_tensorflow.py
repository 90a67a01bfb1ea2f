"""The Keras sample with TensorFlow itself, in an environment of its own: deployed, trained, registered, served, asked.

It fetches 300 MB from the index that this machine is configured for, and writes 1.4 GB: `make tensorflow` runs it. That
such an environment can be had beside the extras is shown with small packages in test_environments.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_process import Cloud, wait_for

PURE = """\
import tensorflow as tf

x, y = data.x, data.y

model = tf.keras.models.Sequential(
    [
        tf.keras.layers.Dense(64, activation="relu"),
        tf.keras.layers.Dense(1, activation="sigmoid"),
    ]
)
model.compile(optimizer=tf.keras.optimizers.Adam(), loss=tf.keras.losses.BinaryCrossentropy(), metrics=["accuracy"])
model.fit(x, y, epochs=10)
model.save("KEPT")
print("trained on", tf.keras.backend.backend())
"""
"""As people write it who import TensorFlow and not Keras."""


pytestmark = pytest.mark.fetching


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path)
    made.command("up", "--port", made.port).succeeded()
    yield made
    made.command("down").succeeded()
    shutil.rmtree(made.home)


def test_the_keras_sample_trains_with_tensorflow_and_answers(cloud: Cloud) -> None:
    folder = cloud.folder / "keras_sample"
    cloud.command("init", "keras_sample", folder).succeeded()
    (folder / "requirements.txt").write_text("tensorflow-cpu\n")
    pure = cloud.folder / "pure"
    shutil.copytree(folder, pure)
    kept = cloud.folder / "kept.keras"
    (pure / "script.py").write_text(PURE.replace("KEPT", str(kept)))
    text = (pure / "sample.py").read_text()
    for name in ("keras_sample", "points", "columns", "sample"):
        text = text.replace(f'"{name}"', f'"pure_{name}"')
    (pure / "sample.py").write_text(text)

    assert "TensorFlow binary" in trained(cloud, folder, "")
    assert "trained on tensorflow" in trained(cloud, pure, "pure_")
    assert kept.stat().st_size > 1_000, "what a script saves to a place of the user's is his"
    assert not list(cloud.home.rglob("model.keras")), "what it saves beside itself goes with the job"


def trained(cloud: Cloud, folder: Path, prefix: str) -> str:
    """What the training printed, after the model has told good rows from bad."""
    cloud.command("deploy", folder / "sample.py", "-y").succeeded()
    cloud.command("table", "load", f"{prefix}points", folder / "points.csv").succeeded()
    cloud.command("run", f"{prefix}sample").succeeded()
    wait_for(lambda: cloud.ask("POST", f"/predict/{prefix}sample", {"x": 0.0})[0] == 200, "an answer")
    low, high = (cloud.ask("POST", f"/predict/{prefix}sample", {"x": x})[1]["score"] for x in (-1.5, 1.5))
    assert low < 0.3 < 0.7 < high
    return cloud.command("logs", f"{prefix}sample-run-1").succeeded().out
