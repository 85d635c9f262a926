"""Compile functions on one image with XLA, where the image's size is known.

XLA makes one pass over the pixels where TensorFlow makes one for each operation, and
looks values up in tables ten times as fast. It may also contract a * b + c to one
operation with one rounding, so the functions here have no product of floats in a sum.
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def applies(image: tf.Tensor) -> bool:
    """Return whether a graph is being traced for images of one known size."""
    return image.shape.is_fully_defined() and not tf.executing_eagerly()


def compiled(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """Return `function(image, ...)`, compiled where `applies`, with the same bits.

    One compilation serves all calls with the same sizes and Python arguments.
    """
    by_xla = tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(image: tf.Tensor, *args: Any) -> tf.Tensor:
        return by_xla(image, *args) if applies(image) else function(image, *args)

    return call
