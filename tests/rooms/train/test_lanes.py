"""The order of rows of files: each once an epoch, the same for any number of workers, and read in pieces."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyriver.train.feed.lanes import LANES, LaneOrder, Window
from skyriver.train.feed.windows import Windows
from skyriver.train.spread.shards import rows_of_shard, stretch

BLOCKS = st.lists(st.integers(1, 90), min_size=1, max_size=60)


def order_of(blocks: list[int], batch: int, *, window: int = 2, drop: bool = False, seed: int = 3) -> LaneOrder:
    rows = sum(blocks)
    return LaneOrder(rows, min(batch, rows), 2, seed, drop, tuple(blocks), window)


def whole(order: LaneOrder, step: int) -> np.ndarray:
    return order.rows_of(step, slice(0, order.count(step)))


@given(BLOCKS, st.integers(1, 400), st.integers(1, 5), st.integers(0, 2**63))
def test_each_epoch_has_all_rows_once(blocks: list[int], batch: int, window: int, seed: int) -> None:
    order = order_of(blocks, batch, window=window, seed=seed)
    for epoch in range(2):
        steps = range(epoch * order.steps_of_epoch, (epoch + 1) * order.steps_of_epoch)
        seen = np.concatenate([whole(order, step) for step in steps])
        assert np.array_equal(np.sort(seen), np.arange(order.rows))


@given(BLOCKS, st.integers(1, 400))
def test_with_what_is_too_little_for_a_step_left_out_no_row_comes_twice(blocks: list[int], batch: int) -> None:
    order = order_of(blocks, batch, drop=True)
    seen = np.concatenate([whole(order, step) for step in range(order.steps_of_epoch)])
    assert len(np.unique(seen)) == len(seen) == order.rows // order.batch * order.batch


@given(BLOCKS, st.integers(1, 400), st.sampled_from([1, 2, 3, 5]), st.sampled_from([0, 8]), st.data())
def test_workers_together_have_what_one_has(
    blocks: list[int], batch: int, world: int, shards: int, data: st.DataObject
) -> None:
    order = order_of(blocks, batch)
    step = data.draw(st.integers(0, order.steps - 1))
    count = order.count(step)
    found = []
    for rank in range(world):
        for shard in stretch(rank, world, shards) if shards else [rank]:
            found.append(order.rows_of(step, rows_of_shard(shard, shards or world, count)))
    assert np.array_equal(np.concatenate(found), whole(order, step))


@given(BLOCKS, st.integers(1, 400), st.integers(1, 5), st.sampled_from([1, 2, 3, 5]), st.booleans())
def test_what_is_read_is_what_the_order_names_and_little_of_it_at_once(
    blocks: list[int], batch: int, window: int, world: int, drop: bool
) -> None:
    order = order_of(blocks, batch, window=window, drop=drop)
    starts = np.concatenate([[0], np.cumsum(blocks)])
    readers = [
        Windows(order, lambda p: np.arange(starts[p.block] + p.begin, starts[p.block] + p.end)[:, None] * 1.0, 1)
        for _ in range(world)
    ]
    for step in range(order.steps):
        for rank, reader in enumerate(readers):
            part = rows_of_shard(rank, world, order.count(step))
            if part.start < part.stop:
                assert np.array_equal(reader.take(step, part)[:, 0], order.rows_of(step, part))
    for reader in readers:
        reader.close()
        at_a_step = -(-order.batch // LANES) + 2 * window * max(blocks)
        assert reader.peak_rows <= LANES * (window * max(blocks) + at_a_step) + window * max(blocks)


def test_a_window_holds_few_blocks_and_no_lane_is_read_twice_by_two_workers() -> None:
    order = order_of([100] * 64, 256, window=2)
    for lane in range(LANES):
        window: Window | None = Window(0, lane, 0)
        while window is not None and window.epoch == 0:
            assert len(order.pieces(window)) <= 2
            window = order.after(window)
    read = [0, 0]

    def reading(rank: int) -> Windows:
        def read_piece(piece: object) -> np.ndarray:
            rows = piece.end - piece.begin  # type: ignore[attr-defined]
            read[rank] += rows
            return np.zeros((rows, 1), np.float32)

        return Windows(order, read_piece, 1)

    readers = [reading(0), reading(1)]
    for step in range(order.steps):
        for rank, reader in enumerate(readers):
            reader.take(step, rows_of_shard(rank, 2, order.count(step)))
    for reader in readers:
        reader.close()
    assert read == [order.rows, order.rows]  # of two epochs, half each


def test_a_step_that_is_done_again_has_the_same_rows() -> None:
    order = order_of([40, 7, 90, 90, 3, 55] * 4, 64)
    reader = Windows(order, lambda p: np.full((p.end - p.begin, 1), p.block, np.float32), 1)
    seen = [reader.take(step, slice(0, order.count(step))) for step in range(order.steps)]
    for step in (7, 6, 2, order.steps - 1, 0):
        assert np.array_equal(reader.take(step, slice(0, order.count(step))), seen[step])
    reader.close()


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    order, other = order_of([50] * 40, 100), order_of([50] * 40, 100, seed=4)
    first, second = whole(order, 0), whole(order, order.steps_of_epoch)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, whole(other, 0))


@pytest.mark.parametrize("window", [1, 4])
def test_the_means_of_batches_vary_as_the_module_says(window: int) -> None:
    """Blocks of one kind each (r = 1): 1 / (blocks in reach) of a row's variance, where a random batch has 1 / 64."""
    blocks = [64] * 512
    kind = np.repeat(np.random.default_rng(1).normal(size=512), 64)
    means = []
    for seed in range(2):
        order = LaneOrder(len(kind), 64, 1, seed, False, tuple(blocks), window)
        means += [kind[whole(order, step)].mean() for step in range(order.steps)]
    reach = LANES * window
    assert 0.6 / reach < np.var(means) / np.var(kind) < 1.7 / reach


def test_lanes_do_not_all_read_at_the_same_time() -> None:
    order = order_of([100] * 64, 80, window=2)
    begun = [{c.window for c in order.cuts(step, slice(0, order.count(step)))} for step in range(order.steps_of_epoch)]
    new = [len(after - before) for before, after in pairwise(begun)]
    assert max(new) < LANES
