"""Checksums detect every flipped bit, on any placement of an array."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from vitjax.checkpoints.checksums import changed, checksums

DTYPES = (np.float32, ml_dtypes.bfloat16, np.int32, np.uint8, np.bool_)
WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_checksum_is_the_sum_of_the_words(dtype, mesh):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((16, 300)) * 50).astype(dtype)
    words = x.view(WORDS[x.itemsize])
    expected = int(words.astype(np.uint64).sum() % 2**32)
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    assert checksums({"a": x}) == {"a": expected}
    assert checksums({"a": jnp.asarray(x)}) == {"a": expected}
    assert checksums({"a": jax.device_put(x, split)}) == {"a": expected}


def test_each_flipped_bit_is_seen():
    x = np.random.default_rng(1).standard_normal(4).astype(np.float32)
    expected = checksums({"p": {"x": jnp.asarray(x), "y": jnp.zeros(3)}})
    for word in range(4):
        for bit in range(32):
            other = x.copy()
            other.view(np.uint32)[word] ^= np.uint32(1 << bit)
            tree = {"p": {"x": jnp.asarray(other), "y": jnp.zeros(3)}}
            assert changed(tree, expected) == ["p/x"]


def test_a_missing_leaf_is_a_change():
    assert changed({"a": jnp.ones(2)}, {}) == ["a"]
    two = checksums({"a": jnp.ones(2), "b": jnp.ones(2)})
    assert changed({"a": jnp.ones(2)}, two) == ["b"]


def test_numpy_has_dtypes_that_jax_may_lack():
    x = np.array(1.5)  # float64, without dimensions
    [words] = np.frombuffer(x.tobytes(), np.uint64)
    assert checksums({"a": x}) == {"a": int(words >> 32) + int(words & 0xFFFFFFFF)}
