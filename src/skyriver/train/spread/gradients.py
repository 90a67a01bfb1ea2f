"""How the parts of a step become one: gradients, what its batches did to the modules' buffers, and what they told.

The objective is a sum over rows, and so are its gradients: a part's count by its share of the step's rows. `Shards`
sums them in one tree, the same bits on any number of workers; `Buckets` in whatever order is quickest, while the
backward pass still runs (Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", 2020).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import torch
from torch import Tensor

from skyriver.core.errors import InvalidInput
from skyriver.train.spread.group import Group
from skyriver.train.spread.shards import TreeSum, stretch

BUCKET_BYTES: Final = 25 << 20
"""As peers have it: large enough that a call costs nothing against what it carries."""


class Parts(Protocol):
    """Of each step: `begin`, then for each of the parts that it says, in order, `start` and, after its backward pass,
    `collect`; `finish` in the end. What `finish` gives are the sums of `extra` over all workers; it leaves the step's
    gradients in the parameters and the step's buffers in the modules. A step that is not finished is forgotten with
    `forget`, or, where it is done again from the same state, broken off."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        """That learn, each once."""
        ...

    def of(self, rank: int, world: int) -> tuple[range, int]:
        """(this worker's parts, all of them)."""
        ...

    @property
    def last(self) -> float:
        """The share of the gradient whose sum begins after the backward pass."""
        ...

    def begin(self, group: Group, mine: range) -> Sequence[int]:
        """Which of this worker's parts are to be done: all, but for those known from when the step was broken off."""
        ...

    def start(self, part: int) -> None: ...
    def collect(self, part: int, weight: float) -> None: ...
    def nothing(self, part: int) -> None:
        """A part without rows."""
        ...

    def finish(self, extra: Sequence[float]) -> list[float]: ...
    def forget(self) -> None: ...
    def break_off(self) -> None: ...


class _Modules:
    """Parameters that learn, and buffers, each once however many modules share it."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        there = list(modules)
        found = {id(p): p for m in there for p in m.parameters() if p.requires_grad}
        self.parameters: list[Tensor] = list(found.values())
        places: dict[int, tuple[torch.nn.Module, str, str]] = {}
        for module in there:
            for prefix, inner in module.named_modules():
                for name, buffer in inner.named_buffers(recurse=False):
                    places.setdefault(id(buffer), (inner, name, f"{prefix}.{name}".lstrip(".")))
        self._places = list(places.values())
        dtypes = {p.dtype for p in self.parameters}
        if not dtypes <= {torch.float32} and not dtypes <= {torch.float64}:
            told = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
            raise InvalidInput(
                f"The parameters that learn are of {told}.",
                code="BAD_PARAMETERS",
                next_action="Keep them as float32 (torch.autocast computes in less), or all as float64.",
            )
        self.dtype = torch.float64 if torch.float64 in dtypes else torch.float32
        self.device = self.parameters[0].device if self.parameters else torch.device("cpu")
        self.before: list[Tensor] = []
        self._every = list({id(p): p for m in there for p in m.parameters()}.values())
        self._learns = [p.requires_grad for p in self._every]

    def numbers(self, values: Sequence[float]) -> Tensor:
        """That travel with the gradients."""
        return torch.tensor(values, dtype=self.dtype, device=self.device)

    @property
    def buffers(self) -> list[Tensor]:
        """As they are now: a module may put another one in its place."""
        return [module._buffers[name] for module, name, _ in self._places]

    def begin(self) -> None:
        """Raises InvalidInput (FROZEN_LATER)."""
        if [p.requires_grad for p in self._every] != self._learns:
            raise InvalidInput(
                "Which parameters learn changed after ctx.state.",
                code="FROZEN_LATER",
                next_action="Set requires_grad before ctx.state; two trainings, one after the other, may differ in it.",
            )
        self.before = [b.detach().clone() for b in self.buffers]
        for parameter in self.parameters:  # one that no optimizer has is not cleared by it
            parameter.grad = None

    def restore(self) -> None:
        for (module, name, _), was in zip(self._places, self.before, strict=True):
            _put(module, name, was)

    def forget(self) -> None:
        self.restore()
        for parameter in self.parameters:
            parameter.grad = None

    def changes(self, weight: float) -> list[Tensor]:
        """By how much a part changed the buffers, for its share of the rows. Raises InvalidInput (BAD_BUFFER)."""
        found = []
        for (_, _, called), now, was in zip(self._places, self.buffers, self.before, strict=True):
            if now.shape != was.shape or (now.dtype == torch.bool and not torch.equal(now, was)):
                raise InvalidInput(
                    f"The buffer {called} changed by something that workers cannot average: "
                    f"{'its shape' if now.shape != was.shape else 'truths'}.",
                    code="BAD_BUFFER",
                    next_action="Keep it as numbers of one shape, or outside of the modules' buffers.",
                )
            same = now == was  # infinities of a mask are no difference
            change = torch.zeros_like(was, dtype=self.dtype)
            if now.dtype != torch.bool and not bool(same.all()):
                change = torch.where(same, change, (now.detach().to(self.dtype) - was.to(self.dtype)) * weight)
            found.append(change)
        return found

    def apply(self, changes: Sequence[Tensor]) -> None:
        for (module, name, _), was, change in zip(self._places, self.before, changes, strict=True):
            change = change.view(was.shape)
            if was.dtype == torch.bool:
                continue
            _put(module, name, was + (change if was.dtype.is_floating_point else change.round()).to(was.dtype))


def _put(module: torch.nn.Module, name: str, value: Tensor) -> None:
    with torch.no_grad():
        now = module._buffers[name]
        if now.shape == value.shape and not now.requires_grad:
            now.copy_(value)
        else:
            module._buffers[name] = value.clone()


class Shards:
    def __init__(self, modules: Iterable[torch.nn.Module], shards: int) -> None:
        self._modules, self._shards = _Modules(modules), shards
        self._tree: TreeSum[list[Tensor]] = TreeSum(_add)
        self._held: tuple[int, list[Tensor]] | None = None
        """An even part and its changes: the gradient of the one after it is added where it lies, which is what the tree
        does, and spares its memory."""
        self._group: Group | None = None
        self._used: list[float] = []
        """Of each parameter, whether it had a gradient: who has none in any part is left alone by its optimizer."""
        self._known: list[tuple[int, int, list[Tensor] | None]] = []
        """(first part, parts, sum) of when the step was broken off; in the step that is being done, those that are
        still to be pushed."""
        self._is_first = True
        """Nothing was computed in this step yet."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        return self._modules.parameters

    def of(self, rank: int, world: int) -> tuple[range, int]:
        return stretch(rank, world, self._shards), self._shards

    @property
    def last(self) -> float:
        return 1.0

    def begin(self, group: Group, mine: range) -> Sequence[int]:
        self._group, self._is_first = group, True
        self._tree, self._held = TreeSum(_add), None
        self._known = [k for k in self._known if k[2] is not None and mine.start <= k[0] and k[0] + k[1] <= mine.stop]
        if not self._known:
            self._used = [0.0] * len(self._modules.parameters)
        self._modules.begin()
        known = {part for first, size, _ in self._known for part in range(first, first + size)}
        return [part for part in mine if part not in known]

    def start(self, part: int) -> None:
        self._push_known(part)
        if not self._is_first:
            self._modules.restore()
        self._is_first = False

    def collect(self, part: int, weight: float) -> None:
        changes = self._modules.changes(weight)
        held, self._held = self._held, None
        if held is not None:  # the backward pass has added the gradient to that of the part before
            before, of_before = held
            self._push(before, 2, _add(of_before, changes))
        elif part % 2 == 0:
            self._held = part, changes
        else:
            self._push(part, 1, changes)

    def nothing(self, part: int) -> None:
        self._push_known(part)
        self._release()
        self._tree.push(part, 1, None)

    def _push_known(self, until: int) -> None:
        """What is known of parts before this one."""
        while self._known and self._known[0][0] < until:
            self._release()
            self._tree.push(*self._known.pop(0))

    def _release(self) -> None:
        """The part that waits for the one after it, which does not come."""
        if self._held is not None:
            part, changes = self._held
            self._held = None
            self._push(part, 1, changes)

    def _push(self, first: int, size: int, changes: list[Tensor]) -> None:
        found = []
        for place, parameter in enumerate(self._modules.parameters):
            if parameter.grad is not None:
                self._used[place] = 1.0
            found.append(parameter.grad if parameter.grad is not None else torch.zeros_like(parameter))
            parameter.grad = None
        self._tree.push(first, size, found + changes)

    def finish(self, extra: Sequence[float]) -> list[float]:
        group, modules = self._group, self._modules
        assert group is not None
        self._push_known(self._shards)
        self._release()
        if group.is_alone:
            summed = self._tree.whole()
            assert summed is not None, "a step has a row at least"
            told, used = list(extra), self._used
        else:
            shapes = [*modules.parameters, *modules.buffers]
            sizes = [t.numel() for t in shapes]
            own: list[Tensor | None] = []
            mine = [*extra, *self._used]
            for _, _, of in self._tree.stack:
                own.append(None if of is None else self._flat(of, mine))
                if of is not None:
                    mine = [0.0] * len(mine)
            like = torch.empty(sum(sizes) + len(mine), dtype=modules.dtype, device=modules.device)
            whole = group.tree_sum(own, self._shards, like)
            *parts, tail = whole.split([*sizes, len(mine)])
            told = tail.tolist()
            told, used = told[: len(extra)], told[len(extra) :]
            summed = [part.view(like.shape) for part, like in zip(parts, shapes, strict=True)]
        for parameter, gradient, any_part in zip(modules.parameters, summed, used, strict=False):
            parameter.grad = gradient if any_part else None
        modules.apply(summed[len(modules.parameters) :])
        return told

    def forget(self) -> None:
        self._known = []
        self._modules.forget()

    def break_off(self) -> None:
        """Sums over parts are the same again, whoever does the others."""
        self._release()
        known = [*self._tree.stack, *self._known]
        self.forget()
        self._known = known

    def _flat(self, of: Sequence[Tensor], extra: Sequence[float]) -> Tensor:
        return torch.cat([*(t.reshape(-1) for t in of), self._modules.numbers(extra)])


class Buckets:
    """Gradients are summed in stretches of BUCKET_BYTES, from the last parameter to the first, each as soon as it and
    all before it are there. `cuts`: micro-batches of a worker's part, the same of all; between two steps it may
    change."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        self._modules = _Modules(modules)
        self._group: Group | None = None
        self.cuts = 1
        self._buckets = list(_in_buckets(self._modules.parameters[::-1]))
        self._bucket_of = {id(p): n for n, bucket in enumerate(self._buckets) for p in bucket}
        self._missing: list[set[int]] = []
        """Of each bucket, the parameters whose gradient is still to come."""
        self._flat: list[Tensor] = []
        self._left = 0
        """Parts whose backward pass is still to come."""
        self._weight = 0.0
        """Of the parts that are done, one after another: so buffers change by all of them."""
        self._changes: list[Tensor] = []
        for parameter in self._modules.parameters:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    @property
    def parameters(self) -> Sequence[Tensor]:
        return self._modules.parameters

    def of(self, rank: int, world: int) -> tuple[range, int]:
        return range(rank * self.cuts, (rank + 1) * self.cuts), world * self.cuts

    @property
    def last(self) -> float:
        sizes = [sum(p.numel() for p in bucket) for bucket in self._buckets]
        return float(sizes[-1] / sum(sizes))

    def begin(self, group: Group, mine: range) -> Sequence[int]:
        self._group, self._left, self._flat, self._weight = group, len(mine), [], 0.0
        self._missing = [{id(p) for p in bucket} for bucket in self._buckets]
        self._changes = []
        self._modules.begin()
        return mine

    def start(self, part: int) -> None: ...

    def collect(self, part: int, weight: float) -> None:
        self._left -= 1
        self._weight += weight
        if not self._left:
            self._changes = self._modules.changes(self._weight)

    def nothing(self, part: int) -> None:
        self.collect(part, 0.0)

    def finish(self, extra: Sequence[float]) -> list[float]:
        group, modules = self._group, self._modules
        assert group is not None
        if group.is_alone:
            modules.apply(self._changes)
            return list(extra)
        used = [float(p.grad is not None) for p in modules.parameters]
        numbers = modules.numbers([*extra, *used])
        rest = torch.cat([*(c.reshape(-1) for c in self._changes), numbers])
        self._send(len(self._buckets))
        group.begin_sum(rest)
        group.finish_sums()
        for bucket, flat in zip(self._buckets, self._flat, strict=True):
            for parameter, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                parameter.grad = part.view(parameter.shape)
        *changes, tail = rest.split([*(b.numel() for b in modules.buffers), len(numbers)])
        modules.apply(changes)
        told: list[float] = tail.tolist()
        for parameter, any_part in zip(modules.parameters, told[len(extra) :], strict=True):
            parameter.grad = parameter.grad if any_part else None
        return told[: len(extra)]

    def forget(self) -> None:
        self._modules.forget()

    def break_off(self) -> None:
        self.forget()

    def _arrived(self, parameter: Tensor) -> None:
        """In the backward pass: its gradient is whole, if this is the last one of the step."""
        if self._group is None or self._group.is_alone or self._left != 1:
            return
        missing = self._missing[self._bucket_of[id(parameter)]]
        if id(parameter) not in missing:
            raise InvalidInput(
                "A batch had two backward passes.",
                code="BACKWARD_TWICE",
                next_action="Add the losses, and call ctx.backward once.",
            )
        missing.remove(id(parameter))
        ready = len(self._flat)
        while ready < len(self._buckets) and not self._missing[ready]:
            ready += 1
        self._send(ready)

    def _send(self, until: int) -> None:
        """Whatever has no gradient adds nothing."""
        assert self._group is not None
        for bucket in self._buckets[len(self._flat) : until]:
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in bucket]
            self._flat.append(torch.cat([g.reshape(-1) for g in gradients]))
            self._group.begin_sum(self._flat[-1])


def _in_buckets(parameters: Sequence[Tensor]) -> Iterable[list[Tensor]]:
    """Of one type each."""
    bucket: list[Tensor] = []
    size = 0
    for parameter in parameters:
        if bucket and (size >= BUCKET_BYTES or bucket[0].dtype != parameter.dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel() * parameter.element_size()
    if bucket:
        yield bucket


def _add(left: list[Tensor], right: list[Tensor]) -> list[Tensor]:
    if left:
        with torch.no_grad():
            torch._foreach_add_(left, right)
    return left
