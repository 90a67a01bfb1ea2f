"""Clothes and bags with a picture, a description and three numbers, and what they are: one of six classes.

The pictures are Fashion-MNIST's (Xiao, Rasul, Vollgraf 2017; `apt-get install dataset-fashion-mnist`, MIT), 28 x 28
grey. The descriptions are WordNet's of kinds of such things (`kinds.csv`, see README.md), with the words that name the
class itself taken out. No data set has both, so a picture is put together with a description of the same class by
chance, as AV-MNIST does with digits and spoken ones (Vielzeuf et al. 2018). Weight, price and pockets are made up, and
overlap between classes. Of each class one half of the descriptions is kept for the test, and pictures are of
Fashion-MNIST's own test part there: nothing of a test item was seen before.
"""

from __future__ import annotations

import csv
import gzip
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

CLASSES: Final = ("top", "trousers", "dress", "coat", "footwear", "bag")
PICTURES: Final = Path("/usr/share/datasets/fashion-mnist")
_CLASS_OF: Final = (0, 1, 0, 2, 3, 4, 0, 4, 5, 4)
"""Of Fashion-MNIST's ten: T-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot."""
_NAMES: Final = re.compile(
    r"\b(t-?shirt|shirt|blouse|sweater|pullover|jersey|trouser|pant|dress|gown|coat|overcoat|jacket|cloak|shoe|boot"
    r"|sandal|slipper|bag|handbag|purse)(s|es)?\b",
    re.IGNORECASE,
)
_GRAMS: Final = (250, 450, 380, 1_100, 750, 600)
_PRICE: Final = (25, 50, 70, 120, 80, 60)
_POCKETS: Final = (0.3, 3.5, 0.5, 3.0, 0.1, 2.0)


@dataclass(frozen=True, slots=True)
class Items:
    """n things; of each a part may be missing: "" for a text, zeros for a picture, NaN for numbers."""

    text: list[str]
    photo: NDArray[np.uint8]
    """(n, 28, 28, 1)."""
    facts: NDArray[np.float32]
    """(n, 3): grams, price, pockets."""
    label: list[str]

    def rows(self) -> dict[str, Any]:
        return {"text": self.text, "photo": self.photo, "facts": self.facts}


def items(count: int, *, test: bool, seed: int) -> Items:
    """So many, as many of each class (but for the rest), drawn by `seed`."""
    luck = np.random.default_rng([seed, test])
    kinds = descriptions(test=test)
    pixels, classes = pictures(test=test)
    wanted = luck.permutation(np.arange(count) % len(CLASSES))
    of_class = [np.flatnonzero(classes == k) for k in range(len(CLASSES))]
    photo = pixels[[luck.choice(of_class[k]) for k in wanted]]
    text = [str(luck.choice(kinds[CLASSES[k]])) for k in wanted]
    grams = np.array(_GRAMS)[wanted] * luck.lognormal(0, 0.5, count)
    price = np.array(_PRICE)[wanted] * luck.lognormal(0, 0.8, count)
    pockets = luck.poisson(np.array(_POCKETS)[wanted])
    facts = np.stack([grams, price, pockets], 1).round(1).astype(np.float32)
    return Items(text, photo, facts, [CLASSES[k] for k in wanted])


def descriptions(*, test: bool) -> dict[str, list[str]]:
    """Of each class every other description, so that no text is in both parts."""
    with (Path(__file__).parent / "kinds.csv").open(encoding="utf-8", newline="") as file:
        lines = [(line["class"], _NAMES.sub("thing", line["description"])) for line in csv.DictReader(file)]
    return {name: [text for of, text in lines if of == name][int(test) :: 2] for name in CLASSES}


def pictures(*, test: bool, merged: bool = True) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(n, 28, 28, 1) and the class of each; not `merged`: of Fashion-MNIST's ten."""
    part = "t10k" if test else "train"
    if not PICTURES.is_dir():
        raise SystemExit(f"{PICTURES} is not there: apt-get install dataset-fashion-mnist")
    pixels = np.frombuffer(
        gzip.decompress((PICTURES / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16
    )
    labels = np.frombuffer(
        gzip.decompress((PICTURES / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8
    )
    return pixels.reshape(-1, 28, 28, 1), np.array(_CLASS_OF)[labels] if merged else labels.astype(np.int64)
