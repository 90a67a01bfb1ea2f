"""Batches changed as `skyriver.core.spec_augment` says: all of a batch at once, and each row as (seed, epoch, row)
alone decide.

Random numbers are hashes of (seed, epoch, place in the list of augmentations, row, number of the draw), so neither who
has a row nor what is beside it in a batch changes what becomes of it. Only mixup looks at other rows: at those of its
part of the step, which are the same on any number of workers where results are to be the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, assert_never

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import InvalidInput
from skyriver.core.spec_augment import (
    AugmentSpec,
    CropSpec,
    DropTokensSpec,
    FlipSpec,
    JitterSpec,
    MixupSpec,
    NoiseSpec,
)
from skyriver.train.spread.shards import hashed, key

Array = NDArray[Any]
_GREY: Final = np.array([0.299, 0.587, 0.114], np.float32)
"""What red, green and blue add to brightness (ITU-R BT.601)."""


class Draws:
    """Random numbers of the rows of a batch: `of(n)` is the n-th of each, uniform in [0, 1)."""

    def __init__(self, rows: NDArray[np.int64], *of: int) -> None:
        self._rows, self._of, self._drawn = rows.astype(np.uint64), of, 0

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        """(n, *shape)."""
        self._drawn += 1
        state = hashed(self._rows + np.uint64(key(*self._of, self._drawn)))
        if shape:
            inner = hashed(np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64))
            state = hashed(state[:, None] + inner).reshape(-1, *shape)
        return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def below(self, most: int) -> NDArray[np.int64]:
        """Of 0 to most - 1."""
        return (self.uniform() * most).astype(np.int64)

    def normal(self, *shape: int) -> NDArray[np.float64]:
        """By Box and Muller."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(*shape)))
        found: NDArray[np.float64] = radius * np.cos(2.0 * np.pi * self.uniform(*shape))
        return found


def augmented(
    batch: tuple[Array, ...], rows: NDArray[np.int64], specs: Sequence[AugmentSpec], seed: int, epoch: int
) -> tuple[Array, ...]:
    """`batch`: x, and y where there is one, and whatever else; what is changed is new, nothing is written into. `rows`
    are their numbers. Raises InvalidInput (BAD_AUGMENT) where something is not made for such rows."""
    x, *more = batch
    for place, spec in enumerate(specs):
        draws = Draws(rows, seed, epoch, place, 0x617567)
        match spec:
            case CropSpec():
                x = _first(crop(_last(_images(x, spec.kind), spec.channels), spec.pad, draws), spec.channels)
            case FlipSpec():
                x = _first(flip(_last(_images(x, spec.kind), spec.channels), spec.share, draws), spec.channels)
            case JitterSpec():
                x = _first(jitter(_last(_images(x, spec.kind), spec.channels), spec, draws), spec.channels)
            case MixupSpec():
                x, more = mixup(x, more, spec.alpha, draws)
            case DropTokensSpec():
                x = drop_tokens(x, spec, draws)
            case NoiseSpec():
                x = noise(x, spec.std, draws)
            case _:
                assert_never(spec)
    return (x, *more)


def crop(x: Array, pad: int, draws: Draws) -> Array:
    """Images (n, h, w, c). Raises InvalidInput (BAD_AUGMENT) where some would be moved out of sight."""
    n, height, width, _ = x.shape
    if pad >= min(height, width):
        raise _refused(f"crop with pad={pad} leaves nothing of images of {height} x {width}: give it a smaller pad.")
    found = np.zeros_like(x)
    down, right = draws.below(2 * pad + 1) - pad, draws.below(2 * pad + 1) - pad
    places = down * (2 * pad + 1) + right
    order = np.argsort(places, kind="stable")
    for of in np.split(order, np.flatnonzero(np.diff(places[order])) + 1) if n else ():  # those moved alike, at once
        dy, dx = int(down[of[0]]), int(right[of[0]])
        to = slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx))
        at = slice(max(0, dy), height - max(0, -dy)), slice(max(0, dx), width - max(0, -dx))
        found[of, to[0], to[1]] = x[of, at[0], at[1]]
    return found


