"""big_vision's 16 RandAugment ops and its random policy, on torch tensors.

Images are uint8 (3, h, w). The sources are the RandAugment paper (arXiv 1909.13719),
the documentation of PIL's ImageOps and ImageEnhance, and the known properties of
big_vision's table: 16 ops without the identity, its levels (`arguments`), its signs
(`SIGNED`), grey 128 around warped images, nearest-neighbour sampling, and a contrast
that blends towards height * width / 256. `blend` and `grey` compute in float32 and
truncate.
"""

import math
from collections.abc import Callable

import torch

FILL = 128
SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


def arguments(level: float | int) -> dict[str, tuple[float | int, ...]]:
    """Return the arguments of each op at a level of 0 to 10 or above.

    The position of a Cutout is not among them: `draw` adds it.
    """
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
    """Interpolate from `base` (factor 0) to `image` (factor 1), or extrapolate above 1.

    The result is clipped to 0 ... 255 and truncated.
    """
    if factor == 1:
        return image
    base, image = base.float(), image.float()
    return (base + factor * (image - base)).clamp(0, 255).to(torch.uint8)


def grey(image: torch.Tensor) -> torch.Tensor:
    """Return the ITU-R 601 luma, uint8 (1, h, w).

    The luma in [0, 1] becomes uint8 as in TensorFlow's conversion of floats.
    """
    r, g, b = image.float() / 255
    luma = 0.2989 * r + 0.5870 * g + 0.1140 * b
    return (luma * 255.5).clamp(0, 255).to(torch.uint8)[None]


def look_up(image: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Map each channel through its row of `tables`, uint8 (3, 256)."""
    rows = image.flatten(1).long()
    return tables.gather(1, rows).view_as(image)


def auto_contrast(image: torch.Tensor) -> torch.Tensor:
    """Stretch each channel to 0 ... 255; leave a constant channel unchanged."""
    low = image.amin((1, 2)).double()[:, None]
    high = image.amax((1, 2)).double()[:, None]
    values = torch.arange(256, dtype=torch.float64)
    stretched = ((values - low) * 255 / (high - low)).nan_to_num().clamp(0, 255)
    return look_up(image, torch.where(high > low, stretched, values).to(torch.uint8))


def equalize(image: torch.Tensor) -> torch.Tensor:
    """Flatten each channel's histogram, as ImageOps.equalize documents it."""
    tables = []
    for channel in image:
        counts = torch.bincount(channel.flatten().long(), minlength=256)
        step = int(counts.sum() - counts[counts > 0][-1]) // 255
        before = counts.cumsum(0) - counts
        values = torch.arange(256)
        tables.append((before + step // 2) // step if step else values)
    return look_up(image, torch.stack(tables).clamp(0, 255).to(torch.uint8))


def invert(image: torch.Tensor) -> torch.Tensor:
    """Return 255 minus each value."""
    return image ^ 255


def posterize(image: torch.Tensor, bits: int) -> torch.Tensor:
    """Keep the highest `bits` bits of each value.

    Outside 1 ... 8, where 8 - bits is no valid shift of a byte, one bit is kept.
    """
    kept = bits if bits in range(1, 9) else 1
    return image // 2 ** (8 - kept) * 2 ** (8 - kept)


def solarize(image: torch.Tensor, threshold: int) -> torch.Tensor:
    """Invert values from the threshold on; the threshold is a byte and overflows."""
    return torch.where(image >= threshold % 256, 255 - image, image)


def solarize_add(image: torch.Tensor, addition: int) -> torch.Tensor:
    """Add `addition` to values below 128, up to 255."""
    return torch.where(
        image < 128, (image.int() + addition).clamp(max=255).to(torch.uint8), image
    )


def color(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Blend with the grey image."""
    return blend(grey(image).expand_as(image), image, factor)


def legacy_base(image: torch.Tensor) -> int:
    """Return h * w / 256, at most 255, which big_vision uses in place of the mean."""
    return min(image[0].numel() // 256, 255)


def mean_base(image: torch.Tensor) -> int:
    """Return the mean of the grey image, truncated."""
    return int(grey(image).double().mean())


def contrast(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Blend with one value, `legacy_base`."""
    return blend(torch.full_like(image, legacy_base(image)), image, factor)


def contrast_fixed(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Blend with one value, `mean_base`."""
    return blend(torch.full_like(image, mean_base(image)), image, factor)


def brightness(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Blend with black."""
    return blend(torch.zeros_like(image), image, factor)


def sharpness(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Blend with the smoothed image (PIL's SMOOTH), except for the outer pixels.

    The kernel is 1 1 1, 1 5 1, 1 1 1 divided by 13, computed in integers and truncated.
    """
    whole = image.int()
    rows = whole[:, :-2] + whole[:, 1:-1] + whole[:, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * whole[:, 1:-1, 1:-1]
    base = image.clone()
    base[:, 1:-1, 1:-1] = total // 13
    return blend(base, image, factor)


def half_away(position: torch.Tensor) -> torch.Tensor:
    """Round to the nearest integer, halves away from zero."""
    magnitude = (position.double().abs() + 0.5).floor()
    return (magnitude * position.sign()).long()


def positions(
    height: int, width: int, matrix: tuple[float | int, ...], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (y, x), each (h, w): the input position of each output pixel.

    `matrix` holds the first two rows of that affine map of (x, y, 1). Pixel centres are
    integers.
    """
    a, b, c, d, e, f = torch.tensor(matrix, dtype=dtype)
    y = torch.arange(height, dtype=dtype)[:, None]
    x = torch.arange(width, dtype=dtype)
    return d * x + e * y + f, a * x + b * y + c


def warp(image: torch.Tensor, matrix: tuple[float | int, ...]) -> torch.Tensor:
    """Sample the nearest pixels, at positions in float32; `FILL` outside the image."""
    _, h, w = image.shape
    y, x = map(half_away, positions(h, w, matrix, torch.float32))
    inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    source = y.clamp(0, h - 1) * w + x.clamp(0, w - 1)
    moved = image.flatten(1).index_select(1, source.flatten()).view_as(image)
    return torch.where(inside, moved, FILL)


def matrix_of(
    name: str, amount: float, height: int, width: int
) -> tuple[float | int, ...]:
    """Return the matrix of a warping op.

    Positive amounts turn counter-clockwise and move left or up.
    """
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
    """Fill a square of side 2 * half around (y, x)."""
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
CHOICES = tuple(OPS)  # `randaug` draws from these uniformly


def apply(image: torch.Tensor, name: str, *args: float | int) -> torch.Tensor:
    """Apply one op with resolved arguments: degrees, bits, factors, pixels."""
    return OPS[name](image, *args)


def draw(
    name: str, level: float | int, height: int, width: int, generator: torch.Generator
) -> tuple[float | int, ...]:
    """Draw an op's arguments at a level.

    An op of `SIGNED` gets a fair sign, and a Cutout a uniform position.
    """

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
    """Apply `num_layers` ops in turn, each drawn uniformly from `CHOICES`."""
    for _ in range(num_layers):
        name = CHOICES[int(torch.randint(len(CHOICES), (), generator=generator))]
        _, height, width = image.shape
        args = draw(name, level, height, width, generator)
        image = apply(image, name, *args)
    return image
