"""Make numpy batches of a config's input section, the same for any number of processes.

Training: the global stream of order.py, cut into batches of `batch_size` rows; each
process reads only its rows. Evaluation: every example once, in order, padded. Both give
dicts of numpy arrays: the features that the preprocessing string `pp` leaves, stacked.
"""

import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from input_pipeline import ops, sources
from input_pipeline.sources import relabel
from input_pipeline.spec import did_you_mean
from input_pipeline.stream import batching, memory, skipping
from input_pipeline.stream.evaluate import EvalData
from input_pipeline.stream.train import TrainData


def hide_accelerators() -> None:
    """Hide all accelerators from TensorFlow, which would take their memory from JAX."""
    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)


def make_train(
    *,
    data: Any,
    batch_size: int,
    seed: int,
    pp: str = "",
    start_step: int = 0,
    sampling: str | None = None,
    shuffle_buffer_size: int | None = None,
    cache_raw: bool = False,
    skip_errors: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    num_parallel_calls: int | None = None,
    prefetch: int = 2,
    reads_in_flight: int = 256,
) -> tuple[TrainData, int]:
    """Return one process's training batches, and the number of examples of an epoch.

    Args:
      data: the keyword arguments of `sources.open_source`, a dict or ConfigDict.
      batch_size: rows of a global batch; row r of step s is position
        s * batch_size + r of the global stream.
      seed: of orders and augmentations.
      pp: the preprocessing of one example, in the language of `ops`.
      start_step: the step whose batch comes first; see also `TrainData.from_step`.
      sampling: None has every example once in an epoch. "balanced" has every class
        equally often; an epoch remains as many examples. See `stream.balanced`.
      shuffle_buffer_size: None shuffles globally. A number selects big_vision's method:
        each process reads its part in order through a shuffle buffer of that many
        undecoded examples; such a stream cannot resume where it was.
      cache_raw: with shuffle_buffer_size, keep all undecoded examples in memory;
        refused if they would take more than 80 % of the available memory.
      skip_errors: replace an example that cannot be read or decoded by the first of the
        next seven in the order that can be; `TrainData.skipped` counts the replaced.
        False stops with an error that names the example.
      process_index: the process whose rows these are, of `process_count`.
      process_count: the number of processes that share each global batch equally.
      num_parallel_calls: examples processed at a time; None is twice the CPU cores.
      prefetch: batches made ahead.
      reads_in_flight: examples read at a time from a bucket.

    Raises:
      DataNotFound: the data set is not on this machine.
      ValueError: unknown names, damaged files, or a batch_size that is no multiple of
        process_count.
    """
    hide_accelerators()
    _check_numbers(num_parallel_calls, prefetch, shuffle_buffer_size, reads_in_flight)
    rows = batching.Rows(batch_size, process_index, process_count)
    preprocess = ops.get_preprocess_fn(pp)
    _check_sampling(sampling, shuffle_buffer_size)
    _warn(shuffle_buffer_size, cache_raw)
    source = _open(data, sampling, tell=process_index == 0)
    if shuffle_buffer_size is not None and cache_raw:
        memory.check_cache(source.nbytes(), memory.available(), process_count)
    stream = TrainData(
        source=source,
        preprocess=preprocess,
        rows=rows,
        seed=seed,
        start_step=start_step,
        sampling=sampling,
        shuffle_buffer_size=shuffle_buffer_size,
        cache_raw=cache_raw,
        threads=_threads(num_parallel_calls),
        prefetch=prefetch,
        reads_in_flight=reads_in_flight,
    )
    if skip_errors:
        stream = skipping.skip_errors(stream)
    return stream, stream.total_examples


