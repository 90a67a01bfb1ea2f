"""What `training.py` trains: models, data, and loops that write down when each step was done. Imported by workers
too."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from skyriver.train.spread.shards import TreeSum

BATCH = {"mlp": 256, "transformer": 32}
"""Rows of a step, for each of the two workers where there are two."""


class Transformer(nn.Module):
    """Of four layers: classes of sequences of 64 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 128)
        self.place = nn.Parameter(torch.zeros(64, 128))
        layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(128, 4)

    def forward(self, tokens: Any) -> Any:
        return self.head(self.layers(self.embed(tokens) + self.place).mean(1))


def model_of(name: str) -> nn.Module:
    torch.manual_seed(1)
    if name == "transformer":
        return Transformer()
    return nn.Sequential(  # 1.1 million parameters
        nn.Linear(64, 704), nn.ReLU(), nn.Linear(704, 704), nn.ReLU(), nn.Linear(704, 704), nn.ReLU(), nn.Linear(704, 4)
    )


def data_of(name: str, rows: int = 8_192) -> tuple[Any, Any]:
    chance = torch.Generator().manual_seed(2)
    if name == "transformer":
        x = torch.randint(0, 256, (rows, 64), generator=chance)
        return x, (x[:, :8].sum(1) % 4).long()
    x = torch.randn(rows, 64, generator=chance)
    return x, (x[:, :2] > 0).long() @ torch.tensor([1, 2])


def optimizer_of(model: nn.Module) -> Any:
    return torch.optim.Adam(model.parameters(), 1e-3)


def train(ctx: Any) -> Any:
    """Ours; writes "seconds committed world" of each step that this process did to params["told"], a folder, as its own
    file. It ends after params["end_at"] steps, or once the file params["enough"] is there."""
    name = ctx.params["model"]
    model = model_of(name)
    optimizer = optimizer_of(model)
    ctx.state(model, optimizer)
    batch = int(BATCH[name] * float(ctx.params.get("batches", 1)))
    data = data_of(name)
    epochs = -(-int(ctx.params["steps"]) // -(-len(data[0]) // batch))
    written, end_at, enough = None, int(ctx.params.get("end_at", 0)), ctx.params.get("enough")
    with (Path(ctx.params["told"]) / f"{os.getpid()}").open("w", buffering=1) as told:
        for x, y in ctx.steps(data, batch, epochs):
            if ctx.committed != written:
                if written is not None:
                    told.write(f"{time.monotonic()} {ctx.committed} {ctx.world}\n")
                written = ctx.committed
                if ctx.committed + 1 == end_at or (enough and Path(enough).exists()):
                    ctx.end()
            ctx.backward(nn.functional.cross_entropy(model(x), y))
            ctx.step(optimizer)
        told.write(f"{time.monotonic()} {ctx.committed} {ctx.world}\n")
    return model


def digest(ctx: Any, model: Any) -> bytes:
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return f"{ctx.committed} {found.hexdigest()}".encode()


def plain(name: str, steps: int, parts: int = 1) -> list[float]:
    """Seconds of each step of `plain_steps`."""
    took, loop = [], plain_steps(name, parts)
    for _ in range(steps):
        begun = time.perf_counter()
        next(loop)
        took.append(time.perf_counter() - begun)
    return took


def plain_steps(name: str, parts: int = 1, *, tree: bool = False) -> Iterator[None]:
    """A loop as anybody writes it, for ever, whose gradient is added up over `parts` batches; `tree`: in pairs, pairs
    of pairs and so on, the least that the same bits on any number of workers take."""
    model, (x, y) = model_of(name), data_of(name)
    optimizer, parameters, rows = optimizer_of(model), list(model.parameters()), BATCH[name]
    size, order, at = rows // parts, torch.randperm(len(x)), 0
    while True:
        sums: TreeSum[list[Any]] = TreeSum(_added)
        for part in range(parts):
            at = (at + size) % (len(x) - size)
            loss = nn.functional.cross_entropy(model(x[order[at : at + size]]), y[order[at : at + size]])
            (loss / parts).backward()
            if tree and part % 2:
                sums.push(part - 1, 2, [p.grad for p in parameters])
                for parameter in parameters:
                    parameter.grad = None
        if tree:
            for parameter, gradient in zip(parameters, sums.whole() or (), strict=True):
                parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield


def our_steps(ctx: Any, name: str) -> Iterator[None]:
    """The same on one worker, for as long as anybody asks for steps."""
    model, done = model_of(name), 0
    optimizer = optimizer_of(model)
    ctx.state(model, optimizer)
    for x, y in ctx.steps(data_of(name), BATCH[name], 1_000_000):
        if ctx.committed != done:
            done = ctx.committed
            yield
        ctx.backward(nn.functional.cross_entropy(model(x), y))
        ctx.step(optimizer)


def _added(left: list[Any], right: list[Any]) -> list[Any]:
    with torch.no_grad():
        torch._foreach_add_(left, right)
    return left
