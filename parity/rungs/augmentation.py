"""Rung 10, single ops: randaug's ops against the torch reference, torchvision and PIL.

A difference of more than a grey level is a line that begins with "known"; its reason is
in `REASONS`.
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Bool

from parity.reference import augment
from parity.rungs.comparison import Comparison, worst
from parity.rungs.decoding import PINNED, levels
from parity.sides import others_pixels, ours_pixels, samples
from parity.sides.others_pixels import PIL_OPS, TORCHVISION_OPS, to_numpy, to_torch
from parity.sides.samples import Image

LEVELS = (1, 4, 10, 15, 20)
CENTRES = ((100, 7), (0, 150), (111, 112))  # Cutout's, (y, x); two cross an edge
ONE = 1.0  # grey level
ARGUMENTS = 1e-9  # bound of degrees, factors, pixels in float64; bits are integers
# In pixels. A position this close to the border between two pixels may be on either
# side: PIL computes positions in units of 1/65536, over at most 256 pixels.
TIE = 2 * 256 / 65536
# Measured, in per cent of the pixels: the most that come from another position at ties,
# and with a shear at level 10 that leaves another point in place.
TIES = {
    ("Rotate", "torchvision"): 0.0120,
    ("Rotate", "PIL"): 0.0957,
    ("ShearX", "torchvision"): 4.48,
    ("ShearY", "torchvision"): 4.48,
    ("ShearX", "PIL"): 7.48,
    ("ShearY", "PIL"): 7.48,
}
ABOUT_THE_CORNER = 8.35
LEGACY_CONTRAST = 34.0  # measured: the mean over the image that changes most
# The settings at which an op may differ by more than a level, and by how many levels:
# as measured. A base that is a level apart gives |factor - 1| levels, rounded up.
_BASE_APART = {"level 15": 2.0, "level 20": 3.0}
APART = {
    ("Sharpness", "reference"): _BASE_APART,
    ("Color", "torchvision"): _BASE_APART,
    ("Color", "PIL"): _BASE_APART,
    ("Sharpness", "torchvision"): _BASE_APART,
    ("Sharpness", "PIL"): _BASE_APART,
    ("Contrast fixed", "torchvision"): {"level 20": 2.0},
    ("Contrast fixed", "PIL"): _BASE_APART,
}
# Names of lines where the library's own op of that name is a different one.
LINES = {("Contrast", "PIL"): "Contrast, PIL's blend towards h w / 256"}

_BASES = (
    "the image that is blended with is truncated here, as in big_vision, and rounded "
    "there: a level apart, times |factor - 1|, which is 0.9 at most up to level 10, "
    "1.8 at level 15 and 2.7 at level 20"
)
REASONS = {
    "Color": _BASES,
    "Sharpness": _BASES + "; sums of whole numbers may also fall short by a float32",
    "Contrast fixed": "every grey pixel and the mean of them are truncated here and "
    "rounded there: the bases are a level apart, times |factor - 1|",
    "Contrast": "big_vision takes height * width / 256 for the mean grey value, these "
    "libraries' own contrast the mean. Blending towards that value is PIL's to the bit",
    "ties": "a position halfway between two pixels is rounded away from zero here, to "
    "even by torchvision and down by PIL; all other positions are equal",
    "about the corner": "torchvision's RandAugment leaves the image's corner in place, "
    "TensorFlow Addons the centre of the first pixel: 0.15 of a pixel at level 10",
}

Op = Callable[..., Image]


def single_ops() -> Iterator[Comparison]:
    """Yield the largest difference of each op, in grey levels, for each library.

    It is taken over photographs and grids, at levels 1 to 20, with both signs.
    """
    yield _arguments()
    for name in OURS:
        yield from _against("reference", _reference(name), name)
    yield from other_opinions()


def _arguments() -> Comparison:
    """Compare degrees, bits, factors and pixels at levels 0, 0.25, ..., 20."""
    errors = {
        f"{name}, level {level}": abs(ours - theirs)
        for level in np.arange(0, 20.25, 0.25).tolist()
        for name, args in augment.arguments(level).items()
        for ours, theirs in zip(ours_pixels.arguments(name, level), args, strict=True)
    }
    return worst("what levels mean, reference", errors, ARGUMENTS)


@functools.cache
def other_opinions() -> tuple[Comparison, ...]:
    """Return the lines of `single_ops` without the reference; computed once."""
    return tuple(_other_opinions())


def _other_opinions() -> Iterator[Comparison]:
    for library, table in (("torchvision", TORCHVISION_OPS), ("PIL", PIL_OPS)):
        for name in OURS:
            if name in table:  # torchvision has no SolarizeAdd and no such Contrast
                yield from _against(library, table[name], name)
    for library, table in (("torchvision", TORCHVISION_OPS), ("PIL", PIL_OPS)):
        for name in augment.SIGNED[:3]:
            yield _known_ties(library, table[name], name)
    yield from _known_corner()
    yield _known_contrast("torchvision", TORCHVISION_OPS["Contrast fixed"])
    yield _known_contrast("PIL", PIL_OPS["Contrast fixed"])


def _ours(name: str) -> Op:
    return lambda image, *args: ours_pixels.op(image, name, *args)


def _ours_fixed(image: Image, factor: float) -> Image:
    return ours_pixels.op(image, "Contrast", factor, contrast="fixed")


OURS: dict[str, Op] = {name: _ours(name) for name in augment.OPS} | {
    "Contrast fixed": _ours_fixed
}


def _reference(name: str) -> Op:
    def op(image: Image, *args: float | int) -> Image:
        tensor = to_torch(image)
        if name == "Contrast fixed":
            return to_numpy(augment.contrast_fixed(tensor, *args))
        return to_numpy(augment.apply(tensor, name, *args))

    return op


def settings(name: str) -> Iterator[tuple[str, tuple[float | int, ...]]]:
    """Yield a title and an op's arguments for each level, with both signs."""
    for level in LEVELS:
        args = ours_pixels.arguments(name.removesuffix(" fixed"), level)
        if name == "Cutout":
            for y, x in CENTRES:
                yield f"level {level} at ({y}, {x})", (*args, y, x)
        else:
            yield f"level {level}", args
        if name in augment.SIGNED:
            yield f"level {level} negative", (-args[0],)


