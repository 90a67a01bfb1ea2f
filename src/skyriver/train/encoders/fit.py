"""Training what stands on top of encoders, and of them what is not frozen."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from skyriver.core.errors import InvalidInput, JobFailed
from skyriver.core.names import some_of
from skyriver.train.encoders.fusion import Fusion
from skyriver.train.encoders.tuning import VectorCache, is_frozen


@dataclass(frozen=True, slots=True)
class Fit:
    """`rate` of the head, `encoder_rate` of what is trained in encoders; `drop`: the chance with which a modality is
    left out of a row, never all of them; `decay` of AdamW."""

    epochs: int = 60
    batch: int = 32
    rate: float = 3e-3
    encoder_rate: float = 1e-4
    decay: float = 0.05
    drop: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        rates = (self.rate, self.encoder_rate)
        if min(self.epochs, self.batch) < 1 or not all(0 < rate < math.inf for rate in rates) or not 0 <= self.drop < 1:
            raise InvalidInput(
                f"{self} trains nothing.",
                code="BAD_SETTINGS",
                next_action="Give epochs and batch from 1, rates above 0, and drop from 0 to less than 1.",
            )


def fit(
    model: Fusion,
    rows: Mapping[str, Any],
    labels: Sequence[str],
    settings: Fit | None = None,
    *,
    cache: VectorCache | None = None,
) -> list[float]:
    """Trains `model` in place on `rows` by the names of its encoders, each a modality of the same n things; returns the
    mean loss of each epoch. What a frozen encoder says is computed once, and kept in `cache`. The same arguments give
    the same model on the same machine and number of threads.

    Warns of classes of which there is no row. Raises InvalidInput (WRONG_ROWS, UNKNOWN_LABEL, ONE_CLASS), JobFailed
    (DIVERGED); then the model is as it was in the epoch before."""
    settings = settings or Fit()
    wanted = _classes(model, labels)
    prepared = _prepared(model, rows, len(wanted))
    _warn_of_unseen(model, labels)
    cache = cache or VectorCache()
    known = [_known(model, name, prepared[name], cache) for name in model.names]
    present = torch.stack([model.encoder(name).present(prepared[name]) for name in model.names], 1)
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = _optimizer(model, settings)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    curve: list[float] = []
    model.train()
    with torch.random.fork_rng(devices=[]):  # dropout
        torch.manual_seed(settings.seed)
        for epoch in range(settings.epochs):
            before = [parameter.detach().clone() for parameter in parameters]
            total = 0.0
            for part in torch.randperm(len(wanted), generator=generator).split(settings.batch):
                given = [
                    model.encoder(name)(prepared[name][part]) if vectors is None else vectors[part]
                    for name, vectors in zip(model.names, known, strict=True)
                ]
                kept = dropped(present[part], settings.drop, generator)
                loss = functional.cross_entropy(model.logits(given, kept), wanted[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(part)
            curve.append(total / len(wanted))
            if not math.isfinite(curve[-1]):
                _restore(parameters, before)
                model.eval()
                raise _diverged(epoch)
    model.eval()
    return curve


def predict(model: Fusion, rows: Mapping[str, Any], *, cache: VectorCache | None = None) -> NDArray[np.float32]:
    """Probabilities (n, classes)."""
    prepared = _prepared(model, rows, None)
    cache = cache or VectorCache()
    model.eval()
    with torch.inference_mode():
        present = torch.stack([model.encoder(name).present(prepared[name]) for name in model.names], 1)
        known = [torch.from_numpy(cache.vectors(model.encoder(name), prepared[name])) for name in model.names]
        found: NDArray[np.float32] = torch.softmax(model.logits(known, present), 1).numpy()
    return found


def dropped(present: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """`present` (n, m) without what falls out by chance; a row keeps one of what it has."""
    luck = torch.rand(present.shape, generator=generator)
    last = torch.where(present, luck, -1.0).argmax(1)
    kept = present & (luck >= share)
    return kept | (present & functional.one_hot(last, present.shape[1]).bool())


def _classes(model: Fusion, labels: Sequence[str]) -> Tensor:
    number = {label: k for k, label in enumerate(model.labels)}
    if unknown := [label for label in labels if label not in number]:
        raise InvalidInput(
            f"The label {unknown[0]!r} is none of {some_of(model.labels)}.",
            code="UNKNOWN_LABEL",
            next_action="Name all classes where the model is made: Fusion(encoders, labels).",
        )
    if len(set(labels)) < 2:
        raise InvalidInput(
            f"All {len(labels)} rows are of one class." if len(labels) else "There are no rows.",
            code="ONE_CLASS",
            next_action="Give rows of two classes or more.",
        )
    return torch.tensor([number[label] for label in labels])


def _warn_of_unseen(model: Fusion, labels: Sequence[str]) -> None:
    there = set(labels)
    if never := [label for label in model.labels if label not in there]:
        warnings.warn(
            f"{len(never):,} of {len(model.labels):,} classes have no row to learn from, and will hardly ever be"
            f" answered: {some_of(never)}. Give rows of them, or leave them out of Fusion(encoders, labels).",
            stacklevel=3,
        )


def _prepared(model: Fusion, rows: Mapping[str, Any], count: int | None) -> dict[str, Tensor]:
    if set(rows) != set(model.names):
        raise _wrong_rows(f"Rows are given of {sorted(rows)}, the model has encoders of {sorted(model.names)}")
    prepared = {name: model.encoder(name).prepared(rows[name]) for name in model.names}
    lengths = {name: len(batch) for name, batch in prepared.items()}
    if len(set(lengths.values()) | ({count} if count is not None else set())) > 1:
        raise _wrong_rows(f"There are {lengths} rows" + (f" and {count} labels" if count is not None else ""))
    return prepared


def _known(model: Fusion, name: str, prepared: Tensor, cache: VectorCache) -> Tensor | None:
    """What a frozen encoder says of all rows; None for one that is trained. Scaled by what it says before."""
    encoder = model.encoder(name)
    vectors = torch.from_numpy(cache.vectors(encoder, prepared))
    model.scale_by(name, vectors, encoder.present(prepared))
    return vectors if is_frozen(encoder) else None


def _optimizer(model: Fusion, settings: Fit) -> torch.optim.AdamW:
    inside = [parameter for parameter in model.encoders.parameters() if parameter.requires_grad]
    of_encoders = {id(parameter) for parameter in model.encoders.parameters()}
    on_top = [parameter for parameter in model.parameters() if id(parameter) not in of_encoders]
    groups = [{"params": on_top, "lr": settings.rate}, {"params": inside, "lr": settings.encoder_rate}]
    return torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=settings.decay)


def _restore(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def _diverged(epoch: int) -> JobFailed:
    return JobFailed(
        f"The loss is no number any more in epoch {epoch + 1}.",
        code="DIVERGED",
        next_action="Train with a smaller rate, or look for values in the rows that are far too large.",
    )


def _wrong_rows(what: str) -> InvalidInput:
    return InvalidInput(
        f"{what}.", code="WRONG_ROWS", next_action="Give each encoder as many rows as there are labels, by its name."
    )
