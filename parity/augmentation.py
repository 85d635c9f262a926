"""Rung 10, its ops: each op of randaug beside the torch reference, torchvision and PIL.

Whatever differs by more than a grey level is a line that begins with "known", and its
reason stands in `REASONS`.
"""

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Bool

from parity import opinions, ours_pixels, pictures
from parity.comparison import Comparison, worst
from parity.decoding import levels
from parity.opinions import PIL_OPS, TORCHVISION_OPS, to_numpy, to_torch
from parity.pictures import Image
from parity.reference import augment

LEVELS = (1, 4, 10, 15, 20)
CENTRES = ((100, 7), (0, 150), (111, 112))  # of Cutout, (y, x); two across an edge
ONE = 1.0  # grey level
ARGUMENTS = 1e-9  # of degrees, factors and pixels, in float64; bits are whole
# In pixels. A position as close as this to the border between two pixels may fall on
# either side: PIL computes positions in 1/65536, over at most 256 pixels.
TIE = 2 * 256 / 65536
# Of a hundred pixels. 0.3 * y is a tie in every tenth row; TIE takes in 2 * TIE of the
# positions both ways.
TIES = 10 + 100 * 2 * 2 * TIE

# How many levels the image that an op blends with may lie from the others', since one
# side truncates what the other rounds.
BASES_APART = {"Color": 1, "Sharpness": 1, "Contrast fixed": 2}

_BASES = (
    "the image that is blended with is truncated here, as in big_vision, and rounded "
    "there: a level apart, times |factor - 1|, which is 0.9 at most up to level 10, "
    "1.8 at level 15 and 2.7 at level 20"
)
REASONS = {
    "Color": _BASES,
    "Sharpness": _BASES + "; sums of whole numbers may also fall short by a float32",
    "Contrast fixed": "every grey pixel and the mean of them are truncated here and "
    "rounded there: the bases are up to two levels apart, times |factor - 1|",
    "Contrast": "big_vision takes height * width / 256 for the mean grey value; the "
    "other lines compare with blending towards that value, this one with PIL's own",
    "ties": "a position halfway between two pixels is rounded away from zero here, to "
    "even by torchvision and down by PIL; all other positions are equal",
    "about the corner": "torchvision's RandAugment leaves the image's corner in place, "
    "TensorFlow Addons the centre of the first pixel: 0.15 of a pixel at level 10",
}

Op = Callable[..., Image]


def single_ops() -> Iterator[Comparison]:
    """The largest difference of each op, in grey levels, by who is asked.

    Over photographs and grids, at levels 1 to 20, with both signs.
    """
    yield _arguments()
    for name in OURS:
        yield from _against("reference", _reference(name), name)
    yield from other_opinions()


def _arguments() -> Comparison:
    """Degrees, bits, factors and pixels, at levels 0 to 20 in steps of a quarter."""
    errors = {
        f"{name}, level {level}": abs(ours - theirs)
        for level in np.arange(0, 20.25, 0.25).tolist()
        for name, args in augment.arguments(level).items()
        for ours, theirs in zip(ours_pixels.arguments(name, level), args, strict=True)
    }
    return worst("what levels mean, reference", errors, ARGUMENTS)


@functools.cache
def other_opinions() -> tuple[Comparison, ...]:
    """The lines of `single_ops` in which the reference has no part; computed once."""
    return tuple(_other_opinions())


def _other_opinions() -> Iterator[Comparison]:
    for library, table in (("torchvision", TORCHVISION_OPS), ("PIL", PIL_OPS)):
        for name in OURS:
            if name in table:  # torchvision has no SolarizeAdd
                yield from _against(library, table[name], name)
    for library, table in (("torchvision", TORCHVISION_OPS), ("PIL", PIL_OPS)):
        for name in augment.SIGNED[:3]:
            yield _known_ties(library, table[name], name)
    yield from _known_corner()
    yield _known_contrast()


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
    """What to call them, and an op's arguments: at each level, with both signs."""
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
    """One line for all settings that may differ by a level, one for each other setting."""
    groups: dict[tuple[str, float], dict[str, float]] = {}
    for setting, args in settings(name):
        bound = _bound(library, name, args)
        line = f"{name}, {library}"
        if bound > ONE:
            line = f"known: {line}, {setting}"
        elif name in augment.SIGNED:
            line += ", off ties"
        errors = groups.setdefault((line, bound), {})
        for title, image in pictures.augmented().items():
            difference = levels(OURS[name](image, *args), theirs(image, *args))
            if name in augment.SIGNED:
                difference = difference[off_ties(image, name, args[0])]
            errors[f"{title}, {setting}"] = float(difference.max())
    for (line, bound), errors in groups.items():
        yield worst(line, errors, bound)


def _bound(library: str, name: str, args: tuple[float | int, ...]) -> float:
    apart = BASES_APART.get(name, 0)
    if library == "reference" and name != "Sharpness":  # it truncates, too
        apart = 0
    return max(ONE, float(math.ceil(apart * abs(args[0] - 1)))) if apart else ONE


def off_ties(image: Image, name: str, amount: float) -> Bool[np.ndarray, "h w"]:
    """Which output pixels lie clearly within one input pixel."""
    h, w, _ = image.shape
    matrix = augment.matrix_of(name, amount, h, w)
    clear = torch.ones(h, w, dtype=torch.bool)
    for position in augment.positions(h, w, matrix, torch.float64):
        clear &= (position - position.floor() - 0.5).abs() > TIE
    return clear.numpy()


def _moved(theirs: Op, name: str, amount: float) -> float:
    """How many of a hundred pixels come from another place than ours."""
    image = pictures.coordinates(224, 224)
    difference = levels(OURS[name](image, amount), theirs(image, amount))
    return 100 * float((difference.max(-1) > 0).mean())


def _known_ties(library: str, theirs: Op, name: str) -> Comparison:
    moved = {setting: _moved(theirs, name, args[0]) for setting, args in settings(name)}
    return worst(f"known: ties, {name}, {library}, % of pixels", moved, TIES)


def _known_corner() -> Iterator[Comparison]:
    (shear,) = ours_pixels.arguments("ShearX", 10)
    for name, x, y in (("ShearX", 1, 0), ("ShearY", 0, 1)):
        moved = _moved(
            lambda image, s, x=x, y=y: opinions.sheared(image, s * x, s * y, 0.0),
            name,
            shear,
        )
        # Half of the shear apart, and ties.
        bound = 100 * shear / 2 + TIES
        line = f"known: about the corner, {name}, torchvision, % of pixels"
        yield Comparison(line, moved, bound, "level 10")


def _known_contrast() -> Comparison:
    (factor,) = ours_pixels.arguments("Contrast", 10)
    theirs = PIL_OPS["Contrast fixed"]
    means = {
        title: float(
            levels(OURS["Contrast"](image, factor), theirs(image, factor)).mean()
        )
        for title, image in pictures.augmented().items()
    }
    return worst("known: Contrast, PIL's own, mean", means, (factor - 1) * 255)
