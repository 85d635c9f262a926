"""Time the host's training batches: `python -m input_pipeline.benchmark`.

Decoding and cropping, (a), is the upper bound of any pipeline on this decoder; (b) resizes as
well. Each stage is measured as a fraction of both, in one run, on the same bytes with
the same threads: JPEGs of 500 x 375 with 4:2:0 colours and 110 KB on average, about
ImageNet's, made from scikit-learn's two photographs. Stages take turns, so that other
load slows all alike.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from input_pipeline import home, places

PP = "decode_jpeg_and_inception_crop(224)|flip_lr|randaug(2, 10)"
"""The flagship's preprocessing without the last keep."""
_EXACT = "decode_jpeg_and_inception_crop(224, antialias=True, precise=True{})|flip_lr"
PRESETS = {
    "big_vision": PP,
    "big_vision, randaug off": PP.rpartition("|")[0],
    "fixed": _EXACT.format("") + "|randaug(2, 10, contrast='fixed')",
    "fixed, randaug off": _EXACT.format(""),
    "mup_vit": _EXACT.format(", sampler='torchvision'")
    + "|randaug(2, 10, contrast='fixed')",
    "mup_vit, randaug off": _EXACT.format(", sampler='torchvision'"),
}
"""The presets of configs/vit_s16_i1k.py, mup_vit with crop=torchvision."""
OTHERS = (
    "flip_lr",
    "resize((224, 224))",
    "randaug(2, 10)",
    "randaug_tv(2, 9)",
    "trivial_augment_wide",
    "autoaugment_cifar10",
    "random_affine(10)",
)
"""Timed in addition to randaug's single ops; each draws its plan while timed."""
KILOBYTES = 110
_JPEGS = 96
_ROUNDS = 5


def write_jpegs(folder: Path, count: int) -> float:
    """Write `count` fixed JPEGs as an image folder; return their mean size in KB."""
    import numpy as np
    import tensorflow as tf
    from sklearn.datasets import load_sample_images

    photographs: Any = load_sample_images()
    rng = np.random.default_rng(0)
    images = []
    for i in range(count):
        image = photographs.images[i % 2]
        y, x = (rng.integers(0, n + 1) for n in np.array(image.shape[:2]) - (375, 500))
        image = image[y : y + 375, x : x + 500, :][:, :: rng.choice((-1, 1))]
        grain = rng.normal(0, rng.uniform(0, 6), image.shape)
        light = image * rng.uniform(0.7, 1.2) + grain
        images.append(np.clip(light, 0, 255).astype(np.uint8))

    def encode(quality: int) -> list[bytes]:
        return [
            tf.io.encode_jpeg(image, quality=quality, chroma_downsampling=True).numpy()
            for image in images
        ]

    def mean(files: list[bytes]) -> float:
        return statistics.mean(map(len, files)) / 1000

    files = min(map(encode, range(90, 100)), key=lambda f: abs(mean(f) - KILOBYTES))
    place = folder / "train" / "photographs"
    place.mkdir(parents=True)
    for i, data in enumerate(files):
        (place / f"{i:03}.jpg").write_bytes(data)
    return mean(files)


def _touched(spec: str) -> Any:
    """Return the preprocessing of a spec, reduced to one value of its image."""
    from input_pipeline import ops

    class Touched(ops.Preprocess):
        def __call__(self, features: dict[str, Any]) -> dict[str, Any]:
            return {"value": super().__call__(features)["image"][0, 0, 0]}

    return Touched(spec)


@dataclasses.dataclass
class Stage:
    """Endless batches, and how fast they came: images per second and per core."""

    name: str
    batches: Iterator[Any]
    wall: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)

    def run(self, ahead: int, count: int, batch_size: int) -> None:
        """Time `count` batches, after the `ahead` batches that were prefetched."""
        for _ in range(ahead):
            next(self.batches)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            next(self.batches)
        self.wall.append(batch_size * count / (time.perf_counter() - wall))
        self.cpu.append(batch_size * count / (time.process_time() - cpu))


def time_in_turns(
    stages: Sequence[Stage], rounds: int, batches: int, batch_size: int
) -> None:
    """Time `batches` batches of every stage in each round, so that load slows all alike."""
    for turn in range(1 + rounds):
        for stage in stages:
            stage.run(3, batches, batch_size)
            time.sleep(0.5)  # until the prefetched batches are made
            if turn == 0:  # it compiles
                stage.wall.clear()
                stage.cpu.clear()


def _stages(folder: Path, pp: str, batch_size: int, threads: int) -> list[Stage]:
    import jax

    from input_pipeline import ops, pipeline
    from input_pipeline.prefetch import prefetch

    stream, _ = pipeline.make_train(
        data={"kind": "folder", "data_dir": str(folder), "split": "train"},
        batch_size=batch_size,
        seed=0,
        num_parallel_calls=threads,
        prefetch=1,
    )

    def with_pp(preprocess: Any) -> Any:
        return dataclasses.replace(stream, preprocess=preprocess)

    def all_of(pp: str) -> Any:
        return with_pp(ops.get_preprocess_fn(f"{pp}|keep('image', 'label')"))

    whole = all_of(pp)
    home = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    on_device: Any = (
        jax.block_until_ready(b) for b in prefetch(iter(whole), home, size=1)
    )
    decode, size = "decode_jpeg_and_inception_crop", "224"
    return [
        Stage("(a) decode and crop", iter(with_pp(_touched(f"{decode}()"))._batches)),
        Stage("(b) and resize", iter(with_pp(_touched(f"{decode}({size})"))._batches)),
        Stage("(c) all of pp, uint8 batches", iter(whole._batches)),
        Stage("(d) as numpy, on the device", on_device),
        *(
            Stage(name, iter(all_of(preset)._batches))
            for name, preset in PRESETS.items()
            if preset != pp  # it is (c)
        ),
    ]