def _against(library: str, theirs: Op, name: str) -> Iterator[Comparison]:
    """Yield one line for settings that may differ by a level, one per other setting."""
    groups: dict[tuple[str, float], dict[str, float]] = {}
    for setting, args in settings(name):
        bound = APART.get((name, library), {}).get(setting, ONE)
        line = LINES.get((name, library), f"{name}, {library}")
        if bound > ONE:
            line = f"known: {line}, {setting}"
        elif name in augment.SIGNED:
            line += ", off ties"
        errors = groups.setdefault((line, bound), {})
        for title, image in samples.augmented().items():
            difference = levels(OURS[name](image, *args), theirs(image, *args))
            if name in augment.SIGNED:
                difference = difference[off_ties(image, name, args[0])]
            errors[f"{title}, {setting}"] = float(difference.max())
    for (line, bound), errors in groups.items():
        yield worst(line, errors, bound)


def off_ties(image: Image, name: str, amount: float) -> Bool[np.ndarray, "h w"]:
    """Return which output pixels are clearly within one input pixel."""
    h, w, _ = image.shape
    matrix = augment.matrix_of(name, amount, h, w)
    clear = torch.ones(h, w, dtype=torch.bool)
    for position in augment.positions(h, w, matrix, torch.float64):
        clear &= (position - position.floor() - 0.5).abs() > TIE
    return clear.numpy()


def _moved(theirs: Op, name: str, amount: float) -> float:
    """Return the percentage of pixels that come from another position than ours."""
    image = samples.coordinates(224, 224)
    difference = levels(OURS[name](image, amount), theirs(image, amount))
    return 100 * float((difference.max(-1) > 0).mean())


def _known_ties(library: str, theirs: Op, name: str) -> Comparison:
    moved = {setting: _moved(theirs, name, args[0]) for setting, args in settings(name)}
    line = f"known: ties, {name}, {library}, % of pixels"
    return worst(line, moved, PINNED * TIES[name, library])


def _known_corner() -> Iterator[Comparison]:
    (shear,) = ours_pixels.arguments("ShearX", 10)
    for name, x, y in (("ShearX", 1, 0), ("ShearY", 0, 1)):
        moved = _moved(
            lambda image, s, x=x, y=y: others_pixels.sheared(image, s * x, s * y, 0.0),
            name,
            shear,
        )
        line = f"known: about the corner, {name}, torchvision, % of pixels"
        yield Comparison(line, moved, PINNED * ABOUT_THE_CORNER, "level 10")


def _known_contrast(library: str, theirs: Op) -> Comparison:
    (factor,) = ours_pixels.arguments("Contrast", 10)
    means = {
        title: float(
            levels(OURS["Contrast"](image, factor), theirs(image, factor)).mean()
        )
        for title, image in samples.augmented().items()
    }
    line = f"known: Contrast, {library}'s own, mean"
    return worst(line, means, PINNED * LEGACY_CONTRAST)
