"""The order of examples and their random seeds, as pure functions in the graph.

Positions 0, 1, 2, ... form one global stream that spans the epochs: position p is
example `permutation[epoch](p mod n)` of epoch `p // n`. The permutation and each
example's seed depend on (seed, epoch, index) alone. A run can thus resume from any
position without stored state, and processes need not communicate.

Seeds come from threefry-2x32 (plans.py). It is a bijection of its 64-bit counter for a
fixed key. The counter is (epoch, index), so no two examples of a run share a seed. Orders,
examples and batches have separate keys, which keep their streams apart.
"""

import numpy as np
import tensorflow as tf

from input_pipeline.plans import threefry2x32

_WORD = 0xFFFFFFFF
_ORDER, _EXAMPLE, _BATCH, CLASSES, MEMBERS = range(5)  # the streams
_ROUNDS = 12  # rounds of the shuffle's block cipher; 0.2 us per index


def stream_key(seed: int, stream: int) -> tuple[int, int]:
    """Return the key of one stream; `seed` is any Python int, taken modulo 2**64."""
    high, low, zero, stream_word = np.array(
        [[(seed >> 32) & _WORD], [seed & _WORD], [0], [stream]], np.uint32
    )
    x, y = threefry2x32((high, low), (zero, stream_word))
    return int(x[0]), int(y[0])


def _words(*numbers) -> tuple[tf.Tensor, ...]:
    return tuple(tf.cast(number, tf.uint32) for number in numbers)


def example_at(position, *, seed: int, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return (epoch, index) of positions in the shuffled stream, each an int64[n].

    `position` is an int64[n] of numbers >= 0, `size` the number of examples.
    """
    position = tf.convert_to_tensor(position, tf.int64)
    epoch = tf.math.floordiv(position, size)
    words = threefry2x32(stream_key(seed, _ORDER), _words(epoch, tf.zeros_like(epoch)))
    # The op behind tf.random.experimental.index_shuffle. That function fixes the number
    # of rounds at 4, with which neighbours in the order correlated (0.05 at ImageNet's
    # size). It also pads the seed with the word used here, but along the wrong axis if
    # there are several seeds.
    pad = tf.fill(tf.shape(epoch), tf.constant(498247692, tf.uint32))
    index = tf.raw_ops.RandomIndexShuffle(
        index=tf.math.floormod(position, size),
        seed=tf.stack([pad, *words], axis=-1),
        max_index=tf.constant(size - 1, tf.int64),
        rounds=_ROUNDS,
    )
    return epoch, index


def example_seed(epoch, index, *, seed: int) -> tf.Tensor:
    """Return the int32[n, 2] seeds of the augmentation of examples in an epoch.

    `epoch` and `index` are int64[n] below 2**32; for scalars, the seed is an int32[2].
    """
    words = threefry2x32(stream_key(seed, _EXAMPLE), _words(epoch, index))
    return tf.bitcast(tf.stack(words, axis=-1), tf.int32)


def batch_seed(step, *, seed: int) -> tf.Tensor:
    """Return the int32[n, 2] seeds of the draws that all images of a batch share.

    `step` is an int64[n]; for a scalar, the seed is an int32[2].
    """
    words = _words(tf.math.floordiv(step, 2**32), tf.math.floormod(step, 2**32))
    words = threefry2x32(stream_key(seed, _BATCH), words)
    return tf.bitcast(tf.stack(words, axis=-1), tf.int32)


def local_positions(
    step, *, batch_size: int, process_index: int, process_count: int
) -> tf.Tensor:
    """Return the positions of one process's rows in the batch of `step`, an int64[b].

    Row r of step s is position s * batch_size + r. Process i has the rows i * b to
    (i + 1) * b, where b is batch_size / process_count.
    """
    rows = batch_size // process_count
    first = tf.cast(step, tf.int64) * batch_size + process_index * rows
    return first + tf.range(rows, dtype=tf.int64)
