"""What a training function gives with `ctx.state`: all that a worker which joins must be given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from skyriver.core.errors import InvalidInput


class State:
    """Modules, optimizers, schedulers and whatever else has `state_dict` and `load_state_dict`, by their names."""

    def __init__(self) -> None:
        self.modules: dict[str, torch.nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._schedulers: dict[str, Any] = {}
        self._more: dict[str, Any] = {}
        self._kinds: dict[str, dict[str, Any]] = {
            "modules": self.modules,
            "optimizers": self.optimizers,
            "schedulers": self._schedulers,
            "more": self._more,
        }

    def add(self, things: Mapping[str, Any], device: torch.device) -> None:
        """Raises InvalidInput (NO_STATE, NO_DEVICE)."""
        for name, thing in things.items():
            self._of_kind(thing)[name] = thing
        for what, there in (("module", self.modules), ("optimizer", self.optimizers)):
            if not there:
                raise InvalidInput(
                    f"ctx.state got no {what}.", code="NO_STATE", next_action="Give both: ctx.state(model, optimizer)."
                )
        elsewhere = {p.device.type for m in self.modules.values() for p in m.parameters()} - {device.type}
        if elsewhere:
            raise InvalidInput(
                f"The model is on {', '.join(sorted(elsewhere))}, and this worker's device is {device}.",
                code="NO_DEVICE",
                next_action="model.to(ctx.device), before its optimizer is made; batches come there by themselves.",
            )

    def check_steps(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Whether it is one to step: None, or the only one there is. Raises InvalidInput (NO_STATE)."""
        known = list(self.optimizers.values())
        if optimizer is not None and (len(known) > 1 or known[0] is not optimizer):
            told = "one of several optimizers" if len(known) > 1 else "an optimizer that ctx.state was not given"
            raise InvalidInput(
                f"ctx.step got {told}.",
                code="NO_STATE",
                next_action="Write ctx.step(): all of ctx.state step together.",
            )

    @property
    def has_batch_statistics(self) -> bool:
        every = [inner for module in self.modules.values() for inner in module.modules()]
        return any(isinstance(inner, torch.nn.modules.batchnorm._BatchNorm) for inner in every)

    def update(self) -> None:
        """With the gradients that there are."""
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for scheduler in self._schedulers.values():
            scheduler.step()

    def snapshot(self) -> dict[str, Any]:
        """By kind and name; the tensors are those that the training changes."""
        return {
            kind: {name: thing.state_dict() for name, thing in things.items()} for kind, things in self._kinds.items()
        }

    def load(self, state: Mapping[str, Any]) -> None:
        for kind, things in self._kinds.items():
            for name, thing in things.items():
                thing.load_state_dict(state[kind][name])

    def _of_kind(self, thing: Any) -> dict[str, Any]:
        if isinstance(thing, torch.nn.Module):
            return self._kinds["modules"]
        if isinstance(thing, torch.optim.Optimizer):
            return self._kinds["optimizers"]
        if isinstance(thing, torch.optim.lr_scheduler.LRScheduler):
            return self._schedulers
        if hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict"):
            return self._more
        raise InvalidInput(
            f"ctx.state: {type(thing).__name__} has no state_dict and load_state_dict.",
            code="NO_STATE",
            next_action="Give modules, optimizers, schedulers; anything else with these two methods.",
        )
