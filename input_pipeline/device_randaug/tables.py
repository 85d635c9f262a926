"""The tables of randaug on the devices: every product of floats, made before by numpy.

The host multiplies and adds in float32, one rounding each. A compiler for a device may
contract a product and a sum to one rounding, which changes values by a level. So each
product that is added to something comes from a table here, and the devices only look
up, add, compare, and use integers.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from input_pipeline import warps
from input_pipeline.layers import NAMES, SIGNED, level_arguments

VALUES = np.arange(256)


class Tables(NamedTuple):
    """The tables of `randaug` for images of one size at one level."""

    # [16, 256] uint8: what each op makes of a value, where that is the same for all
    # images; the value itself for other ops.
    values: np.ndarray
    # [256, 256] uint8: the blend of (base, value) at the level's factor.
    blend: np.ndarray
    # [256, 256] float32: value * (255 / range), for AutoContrast, [range, value].
    stretch: np.ndarray
    # [3, 256] float32: the share of a channel's value in the grey of 0 to 1.
    grey: np.ndarray
    # [2, 256] float32: a value's share in Sharpness' mean: a neighbour's, the centre's.
    smooth: np.ndarray
    # [11, h * w], uint16 or int32: the number of the pixel that each output shows, h * w
    # for the fill. The first map changes nothing.
    maps: np.ndarray
    # [2, 16] int32: the map of each op, not negated and negated.
    which: np.ndarray
    cutout: np.ndarray  # half of the side, int32
    fill: np.ndarray  # 0 to 255, uint32
    contrast: str  # "legacy" or "fixed"


def build(height: int, width: int, level: float, contrast: str, fill: int) -> Tables:
    """Return the tables."""
    arguments = level_arguments(level)
    blended = blend(arguments["Color"][0])  # the factor of all four
    maps, which = warped(height, width, arguments)
    return Tables(
        values=lookups(height * width, arguments, blended, contrast),
        blend=blended,
        stretch=stretch(),
        grey=grey(),
        smooth=smooth(),
        maps=maps,
        which=which,
        cutout=np.asarray(min(arguments["Cutout"][0], 2**20), np.int32),
        fill=np.asarray(fill, np.uint32),
        contrast=contrast,
    )


def blend(factor: float) -> np.ndarray:
    """Return base + factor * (value - base), clipped and truncated, [base, value]."""
    base, value = VALUES[:, None].astype(np.float32), VALUES[None].astype(np.float32)
    if factor == 0.0:
        mixed = np.broadcast_to(base, (256, 256))
    elif factor == 1.0:
        mixed = np.broadcast_to(value, (256, 256))
    else:
        mixed = base + np.float32(factor) * (value - base)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def lookups(
    pixels: int,
    arguments: dict[str, tuple[float, ...]],
    blended: np.ndarray,
    contrast: str,
) -> np.ndarray:
    """Return what each op makes of a value, [16, 256] uint8."""
    tables = {name: VALUES for name in NAMES}
    [bits], [threshold] = arguments["Posterize"], arguments["Solarize"]
    [addition] = arguments["SolarizeAdd"]
    dropped = 8 - int(bits) if 1 <= bits <= 8 else 7
    tables["Invert"] = 255 - VALUES
    tables["Posterize"] = VALUES & (256 - 2**dropped)
    tables["Solarize"] = np.where(threshold % 256 > VALUES, VALUES, 255 - VALUES)
    added = np.minimum(VALUES + min(addition, 255), 255)
    tables["SolarizeAdd"] = np.where(VALUES < 128, added, VALUES)
    tables["Brightness"] = blended[0]
    if contrast == "legacy":
        tables["Contrast"] = blended[min(pixels // 256, 255)]
    return np.stack([tables[name] for name in NAMES]).astype(np.uint8)


def stretch() -> np.ndarray:
    """Return value * (255 / range) in float32; the row of range 0 is not used."""
    ranges = np.maximum(VALUES, 1).astype(np.float32)
    scale = np.float32(255) / ranges
    return VALUES.astype(np.float32) * scale[:, None]


def grey() -> np.ndarray:
    """Return the summands of luma, which are added from red to blue."""
    share = VALUES.astype(np.float32) * np.float32(1.0 / 255.0)
    weights = np.array([0.2989, 0.5870, 0.1140], np.float32)
    return share * weights[:, None]


def smooth() -> np.ndarray:
    """Return the summands of PIL's SMOOTH, which are added row by row."""
    weights = np.array([1, 5], np.float32) / np.float32(13)
    return VALUES.astype(np.float32) * weights[:, None]


# The matrix of each op's number in an image of height and width.
_MATRICES: dict[str, Callable[[int, int, float], list[float]]] = {
    "Rotate": warps.rotation,
    "ShearX": lambda h, w, number: warps.shear_x(number),
    "ShearY": lambda h, w, number: warps.shear_y(number),
    "TranslateX": lambda h, w, number: warps.translation(number, 0.0),
    "TranslateY": lambda h, w, number: warps.translation(0.0, number),
}


def warped(
    height: int, width: int, arguments: dict[str, tuple[float, ...]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the index maps, [11, h * w], and which of them each op has, [2, 16]."""
    pixels = height * width
    maps, which = [np.arange(pixels)], np.zeros((2, len(NAMES)), np.int32)
    for name in SIGNED:
        for negate, sign in enumerate((1, -1)):
            which[negate, NAMES.index(name)] = len(maps)
            matrix = _MATRICES[name](height, width, sign * arguments[name][0])
            maps.append(warps.pixel_map(height, width, matrix).reshape(-1))
    dtype = np.uint16 if pixels < 2**16 else np.int32
    return np.stack(maps).astype(dtype), which
