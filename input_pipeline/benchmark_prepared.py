"""Measure what `input_pipeline.prepare` gains: `python -m input_pipeline.benchmark_prepared`.

Photographs of several sizes are written as JPEGs, and prepared. For each size it prints
the bytes of both, the images per second of each preset from both, in turns in one run,
the time of a core that an image takes, and how far the pixels of an evaluation move. The
photographs are random crops of scikit-learn's two; larger sizes are mosaics of such
crops, so that every size has as much detail in a pixel. With --pixels it prints no rates,
but the bytes and pixels of both filters, and of JPEG with all of its colours.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from input_pipeline import benchmark, home

SIZES = ((400, 350), (500, 375), (1200, 900))
"""Width and height; ImageNet's mean is about the first."""
_QUALITY = 96  # 114 KB at 500 x 375
TRAIN = {
    "crop and resize": "decode_jpeg_and_inception_crop(224)",
    **{name: pp for name, pp in benchmark.PRESETS.items() if "randaug off" not in name},
    "fixed, randaug off": benchmark.PRESETS["fixed, randaug off"],
}
EVALUATE = {
    "big_vision": "decode|resize_small(256, method='area', antialias=False)"
    "|central_crop(224)",
    "fixed": "decode(precise=True)|resize_small(256, method='bilinear', antialias=True)"
    "|central_crop(224)",
}


def write_photographs(folder: Path, size: tuple[int, int], count: int) -> float:
    """Write JPEGs of one class below `folder`/train; return their mean size in KB."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs: Any = load_sample_images()
    rng = np.random.default_rng(0)
    place = folder / "train" / "photographs"
    place.mkdir(parents=True)
    width, height = size

    def crop(number: int) -> Any:
        image = photographs.images[number % 2]
        y, x = (rng.integers(0, n + 1) for n in np.array(image.shape[:2]) - (350, 400))
        return image[y : y + 350, x : x + 400, :][:, :: rng.choice((-1, 1))]

    def whole(number: int) -> Any:
        image = photographs.images[number % 2]
        if width > image.shape[1] or height > image.shape[0]:
            rows = range(-(-height // 350))
            columns = range(-(-width // 400))
            tiles = [[crop(number + row + x) for x in columns] for row in rows]
            image = np.concatenate([np.concatenate(row, 1) for row in tiles], 0)
        y, x = (
            rng.integers(0, n + 1) for n in np.array(image.shape[:2]) - (height, width)
        )
        return image[y : y + height, x : x + width]

    for i in range(count):
        image = whole(i)
        light = image * rng.uniform(0.7, 1.2) + rng.normal(
            0, rng.uniform(0, 6), image.shape
        )
        pixels = np.clip(light, 0, 255).astype(np.uint8)
        file = place / f"{i:03}.jpg"
        Image.fromarray(pixels).save(file, quality=_QUALITY, subsampling="4:2:0")
    return kilobytes(folder)


def kilobytes(folder: Path) -> float:
    """Return the mean size of the JPEGs in a folder."""
    return statistics.mean(p.stat().st_size for p in folder.rglob("*.jpg")) / 1000


def rates(
    folders: Sequence[Path], batch_size: int, batches: int, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Return (images per second, core-ms an image) of each preset from each folder.

    All of them take turns in each round, so that other load slows all alike. The core's
    time hardly depends on other load. Both are medians.
    """
    stages = {
        name: [
            benchmark.Stage(name, _stream(folder, pp, batch_size)) for folder in folders
        ]
        for name, pp in TRAIN.items()
    }
    in_order = list(itertools.chain.from_iterable(stages.values()))
    benchmark.time_in_turns(in_order, rounds, batches, batch_size)
    return {
        name: [
            (statistics.median(one.wall), 1000 / statistics.median(one.cpu))
            for one in each
        ]
        for name, each in stages.items()
    }


def _stream(folder: Path, pp: str, batch_size: int) -> Iterator[Any]:
    from input_pipeline import pipeline

    stream, _ = pipeline.make_train(
        data={"kind": "folder", "data_dir": str(folder), "split": "train"},
        batch_size=batch_size,
        seed=0,
        pp=f"{pp}|keep('image', 'label')",
        prefetch=1,
    )
    return iter(stream)


