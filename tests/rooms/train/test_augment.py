"""Augmentation: what becomes of a row is decided by (seed, epoch, row) alone, whoever has it and beside whatever."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import skyriver as sr
from skyriver.core.errors import InvalidInput
from skyriver.core.spec_augment import AugmentSpec
from skyriver.train.feed.augment import Draws, augmented

CHANCE = np.random.default_rng(3)
ROWS = np.arange(40, 104)
IMAGES = CHANCE.integers(0, 256, (64, 9, 7, 3), dtype=np.uint8)
FLOATS = (IMAGES / 255).astype(np.float32)
TABLE = CHANCE.normal(size=(64, 5)).astype(np.float32)
TOKENS = CHANCE.integers(0, 50, (64, 12))
Y = (np.arange(64) % 2).astype(np.float32)

EACH: dict[str, tuple[AugmentSpec, Any]] = {
    "crop": (sr.Crop(pad=3), IMAGES),
    "crop of channels first": (sr.Crop(pad=3, channels="first"), np.ascontiguousarray(FLOATS.transpose(0, 3, 1, 2))),
    "flip": (sr.Flip(), IMAGES),
    "flip of floats": (sr.Flip(share=0.9), FLOATS),
    "jitter": (sr.Jitter(), IMAGES),
    "jitter of floats": (sr.Jitter(brightness=0.9), FLOATS),
    "tokens": (sr.DropTokens(share=0.4, token=1), TOKENS),
    "noise": (sr.Noise(std=0.3), TABLE),
}


@pytest.mark.parametrize("name", EACH)
def test_a_row_is_changed_alike_alone_in_another_order_and_among_others(name: str) -> None:
    spec, x = EACH[name]
    before = x.copy()
    whole, y = augmented((x, Y), ROWS, [spec], 5, 2)
    assert whole.shape == x.shape
    assert whole.dtype == x.dtype
    assert not np.array_equal(whole, x)
    assert np.array_equal(x, before)
    assert np.array_equal(y, Y)
    order = CHANCE.permutation(64)
    assert np.array_equal(augmented((x[order], Y), ROWS[order], [spec], 5, 2)[0], whole[order])
    assert np.array_equal(augmented((x[9:10], Y[:1]), ROWS[9:10], [spec], 5, 2)[0], whole[9:10])
    for seed, epoch in ((5, 3), (6, 2)):
        assert not np.array_equal(augmented((x, Y), ROWS, [spec], seed, epoch)[0], whole)


def test_a_crop_is_a_part_of_the_padded_image() -> None:
    (found,) = augmented((IMAGES,), ROWS, [sr.Crop(pad=2)], 1, 0)
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)))
    places = set()
    for row in range(64):
        hits = [
            (dy, dx)
            for dy in range(5)
            for dx in range(5)
            if np.array_equal(padded[row, dy : dy + 9, dx : dx + 7], found[row])
        ]
        assert len(hits) == 1
        places.add(hits[0])
    assert len(places) > 12


def test_some_images_are_turned_and_the_others_are_as_they_were() -> None:
    (found,) = augmented((IMAGES,), ROWS, [sr.Flip(share=0.25)], 1, 0)
    turned = (found == IMAGES[:, :, ::-1]).all(axis=(1, 2, 3))
    assert ((found == IMAGES).all(axis=(1, 2, 3)) | turned).all()
    assert 4 < turned.sum() < 30


def test_jitter_of_nothing_changes_nothing_and_grey_has_no_saturation() -> None:
    nothing = sr.Jitter(brightness=0, contrast=0, saturation=0)
    assert np.array_equal(augmented((IMAGES,), ROWS, [nothing], 1, 0)[0], IMAGES)
    grey = np.repeat(FLOATS[..., :1], 3, axis=3)
    (found,) = augmented((grey,), ROWS, [sr.Jitter(saturation=1.0)], 1, 0)
    assert np.allclose(found, found[..., :1], atol=1e-5)
    assert 0 <= found.min() <= found.max() <= 1


def test_mixup_keeps_the_larger_share_and_the_sum_of_the_labels() -> None:
    shares = np.eye(4, dtype=np.float32)[np.arange(64) % 4]
    x, y, more = augmented((TABLE, shares, Y), ROWS, [sr.Mixup(alpha=0.4)], 1, 0)
    assert np.allclose(y.sum(axis=1), 1.0)
    assert (y[np.arange(64), np.arange(64) % 4] >= 0.5).all()
    assert np.allclose(x.mean(axis=0), TABLE.mean(axis=0), atol=0.5)
    assert np.array_equal(more, Y)
    order = CHANCE.permutation(64)
    again = augmented((TABLE[order], shares[order]), ROWS[order], [sr.Mixup(alpha=0.4)], 1, 0)
    assert np.array_equal(again[0], x[order])


def test_tokens_to_keep_are_kept_and_noise_is_of_its_deviation() -> None:
    (found,) = augmented((TOKENS,), ROWS, [sr.DropTokens(share=0.5, token=0, keep=(7, 8))], 1, 0)
    kept = np.isin(TOKENS, (7, 8))
    assert np.array_equal(found[kept], TOKENS[kept])
    assert 0.4 < (found[~kept] == 0).mean() < 0.65
    wide = np.zeros((400, 50), np.float32)
    wide[3, 4] = np.nan
    (noisy,) = augmented((wide,), np.arange(400), [sr.Noise(std=0.25)], 1, 0)
    assert np.isnan(noisy).sum() == 1
    assert np.nanstd(noisy) == pytest.approx(0.25, rel=0.02)
    assert np.nanmean(noisy) == pytest.approx(0.0, abs=0.01)


def test_draws_are_even_and_do_not_hang_together() -> None:
    draws = Draws(np.arange(20_000), 1, 2)
    first, second = draws.uniform(), draws.uniform()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.03
    assert np.histogram(first, 10, (0, 1))[0].std() < 100
    table = draws.uniform(3)
    assert abs(np.corrcoef(table.T) - np.eye(3)).max() < 0.03


@pytest.mark.parametrize(
    ("spec", "batch", "told"),
    [
        (sr.Crop(), (TABLE,), "crop is for images"),
        (sr.Crop(pad=7), (IMAGES,), "pad=7 leaves nothing of images of 9 x 7"),
        (sr.Crop(pad=20), (IMAGES[:, :8],), "pad=20 leaves nothing of images of 8 x 7"),
        (sr.Jitter(), (IMAGES.astype(np.float64),), "jitter is for images"),
        (sr.Mixup(), (TABLE, Y.astype(np.int64)), "labels, which are to be float"),
        (sr.Mixup(), (TABLE,), "labels, which are to be float"),
        (sr.Mixup(), (TOKENS, Y), "mixup mixes numbers"),
        (sr.DropTokens(), (TABLE,), "whole numbers"),
        (sr.Noise(), (TOKENS,), "float features"),
    ],
    ids=["crop", "wide crop", "wider crop", "jitter", "classes", "alone", "mixed tokens", "tokens", "noise"],
)
def test_rows_of_another_form_are_refused(spec: AugmentSpec, batch: tuple[Any, ...], told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as refused:
        augmented(batch, ROWS, [spec], 1, 0)
    assert refused.value.code == "BAD_AUGMENT"
