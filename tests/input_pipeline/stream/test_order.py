"""The global order and the seeds: permutations and streams."""

import jax
import numpy as np
import pytest
import tensorflow as tf

from input_pipeline.stream import order

IMAGENET = 1_281_167


def epochs_of(size, seed, count):
    _, index = order.example_at(np.arange(count * size), seed=seed, size=size)
    return index.numpy().reshape(count, size)


@pytest.mark.parametrize("size", [1, 2, 7, 1797])
def test_each_epoch_is_a_permutation(size):
    for epoch in epochs_of(size, seed=3, count=20):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(size))


def test_epochs_and_seeds_have_different_orders():
    one, two = epochs_of(1797, seed=3, count=2)
    (other,) = epochs_of(1797, seed=4, count=1)
    (high,) = epochs_of(1797, seed=3 + 2**32, count=1)
    for a, b in ((one, two), (one, other), (one, high), (one, np.arange(1797))):
        # Two random permutations agree in one place, on average.
        assert np.sum(a == b) < 10


def test_positions_run_through_the_epochs():
    epoch, index = order.example_at([6, 7, 13, 14], seed=0, size=7)
    assert epoch.numpy().tolist() == [0, 1, 1, 2]
    assert epoch.dtype == index.dtype == tf.int64


def test_the_permutation_depends_on_seed_and_epoch_only():
    """Positions of several epochs at once give what one epoch at a time gives."""
    together = epochs_of(97, seed=9, count=3)
    for epoch in range(3):
        for position in (0, 50, 96):
            _, index = order.example_at([epoch * 97 + position], seed=9, size=97)
            assert index.numpy() == together[epoch, position]


def test_imagenet_sized_order():
    count = 200_000
    epoch, index = order.example_at(np.arange(count), seed=0, size=IMAGENET)
    index = index.numpy()
    assert not epoch.numpy().any()
    assert len(np.unique(index)) == count
    assert 0 <= index.min() < 100
    assert IMAGENET - 100 < index.max() < IMAGENET
    # Uniform: the counts of 100 equal ranges scatter as chance has them (chi-square,
    # 99 degrees of freedom less what drawing without repetition takes: 84 +- 12).
    counts = np.bincount(index * 100 // IMAGENET, minlength=100)
    assert 40 < np.sum((counts - count / 100) ** 2) / (count / 100) < 145
    # And neighbours in the data set are not neighbours in the order.
    assert abs(np.corrcoef(index[:-1], index[1:])[0, 1]) < 0.01


def test_first_positions_are_uniform():
    size, count = 97, 3000
    for place in (0, 1, size - 1):
        positions = np.arange(count) * size + place
        _, index = order.example_at(positions, seed=1, size=size)
        counts = np.bincount(index, minlength=size)
        # chi-square with 96 degrees of freedom: 96 +- 14
        assert 45 < np.sum((counts - count / size) ** 2) / (count / size) < 170


def test_graph_equals_eager():
    def both(position):
        epoch, index = order.example_at(position, seed=5, size=1797)
        return epoch, index, order.example_seed(epoch, index, seed=5)

    position = np.arange(2**33, 2**33 + 500)
    for a, b in zip(both(position), tf.function(both)(position), strict=True):
        np.testing.assert_array_equal(a, b)


def test_example_seeds_do_not_collide():
    epoch, index = np.divmod(np.arange(50 * 1797), 1797)
    seeds = order.example_seed(epoch, index, seed=0).numpy()
    assert seeds.shape == (50 * 1797, 2)
    assert seeds.dtype == np.int32
    assert len(np.unique(seeds, axis=0)) == len(seeds)
    others = order.example_seed(epoch, index, seed=1).numpy()
    both = np.concatenate([seeds, others])
    assert len(np.unique(both, axis=0)) == len(both)


def test_example_seed_is_threefry_of_epoch_and_index():
    """JAX's fold_in is the reference for epoch 0: key(seed), stream, index."""
    seed = order.example_seed([0, 0], [0, 123_456], seed=42).numpy()
    key = jax.random.fold_in(jax.random.key(42), 1)
    alone = order.example_seed(tf.constant(0), tf.constant(123_456), seed=42)
    np.testing.assert_array_equal(alone, seed[1])
    for row, index in zip(seed, (0, 123_456), strict=True):
        expected = jax.random.key_data(jax.random.fold_in(key, index))
        np.testing.assert_array_equal(row.view(np.uint32), expected)


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_rows_of_the_processes_make_the_global_batch(process_count):
    rows = [
        order.local_positions(
            7, batch_size=12, process_index=i, process_count=process_count
        ).numpy()
        for i in range(process_count)
    ]
    np.testing.assert_array_equal(np.concatenate(rows), np.arange(84, 96))
