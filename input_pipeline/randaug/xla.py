"""Compile functions of one image by XLA, with the bits that TensorFlow alone gives.

XLA makes one pass over the pixels where TensorFlow makes one for each operation, and
looks values up in tables ten times as fast. It may contract a * b + c to one operation
with one rounding. A function that adds a product of floats therefore passes it through
`rounded`; then the bits are the same.
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

# An int32 that is 0, which a compiler must not know; None where nothing is compiled.
Zero = tf.Tensor | None


def applies(image: tf.Tensor) -> bool:
    """Return whether a graph is being traced for images of one known size."""
    return image.shape.is_fully_defined() and not tf.executing_eagerly()


def compiled(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """Return `function(image, ...)`, compiled by XLA where `applies`.

    One compilation serves all calls with the same sizes and Python arguments.
    """
    by_xla = tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(image: tf.Tensor, *args: Any) -> tf.Tensor:
        return by_xla(image, *args) if applies(image) else function(image, *args)

    return call


def rounded(product: tf.Tensor, zero: Zero) -> tf.Tensor:
    """Return a product of float32, rounded before anything is added to it.

    Changing no bit of it, by a number that only the run knows, keeps a compiler from
    contracting the product and the sum.
    """
    if zero is None:
        return product
    bits = tf.bitwise.bitwise_xor(tf.bitcast(product, tf.int32), zero)
    return tf.bitcast(bits, tf.float32)


def once(make: Callable[[], Any], zero: Zero) -> Any:
    """Return make(), which XLA would else repeat for each use of each of its values."""
    return make() if zero is None else tf.cond(zero == 0, make, make)
