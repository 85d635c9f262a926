"""Measure reading from a bucket: `python -m input_pipeline.benchmark_bucket`.

It reads a data set of tfds, in the order of training, and decodes nothing. For each number
of reads in flight it prints the records per second that come out of tf.data, and the time
of this process's cores that a record takes, shuffle and parsing included. The numbers take
turns, and each line has the best round: other load only makes them worse. Then come the
speed at which shards are indexed, 16 at once, and the seconds to the first batch.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

from input_pipeline import benchmark, home

IN_FLIGHT = (64, 128, 256)
_BATCH_SIZE = 256
_FAR = 1000  # step
_PAUSE = 1  # second


def rates(
    source: Any, in_flight: Sequence[int], batches: int, rounds: int
) -> dict[int, tuple[float, float]]:
    """Return {reads in flight: (records/s, core-ms a record)}, the best of the rounds."""
    stages = {
        number: benchmark.Stage(str(number), iter(_stream(source, number)._batches))
        for number in in_flight
    }
    for turn in range(1 + rounds):
        for number, stage in stages.items():
            # First take the records that were read while others were timed.
            stage.run(2 + -(-number // _BATCH_SIZE), batches, _BATCH_SIZE)
            if turn == 0:  # it compiles
                stage.wall.clear()
                stage.cpu.clear()
            time.sleep(_PAUSE)  # until no read is under way
    return {n: (max(x.wall), 1000 / max(x.cpu)) for n, x in stages.items()}


def _stream(source: Any, in_flight: int) -> Any:
    """Return training batches of the lengths of the undecoded images."""
    import tensorflow as tf

    from input_pipeline import ops
    from input_pipeline.stream import batching, train

    class Undecoded(ops.Preprocess):
        def __call__(self, features: dict[str, Any]) -> dict[str, Any]:
            return {"length": tf.strings.length(features["image"])}

    return train.TrainData(
        source=source,
        preprocess=Undecoded(""),
        rows=batching.Rows(_BATCH_SIZE, 0, 1),
        seed=0,
        start_step=0,
        sampling=None,
        shuffle_buffer_size=None,
        cache_raw=False,
        threads=4,
        prefetch=1,
        reads_in_flight=in_flight,
    )


def index_rate(source: Any) -> tuple[float, float, int]:
    """Return (MB/s, core-seconds a GB, shards) of indexing the shards of a source."""
    shards = list(dict.fromkeys(source._files))
    size = sum(map(source.remote.size, shards))
    wall, cpu = time.perf_counter(), time.process_time()
    source.remote.scan_all(shards)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return size / wall / 1e6, cpu / size * 1e9, len(shards)


def first_batch(source: Any, step: int) -> float:
    """Return the seconds to the first batch from `step` on, with all of its start."""
    start = time.perf_counter()
    stream = dataclasses.replace(_stream(source, max(IN_FLIGHT)), start_step=step)
    next(iter(stream))
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.benchmark_bucket",
        description="Measure the reading of a tfds data set in a bucket: records per "
        "second, CPU a record, indexing, and the time to the first batch.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data_dir", required=True, help="gs://BUCKET/FOLDER or s3://BUCKET/FOLDER")
    add("--name", default="imagenet2012", help="the data set, as in a config")
    add("--split", default="train")
    add("--in_flight", type=int, nargs="+", default=IN_FLIGHT, metavar="READS")
    add("--batches", type=int, default=8, help="of 256 records, timed in each round")
    add("--rounds", type=int, default=5)
    flags = parser.parse_args(home.expanded(argv))
    if min(*flags.in_flight, flags.batches, flags.rounds) < 1:
        parser.error("--in_flight, --batches and --rounds must be at least 1")
    try:
        _run(flags)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(flags: argparse.Namespace) -> None:
    from input_pipeline.sources.tfds import TfdsSource

    start = time.perf_counter()
    source = TfdsSource(name=flags.name, split=flags.split, data_dir=flags.data_dir)
    opened = time.perf_counter() - start
    if source.ahead is None:
        raise ValueError(
            f"expected --data_dir in a bucket, as gs://BUCKET/FOLDER, got "
            f"{flags.data_dir!r}: give one"
        )
    kilobytes = source.nbytes() / len(source) / 1000
    print(f"{len(source):,} records of {kilobytes:.0f} KB, opened in {opened:.1f} s")
    speed, cost, shards = index_rate(source)
    print(f"index of {shards} shards: {speed:,.0f} MB/s, {cost:.2f} core-s a GB")
    for step in (0, _FAR):
        print(f"first batch at step {step:,}: {first_batch(source, step):.2f} s")
    print(f"{'reads in flight':>15}{'records/s':>12}{'core-ms a record':>18}")
    found = rates(source, flags.in_flight, flags.batches, flags.rounds)
    for number, (speed, cost) in found.items():
        print(f"{number:>15}{speed:>12,.0f}{cost:>18.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
