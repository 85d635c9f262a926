"""RandAugment's 16 ops and its random policy as big_vision has them, on torch tensors.

Images are uint8 (3, h, w). Written from the RandAugment paper (arXiv 1909.13719), from
the documentation of PIL's ImageOps and ImageEnhance, and from what is known of
big_vision's table: 16 ops without the identity, its levels (`arguments`), its signs
(`SIGNED`), grey 128 around warped images, nearest neighbours, a contrast that pulls
towards height * width / 256. `blend` and `grey` work in float32 and truncate.
"""

import math
from collections.abc import Callable

import torch

FILL = 128
SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


def arguments(level: float | int) -> dict[str, tuple[float | int, ...]]:
    """What each op is given at a level of 0 to 10 or above; Cutout's place is drawn."""
    share = level / 10
    factor = 0.1 + 1.8 * share
    return {
        "AutoContrast": (),
        "Equalize": (),
        "Invert": (),
        "Rotate": (30.0 * share,),
        "Posterize": (int(4 * share),),
        "Solarize": (int(256 * share),),
        "Color": (factor,),
        "Contrast": (factor,),
        "Brightness": (factor,),
        "Sharpness": (factor,),
        "ShearX": (0.3 * share,),
        "ShearY": (0.3 * share,),
        "TranslateX": (100.0 * share,),
        "TranslateY": (100.0 * share,),
        "Cutout": (int(40 * share),),
        "SolarizeAdd": (int(110 * share),),
    }


def blend(base: torch.Tensor, image: torch.Tensor, factor: float) -> torch.Tensor:
    """`base` at factor 0, `image` at 1, beyond it above; clipped and truncated."""
    if factor == 1:
        return image
    base, image = base.float(), image.float()
    return (base + factor * (image - base)).clamp(0, 255).to(torch.uint8)


def grey(image: torch.Tensor) -> torch.Tensor:
    """(1, h, w): ITU-R 601 luma, as TensorFlow turns a share of 255 into uint8."""
    r, g, b = image.float() / 255
    luma = 0.2989 * r + 0.5870 * g + 0.1140 * b
    return (luma * 255.5).clamp(0, 255).to(torch.uint8)[None]