def distances(before: Sequence[bytes], after: Sequence[bytes]) -> dict[str, float]:
    """Return the mean absolute difference, in levels, of each evaluation's pixels."""
    import numpy as np
    import tensorflow as tf

    from input_pipeline import ops

    found = {}
    for name, spec in EVALUATE.items():
        preprocess = ops.get_preprocess_fn(spec)

        def pixels(data: bytes, preprocess: Any = preprocess) -> Any:
            image: Any = preprocess({"image": tf.constant(data)})["image"]
            return image.numpy().astype(np.float64)

        pairs = zip(before, after, strict=True)
        found[name] = statistics.mean(
            float(np.abs(pixels(x) - pixels(y)).mean()) for x, y in pairs
        )
    return found


def _prepared(folder: Path, out: Path, short_side: int, quality: int) -> None:
    from input_pipeline.prepare.__main__ import prepare
    from input_pipeline.prepare.folders import Folder

    prepare(
        Folder(str(folder)),
        str(out),
        short_side=short_side,
        quality=quality,
        filter="bicubic",
        skip_damaged=False,
        workers=os.cpu_count() or 1,
        tell=lambda text: None,
    )


def measure(flags: argparse.Namespace) -> None:
    """Print the figures of each size."""
    for size in SIZES:
        with tempfile.TemporaryDirectory() as temporary:
            full, small = Path(temporary, "full"), Path(temporary, "small")
            before = write_photographs(full, size, flags.images)
            _prepared(full, small, flags.short_side, flags.quality)
            found = rates((full, small), flags.batch_size, flags.batches, flags.rounds)
            files = [
                [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
                for folder in (full, small)
            ]
            print(
                f"{size[0]} x {size[1]}, shorter side to {flags.short_side}: "
                f"{before:.0f} KB -> {kilobytes(small):.0f} KB"
            )
            for name, ((slow, long), (fast, short)) in found.items():
                print(
                    f"  {name:<28}{slow:>8,.0f} -> {fast:>6,.0f} images/s "
                    f"({fast / slow:.2f} times), {long:.2f} -> {short:.2f} core-ms an "
                    f"image ({long / short:.2f} times)"
                )
            for name, distance in distances(*files).items():
                print(
                    f"  evaluation of {name}: {distance:.2f} levels apart", flush=True
                )


def compare(flags: argparse.Namespace) -> None:
    """Print the bytes and pixels of each size, by filter and JPEG's colours."""
    from input_pipeline.prepare.images import Settings, smaller

    ways: Any = (("bicubic", "4:2:0"), ("lanczos", "4:2:0"), ("bicubic", "4:4:4"))
    for size in SIZES:
        with tempfile.TemporaryDirectory() as full:
            mean = write_photographs(Path(full), size, flags.images)
            before = [path.read_bytes() for path in sorted(Path(full).rglob("*.jpg"))]
        print(
            f"{size[0]} x {size[1]}, {mean:.1f} KB, shorter side to {flags.short_side}:"
        )
        for filter, colours in ways:
            settings = Settings(flags.short_side, flags.quality, filter, True, colours)
            after = [smaller(data, settings)[1] for data in before]
            levels = ", ".join(
                f"evaluation of {name} {distance:.2f} levels apart"
                for name, distance in distances(before, after).items()
            )
            size_now = statistics.mean(map(len, after)) / 1000
            print(f"  {filter}, {colours}: {size_now:.1f} KB, {levels}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.benchmark_prepared",
        description="Measure bytes, images per second and pixels of photographs at full "
        "size, and as python -m input_pipeline.prepare writes them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--short_side", type=int, default=320, help="of the prepared images")
    add("--quality", type=int, default=95, help="of the prepared images")
    add("--images", type=int, default=64, help="of each size")
    add("--batch_size", type=int, default=64, help="of the measured batches")
    add("--batches", type=int, default=6, help="timed in each round")
    add("--rounds", type=int, default=5, help="rounds of all presets")
    add("--pixels", action="store_true", help="compare filters and colours, no rates")
    flags = parser.parse_args(home.expanded(argv))
    if min(x for name, x in vars(flags).items() if name != "pixels") < 1:
        parser.error("every number must be at least 1")
    try:
        (compare if flags.pixels else measure)(flags)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
