"""Name examples that cannot be read or decoded.

TensorFlow's error gives the reason but not the example, so a failed batch is made
again, example by example, to find it.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

OpError = tf.errors.OpError  # raised by a failed TensorFlow op


def batches(
    dataset: tf.data.Dataset,
    first_step: int,
    explain: Callable[[int, str], str],
    source: Any,
) -> Iterator[Any]:
    """Yield the batches of a dataset as numpy arrays, from step `first_step` on.

    Raises:
      ValueError: an example failed; the message is `explain(step, reason)`.
      bucket.BucketError: the bucket that `source` reads from failed.
    """
    iterator: Any = dataset.as_numpy_iterator()
    for step in itertools.count(first_step):
        try:
            batch = next(iterator)
        except StopIteration:
            raise_failure(source)  # `ignore_errors` may end the dataset at it
            return
        except tf.errors.OpError as error:
            raise_failure(source)
            raise ValueError(explain(step, reason(error))) from error
        yield batch


def raise_failure(source: Any) -> None:
    """Raise the error of the bucket of a source, if a read has failed; see `ahead`."""
    ahead = getattr(source, "ahead", None)
    if ahead is not None:
        ahead.raise_failure()


def explain(
    what: str,
    why: str,
    pairs: tf.data.Dataset,
    examples: Callable[[tf.data.Dataset], tf.data.Dataset],
    describe: Callable[[int], str],
    cure: str,
) -> str:
    """Return one sentence on a failed batch: which example failed, and why.

    Args:
      what: the name of the batch.
      why: the reason that came with the failure.
      pairs: (index, chance) of the batch's examples, which are tried one by one.
      examples: makes examples from pairs.
      describe: names the example of an index.
      cure: what to do.
    """
    iterator = iter(examples(pairs))
    for number in itertools.count():
        try:
            next(iterator)
        except StopIteration:
            return (
                f"{what} could not be made ({why}), but each of its examples can when "
                "tried again: the disk or the memory may be failing"
            )
        except tf.errors.OpError as error:
            index = int(next(iter(pairs.skip(number)))[0])
            return f"{describe(index)} cannot be read ({reason(error)}); {cure}"
    raise AssertionError("unreachable")


def reason(error: tf.errors.OpError) -> str:
    """Return the message of a TensorFlow error without the names of graph nodes."""
    text = re.sub(
        r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*?\](?: name:)?", " ", error.message or ""
    )
    lines = [" ".join(line.split()) for line in text.splitlines()]
    lines = [line for line in lines if line] or [type(error).__name__]
    # A Python error is followed by a traceback; an error in a tf.function comes after
    # its call stack.
    first = lines[-1 if lines[0].startswith("Graph execution error") else 0]
    # The place in the pipeline: "... with iterator: Iterator::Root::ParallelMapV2: ".
    first = re.sub(r"^Error in user-defined function.*Iterator::\S*: ", "", first)
    first = first.removeprefix("ValueError: ")  # of a numpy_function
    assertion = re.search(r"assertion failed: (.*)", first)
    if assertion:  # its parts come in brackets
        first = re.sub(r"[\[\]]", "", assertion[1])
    # TensorFlow words the same assertion differently outside of a graph.
    first = re.sub(
        r"^Expected '.*' to be true\. Summarized data: b'(.*)'$", r"\1", first
    )
    return first.rstrip(" :;.")
