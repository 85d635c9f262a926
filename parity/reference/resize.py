"""Resizing as two matrix products, one for each side, in float64.

A row of a matrix holds the weights of the input pixels in one output pixel. Pixel i
covers i ... i + 1, so the centre of output pixel o is at (o + 1/2) * scale.
"""

import torch


def triangle(size_in: int, size_out: int, antialias: bool) -> torch.Tensor:
    """Return the (out, in) matrix of linear interpolation.

    With `antialias`, the triangle reaches one step between outputs to each side where
    the image shrinks, and interpolates where it grows; this is PIL's BILINEAR. Without
    it, an output pixel depends on two neighbours, however far the image shrinks.
    """
    scale = size_in / size_out
    reach = max(scale, 1.0) if antialias else 1.0
    centres = (torch.arange(size_out, dtype=torch.float64)[:, None] + 0.5) * scale
    pixels = torch.arange(size_in, dtype=torch.float64) + 0.5
    if reach == 1.0:  # the image is constant beyond the outer pixels' centres
        centres = centres.clamp(0.5, size_in - 0.5)
    weights = (1 - (pixels - centres).abs() / reach).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def area(size_in: int, size_out: int) -> torch.Tensor:
    """Return (out, in): the share of an output pixel that each input pixel covers."""
    scale = size_in / size_out
    first = torch.arange(size_out, dtype=torch.float64)[:, None] * scale
    pixels = torch.arange(size_in, dtype=torch.float64)
    end = torch.minimum(pixels + 1, first + scale)
    return (end - torch.maximum(pixels, first)).clamp(min=0) / scale


def resize(
    image: torch.Tensor,
    size: tuple[int, int],
    method: str = "bilinear",
    antialias: bool = True,
) -> torch.Tensor:
    """Resize (c, h, w) to (c, *size) in float64; `method` is "bilinear" or "area"."""
    rows, columns = (
        area(n, m) if method == "area" else triangle(n, m, antialias)
        for n, m in zip(image.shape[1:], size, strict=True)
    )
    return rows @ image.double() @ columns.T