def flip(x: Array, share: float, draws: Draws) -> Array:
    """Images (n, h, w, c)."""
    found = x.copy()
    of = np.flatnonzero(draws.uniform() < share)
    found[of] = x[of, :, ::-1]
    return found


def jitter(x: Array, spec: JitterSpec, draws: Draws) -> Array:
    """Images (n, h, w, c)."""

    def factor(most: float) -> Array:
        return (1.0 + most * (2.0 * draws.uniform() - 1.0)).astype(np.float32)[:, None, None, None]

    white = 255.0 if x.dtype == np.uint8 else 1.0
    found = x.astype(np.float32) * factor(spec.brightness)
    contrast, mean = factor(spec.contrast), found.mean(axis=(1, 2, 3), keepdims=True)
    found *= contrast
    found += (1.0 - contrast) * mean
    saturation = factor(spec.saturation)
    if x.shape[3] == 3:
        grey = (found @ _GREY)[..., None]
        found *= saturation
        found += (1.0 - saturation) * grey
    np.clip(found, 0.0, white, out=found)
    return np.rint(found).astype(np.uint8) if x.dtype == np.uint8 else found


def mixup(x: Array, more: list[Array], alpha: float, draws: Draws) -> tuple[Array, list[Array]]:
    """With the row that comes next in an order by chance: none with itself."""
    from scipy.special import betaincinv  # LightGBM brings it; none but this needs it

    if not more or not np.issubdtype(more[0].dtype, np.floating):
        raise _refused("mixup mixes labels, which are to be float: numbers, or shares of classes (n, k).")
    if np.issubdtype(x.dtype, np.integer) and x.dtype != np.uint8:
        raise _refused(f"mixup mixes numbers, and x holds {x.dtype}.")
    order = np.argsort(draws.uniform(), kind="stable")
    other = np.empty_like(order)
    other[order] = np.roll(order, -1)
    share = betaincinv(alpha, alpha, draws.uniform()).astype(np.float32)
    share = np.maximum(share, 1.0 - share)  # its own part is the larger one

    def mixed(values: Array) -> Array:
        of = share.reshape(-1, *[1] * (values.ndim - 1))
        found = values * of + values[other] * (1.0 - of)
        whole: Array = np.rint(found) if values.dtype == np.uint8 else found
        return whole.astype(values.dtype)

    return mixed(x), [mixed(more[0]), *more[1:]]


def drop_tokens(x: Array, spec: DropTokensSpec, draws: Draws) -> Array:
    """Tokens (n, length)."""
    if x.ndim != 2 or not np.issubdtype(x.dtype, np.integer):
        raise _refused(f"drop_tokens is for whole numbers (n, length), and x holds {x.dtype} {x.shape[1:]}.")
    dropped = draws.uniform(x.shape[1]) < spec.share
    if spec.keep:
        dropped &= ~np.isin(x, spec.keep)
    return np.where(dropped, np.asarray(spec.token, x.dtype), x)


def noise(x: Array, std: float, draws: Draws) -> Array:
    """Features (n, ...)."""
    if not np.issubdtype(x.dtype, np.floating):
        raise _refused(f"noise is for float features, and x holds {x.dtype}.")
    found: Array = x + (std * draws.normal(*x.shape[1:])).astype(x.dtype)
    return found


def _images(x: Array, kind: str) -> Array:
    if x.ndim != 4 or x.dtype not in (np.uint8, np.float32):
        raise _refused(f"{kind} is for images (n, h, w, c) of uint8 or float32, and x holds {x.dtype} {x.shape[1:]}.")
    return x


def _last(x: Array, channels: str) -> Array:
    return x.transpose(0, 2, 3, 1) if channels == "first" else x


def _first(x: Array, channels: str) -> Array:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if channels == "first" else x


def _refused(message: str) -> InvalidInput:
    return InvalidInput(
        f"augment: {message}", code="BAD_AUGMENT", next_action="Take it out of augment=, or give rows of that form."
    )