def make_eval(
    *,
    data: Any,
    batch_size: int,
    pp_fn: str = "",
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    num_parallel_calls: int | None = None,
    prefetch: int = 2,
) -> tuple[EvalData, int]:
    """Return one process's evaluation batches, and their number.

    Row r of step s is example s * batch_size + r. The last batch is padded with zeros;
    `_mask`, float32, is 1 for an example and 0 for padding. The arguments and errors
    are those of `make_train`; `pp_fn` is its `pp`.

    Labels are mapped to those of the model by class name, unless pp_fn looks them up
    itself; the stream's `notices` report the mapping. `match_classes` in `data` selects
    another method: see `relabel.matched`.

    Args:
      class_names: of the model, in the order of its labels; None: unknown.
      num_classes: of the model; None: any.
    """
    hide_accelerators()
    _check_numbers(num_parallel_calls, prefetch)
    rows = batching.Rows(batch_size, process_index, process_count)
    preprocess = ops.get_preprocess_fn(pp_fn)
    section = dict(_section(data))
    how = section.pop("match_classes", "name")
    source = sources.open_source(**section)
    where = section.get("name") or section.get("data_dir") or section.get("path")
    source, notice = relabel.matched(
        source,
        class_names,
        num_classes,
        None if "lookup(" in pp_fn else how,
        f"{where} {section.get('split')}",
    )
    stream = EvalData(
        rows=rows,
        preprocess=preprocess,
        source=source,
        threads=_threads(num_parallel_calls),
        prefetch=prefetch,
        notices=(*source.notices, *([notice] if notice else [])),
    )
    return stream, stream.steps


def _warn(shuffle_buffer_size: int | None, cache_raw: bool) -> None:
    """Say what an order of reading costs, or that a key has no effect."""
    if shuffle_buffer_size is not None:
        logging.warning(
            "shuffle_buffer_size=%d reads and shuffles as big_vision does, so a "
            "resumed run sees other batches than an uninterrupted one: leave it out for "
            "a global shuffle that resumes to the bit",
            shuffle_buffer_size,
        )
    elif cache_raw:
        logging.warning(
            "cache_raw has no effect on the global shuffle, which reads any example at "
            "any time; the operating system caches the files"
        )


def _open(data: Any, sampling: str | None, *, tell: bool) -> sources.Source:
    """Open the source of training. ValueError if it lacks labels for the sampling."""
    source = sources.open_source(**_section(data))
    for notice in source.notices if tell else ():
        logging.warning("%s", notice)
    if sampling is not None:
        sources.labels_of(source)
    return source


def check_data(data: Any) -> None:
    """Raise ValueError if a data section has a wrong kind or key; open no file."""
    sources.check_section(_section(data))


def _section(data: Any) -> Any:
    if not hasattr(data, "keys"):  # a ConfigDict is no Mapping
        raise ValueError(
            "data must be a section such as dict(name='imagenet2012', split='train'), "
            f"got {data!r}"
        )
    return data


def _check_sampling(sampling: str | None, shuffle_buffer_size: int | None) -> None:
    """Raise ValueError on an unknown sampling, and on one beside a shuffle buffer."""
    if sampling not in (None, "balanced"):
        hint = did_you_mean(sampling, ["balanced"])
        raise ValueError(
            f"unknown sampling {sampling!r}{hint} (known: None, 'balanced')"
        )
    if sampling is not None and shuffle_buffer_size is not None:
        raise ValueError(
            f"sampling={sampling!r} chooses examples by their index, which "
            "shuffle_buffer_size, a sequential read, does not: leave out one of them"
        )


def _check_numbers(
    num_parallel_calls: int | None,
    prefetch: int,
    shuffle_buffer_size: int | None = None,
    reads_in_flight: int = 1,
) -> None:
    """Raise ValueError on numbers that TensorFlow would refuse later and obscurely."""
    for name, value, least, most in (
        ("num_parallel_calls", num_parallel_calls, 1, 4096),
        ("prefetch", prefetch, 0, 4096),
        ("shuffle_buffer_size", shuffle_buffer_size, 1, 2**62),
        ("reads_in_flight", reads_in_flight, 1, 4096),
    ):
        if value is not None and not least <= value <= most:
            raise ValueError(f"{name} must be {least} to {most:,}, got {value}")


def _threads(num_parallel_calls: int | None) -> int:
    # More threads than cores, because some wait for the disk.
    return num_parallel_calls or 2 * (os.cpu_count() or 4)
