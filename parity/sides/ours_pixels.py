"""vitjax's side of the pixel rungs: input_pipeline's ops, as a config names them.

h height, w width, c channels, n images. It needs TensorFlow, through input_pipeline.
Single ops run eagerly. The random policy and random crops run as in training, in
`make_train`'s graph.
"""

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from input_pipeline import ops, pipeline, randaug
from parity.sides.samples import Image

BATCH_SIZE = 100
PRECISE = "precise=True"


@functools.cache
def _preprocess(spec: str) -> ops.Preprocess:
    return ops.get_preprocess_fn(spec)


def run(spec: str, image: Any, **features: Any) -> Shaped[np.ndarray, "h w c"]:
    """Apply a preprocessing spec to one image or file."""
    return _preprocess(spec)({"image": image, **features})["image"].numpy()


def decoded(data: bytes, precise: bool = True) -> Image:
    """Apply the op `decode`, by default with precise=True."""
    return run(f"decode({PRECISE})" if precise else "decode", data)


def cropped_jpeg(data: bytes, number: int) -> Image:
    """Decode a random part by the fused op with precise=True, without resizing."""
    seed = np.array([number, 4], np.int32)
    return run(f"decode_jpeg_and_inception_crop({PRECISE})", data, seed=seed)


def resized(
    image: Shaped[np.ndarray, "h w c"],
    size: tuple[int, int],
    method: str = "bilinear",
    antialias: bool = True,
) -> Shaped[np.ndarray, "h2 w2 c"]:
    """Apply the op `resize`: uint8 stays uint8, truncated; float32 stays float32."""
    return run(f"resize({size}, {method!r}, {antialias})", image)


def op(image: Image, name: str, *args: float | int, **numerics: Any) -> Image:
    """Apply one of randaug's ops with resolved arguments."""
    return randaug.OPS[name](image, *args, **numerics).numpy()


def arguments(name: str, level: float | int) -> tuple[float | int, ...]:
    """Return randaug's arguments for an op at a level; Cutout's without a position."""
    return randaug.level_arguments(float(level))[name]


def batches(
    image: UInt8[np.ndarray, "h w c"], pp: str, count: int
) -> Iterator[Shaped[np.ndarray, "n h2 w2 c2"]]:
    """Yield one image preprocessed `count` times as in a training run, in batches.

    `count` is a multiple of BATCH_SIZE.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "one.npz")
        np.savez(path, images=image[None], labels=np.zeros(1, np.int64))
        stream, _ = pipeline.make_train(
            data={"kind": "npz", "path": str(path), "split": "all"},
            batch_size=BATCH_SIZE,
            seed=0,
            pp=f"{pp}|keep('image')",
        )
        for _, batch in zip(range(count // BATCH_SIZE), stream, strict=False):
            yield batch["image"]


def crop_boxes(
    height: int, width: int, count: int, sampler: str = "tf"
) -> Int[np.ndarray, "n 4"]:
    """Return top, left, height and width of inception_crop's boxes.

    The ranges are the op's defaults. The image's pixels hold their own position. Each
    crop is resized to 2 x 2 by area, and its box follows from the four means.
    """
    y, x = np.indices((height, width))
    places = np.stack([y % 256, y // 256, x % 256, x // 256], axis=-1).astype(np.uint8)
    # Use floats, because integers would be truncated.
    pp = f"value_range(0, 1, 0, 1)|inception_crop((2, 2), method='area', sampler={sampler!r})"
    halves = np.concatenate(list(batches(places, pp, count))).astype(np.float64)
    y = halves[..., 0] + 256 * halves[..., 1]
    x = halves[..., 2] + 256 * halves[..., 3]
    sides = [2 * (y[:, 1, 0] - y[:, 0, 0]), 2 * (x[:, 0, 1] - x[:, 0, 0])]
    middles = [y.mean((1, 2)), x.mean((1, 2))]
    first = [m - (s - 1) / 2 for m, s in zip(middles, sides, strict=True)]
    return np.rint(np.stack([*first, *sides], axis=1)).astype(np.int64)
