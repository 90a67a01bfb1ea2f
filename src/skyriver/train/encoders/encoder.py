"""What all encoders have in common: rows of one modality become vectors, and it is seen where there is nothing."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    """`forward` takes a batch as it is fed and gives (n, width); it MUST be a pure function of each row, whatever the
    other rows are (but for the last bits), so that its vectors can be kept and rows can share a run.

    It has no dropout, and its statistics stay as they were trained, also while its weights are tuned.
    """

    kind: str
    width: int

    def prepared(self, rows: Any) -> Tensor:
        """What `forward` takes, of rows as people have them."""
        raise NotImplementedError

    def present(self, batch: Tensor) -> Tensor:
        """bool (n,): where a row has anything to say; elsewhere what `forward` gives is not looked at."""
        raise NotImplementedError

    def blocks(self) -> list[nn.Module]:
        """From the input to the output."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Encoder:
        super().train(False)
        return self

    def digest(self) -> str:
        """Of its weights and of what it does with rows: vectors of equal digests are equal."""
        found = hashlib.sha256(repr(self).encode())
        for name, tensor in sorted(self.state_dict().items()):
            found.update(name.encode())
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()


def device_of(module: nn.Module) -> torch.device:
    return next((tensor.device for tensor in module.state_dict().values()), torch.device("cpu"))
