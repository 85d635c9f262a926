"""Rung 8: compare decoded JPEG files with PIL's."""

import io
from collections.abc import Iterator

import numpy as np
import PIL.Image

from parity.rungs.comparison import Comparison, worst
from parity.sides import ours_pixels, samples
from parity.sides.cases import Case
from parity.sides.samples import Image

# In grey levels. They are integers, so that a difference below 1 is 0.
EQUAL = 0.5
# A known difference may grow to this multiple of its measured value.
PINNED = 1.5
SMALLEST_SIDE = 30  # smaller files are not cropped
CROPS = 3  # per file

REASONS = {
    "default decode": "big_vision leaves the transform to libjpeg's build, which takes "
    "the fast one; decode(precise=True) takes PIL's",
}


def pil_pixels(data: bytes) -> Image:
    """Decode a file with PIL, as RGB."""
    return np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))


def decoding(case: Case) -> Iterator[Comparison]:
    """Yield the largest difference for each file, whole and cropped, in grey levels.

    `case` is a model's and is not used.
    """
    files = samples.odd_jpegs()
    pixels = {name: pil_pixels(data) for name, data in files.items()}
    for name, data in files.items():
        difference = levels(ours_pixels.decoded(data), pixels[name])
        yield Comparison(f"precise, {name}", float(difference.max()), EQUAL)
    cropped = {
        f"{name}, crop {number}": _nearest_part(
            ours_pixels.cropped_jpeg(data, number), pixels[name]
        )
        for name, data in files.items()
        for number in range(CROPS)
        if min(pixels[name].shape[:2]) >= SMALLEST_SIDE
    }
    yield worst("decoded and cropped in one", cropped, EQUAL)
    yield from _known(files, pixels)


def levels(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return |ours - theirs| in grey levels; infinite if the sizes differ."""
    if ours.shape != theirs.shape:
        return np.array([np.inf])
    return np.abs(ours.astype(np.float64) - theirs)


def _nearest_part(part: Image, whole: Image) -> float:
    """Return the largest difference from the part of `whole` that is the nearest.

    The part was drawn at random. Only positions with a similar corner pixel are tried.
    """
    h, w, _ = part.shape
    rows, columns = whole.shape[0] - h + 1, whole.shape[1] - w + 1
    if rows < 1 or columns < 1:
        return float("inf")
    corners = whole[:rows, :columns].astype(int) - part[0, 0]
    best = float("inf")
    for y, x in np.argwhere(np.abs(corners).max(-1) < min(best, 16)):
        best = min(best, float(levels(part, whole[y : y + h, x : x + w]).max()))
    return best


def _known(files: dict[str, bytes], pixels: dict[str, Image]) -> Iterator[Comparison]:
    """Yield the differences of big_vision's default, libjpeg's fast transform.

    It loses most at quality 100.
    """
    fast = {
        name: levels(ours_pixels.decoded(data, precise=False), pixels[name])
        for name, data in files.items()
    }
    means = {name: float(difference.mean()) for name, difference in fast.items()}
    tops = {name: float(difference.max()) for name, difference in fast.items()}
    yield worst("known: default decode, mean", means, PINNED * 1.77)
    yield worst("known: default decode, largest", tops, PINNED * 20)
