"""EfficientNet-Lite as an encoder of pictures (Tan and Le 2019; the Lite family has no squeeze-and-excitation, and
ReLU6 for swish), with what comes before it: any size is brought to `side` by a triangle filter that does not alias, and
values from 0 to 255 become (x - 127) / 128, as it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from skyriver.core.errors import InvalidInput
from skyriver.train.encoders.encoder import Encoder

_PARTS: Final = {
    "_expand_conv": "expand",
    "_bn0": "expand_norm",
    "_depthwise_conv": "depth",
    "_bn1": "depth_norm",
    "_project_conv": "project",
    "_bn2": "project_norm",
}
_TOP: Final = {"_conv_stem": "stem", "_bn0": "stem_norm", "_conv_head": "head", "_bn1": "head_norm"}


@dataclass(frozen=True, slots=True)
class Stage:
    """`repeats` blocks to `width` channels, the first with `stride`, each `expand` times as wide inside."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    width: int


@dataclass(frozen=True, slots=True)
class EfficientNetShape:
    stem: int = 32
    stages: tuple[Stage, ...] = (
        Stage(1, 3, 1, 1, 16),
        Stage(2, 3, 2, 6, 24),
        Stage(2, 5, 2, 6, 40),
        Stage(3, 3, 2, 6, 80),
        Stage(3, 5, 1, 6, 112),
        Stage(4, 5, 2, 6, 192),
        Stage(1, 3, 1, 6, 320),
    )
    head: int = 1280


LITE0: Final = EfficientNetShape()


