"""Plans: the random draws for one image, made before any op is applied to it.

A plan is a few uint32 words, threefry-2x32 of an example's seed: the same bits in
numpy, TensorFlow and JAX, for one example or for a batch of them. A policy, such as
randaug, reads its plan and applies it. Applying is deterministic, so an image can be
made again, elsewhere or later, and explained.

Threefry-2x32 (Salmon et al. 2011) is a counter-based generator of random bits, the one
behind JAX's keys. It is written here in operators alone, so that its bits are the same
for arrays of numpy, TensorFlow and JAX.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_FLIPS = 0x666C6970  # "flip"


class Policy(NamedTuple):
    """A random augmentation in two parts: a plan of `words` words, and its use."""

    words: int  # at least 1: tf.data crashes on batches of empty tensors
    # fn(image uint8 [h, w, c], plan uint32 [words]) -> image, in graph or eagerly.
    apply: Callable[[Any, Any], Any]
    # fn(plan, a numpy uint32 [words]) -> a line per step, such as "Rotate -30 degrees".
    explain: Callable[[np.ndarray], list[str]]
    # All images of a batch share one plan.
    per_batch: bool = False


def threefry2x32(key: tuple, counter: tuple) -> tuple:
    """Return two words of 32 random bits per counter, by 20 rounds of threefry-2x32.

    `key` and `counter` are pairs of uint32 arrays that broadcast, of numpy, TensorFlow
    or JAX, or of ints below 2**32 together with such arrays: only operators are used.
    It is a bijection of the counter for a fixed key.
    """
    keys = (*key, key[0] ^ key[1] ^ _PARITY)
    x, y = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for by in _ROTATIONS[group % 2]:
            x = x + y
            # Rotate to the left: the two products have no bit in common.
            y = (y * 2**by + y // 2 ** (32 - by)) ^ x
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + (group + 1)
    return x, y


def draw(seed: tuple, op: int, words: int) -> list:
    """Return the plan of the op at place `op` of a preprocessing spec: `words` arrays.

    `seed` is the two uint32 words of an example's seed, or two arrays of them, of
    numpy, TensorFlow or JAX; each word of the plan has their shape. Two random bits of
    plans are independent unless seed, op and place in the plan are the same.
    """
    plan = []
    for block in range(-(-words // 2)):
        # Zeros of the seed's type: threefry needs one array in each pair.
        zero = seed[0] - seed[0]
        plan += threefry2x32(seed, (zero + op, zero + block))
    return plan[:words]


def coin(seed: tuple, nth: int = 0) -> Any:
    """Return 0 or 1, a uint32, for the `nth` flip_lr of a preprocessing spec.

    `seed` is as in `draw`. The coin does not depend on the op's place in the spec, so a
    flip is the same on the host as in the step, whatever else either spec contains.
    """
    return draw(seed, _FLIPS, nth + 1)[nth] % 2


def uniform(word: Any, n: Any, low: int, bits: int = 16) -> Any:
    """Return an integer in 0 ... n - 1 from bits low ... low + bits - 1 of plan words.

    Each integer has its share to within n / 2**bits. `n`, an int or a uint32, is at
    most 2**(32 - bits).
    """
    return (word // 2**low % 2**bits) * n // 2**bits
