"""The generator against its authors' answers and against JAX's own."""

import jax
import numpy as np
import pytest
import tensorflow as tf
from jax.extend.random import threefry2x32_p

from input_pipeline.plans import threefry2x32


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
    """Known answers of Random123, the authors' own code."""
    key, counter = (
        tuple(np.array([word], np.uint32) for word in pair) for pair in (key, counter)
    )
    assert tuple(int(word[0]) for word in threefry2x32(key, counter)) == words


@pytest.mark.parametrize("array", [np.asarray, tf.constant, jax.numpy.asarray])
def test_threefry_is_that_of_jax(array):
    words = np.random.default_rng(0).integers(0, 2**32, (4, 500), dtype=np.uint32)
    theirs = threefry2x32_p.bind(*(jax.numpy.asarray(row) for row in words))
    k1, k2, c1, c2 = (array(row) for row in words)
    ours = threefry2x32((k1, k2), (c1, c2))
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(our, np.asarray(their))
