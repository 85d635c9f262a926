"""The global order and the seeds: permutations, streams, and JAX's generator."""

import jax
import numpy as np
import pytest
import tensorflow as tf
from jax.extend.random import threefry2x32_p

from input_pipeline import order

IMAGENET = 1_281_167


def epochs_of(size, seed, count):
    _, index = order.example_at(np.arange(count * size), seed=seed, size=size)
    return index.numpy().reshape(count, size)


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        (
            (0x13198A2E, 0x03707344),
            (0x243F6A88, 0x85A308D3),
            (0xC4923A9C, 0x483DF7A0),
        ),
    ],
)
def test_threefry_gives_the_published_answers(key, counter, words):
    """The known answers that come with Random123, the authors' own code."""
    assert tuple(int(word) for word in order.threefry2x32(key, counter)) == words


def test_threefry_is_that_of_jax():
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**32, (4, 500), dtype=np.uint32)
    ours = order.threefry2x32((words[0], words[1]), (words[2], words[3]))
    theirs = threefry2x32_p.bind(*(jax.numpy.asarray(row) for row in words))
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(our.numpy(), np.asarray(their))


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


def test_the_permutation_is_that_of_index_shuffle():
    """tf.random.experimental.index_shuffle, one epoch at a time."""
    index = epochs_of(1797, seed=9, count=3)
    for epoch in range(3):
        key = order.threefry2x32((0, 9), (0, 0))
        words = tf.stack(order.threefry2x32(key, (epoch, 0)))
        expected = tf.random.experimental.index_shuffle(
            tf.range(1797, dtype=tf.int64), words, tf.constant(1796, tf.int64)
        )
        np.testing.assert_array_equal(index[epoch], expected)


def test_imagenet_sized_order():
    count = 200_000
    epoch, index = order.example_at(np.arange(count), seed=0, size=IMAGENET)
    index = index.numpy()
    assert not epoch.numpy().any()
    assert len(np.unique(index)) == count
    assert 0 <= index.min() < 100
    assert IMAGENET - 100 < index.max() < IMAGENET
    # Uniform: the counts of 100 equal ranges scatter as chance has them (chi-square,
    # 99 degrees of freedom, standard deviation 14).
    counts = np.bincount(index * 100 // IMAGENET, minlength=100)
    assert 45 < np.sum((counts - count / 100) ** 2) / (count / 100) < 170
    # And neighbours in the data set are not neighbours in the order.
    assert abs(np.corrcoef(index[:-1], index[1:])[0, 1]) < 0.01


def test_first_positions_are_uniform():
    size, count = 11, 4400
    index = epochs_of(size, seed=1, count=count)
    for position in (0, 1, size - 1):
        counts = np.bincount(index[:, position], minlength=size)
        # chi-square with 10 degrees of freedom: above 40 once in 60,000
        assert np.sum((counts - count / size) ** 2) / (count / size) < 40


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
    # Another seed of the run, and the words that orders are made from, are elsewhere.
    others = order.example_seed(epoch, index, seed=1).numpy()
    key = order.threefry2x32((0, 0), (0, 0))
    orders = tf.stack(order.threefry2x32(key, (epoch, index)), -1)
    both = np.concatenate([seeds, others, tf.bitcast(orders, tf.int32)])
    assert len(np.unique(both, axis=0)) == len(both)


def test_example_seed_is_threefry_of_epoch_and_index():
    """As JAX's fold_in defines it, for epoch 0: key(seed), stream, index."""
    seed = order.example_seed([0, 0], [0, 123_456], seed=42).numpy()
    key = jax.random.fold_in(jax.random.key(42), 1)
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
