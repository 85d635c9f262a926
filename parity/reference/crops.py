"""Inception crops with TensorFlow's distribution, in torch.

The sources are the documentation of tf.image.sample_distorted_bounding_box and its
known differences from torchvision's RandomResizedCrop. The ratio width / height is
uniform, not log-uniform. The height is uniform among those with an allowed area; in
torchvision the area is uniform. There are a hundred attempts, not ten. If all fail, the
crop is the whole image.
"""

import torch

ATTEMPTS = 100


def aspect_ratio(uniform: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Return a width / height, uniform between its bounds."""
    return low + uniform * (high - low)


def boxes(
    count: int,
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> torch.Tensor:
    """Draw `count` boxes, int64 (count, 4): top, left, height, width.

    `area` is the range of a box's share of the image's area.
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
    """Return boxes (count, 4), and for each whether it is valid."""
    u = torch.rand(4, count, dtype=torch.float64, generator=generator)
    least, most = (share * height * width for share in area)
    aspect = aspect_ratio(u[0], *ratio)
    low = (least / aspect).sqrt().round()
    high = (most / aspect).sqrt().round().clamp(max=height)
    # The rounded width must not exceed the image's.
    high = torch.minimum(high, ((width + 0.5) / aspect).floor())
    low = torch.minimum(low, high)
    h = low + (u[1] * (high - low + 1)).floor()
    pixels = h * (h * aspect).round()
    h = h + (pixels < least).double() - (pixels > most).double()
    w = (h * aspect).round()
    fits = (h * w >= least) & (h * w <= most) & (h > 0) & (w > 0)
    fits &= (h <= height) & (w <= width)
    # Only boxes as high or wide as the image reach its last row or column.
    y, x = (u[2] * (height - h)).floor(), (u[3] * (width - w)).floor()
    return torch.stack([y, x, h, w], dim=1).long(), fits
