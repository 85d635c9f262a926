"""Rung 9: compare resizing with PIL, torchvision and two matrix products in float64."""

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import PIL.Image
from jaxtyping import Float32

from parity.reference import resize
from parity.rungs.comparison import Comparison, worst
from parity.rungs.decoding import EQUAL, PINNED, levels
from parity.sides import others_pixels, ours_pixels, samples
from parity.sides.cases import Case
from parity.sides.others_pixels import to_numpy, to_torch
from parity.sides.samples import Image

# Photograph and size: smaller, larger, one side of each, by an integer factor, and that
# of an evaluation's resize_small(256).
SIZES = {
    "427 x 640 to 224 x 224": ("china", (224, 224)),
    "427 x 640 to 256 x 384": ("flower", (256, 384)),
    "600 x 512 to 300 x 256": ("hopper", (300, 256)),
    "600 x 512 to 37 x 700": ("hopper", (37, 700)),
    "427 x 640 to 500 x 701": ("flower", (500, 701)),
}
METHODS = {
    "bilinear antialiased": ("bilinear", True),
    "bilinear": ("bilinear", False),
    "area": ("area", False),
}
# In grey levels. The filter's position is computed in float32, where one of up to 700
# is rounded by 2^-15 at most, twice. The weights along each of the two sides are then
# off by that much, and neighbouring pixels differ by up to 255.
FLOAT32 = 2 * 2 * 2**-15 * 255
# In grey levels. vitjax truncates the exact value. PIL's two passes round it by 1/2
# each, as do torchvision's, so they are within 1 of it on either side. The difference
# is below 2, which for integers is 1.
ROUNDED = 1.0

REASONS = {
    "not antialiased for antialiased": "big_vision's default in training: each output "
    "pixel depends on two neighbours both ways, however far the image shrinks",
    "area for antialiased": "big_vision's default in evaluation, which torchvision "
    "lacks: a box half as wide as the triangle",
    "truncated for rounded": "big_vision casts back to uint8, PIL rounds: half a grey "
    "level darker",
}


def resizing(case: Case) -> Iterator[Comparison]:
    """Yield the largest difference over photographs and sizes, in grey levels.

    `case` is a model's and is not used.
    """
    images = samples.photographs()
    for title, (method, antialias) in METHODS.items():
        wide, whole = {}, {}
        for name, (photograph, size) in SIZES.items():
            image = images[photograph]
            theirs = to_numpy(resize.resize(to_torch(image), size, method, antialias))
            ours = ours_pixels.resized(
                image.astype(np.float32), size, method, antialias
            )
            wide[name] = float(levels(ours, theirs).max())
            # Near an integer, float32 may be on the other side of it.
            clear = np.abs(theirs - np.rint(theirs)) > FLOAT32
            ours = ours_pixels.resized(image, size, method, antialias)
            whole[name] = float(levels(ours, np.floor(theirs))[clear].max())
        yield worst(f"{title}, float32, reference", wide, FLOAT32)
        yield worst(f"{title}, uint8, reference truncated", whole, EQUAL)
    yield worst(
        "bilinear antialiased, float32, torchvision",
        {name: _float_error(images[p], size) for name, (p, size) in SIZES.items()},
        FLOAT32,
    )
    for library, theirs in (("PIL", pil), ("torchvision", torchvision)):
        errors = {
            name: float(
                levels(
                    ours_pixels.resized(images[p], size), theirs(images[p], size)
                ).max()
            )
            for name, (p, size) in SIZES.items()
        }
        yield worst(f"bilinear antialiased, uint8, {library}", errors, ROUNDED)
    yield from _known(images)


def pil(image: Image, size: tuple[int, int]) -> Image:
    """Resize to (height, width) by PIL's BILINEAR, which is antialiased."""
    opened = PIL.Image.fromarray(image)
    height, width = size
    return np.asarray(opened.resize((width, height), PIL.Image.Resampling.BILINEAR))


def torchvision(
    image: Image | Float32[np.ndarray, "_ _ 3"],
    size: tuple[int, int],
    antialias: bool = True,
) -> Image | Float32[np.ndarray, "_ _ 3"]:
    """Resize by torchvision's resize of a tensor, bilinear, in the image's dtype."""
    resized = others_pixels.functional().resize(
        to_torch(image), list(size), antialias=antialias
    )
    return to_numpy(resized)


def _float_error(image: Image, size: tuple[int, int]) -> float:
    wide = image.astype(np.float32)
    ours = ours_pixels.resized(wide, size)
    return float(levels(ours, torchvision(wide, size)).max())


def _known(images: dict[str, Image]) -> Iterator[Comparison]:
    """Yield the effects of other filters, and of truncation, on images that shrink.

    Each is a mean over all pixels.
    """
    smaller = {
        name: (images[photograph], size)
        for name, (photograph, size) in SIZES.items()
        if math.prod(size) < math.prod(images[photograph].shape[:2])
        and "700" not in name
    }
    plate = samples.zone_plate()
    # The numbers are measured: the largest mean of photographs, and the mean on rings.
    variants: list[tuple[str, Literal["bilinear", "area"], float, float]] = [
        ("not antialiased", "bilinear", 6.4, 40.8),
        ("area", "area", 2.15, 8.03),
    ]
    for title, method, on_photographs, on_rings in variants:
        means = {
            name: float(
                levels(
                    ours_pixels.resized(image, size, method, False),
                    ours_pixels.resized(image, size),
                ).mean()
            )
            for name, (image, size) in {**smaller, "rings": (plate, (160, 160))}.items()
        }
        rings = means.pop("rings")
        line = f"known: {title} for antialiased, mean"
        yield worst(line, means, PINNED * on_photographs)
        yield Comparison(f"{line} on rings", rings, PINNED * on_rings)
    bias = {
        name: float(np.mean(pil(image, size) - 1.0 * ours_pixels.resized(image, size)))
        for name, (image, size) in smaller.items()
    }
    yield worst("known: truncated for rounded, mean", bias, PINNED * 0.62)