def look_up(image: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Each channel through its row of `tables`, uint8 (3, 256)."""
    rows = image.flatten(1).long()
    return tables.gather(1, rows).view_as(image)


def auto_contrast(image: torch.Tensor) -> torch.Tensor:
    """Each channel stretched to 0 ... 255; a flat one stays."""
    low = image.amin((1, 2)).double()[:, None]
    high = image.amax((1, 2)).double()[:, None]
    values = torch.arange(256, dtype=torch.float64)
    stretched = ((values - low) * 255 / (high - low)).nan_to_num().clamp(0, 255)
    return look_up(image, torch.where(high > low, stretched, values).to(torch.uint8))


def equalize(image: torch.Tensor) -> torch.Tensor:
    """Each channel's histogram flattened, as ImageOps.equalize documents it."""
    tables = []
    for channel in image:
        counts = torch.bincount(channel.flatten().long(), minlength=256)
        step = int(counts.sum() - counts[counts > 0][-1]) // 255
        before = counts.cumsum(0) - counts
        values = torch.arange(256)
        tables.append((before + step // 2) // step if step else values)
    return look_up(image, torch.stack(tables).clamp(0, 255).to(torch.uint8))


def invert(image: torch.Tensor) -> torch.Tensor:
    """255 minus each value."""
    return image ^ 255


def posterize(image: torch.Tensor, bits: int) -> torch.Tensor:
    """The highest bits; one of them where a shift by 8 - bits is no shift of a byte."""
    kept = bits if bits in range(1, 9) else 1
    return image // 2 ** (8 - kept) * 2 ** (8 - kept)


def solarize(image: torch.Tensor, threshold: int) -> torch.Tensor:
    """Values from the threshold on inverted; the threshold is a byte and overflows."""
    return torch.where(image >= threshold % 256, 255 - image, image)


def solarize_add(image: torch.Tensor, addition: int) -> torch.Tensor:
    """Values below 128 raised, to 255 at most."""
    return torch.where(
        image < 128, (image.int() + addition).clamp(max=255).to(torch.uint8), image
    )


def color(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Blended with its grey image."""
    return blend(grey(image).expand_as(image), image, factor)


def legacy_base(image: torch.Tensor) -> int:
    """A count of pixels in the place of their mean."""
    return min(image[0].numel() // 256, 255)


def mean_base(image: torch.Tensor) -> int:
    """The mean of the grey image, truncated."""
    return int(grey(image).double().mean())


def contrast(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Blended with one value, the legacy one."""
    return blend(torch.full_like(image, legacy_base(image)), image, factor)


def contrast_fixed(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Blended with one value, the mean."""
    return blend(torch.full_like(image, mean_base(image)), image, factor)


def brightness(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Blended with black."""
    return blend(torch.zeros_like(image), image, factor)


def sharpness(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Blended with its smoothed image (PIL's SMOOTH), except for the outer pixels.

    The smoothed image is 1 1 1, 1 5 1, 1 1 1 of 13, in whole numbers and truncated.
    """
    whole = image.int()
    rows = whole[:, :-2] + whole[:, 1:-1] + whole[:, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * whole[:, 1:-1, 1:-1]
    base = image.clone()
    base[:, 1:-1, 1:-1] = total // 13
    return blend(base, image, factor)


def half_away(position: torch.Tensor) -> torch.Tensor:
    """The nearest whole number, and of two the one that is farther from zero."""
    magnitude = (position.double().abs() + 0.5).floor()
    return (magnitude * position.sign()).long()


def positions(
    height: int, width: int, matrix: tuple[float | int, ...], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, x), each (h, w): where in the input each output pixel lies.

    `matrix` is the first two rows of that map, of (x, y, 1), pixel centres being whole.
    """
    a, b, c, d, e, f = torch.tensor(matrix, dtype=dtype)
    y = torch.arange(height, dtype=dtype)[:, None]
    x = torch.arange(width, dtype=dtype)
    return d * x + e * y + f, a * x + b * y + c


def warp(image: torch.Tensor, matrix: tuple[float | int, ...]) -> torch.Tensor:
    """The nearest pixels, found in float32; `FILL` where there is none."""
    _, h, w = image.shape
    y, x = map(half_away, positions(h, w, matrix, torch.float32))
    inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    source = y.clamp(0, h - 1) * w + x.clamp(0, w - 1)
    moved = image.flatten(1).index_select(1, source.flatten()).view_as(image)
    return torch.where(inside, moved, FILL)


def matrix_of(
    name: str, amount: float, height: int, width: int
) -> tuple[float | int, ...]:
    """The map of a warping op: positive amounts turn counter-clockwise, move left or up."""
    if name == "Rotate":
        cos, sin = math.cos(math.radians(amount)), math.sin(math.radians(amount))
        x, y = (width - 1) / 2, (height - 1) / 2
        return (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)
    return {
        "ShearX": (1.0, amount, 0.0, 0.0, 1.0, 0.0),
        "ShearY": (1.0, 0.0, 0.0, amount, 1.0, 0.0),
        "TranslateX": (1.0, 0.0, amount, 0.0, 1.0, 0.0),
        "TranslateY": (1.0, 0.0, 0.0, 0.0, 1.0, amount),
    }[name]


def _warping(name: str) -> Callable[..., torch.Tensor]:
    return lambda image, amount: warp(image, matrix_of(name, amount, *image.shape[1:]))


def cutout(image: torch.Tensor, half: int, y: int, x: int) -> torch.Tensor:
    """A square of side 2 * half around (y, x) filled."""
    image = image.clone()
    image[:, max(y - half, 0) : y + half, max(x - half, 0) : x + half] = FILL
    return image


OPS: dict[str, Callable[..., torch.Tensor]] = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": _warping("Rotate"),
    "Posterize": posterize,
    "Solarize": solarize,
    "Color": color,
    "Contrast": contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "ShearX": _warping("ShearX"),
    "ShearY": _warping("ShearY"),
    "TranslateX": _warping("TranslateX"),
    "TranslateY": _warping("TranslateY"),
    "Cutout": cutout,
    "SolarizeAdd": solarize_add,
}
CHOICES = tuple(OPS)  # what chance chooses from, with equal shares


def apply(image: torch.Tensor, name: str, *args: float | int) -> torch.Tensor:
    """One op with resolved arguments: degrees, bits, factors, pixels."""
    return OPS[name](image, *args)


def draw(
    name: str, level: float | int, height: int, width: int, generator: torch.Generator
) -> tuple[float | int, ...]:
    """An op's arguments at a level, with a fair sign or a uniform place if it has one."""

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    args = arguments(level)[name]
    if name in SIGNED:
        return (args[0] * (1 - 2 * below(2)),)
    if name == "Cutout":
        return (*args, below(height), below(width))
    return args


def randaug(
    image: torch.Tensor, generator: torch.Generator, num_layers: int, level: float | int
) -> torch.Tensor:
    """`num_layers` ops in turn, each uniform over `CHOICES`."""
    for _ in range(num_layers):
        name = CHOICES[int(torch.randint(len(CHOICES), (), generator=generator))]
        _, height, width = image.shape
        args = draw(name, level, height, width, generator)
        image = apply(image, name, *args)
    return image
