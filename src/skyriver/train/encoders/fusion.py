"""One model of several modalities, any of which may be missing.

Early fusion puts the vectors of all encoders side by side, with a bit each that says whether there is one and a learned
vector where there is none, before a small network. Late fusion lets each modality say its logits, and takes their mean,
with learned weights, over those that are there. Modalities are left out by chance while it is trained, so that it does
not lean on one alone (Neverova et al. 2016, "ModDrop").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from skyriver.core.errors import InvalidInput
from skyriver.core.names import some_of
from skyriver.train.encoders.encoder import Encoder

How = Literal["early", "late"]


class Fusion(nn.Module):
    """`encoders` by the name of the input each gets; `labels` name the classes. With one encoder it is a head on it.

    `forward` takes a batch an encoder, in their order, and gives probabilities (n, classes).
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        labels: Sequence[str],
        *,
        how: How = "early",
        hidden: int = 64,
        dropout: float = 0.2,
        seed: int = 0,
    ) -> None:
        """`hidden` 0: no layer between the vectors and the classes."""
        super().__init__()
        _check(encoders, labels, how, hidden)
        self.how, self.labels, self.names = how, tuple(labels), tuple(encoders)
        self.encoders = nn.ModuleDict(encoders)
        self.scaling = nn.ModuleDict({name: _Scaling(encoder.width) for name, encoder in encoders.items()})
        widths = {name: encoder.width for name, encoder in encoders.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if how == "early":
                self.absent = nn.ParameterDict(
                    {name: nn.Parameter(torch.zeros(width)) for name, width in widths.items()}
                )
                self.head = _head(sum(widths.values()) + len(widths), hidden, len(labels), dropout)
            else:
                self.heads = nn.ModuleDict({n: _head(w, hidden, len(labels), dropout) for n, w in widths.items()})
                self.weight = nn.Parameter(torch.zeros(len(widths)))
                self.bias = nn.Parameter(torch.zeros(len(labels)))

    def encoder(self, name: str) -> Encoder:
        found = self.encoders[name]
        assert isinstance(found, Encoder)
        return found

    def scale_by(self, name: str, vectors: Tensor, present: Tensor) -> None:
        """Takes the mean and the size of a modality's vectors from rows that have it."""
        scaling = self.scaling[name]
        assert isinstance(scaling, _Scaling)
        scaling.fit(vectors[present] if bool(present.any()) else vectors)

    def logits(self, vectors: Sequence[Tensor], present: Tensor) -> Tensor:
        """`vectors` of each encoder (n, width), `present` bool (n, encoders): (n, classes)."""
        there = present.to(vectors[0].dtype)
        scaled = [self.scaling[name](vector) for name, vector in zip(self.names, vectors, strict=True)]
        if self.how == "early":
            parts = [
                torch.where(present[:, k : k + 1], vector, self.absent[name])
                for k, (name, vector) in enumerate(zip(self.names, scaled, strict=True))
            ]
            fused: Tensor = self.head(torch.cat([*parts, there], 1))
            return fused
        said = torch.stack([self.heads[name](v) for name, v in zip(self.names, scaled, strict=True)], 1)
        weight = there * torch.softmax(self.weight, 0)
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-9)
        return (said * weight[:, :, None]).sum(1) + self.bias

    def forward(self, *batches: Tensor) -> Tensor:
        encoders = [self.encoder(name) for name in self.names]
        present = torch.stack([e.present(b) for e, b in zip(encoders, batches, strict=True)], 1)
        return torch.softmax(self.logits([e(b) for e, b in zip(encoders, batches, strict=True)], present), 1)


class _Scaling(nn.Module):
    """Vectors of any encoder come to a mean of 0 and the same size, whatever their width is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.size: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("size", torch.ones(()))

    def fit(self, vectors: Tensor) -> None:
        self.mean = vectors.mean(0)
        self.size = ((vectors - self.mean).square().sum(1).mean().sqrt() / 4).clamp(min=1e-6)

    def forward(self, vectors: Tensor) -> Tensor:
        return (vectors - self.mean) / self.size


def _head(width: int, hidden: int, classes: int, dropout: float) -> nn.Module:
    if not hidden:
        return nn.Linear(width, classes)
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes))


def _check(encoders: Mapping[str, Encoder], labels: Sequence[str], how: str, hidden: int) -> None:
    if not encoders or how not in ("early", "late") or hidden < 0:
        raise _bad(f"Encoders {sorted(encoders)}, how={how!r}, hidden={hidden} make no model")
    if wrong := [name for name in encoders if not name.isidentifier()]:
        raise _bad(f"An input cannot be called {wrong[0]!r}")
    if len(labels) < 2 or len(set(labels)) != len(labels) or not all(isinstance(label, str) for label in labels):
        raise _bad(f"The labels {some_of([repr(label) for label in labels])} are no names of two or more classes")


def _bad(what: str) -> InvalidInput:
    return InvalidInput(
        f"{what}.",
        code="BAD_FUSION",
        next_action='Write Fusion({"text": encoder, ...}, ["one class", "the other"], how="early" or "late").',
    )
