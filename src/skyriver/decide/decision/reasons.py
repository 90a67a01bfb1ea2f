"""Reason codes: which features moved a score most, in words that a person can read.

What each feature adds is computed from the model's file and the features of the record alone, so whoever has both says
the same: the worker that is asked, a queue of reviews, a sink. It is never in the way of a decision.

- Boosted trees that were trained here: their Shapley values (`decide.decision.tree_shap`), in the units of the trees'
  sum, of the features as the model's own cleaning gives them to the trees. They and the base add up to the sum.
- Any other model: integrated gradients (`decide.decision.integrated_gradients`), from the means of its training, where
  its file tells them, else from zeros.

Where neither can be said, nothing is said, with why: a wrong reason is worse than none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from skyriver.core.calibration import MEANS
from skyriver.core.errors import SkyriverError
from skyriver.decide.decision.integrated_gradients import Gradients
from skyriver.decide.decision.scorer import INPUT, OUTPUT, open_session
from skyriver.decide.decision.tree_shap import NoShares, TreeShares

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

TOP: Final = 5
_SHAPES: Final = frozenset({"Squeeze", "Reshape", "Flatten", "Identity"})
_CLEANS: Final = frozenset({"Less", "Greater", "IsNaN", "Where", "Sub", "Div"})
"""Steps of `skyriver.train.cleaning`: each feature's value depends on its own alone."""
_MISSED: Final = 0.05
"""Integrated gradients that miss the difference they are to add up to by more than so much of it are not told."""


