"""Reads ahead of a stream: their order, their number, and their end."""

import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline.sources.ahead import Ahead, Damaged, content_of


def pairs(count):
    indices = tf.data.Dataset.range(count)
    return tf.data.Dataset.zip((indices, indices))


def test_many_reads_come_in_order_and_damage_is_a_value():
    """The later of two reads is often the faster one."""
    rng = np.random.default_rng(0)
    waits = rng.uniform(0, 0.01, 200)

    def read(index):
        time.sleep(waits[index])
        if index == 50:
            raise Damaged("it is cut")
        return b"%d" % index

    found = list(Ahead(read).items(pairs(200), 64).as_numpy_iterator())
    assert [item["index"] for item, _ in found] == list(range(200))
    assert [chance for _, chance in found] == list(range(200))
    for index, (item, _) in enumerate(found):
        damaged = index == 50
        assert item["content"] == (b"" if damaged else b"%d" % index)
        assert item["damage"] == (b"it is cut" if damaged else b"")
    with pytest.raises(tf.errors.InvalidArgumentError, match="it is cut"):
        content_of(found[50][0])


def test_reads_run_ahead_by_their_number_and_end_with_the_reader():
    asked, release = [], threading.Event()

    def read(index):
        asked.append(index)
        if index >= 40:
            release.wait(20)
        return b"x"

    iterator = iter(Ahead(read).items(pairs(1000), 10))
    next(iterator)
    for _ in range(500):  # until the threads have begun them
        if len(asked) >= 20:
            break
        time.sleep(0.01)
    assert 20 <= len(asked) <= 40  # a chunk that is read, one ahead, and no more
    del iterator
    release.set()
    time.sleep(0.2)  # a read that was begun ends
    assert len(asked) <= 40
