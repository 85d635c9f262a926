"""RandAugment's ops on numpy images, to the bit, by the torch reference and numpy."""

import numpy as np
import torch

from parity.reference import augment
from parity.sides.others_pixels import to_numpy, to_torch

F = np.float32


def _autocontrast(image):
    out = image.copy()
    for c in range(3):
        low, high = F(image[..., c].min()), F(image[..., c].max())
        if high > low:
            scale = F(255) / (high - low)
            stretched = image[..., c].astype(F) * scale + -low * scale
            out[..., c] = np.clip(stretched, 0, 255).astype(np.uint8)
    return out


def _sharpness(image, factor):
    h, w, _ = image.shape
    total = np.zeros((h - 2, w - 2, 3), F)
    for y, x in np.ndindex(3, 3):
        weight = F(5 if y == x == 1 else 1) / F(13)
        total = total + image[y : y + h - 2, x : x + w - 2].astype(F) * weight
    smooth = image.copy()
    smooth[1:-1, 1:-1] = np.clip(total, 0, 255).astype(np.uint8)
    base, image = torch.from_numpy(smooth), torch.from_numpy(image.copy())
    return augment.blend(base, image, factor).numpy()


def _rotate(image, degrees):
    radians = F(degrees) * F(np.pi / 180)
    cos, sin = np.cos(radians), np.sin(radians)
    h, w = F(image.shape[0] - 1), F(image.shape[1] - 1)
    dx = (w - (cos * w - sin * h)) / F(2)
    dy = (h - (sin * w + cos * h)) / F(2)
    matrix = tuple(map(float, (cos, -sin, dx, sin, cos, dy)))
    return to_numpy(augment.warp(to_torch(image), matrix))


# The reference computes these in integers or float64, big_vision in float32.
IN_FLOAT32 = {"AutoContrast": _autocontrast, "Rotate": _rotate, "Sharpness": _sharpness}


def expected(name, image, *args, contrast="legacy"):
    """The image after an op with resolved arguments."""
    if name in IN_FLOAT32:
        return IN_FLOAT32[name](image, *args)
    fixed = name == "Contrast" and contrast == "fixed"
    op = augment.contrast_fixed if fixed else augment.OPS[name]
    numbers = map(float, args) if name in augment.SIGNED else args
    return to_numpy(op(to_torch(image), *numbers))


def by_plan(image, plan, level, contrast="legacy"):
    """(the image after the ops that a plan's bits say, the names of these ops)."""
    names = [list(augment.OPS)[int(word) & 15] for word in plan]
    for name, word in zip(names, map(int, plan), strict=True):
        args = augment.arguments(level)[name]
        if name == "Cutout":
            h, w, _ = image.shape
            args = (*args, (word >> 5 & 8191) * h >> 13, (word >> 18 & 8191) * w >> 13)
        if name in augment.SIGNED and word >> 4 & 1:
            args = (-args[0],)
        image = expected(name, image, *args, contrast=contrast)
    return image, names
