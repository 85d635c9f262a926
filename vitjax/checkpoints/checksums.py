"""Checksums of arrays, which detect flipped bits on the disk.

A checksum is the sum of the array's bits, read as unsigned words, modulo 2**32. It is
computed where the array is stored, and does not depend on its sharding.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.trees import flatten_with_names

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}  # by itemsize


def _sum(x: jax.Array) -> jax.Array:
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(x, _WORDS[x.dtype.itemsize])
    return jnp.sum(words, dtype=jnp.uint32)


@jax.jit
def _sums(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([_sum(x) for x in leaves])


def _sum_in_numpy(x: np.ndarray) -> int:
    words = np.frombuffer(x.tobytes(), f"u{min(x.itemsize, 4)}")
    return int(np.sum(words, dtype=np.uint32))


def checksums(tree: Any) -> dict[str, int]:
    """Return the checksum of each leaf by name. Waits for the arrays.

    Trees of numpy arrays are summed in numpy: JAX may not have their dtype.
    """
    names, leaves = zip(*flatten_with_names(tree), strict=True)
    if all(isinstance(x, np.ndarray) for x in leaves):
        sums = [_sum_in_numpy(x) for x in leaves]
    else:
        sums = np.asarray(jax.device_get(_sums(list(leaves))))
    return dict(zip(names, map(int, sums), strict=True))


def changed(tree: Any, expected: dict[str, int]) -> list[str]:
    """Return the names of the leaves whose checksum differs from `expected`."""
    found = checksums(tree)
    names = found.keys() | expected.keys()
    return sorted(n for n in names if found.get(n) != expected.get(n))
