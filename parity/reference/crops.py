"""The law of inception crops as TensorFlow draws them, in torch.

Written from the documentation of tf.image.sample_distorted_bounding_box and from what
distinguishes it from torchvision's RandomResizedCrop of the same name: a ratio width /
height that is uniform and not log-uniform, a height that is uniform among those whose
area is allowed, where torchvision's area is uniform; a hundred attempts, not ten; the
whole image where all of them fail.
"""

import torch

ATTEMPTS = 100


def aspect_ratio(uniform: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Width / height, uniform between its bounds."""
    return low + uniform * (high - low)


def boxes(
    count: int,
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> torch.Tensor:
    """`count` random boxes, int64 (count, 4): top, left, height, width.

    `area` bounds the share of the image's area.
    """
    found = torch.tensor([0, 0, height, width]).repeat(count, 1)
    missing = torch.arange(count)
    for _ in range(ATTEMPTS):
        if not len(missing):
            break
        box, fits = _attempt(len(missing), height, width, area, ratio, generator)
        found[missing[fits]] = box[fits]
        missing = missing[~fits]
    return found


def _attempt(
    count: int,
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(count, 4) boxes, and whether each one may be used."""
    u = torch.rand(4, count, dtype=torch.float64, generator=generator)
    least, most = (share * height * width for share in area)
    aspect = aspect_ratio(u[0], *ratio)
    low = (least / aspect).sqrt().round()
    high = (most / aspect).sqrt().round().clamp(max=height)
    # Rounded, the width must not exceed the image's.
    high = torch.minimum(high, ((width + 0.5) / aspect).floor())
    low = torch.minimum(low, high)
    h = low + (u[1] * (high - low + 1)).floor()
    pixels = h * (h * aspect).round()
    h = h + (pixels < least).double() - (pixels > most).double()
    w = (h * aspect).round()
    fits = (h * w >= least) & (h * w <= most) & (h > 0) & (w > 0)
    fits &= (h <= height) & (w <= width)
    # The last row and column are reached only by boxes as high or wide as the image.
    y, x = (u[2] * (height - h)).floor(), (u[3] * (width - w)).floor()
    return torch.stack([y, x, h, w], dim=1).long(), fits
