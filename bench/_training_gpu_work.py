"""What `training_gpu.py` trains: a language model of a size that fills a card, and a small one. Imported by workers
too."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Size:
    layers: int
    width: int
    heads: int
    tokens: int
    words: int
    batch: int
    """Rows of a step, for each device."""

    def flops(self, model: nn.Module) -> float:
        """Of a step on one device, forwards and backwards: six for each weight that multiplies and token, and the
        causal attention (Chowdhery et al., PaLM, 2022, appendix B, of which a causal one needs half)."""
        weights = sum(p.numel() for p in model.parameters()) - self.words * self.width  # the embedding is looked up
        a_token = 6 * weights + 6 * self.layers * self.width * self.tokens
        return float(a_token * self.tokens * self.batch)


SIZES = {"large": Size(12, 2_048, 16, 1_024, 8_192, 16), "small": Size(4, 256, 4, 128, 256, 16)}


class Layer(nn.Module):
    def __init__(self, of: Size) -> None:
        super().__init__()
        self.heads = of.heads
        self.first, self.second = nn.LayerNorm(of.width), nn.LayerNorm(of.width)
        self.into = nn.Linear(of.width, 3 * of.width)
        self.out = nn.Linear(of.width, of.width)
        self.wide, self.narrow = nn.Linear(of.width, 4 * of.width), nn.Linear(4 * of.width, of.width)

    def forward(self, x: Any) -> Any:
        rows, tokens, width = x.shape
        parts = self.into(self.first(x)).view(rows, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(rows, tokens, width))
        return x + self.narrow(nn.functional.gelu(self.wide(self.second(x))))


class Language(nn.Module):
    def __init__(self, of: Size) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(of.words, of.width), nn.Parameter(torch.zeros(of.tokens, of.width))
        self.layers = nn.ModuleList(Layer(of) for _ in range(of.layers))
        self.norm, self.head = nn.LayerNorm(of.width), nn.Linear(of.width, of.words, bias=False)

    def forward(self, tokens: Any) -> Any:
        x = self.words(tokens) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def data_of(of: Size, rows: int = 512) -> Any:
    return torch.randint(0, of.words, (rows, of.tokens + 1), generator=torch.Generator().manual_seed(2))


def made(of: Size, device: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(1)
    model = Language(of).to(device)
    return model, torch.optim.AdamW(model.parameters(), 3e-4, fused=True)


def less(precision: str) -> AbstractContextManager[Any]:
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    return torch.autocast("cuda", torch.bfloat16) if precision == "bf16" else nullcontext()


def loss_of(model: Any, batch: Any, precision: str) -> Any:
    with less(precision):
        said = model(batch[:, :-1])
        return nn.functional.cross_entropy(said.reshape(-1, said.shape[-1]).float(), batch[:, 1:].reshape(-1))


def train(ctx: Any) -> Any:
    """Ours; writes "seconds committed world" of each step to params["told"], a folder, as its own file."""
    of, precision = SIZES[ctx.params["size"]], ctx.params["precision"]
    model, optimizer = made(of, ctx.device)
    ctx.state(model, optimizer)
    data, batch = data_of(of), of.batch * int(ctx.params.get("batches", 1))
    epochs = -(-int(ctx.params["steps"]) // -(-len(data) // batch))
    written = -1
    with (Path(ctx.params["told"]) / f"{os.getpid()}").open("w", buffering=1) as told:
        for rows in ctx.steps(data, batch, epochs):
            if ctx.committed != written:
                written = ctx.committed
                told.write(f"{time.monotonic()} {written} {ctx.world}\n")
            ctx.backward(loss_of(model, rows[0], precision))
            ctx.step(optimizer)
        torch.cuda.synchronize()
        told.write(f"{time.monotonic()} {ctx.committed} {ctx.world}\n")
    return model


def digest(ctx: Any, model: Any) -> bytes:
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return f"{ctx.committed} {found.hexdigest()}".encode()


def plain(size: str, precision: str, steps: int) -> tuple[float, float]:
    """(seconds of a step of a loop as anybody writes it, floating-point operations of one)."""
    of = SIZES[size]
    model, optimizer = made(of, "cuda")
    data, order = data_of(of), torch.randperm(512)
    for step in range(steps + 5):
        if step == 5:
            torch.cuda.synchronize()
            begun = time.monotonic()
        at = step * of.batch % (512 - of.batch)
        loss_of(model, data[order[at : at + of.batch]].to("cuda", non_blocking=True), precision).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    return (time.monotonic() - begun) / steps, of.flops(model)


def peak(size: int = 8_192, times: int = 20) -> float:
    """Floating-point operations a second of this card's own product of two bf16 matrices of random numbers."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    torch.cuda.synchronize()
    begun = time.monotonic()
    for _ in range(times):
        a @ b
    torch.cuda.synchronize()
    return 2.0 * size**3 * times / (time.monotonic() - begun)
