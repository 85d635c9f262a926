"""How TensorFlow traces functions of ours."""

from collections.abc import Callable

import tensorflow as tf


def as_written(function: Callable) -> Callable:
    """`function`, which tf.data traces without AutoGraph.

    No function here has an `if` or a loop over tensors that AutoGraph would have to
    translate. Untranslated, an error of an op reads as the op says it, and Python 3.13
    has nothing to warn of in AutoGraph's parser.
    """
    return tf.autograph.experimental.do_not_convert(function)
