"""What is done of a step by whom, and in which order its parts are summed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyriver.train.spread.shards import BLOCK, Order, TreeSum, blocks, key, permuted, rows_of_shard, stretch

POWERS = st.sampled_from([1, 2, 4, 8, 16, 32])


def concatenate(left: str, right: str) -> str:
    return f"({left}+{right})"


@given(POWERS, st.integers(1, 40))
def test_workers_share_the_shards_evenly(shards: int, world: int) -> None:
    of = [stretch(rank, world, shards) for rank in range(world)]
    assert [shard for each in of for shard in each] == list(range(shards))
    assert max(map(len, of)) - min(map(len, of)) <= 1


@given(POWERS, st.integers(1, 12), st.data())
def test_the_sum_has_one_shape_whoever_has_the_shards(shards: int, world: int, data: st.DataObject) -> None:
    empty = data.draw(st.sets(st.integers(0, shards - 1), max_size=shards - 1))

    def leaf(shard: int) -> str | None:
        return None if shard in empty else str(shard)

    alone: TreeSum[str] = TreeSum(concatenate)
    for shard in range(shards):
        alone.push(shard, 1, leaf(shard))
    together: TreeSum[str] = TreeSum(concatenate)
    for rank in range(world):
        own: TreeSum[str] = TreeSum(concatenate)
        for shard in stretch(rank, world, shards):
            own.push(shard, 1, leaf(shard))
        assert [(first, size) for first, size, _ in own.stack] == list(blocks(stretch(rank, world, shards)))
        for first, size, value in own.stack:
            together.push(first, size, value)
    assert together.whole() == alone.whole()


def test_a_tree_adds_halves() -> None:
    tree: TreeSum[str] = TreeSum(concatenate)
    for shard in range(4):
        tree.push(shard, 1, str(shard))
    assert tree.whole() == "((0+1)+(2+3))"


@given(st.integers(1, 3_000), st.integers(1, 700), st.integers(1, 3), st.integers(0, 2**63))
def test_each_epoch_has_all_rows_once(rows: int, batch: int, epochs: int, seed: int) -> None:
    order = Order(rows, min(batch, rows), epochs, seed)
    seen = [order.rows_of(step, slice(0, order.count(step))) for step in range(order.steps)]
    for epoch in range(epochs):
        of = seen[epoch * order.steps_of_epoch : (epoch + 1) * order.steps_of_epoch]
        assert np.array_equal(np.sort(np.concatenate(of)), np.arange(rows))


@given(st.integers(1, 500), st.integers(1, 64), POWERS)
def test_parts_of_a_step_are_its_rows(rows: int, batch: int, shards: int) -> None:
    order = Order(rows, min(batch, rows), 1, seed=7)
    for step in range(order.steps):
        count = order.count(step)
        parts = [order.rows_of(step, rows_of_shard(shard, shards, count)) for shard in range(shards)]
        assert np.array_equal(np.concatenate(parts), order.rows_of(step, slice(0, count)))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_order_is_a_function_of_the_seed_and_the_epoch() -> None:
    of = {seed: Order(1_000, 1_000, 2, seed) for seed in (1, 2)}
    first = of[1].rows_of(0, slice(0, 1_000))
    assert np.array_equal(first, Order(1_000, 1_000, 2, 1).rows_of(0, slice(0, 1_000)))
    assert not np.array_equal(first, of[2].rows_of(0, slice(0, 1_000)))
    assert not np.array_equal(first, of[1].rows_of(1, slice(0, 1_000)))


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (BLOCK - 3, BLOCK), (BLOCK - 3, 2 * BLOCK + 4), (BLOCK, BLOCK)])
def test_an_order_is_one_permutation_in_whatever_stretches_it_is_computed(start: int, stop: int) -> None:
    rows = 3 * BLOCK
    whole = permuted(np.arange(rows, dtype=np.uint64), rows, key(3, 0))
    found = Order(rows, rows, 1, 3).rows_of(0, slice(start, stop))
    assert np.array_equal(found, whole[start:stop])
    found[:] = -1  # it is the caller's: what is asked for later is another one
    assert np.array_equal(Order(rows, rows, 1, 3).rows_of(0, slice(start, stop)), whole[start:stop])


def test_an_order_looks_like_chance() -> None:
    """Where rows land is uniform: of 200 seeds the first row's place, in ten stretches (chi-squared, 9 degrees of
    freedom: 27.9 in one of a thousand), and neighbours stay neighbours no more often than by chance."""
    places = np.array([permuted(np.arange(1_000, dtype=np.uint64), 1_000, key(seed))[:2] for seed in range(2_000)])
    counts = np.bincount(places[:, 0] // 100, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9
    assert (np.abs(places[:, 0] - places[:, 1]) <= 1).mean() < 0.01


@pytest.mark.parametrize("of", [(1,), (1, 0), (0, 1), (2**64 + 1,)], ids=str)
def test_keys_differ(of: tuple[int, ...]) -> None:
    others = {(1,), (1, 0), (0, 1), (2,)} - {of}
    assert (key(*of) in {key(*other) for other in others}) == (of[0] >= 2**64)