@dataclass(frozen=True, slots=True)
class ReasonCode:
    """`value` None: missing. `contribution` in the explainer's `unit`: what the feature adds, against the base."""

    feature: str
    value: float | None
    contribution: float
    text: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What each feature adds to `base`, float64 [F]; `residual` is by how much they miss the model's own output. With
    `why`, nothing can be said."""

    contributions: Doubles
    base: float = 0.0
    residual: float = 0.0
    why: str = ""


@dataclass(slots=True)
class Explainer:
    """Of one model. MUST be called by one thread at a time; the same features give the same."""

    names: tuple[str, ...]
    method: str = ""
    """"TreeSHAP" or "integrated gradients"; "" where nothing can be said."""
    unit: str = ""
    """"log-odds" where the score is a probability by a sigmoid, else "score"."""
    why: str = ""
    """Why nothing can be said."""
    texts: Mapping[str, str] = field(default_factory=dict)
    means: Floats | None = None
    _shares: TreeShares | None = None
    _cleaned: onnxruntime.InferenceSession | None = None
    _gradients: Gradients | None = None

    @classmethod
    def load(cls, model: bytes, names: Sequence[str], kernels: Path, texts: Mapping[str, str] | None = None) -> Self:
        """Of an ONNX file that takes the features `names`. `kernels`: where what is compiled is kept. `texts`: what is
        said of a feature that raises the score.

        A model of which nothing can be said has a `why`. Raises Unavailable (KERNEL_CACHE)."""
        found = cls(tuple(names), texts=texts or {})
        try:
            found._prepare(model, kernels)
        except SkyriverError:
            raise
        except NoShares as error:
            found.why = f"{error}."
        except Exception as error:  # onnxruntime's errors share no base but Exception
            found.why = f"the model cannot be looked into: {(str(error).splitlines() or [''])[0][:200]}"
        return found

    def _prepare(self, data: bytes, kernels: Path) -> None:
        import onnx  # 60 MB that a process which explains nothing does not need

        model = onnx.load_from_string(data)
        self.means = _means(model, len(self.names))
        producers = {name: node for node in model.graph.node for name in node.output}
        trees = [node for node in model.graph.node if node.op_type.startswith("TreeEnsemble")]
        if trees:
            self.method = "TreeSHAP"
            self._prepare_trees(model, producers, trees, kernels)
            return
        self.method = "integrated gradients"
        place, self.unit = _before_sigmoid(OUTPUT, producers)
        self._gradients = Gradients(open_session(_upto(model, place)), self.means, len(self.names))

    def _prepare_trees(self, model: Any, producers: Mapping[str, Any], trees: Sequence[Any], kernels: Path) -> None:
        import onnx  # as above

        if len(trees) != 1 or trees[0].op_type != "TreeEnsembleRegressor":
            raise NoShares("its trees are of a kind that is not looked into")
        (node,) = trees
        place, self.unit = _before_sigmoid(OUTPUT, producers)
        while place not in node.output:
            above = producers.get(place)
            if above is None or above.op_type not in _SHAPES:
                raise NoShares("its score is not the sum of its trees")
            place = above.input[0]
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        self._shares = TreeShares.load(given, len(self.names), kernels)
        if node.input[0] != INPUT:
            _check_cleaning(model, node.input[0], len(self.names))
            self._cleaned = open_session(_upto(model, node.input[0]))

    def explain(self, features: bytes | Floats) -> Explanation:
        """`features` as a record has them (float32, missing NaN)."""
        row = np.frombuffer(features, "<f4") if isinstance(features, bytes) else np.asarray(features, np.float32)
        why = self.why
        if not why and len(row) != len(self.names):
            why = f"the record has {len(row)} features, the model takes {len(self.names)}."
        if why:
            return Explanation(np.zeros(len(row)), why=why)
        if self._shares is not None:
            if self._cleaned is not None:
                row = self._cleaned.run(None, {INPUT: row[None, :]})[0].reshape(-1)
            return Explanation(self._shares(np.ascontiguousarray(row)), self._shares.base)
        assert self._gradients is not None
        contributions, base, residual = self._gradients.of(row)
        if not abs(residual) <= _MISSED * np.abs([residual + contributions.sum(), *contributions]).max(initial=0.0):
            return Explanation(contributions, base, residual, "the model is too rough for integrated gradients.")
        return Explanation(contributions, base, residual)

    def reasons(self, features: bytes | Floats, top: int = TOP) -> tuple[ReasonCode, ...]:
        """The `top` features that moved the score most, either way; () where nothing can be said."""
        found = self.explain(features)
        if found.why:
            return ()
        row = np.frombuffer(features, "<f4") if isinstance(features, bytes) else np.asarray(features, np.float32)
        order = np.argsort(-np.abs(found.contributions), kind="stable")[:top]
        return tuple(self._code(place, row, found) for place in order.tolist() if found.contributions[place] != 0)

    def _code(self, place: int, row: Floats, found: Explanation) -> ReasonCode:
        name, value, contribution = self.names[place], float(row[place]), float(found.contributions[place])
        own = self.texts.get(name, "") if contribution > 0 else ""
        known = None if math.isnan(value) else value
        return ReasonCode(name, known, contribution, own or " ".join(self._words(place, known, contribution)))

    def _words(self, place: int, value: float | None, contribution: float) -> Iterator[str]:
        yield f"{self.names[place]} is {'missing' if value is None else f'{value:.6g}'}"
        if self.means is not None and not np.isnan(self.means[place]):
            yield f"(on average {self.means[place]:.4g})"
        yield "and raises the score" if contribution > 0 else "and lowers the score"


def _means(model: Any, features: int) -> Floats | None:
    text = {entry.key: entry.value for entry in model.metadata_props}.get(MEANS)
    if text is None or len(text) > 64 * (features + 1):
        return None
    try:
        found = np.array([math.nan if mean is None else float(mean) for mean in json.loads(text)], np.float32)
    except (ValueError, TypeError, RecursionError):
        return None
    return found if found.shape == (features,) else None


def _before_sigmoid(name: str, producers: Mapping[str, Any]) -> tuple[str, str]:
    """What becomes the output `name` by a sigmoid, and the unit that it has; else the output itself."""
    place = name
    while (node := producers.get(place)) is not None and node.op_type in _SHAPES | {"Sigmoid"}:
        place = node.input[0]
        if node.op_type == "Sigmoid":
            return place, "log-odds"
    return name, "score"


def _check_cleaning(model: Any, place: str, features: int) -> None:
    """Raises NoShares where what the trees get is not each feature by itself."""
    widths = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for node in _needed(model, place):
        constants = [widths[name] for name in node.input if name in widths]
        if node.op_type not in _CLEANS or any(dims not in ([features], [1], []) for dims in constants):
            raise NoShares(f"its trees do not read the features but what {node.op_type} makes of them")


def _needed(model: Any, place: str) -> list[Any]:
    """The nodes that `place` is computed by, in their order."""
    wanted, found = {place}, []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            found.append(node)
    return found[::-1]


def _upto(model: Any, place: str) -> bytes:
    """The model that gives this value of it."""
    import onnx  # as above

    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    nodes = _needed(model, place)
    del cut.graph.node[:]
    del cut.graph.output[:]
    cut.graph.node.extend(nodes)
    cut.graph.output.append(onnx.helper.make_tensor_value_info(place, onnx.TensorProto.FLOAT, None))
    data: bytes = cut.SerializeToString()
    return data
