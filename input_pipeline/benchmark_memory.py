"""Measure the memory of a stream, and the time to its first batch.

Run `python -m input_pipeline.benchmark_memory`. It measures the host memory that the
shuffle takes for data sets of several sizes, and the time to the first batch at step 0
and at step 100,000. Records are those of the benchmark, about 110 KB each. A larger
data set repeats them. It has as many indices, and as many 8-byte entries in its offset
table, as a real one.
"""

import argparse
import dataclasses
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from input_pipeline import benchmark

FAR = 100_000  # step
_JPEGS = 96
SIZES = {
    "10,000 examples": 10_000,
    "ImageNet-1k, 1,281,167": 1_281_167,
    "ImageNet-21k, 14,197,122": 14_197_122,
}
BUFFERS = (4096, 16_384)


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one stream: peak resident MB, and seconds to the first batch."""

    megabytes: float
    at_0: float
    at_far: float


def _repeated(source: Any, size: int) -> Any:
    """Return a source of `size` examples that repeats those of `source`."""
    import tensorflow as tf

    few = len(source)

    class Repeated:
        class_names, num_classes = source.class_names, source.num_classes
        describe, nbytes, finish = source.describe, source.nbytes, source.finish
        notices = source.notices

        def __init__(self):
            with tf.device("CPU"):
                self._places = tf.range(size, dtype=tf.int64) % few

        def __len__(self) -> int:
            return size

        def read(self, index: Any) -> Any:
            return source.read(tf.gather(self._places, index))

        def sequential(self, start: int, stop: int) -> Any:
            return source.sequential(0, few).repeat().take(stop - start)

    return Repeated()


def cost(folder: Path, size: int, buffer: int | None, batches: int) -> Cost:
    """Measure `batches` batches of 64 in this process; its earlier peak counts too."""
    from input_pipeline import pipeline

    stream, _ = pipeline.make_train(
        data={"kind": "folder", "data_dir": str(folder), "split": "train"},
        batch_size=64,
        seed=0,
        pp="decode_jpeg_and_inception_crop(224)|keep('image', 'label')",
        shuffle_buffer_size=buffer,
    )
    stream = dataclasses.replace(stream, source=_repeated(stream.source, size))

    def first(step: int) -> tuple[Any, float]:
        start = time.perf_counter()
        iterator = iter(stream.from_step(step))
        next(iterator)
        return iterator, time.perf_counter() - start

    iterator, _ = first(0)
    for _ in range(batches):
        next(iterator)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    del iterator
    return Cost(kilobytes / 1000, first(0)[1], first(FAR)[1])


def _in_another_process(*arguments: Any) -> Cost:
    # A separate process, because a process rarely gives memory back.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(cost, arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.benchmark_memory",
        description="Measure host memory and the time to the first batch for data sets "
        "of several sizes, shuffled globally, and with a shuffle buffer.",
        allow_abbrev=False,
    )
    parser.parse_args(argv)
    cases = {name: (size, None) for name, size in SIZES.items()}
    imagenet = SIZES["ImageNet-1k, 1,281,167"]
    cases |= {f"the same, shuffle_buffer_size={n}": (imagenet, n) for n in BUFFERS}
    print(f"{'':<40}{'MB':>10}{'s at step 0':>16}{f's at {FAR:,}':>16}")
    with tempfile.TemporaryDirectory() as folder:
        benchmark.write_jpegs(Path(folder), _JPEGS)
        for name, (size, buffer) in cases.items():
            found = _in_another_process(Path(folder), size, buffer, 60)
            print(
                f"{name:<40}{found.megabytes:>10,.0f}{found.at_0:>16.2f}"
                f"{found.at_far:>16.2f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
