"""Of an application's specification: how training rows are changed and weighed, which never touches the rows that a
model is judged by.

All of it is a function of (seed, epoch, row): who trains again with the same specification and seed has the same rows,
on any number of workers.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from skyriver.core.spec_base import Spec

Channels = Literal["last", "first"]
"""Of images (n, h, w, c), and (n, c, h, w) as torch has them."""


class CropSpec(Spec):
    """Of an image with `pad` black pixels at each side, a part of its own size, anywhere."""

    kind: Literal["crop"] = "crop"
    pad: int = Field(default=4, ge=1, le=512)
    channels: Channels = "last"


class FlipSpec(Spec):
    """A `share` of the images, left to right."""

    kind: Literal["flip"] = "flip"
    share: float = Field(default=0.5, gt=0, le=1)
    channels: Channels = "last"


class JitterSpec(Spec):
    """An image's brightness, contrast and saturation times 1 - b to 1 + b. Of images of uint8 (0 to 255), or float32
    (0 to 1)."""

    kind: Literal["jitter"] = "jitter"
    brightness: float = Field(default=0.2, ge=0, le=1)
    contrast: float = Field(default=0.2, ge=0, le=1)
    saturation: float = Field(default=0.2, ge=0, le=1)
    channels: Channels = "last"


class MixupSpec(Spec):
    """Each row is a mean of itself and of another row of its part of the step, and so is its label; shares are of
    Beta(alpha, alpha) (Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018). Labels are float: numbers, or
    shares of classes (n, k)."""

    kind: Literal["mixup"] = "mixup"
    alpha: float = Field(default=0.2, gt=0, le=100)


class DropTokensSpec(Spec):
    """A `share` of the tokens (n, length) becomes `token`; those in `keep` stay, such as what marks begin and end."""

    kind: Literal["drop_tokens"] = "drop_tokens"
    share: float = Field(default=0.1, gt=0, lt=1)
    token: int = 0
    keep: tuple[int, ...] = ()


class NoiseSpec(Spec):
    """Adds a normal value of deviation `std`, in units of the scaled feature; what is missing stays so."""

    kind: Literal["noise"] = "noise"
    std: float = Field(default=0.05, gt=0, allow_inf_nan=False)


AugmentSpec = Annotated[
    CropSpec | FlipSpec | JitterSpec | MixupSpec | DropTokensSpec | NoiseSpec, Field(discriminator="kind")
]

AUGMENTS: Final = (CropSpec, FlipSpec, JitterSpec, MixupSpec, DropTokensSpec, NoiseSpec)


class MinoritySpec(Spec):
    """More rows of the class of which there are fewer, each between one and one of its `neighbours` nearest (SMOTE:
    Chawla et al., 2002), until there are `ratio` times as many as of the other. Of the training rows alone."""

    ratio: float = Field(default=1.0, gt=0, le=1)
    neighbours: int = Field(default=5, ge=1, le=100)


Weights = Literal["balanced"]
"""Each class counts as much as each other: a row n / (classes * rows of its class)."""
