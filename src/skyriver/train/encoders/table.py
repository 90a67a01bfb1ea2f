"""Columns of a table as a modality like others."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skyriver.core.errors import InvalidInput
from skyriver.train.encoders.encoder import Encoder


class TableEncoder(Encoder):
    """Takes float32 (n, columns), NaN where a value is missing; gives (n, 2 columns): each as distances from its mean
    in standard deviations, 0 for a missing one, and whether it is missing. `fit` it on the training rows."""

    kind = "table"

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns, self.width = columns, 2 * columns
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("deviation", torch.ones(columns))
        self.eval()

    def fit(self, rows: Any) -> TableEncoder:
        values = self.prepared(rows).double()
        known = ~values.isnan()
        count = known.sum(0).clamp(min=1)
        mean = torch.where(known, values, 0.0).sum(0) / count
        variance = torch.where(known, (values - mean) ** 2, 0.0).sum(0) / count
        self.mean = mean.float()
        self.deviation = torch.where(variance > 0, variance.sqrt(), 1.0).float()
        return self

    def prepared(self, rows: Any) -> Tensor:
        values = np.asarray(rows, np.float32)
        if values.ndim != 2 or values.shape[1] != self.columns or bool(np.isinf(values).any()):
            raise InvalidInput(
                f"The table is {values.shape}{' with infinite values' if np.isinf(values).any() else ''};"
                f" finite numbers (n, {self.columns}) are wanted, NaN for a missing one.",
                code="WRONG_SHAPE",
                next_action="Give the columns that it was made for, in their order.",
            )
        return torch.from_numpy(np.require(values, requirements=("C", "W")))

    def present(self, batch: Tensor) -> Tensor:
        return (~batch.isnan()).any(1)

    def blocks(self) -> list[nn.Module]:
        return []

    def forward(self, batch: Tensor) -> Tensor:
        missing = batch.isnan()
        known = torch.where(missing, self.mean, batch)
        return torch.cat([(known - self.mean) / self.deviation, missing.to(batch.dtype)], 1)

    def extra_repr(self) -> str:
        return str(self.columns)
