"""Where each pixel of a warped image comes from: matrices and index maps, in numpy.

A matrix, six numbers, maps an output position (x, y, 1) to the input position that it
shows. The operations and their order are those of TensorFlow Addons, in float32.
"""

import ctypes
import math
from collections.abc import Sequence

import numpy as np


def rotation(height: int, width: int, degrees: float) -> list[float]:
    """Return the matrix of a rotation about ((w - 1) / 2, (h - 1) / 2).

    The rotation is counter-clockwise. The operations and their order are those of
    tfa.image.rotate, to the last bit.
    """
    radians = np.float32(degrees) * np.float32(math.pi / 180.0)
    cos, sin = (_of_c(name, radians) for name in ("cosf", "sinf"))
    two, h, w = np.float32(2), np.float32(height - 1), np.float32(width - 1)
    dx = (w - (cos * w - sin * h)) / two
    dy = (h - (sin * w + cos * h)) / two
    return [float(value) for value in (cos, -sin, dx, sin, cos, dy)]


def _of_c(name: str, x: np.float32) -> np.float32:
    """Return C's cosf or sinf, which TensorFlow calls for a single number.

    numpy's differ from it by one rounding at 5 % of all angles, and so would one pixel
    in 50,000 for some of them.
    """
    function = getattr(ctypes.CDLL(None), name)
    function.argtypes, function.restype = [ctypes.c_float], ctypes.c_float
    return np.float32(function(x))


def shear_x(shear: float) -> list[float]:
    """Return the matrix with which output (x, y) shows input (x + shear * y, y)."""
    return [1.0, shear, 0.0, 0.0, 1.0, 0.0]


def shear_y(shear: float) -> list[float]:
    """Return the matrix with which output (x, y) shows input (x, y + shear * x)."""
    return [1.0, 0.0, 0.0, shear, 1.0, 0.0]


def translation(dx: float, dy: float) -> list[float]:
    """Return the matrix with which output (x, y) shows input (x + dx, y + dy)."""
    return [1.0, 0.0, dx, 0.0, 1.0, dy]


def pixel_map(height: int, width: int, matrix: Sequence[float]) -> np.ndarray:
    """Return the number, y * width + x, of the pixel that each output shows, int32.

    Positions are rounded half away from zero. height * width means one outside.
    """
    a, b, c, d, e, f = (np.float32(value) for value in matrix)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    # Round half away from zero on exact values: adding 0.5 in float32 could round up.
    column, row = (
        np.trunc(v.astype(np.float64) + np.copysign(0.5, v))
        for v in (a * x + b * y + c, d * x + e * y + f)
    )
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return np.where(inside, row * width + column, height * width).astype(np.int32)
