"""Control how TensorFlow traces the functions of this package."""

from collections.abc import Callable

import tensorflow as tf


def as_written(function: Callable) -> Callable:
    """Return `function` marked for tf.data to trace without AutoGraph.

    No function here has an `if` or a loop over tensors that AutoGraph would have to
    translate. Without AutoGraph, an op's error message is unchanged, and Python 3.13
    gives no warning about AutoGraph's parser.
    """
    return tf.autograph.experimental.do_not_convert(function)