class ImageEncoder(Encoder):
    """Takes pixels uint8 (n, h, w, c), grey (c 1) or RGB (c 3), of any size; gives (n, 1280) for Lite0.

    A smaller `side` is quicker, by its square; it is a multiple of 32, as the strides halve it five times."""

    kind = "image"

    def __init__(self, shape: EfficientNetShape = LITE0, side: int = 224) -> None:
        super().__init__()
        if side < 32 or side % 32:
            raise InvalidInput(
                f"side is {side}, a multiple of 32 is wanted.",
                code="BAD_ENCODER",
                next_action="Give side=224, or a smaller multiple of 32 for small pictures.",
            )
        self.shape, self.side, self.width = shape, side, shape.head
        self.stem, self.stem_norm = _conv(3, shape.stem, 3, 2), _norm(shape.stem)
        blocks: list[_Block] = []
        wide = shape.stem
        for stage in shape.stages:
            for k in range(stage.repeats):
                blocks.append(_Block(wide, stage, stage.stride if k == 0 else 1))
                wide = stage.width
        self.layers = nn.ModuleList(blocks)
        self.head, self.head_norm = _conv(wide, shape.head, 1, 1), _norm(shape.head)
        self.eval()

    def prepared(self, rows: Any) -> Tensor:
        pixels = np.asarray(rows)
        if pixels.ndim == 3:
            pixels = pixels[..., None]
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or 0 in pixels.shape[1:]:
            raise InvalidInput(
                f"Pictures are {pixels.dtype} {pixels.shape}; uint8 (n, height, width, 1 or 3) is wanted.",
                code="WRONG_SHAPE",
                next_action="Give pixels from 0 to 255, all pictures in one size.",
            )
        return torch.from_numpy(np.require(pixels, requirements=("C", "W")))

    def present(self, batch: Tensor) -> Tensor:
        values = batch.flatten(1).to(torch.int32)
        return values.amax(1) > values.amin(1)  # a picture of one colour shows nothing

    def blocks(self) -> list[nn.Module]:
        """The head is a block too: the widest, and the first to be tuned."""
        return [*self.layers, nn.ModuleList([self.head, self.head_norm])]

    def forward(self, batch: Tensor) -> Tensor:
        pixels = batch.to(self.stem.weight.dtype).permute(0, 3, 1, 2)
        down = _resizing(batch.shape[1], self.side, pixels)
        across = _resizing(batch.shape[2], self.side, pixels)
        hidden = ((down @ pixels @ across.T) - 127.0) / 128.0
        hidden = hidden.expand(-1, 3, -1, -1)
        hidden = functional.relu6(self.stem_norm(_same(self.stem, hidden)))
        for block in self.layers:
            hidden = block(hidden)
        hidden = functional.relu6(self.head_norm(self.head(hidden)))
        return hidden.mean((2, 3))

    def extra_repr(self) -> str:
        return f"{self.shape}, {self.side}"

    @staticmethod
    def named(tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors of a file by the names they have here; the classifier is left out."""
        found = {}
        for name, tensor in tensors.items():
            part, _, last = name.rpartition(".")
            if part.startswith("_blocks."):
                number, _, of_block = part[8:].partition(".")
                found[f"layers.{number}.{_PARTS.get(of_block, of_block)}.{last}"] = tensor
            elif part != "_fc":
                found[f"{_TOP.get(part, part)}.{last}"] = tensor
        return found

    def filed(self) -> dict[str, Tensor]:
        parts = {ours: theirs for theirs, ours in _PARTS.items()}
        top = {ours: theirs for theirs, ours in _TOP.items()}
        found = {}
        for name, tensor in self.state_dict().items():
            part, _, last = name.rpartition(".")
            if part in top:
                found[f"{top[part]}.{last}"] = tensor
            else:
                _, number, of_block = part.split(".")
                found[f"_blocks.{number}.{parts[of_block]}.{last}"] = tensor
        return found

    def config(self) -> dict[str, Any]:
        stages = [[s.repeats, s.kernel, s.stride, s.expand, s.width] for s in self.shape.stages]
        return {
            "model_type": "efficientnet-lite",
            "stem": self.shape.stem,
            "stages": stages,
            "head": self.shape.head,
            "side": self.side,
        }


class _Block(nn.Module):
    """An inverted residual (MBConv)."""

    def __init__(self, wide: int, stage: Stage, stride: int) -> None:
        super().__init__()
        inner = wide * stage.expand
        self.residual = stride == 1 and wide == stage.width
        self.expand = _conv(wide, inner, 1, 1) if stage.expand > 1 else None
        self.expand_norm = _norm(inner) if stage.expand > 1 else None
        self.depth, self.depth_norm = _conv(inner, inner, stage.kernel, stride, groups=inner), _norm(inner)
        self.project, self.project_norm = _conv(inner, stage.width, 1, 1), _norm(stage.width)

    def forward(self, given: Tensor) -> Tensor:
        hidden = given
        if self.expand is not None and self.expand_norm is not None:
            hidden = functional.relu6(self.expand_norm(self.expand(hidden)))
        hidden = functional.relu6(self.depth_norm(_same(self.depth, hidden)))
        projected: Tensor = self.project_norm(self.project(hidden))
        return given + projected if self.residual else projected


def _conv(wide: int, to: int, kernel: int, stride: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(wide, to, kernel, stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _same(conv: nn.Conv2d, hidden: Tensor) -> Tensor:
    """With TensorFlow's padding: of an even length halved, one more behind than before."""
    whole = conv.kernel_size[0] - conv.stride[0]
    before, behind = whole // 2, whole - whole // 2
    convolved: Tensor = conv(functional.pad(hidden, (before, behind, before, behind)))
    return convolved


def _resizing(length: int, side: int, like: Tensor) -> Tensor:
    """(side, length): each row weighs the pixels that one of the new ones is made of (a triangle, as wide as a new
    pixel where pixels are lost, and as an old one where they are gained); it sums to 1."""
    new = torch.arange(side, device=like.device).to(like.dtype)
    old = torch.arange(length, device=like.device).to(like.dtype)
    scale = (old.sum() * 0 + length) / side
    reach = scale.clamp(min=1.0)
    centre = ((new + 0.5) * scale).clamp(0.5, float("inf")).minimum(old[-1] + 0.5)
    weights = (1 - (old[None, :] + 0.5 - centre[:, None]).abs() / reach).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def random_image_encoder(shape: EfficientNetShape, *, seed: int, side: int = 32) -> ImageEncoder:
    """One that knows nothing yet: to try code with, or to train from the start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ImageEncoder(shape, side)
