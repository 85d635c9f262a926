"""Faults for the rungs about pixels, most of them defaults of other libraries."""

import dataclasses
import io
import math
from typing import Any
from unittest import mock

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch

from parity.faults.self_test import Mutation
from parity.reference import augment, crops, resize
from parity.rungs import decoding
from parity.rungs.comparison import Comparison
from parity.rungs.pixels import RUNGS
from parity.sides import ours_pixels
from parity.sides.cases import Case
from parity.sides.samples import Image
from vitjax.weights.libraries import import_torchvision

# The multiple of a bound that a fault must reach. Chance exceeds the bound of a
# distance with probability 1e-4, and 1.3 times that bound with about 1e-7. All other
# differences exceed their bound by far more.
FACTORS = {"decoding": 5.0, "resize": 100.0, "augmentation": 1.3}


def _repeated_chroma(data: bytes) -> Image:
    """Decode colours of half the resolution by repetition, not interpolation."""
    image = PIL.Image.open(io.BytesIO(data)).convert("RGB").convert("YCbCr")
    pixels = np.array(image)
    h, w, _ = pixels.shape
    pixels[..., 1:] = pixels[::2, ::2, 1:].repeat(2, 0).repeat(2, 1)[:h, :w]
    return np.asarray(PIL.Image.fromarray(pixels, "YCbCr").convert("RGB"))


def _turned(data: bytes) -> Image:
    """Decode as a viewer does, which obeys the file's orientation tag."""
    image = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
    return np.asarray(image.convert("RGB"))


def _corners_aligned(size_in: int, size_out: int, antialias: bool) -> torch.Tensor:
    """Interpolate linearly, with the outer pixels at the image's outer pixels."""
    places = torch.linspace(0, size_in - 1, size_out, dtype=torch.float64)[:, None]
    pixels = torch.arange(size_in, dtype=torch.float64)
    return (1 - (pixels - places).abs()).clamp(min=0)


def _torchvision_boxes(
    count: int,
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> torch.Tensor:
    """Draw boxes by torchvision's own RandomResizedCrop."""
    crop = import_torchvision().transforms.RandomResizedCrop
    image = torch.empty(1, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        rows = [crop.get_params(image, list(area), list(ratio)) for _ in range(count)]
    return torch.tensor(rows)


def _log_uniform(uniform: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return torch.exp(math.log(low) + uniform * math.log(high / low))


def _signed_draw(
    name: str, level: float | int, height: int, width: int, generator: torch.Generator
) -> tuple[float | int, ...]:
    """Draw as torchvision does.

    Its enhancers weaken as often as they strengthen.
    """
    args = _draw(name, level, height, width, generator)
    if name not in ("Color", "Contrast", "Brightness", "Sharpness"):
        return args
    sign = 1 - 2 * int(torch.randint(2, (), generator=generator))
    return (1 + sign * (args[0] - 1),)


def _with_op(name: str, op: Any) -> dict[str, Any]:
    return {**augment.OPS, name: op}


_draw, _triangle = augment.draw, resize.triangle
_rotate, _cutout = augment.OPS["Rotate"], augment.cutout

_FAULTS = (
    Mutation(
        "colours repeated, not interpolated",
        ("decoding",),
        decoding,
        "pil_pixels",
        _repeated_chroma,
    ),
    Mutation("turned as EXIF says", ("decoding",), decoding, "pil_pixels", _turned),
    Mutation(
        "libjpeg's fast transform",
        ("decoding",),
        ours_pixels,
        "PRECISE",
        "precise=False",
    ),
    Mutation(
        "resize without antialiasing",
        ("resize",),
        resize,
        "triangle",
        lambda size_in, size_out, antialias: _triangle(size_in, size_out, False),
    ),
    Mutation(
        "resize with aligned corners", ("resize",), resize, "triangle", _corners_aligned
    ),
    Mutation(
        "the mean for the legacy contrast",
        ("augmentation",),
        augment,
        "legacy_base",
        augment.mean_base,
    ),
    Mutation(
        "torchvision crop for tf crop",
        ("augmentation",),
        crops,
        "boxes",
        _torchvision_boxes,
    ),
    Mutation(
        "log-uniform ratios of crops",
        ("augmentation",),
        crops,
        "aspect_ratio",
        _log_uniform,
    ),
    Mutation("black fill", ("augmentation",), augment, "FILL", 0),
    Mutation("signed enhancers", ("augmentation",), augment, "draw", _signed_draw),
    Mutation(
        "no Invert, SolarizeAdd and Cutout",
        ("augmentation",),
        augment,
        "CHOICES",
        tuple(
            name
            for name in augment.OPS
            if name not in ("Invert", "SolarizeAdd", "Cutout")
        ),
    ),
    Mutation(
        "rotated clockwise",
        ("augmentation",),
        augment,
        "OPS",
        _with_op("Rotate", lambda image, degrees: _rotate(image, -degrees)),
    ),
    Mutation(
        "a cutout of half the side",
        ("augmentation",),
        augment,
        "OPS",
        _with_op("Cutout", lambda image, half, y, x: _cutout(image, half // 2, y, x)),
    ),
    Mutation(
        "a threshold of 256 that inverts nothing",
        ("augmentation",),
        augment,
        "OPS",
        _with_op(
            "Solarize", lambda image, t: torch.where(image.int() >= t, ~image, image)
        ),
    ),
    Mutation(
        "positions rounded down",
        ("augmentation",),
        augment,
        "half_away",
        lambda position: position.floor().long(),
    ),
)
MUTATIONS = tuple(
    dataclasses.replace(fault, factor=min(FACTORS[rung] for rung in fault.rungs))
    for fault in _FAULTS
)


def caught(mutation: Mutation, rung: str) -> Comparison | None:
    """Return the first comparison that exceeds its bound by the fault's factor.

    The fault is planted meanwhile. None means that no comparison does.
    """
    with mock.patch.object(mutation.owner, mutation.name, mutation.value):
        for comparison in RUNGS[rung](Case()):
            if comparison.factor >= mutation.factor:
                return comparison
    return None