def _core_milliseconds(function: Callable[[Any], Any], count: int = 100) -> float:
    """Return the milliseconds of one core per 224 x 224 image in a dataset's map."""
    import numpy as np
    import tensorflow as tf
    from sklearn.datasets import load_sample_images

    from input_pipeline.tracing import as_written

    photographs: Any = load_sample_images()
    image = np.ascontiguousarray(photographs.images[0][100:324, 100:324])
    images = tf.constant(np.stack([image, image[::-1]]))

    def cost(function: Callable[[Any], Any]) -> float:
        @as_written
        def one(i: Any) -> Any:
            return function(tf.ensure_shape(images[i % 2], [224, 224, 3]))[0, 0, 0]

        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        options.threading.max_intra_op_parallelism = 1
        # Batches: Python takes as long for one value as an op for an image.
        data = tf.data.Dataset.range(2 * count).map(one).batch(count)
        data = data.with_options(options)
        best = float("inf")
        for _ in range(5):
            iterator = iter(data)
            next(iterator)  # compiles
            start = time.process_time()
            next(iterator)
            best = min(best, (time.process_time() - start) / count)
        return 1000 * best

    return max(0.0, cost(function) - cost(lambda image: image))


def op_costs() -> dict[str, float]:
    """Return core-milliseconds of randaug's layers by op, their mean, and of OTHERS."""
    import tensorflow as tf

    from input_pipeline import randaug

    layer = randaug.randaug(1, 10)
    costs = {}
    for number, name in enumerate(randaug.OPS):
        # A plan that the graph does not know in advance: the upper bits are a place.
        def op(image: Any, number: int = number) -> Any:
            place = tf.cast(image[0, 0, 0], tf.uint32) * 2**20
            return layer.apply(image, place[None] + number)

        costs[name] = _core_milliseconds(op)
    costs["randaug's, on average"] = statistics.mean(costs.values())
    for spec in OTHERS:
        costs[spec] = _core_milliseconds(_drawn(spec))
    return costs


def _drawn(spec: str) -> Callable[[Any], Any]:
    """Return an op of a spec, with its random draws, as a function of one image."""
    import tensorflow as tf

    from input_pipeline import ops

    preprocess = ops.get_preprocess_fn(spec)

    def op(image: Any) -> Any:
        # A different seed for a different image.
        seed = tf.cast(tf.stack([image[0, 0, 0], image[1, 1, 1]]), tf.int32)
        features = {"image": image, "seed": seed, "batch_seed": seed}
        return preprocess(features)["image"]

    return op


def measure(pp: str, batch_size: int, threads: int, batches: int) -> dict[str, Any]:
    """Return the results of one run: images/s, fractions of (a) and (b), costs of ops."""
    with tempfile.TemporaryDirectory() as folder:
        kilobytes = write_jpegs(Path(folder), _JPEGS)
        stages = _stages(Path(folder), pp, batch_size, threads)
        time_in_turns(stages, _ROUNDS, batches, batch_size)
    rows = []
    for stage in stages:
        of_a, of_b = (
            statistics.median(x / y for x, y in zip(stage.wall, wall, strict=True))
            for wall in (stages[0].wall, stages[1].wall)
        )
        per_core = statistics.median(stage.cpu)
        rows.append(
            {
                "stage": stage.name,
                "images/s": statistics.median(stage.wall),
                "images/s per busy core": per_core,
                "core-ms per image": 1000 / per_core,
                "fraction of (a)": of_a,
                "fraction of (b)": of_b,
            }
        )
    return {
        "cores": os.cpu_count(),
        "threads": threads,
        "batch_size": batch_size,
        "mean KB": kilobytes,
        "pp": pp,
        "stages": rows,
        "core-ms of ops": op_costs(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.benchmark",
        description="Time the host's part of training, stage by stage and preset by "
        "preset, as fractions of decoding alone and of decoding and resizing.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--pp",
        default=PP,
        help="the preprocessing measured as (c), without the last keep",
    )
    add("--batch_size", type=int, default=64)
    add("--threads", type=int, default=2 * (os.cpu_count() or 4))
    add("--batches", type=int, default=10, help="timed in each of five rounds")
    add("--json", type=places.local, metavar="FILE", help="also write the figures here")
    flags = parser.parse_args(home.expanded(argv))
    if min(flags.batch_size, flags.threads, flags.batches) < 1:
        parser.error("--batch_size, --threads and --batches must be at least 1")
    try:
        if flags.json:
            flags.json.touch()  # fail now rather than after the run
        figures = measure(flags.pp, flags.batch_size, flags.threads, flags.batches)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _print(figures)
    if flags.json:
        flags.json.write_text(json.dumps(figures) + "\n")
    return 0


def _print(figures: dict[str, Any]) -> None:
    print(
        f"{figures['cores']} cores, {figures['threads']} threads, batches of "
        f"{figures['batch_size']}, JPEGs of {figures['mean KB']:.0f} KB, 500 x 375"
    )
    names = list(figures["stages"][0])
    print(f"{names[0]:<30}" + "".join(f"{name:>24}" for name in names[1:]))
    for row in figures["stages"]:
        numbers = "".join(f"{row[name]:>24,.2f}" for name in names[1:])
        print(f"{row['stage']:<30}{numbers}")
    print("core-ms of ops, randaug's at level 10, 224 x 224:")
    for name, cost in figures["core-ms of ops"].items():
        print(f"  {name:<24}{cost:6.2f}")


if __name__ == "__main__":
    sys.exit(main())
