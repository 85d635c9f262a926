"""The balanced order: every class equally often, every example of a class in turn."""

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline.stream import order
from input_pipeline.stream.balanced import Balanced

COUNTS = {0: 50, 2: 1, 3: 7, 9: 300}  # class -> examples; the classes between have none
LABELS = np.random.default_rng(0).permutation(
    np.repeat(list(COUNTS), list(COUNTS.values()))
)
BLOCKS = 1000


@pytest.fixture(scope="module")
def stream():
    """(visit, index, label) of 1,000 blocks."""
    visit, index = Balanced(LABELS, 3).example_at(np.arange(4 * BLOCKS))
    return visit.numpy(), index.numpy(), LABELS[index.numpy()]


def test_each_block_has_each_class_once_in_random_order(stream):
    blocks = stream[2].reshape(BLOCKS, 4)
    assert (np.sort(blocks, axis=1) == list(COUNTS)).all()
    # Each class is in each place a quarter of the time, with a standard error of 14.
    for label in COUNTS:
        assert (np.abs((blocks == label).sum(0) - 250) < 60).all()


def test_each_class_is_a_stream_of_permutations_of_its_examples(stream):
    visit, index, label = stream
    for one, count in COUNTS.items():
        own = np.flatnonzero(one == LABELS)
        mine, whole = index[label == one], BLOCKS // count * count
        rounds = mine[:whole].reshape(-1, count)
        assert (np.sort(rounds, axis=1) == own).all()
        np.testing.assert_array_equal(visit[label == one], np.arange(BLOCKS) // count)
        if count > 7:
            assert (rounds[0] != rounds[1]).any()
            assert (rounds[0] != own).any()


def test_no_two_positions_share_a_seed(stream):
    seeds = order.example_seed(*stream[:2], seed=3).numpy()
    assert len(np.unique(seeds, axis=0)) == 4 * BLOCKS


def test_a_position_alone_and_in_a_graph_is_the_same(stream):
    balanced = Balanced(LABELS, 3)
    found = tf.function(balanced.example_at)([5, 1234])
    again = balanced.example_at([1234])
    for all_of, two, one in zip(stream, found, again, strict=False):
        assert two.numpy().tolist() == all_of[[5, 1234]].tolist()
        assert one.numpy().tolist() == [all_of[1234]]
    start, stop = balanced.span(int(stream[0][1234]), int(stream[1][1234]))
    assert start <= 1234 < stop
    _, other = Balanced(LABELS, 4).example_at(np.arange(40))
    assert (other.numpy() != stream[1][:40]).any()
