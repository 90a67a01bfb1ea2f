"""LoRA: a frozen matrix W and a trained low-rank one beside it, W + alpha / rank * B A (Hu et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from skyriver.core.errors import InvalidInput


class LoraLinear(nn.Module):
    """Gives what `base` gives until B, which starts at zero, is trained."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.a = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, given: Tensor) -> Tensor:
        beside = functional.linear(functional.linear(given, self.a), self.b)
        whole: Tensor = self.base(given) + self.scale * beside
        return whole

    def merged(self) -> nn.Linear:
        with torch.no_grad():
            self.base.weight += self.scale * (self.b @ self.a)
        return self.base


def add_lora(
    module: nn.Module, *, rank: int = 8, alpha: float = 16.0, targets: Sequence[str] = ("query", "value"), seed: int = 0
) -> int:
    """Freezes `module`, and puts matrices to be trained beside its linear layers called one of `targets`; returns how
    many values are trained. Raises InvalidInput (BAD_LORA)."""
    places = [
        (parent, name)
        for parent in list(module.modules())
        for name, child in parent.named_children()
        if name in targets and isinstance(child, nn.Linear)
    ]
    if not places:
        raise _bad(f"There is no linear layer called {' or '.join(targets)}", "Name layers that the encoder has.")
    if is_adapted(module):
        raise _bad("It has LoRA matrices already", "Call merge_lora(encoder) first.")
    smallest = min(min(_linear(parent, name).weight.shape) for parent, name in places)
    if not 1 <= rank <= smallest:
        raise _bad(f"rank is {rank}, from 1 to {smallest} is possible", "Give rank=8, or less for a narrow encoder.")
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parent, name in places:
            setattr(parent, name, LoraLinear(_linear(parent, name), rank, alpha))
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def merge_lora(module: nn.Module) -> None:
    """Adds the trained matrices to the frozen ones, which stand alone again: nothing is slower where it is served."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLinear):
                setattr(parent, name, child.merged())


def is_adapted(module: nn.Module) -> bool:
    return next(_adapted(module), None) is not None


def _adapted(module: nn.Module) -> Iterator[LoraLinear]:
    return (part for part in module.modules() if isinstance(part, LoraLinear))


def _linear(parent: nn.Module, name: str) -> nn.Linear:
    found: nn.Linear = getattr(parent, name)
    return found


def _bad(what: str, action: str) -> InvalidInput:
    return InvalidInput(f"{what}.", code="BAD_LORA", next_action=action)
