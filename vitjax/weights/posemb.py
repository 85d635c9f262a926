"""Resample position embeddings to another grid, and recognise the constant ones.

Shapes: n positions of a grid, row by row; d width.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from vitjax.models.vit import posemb_sincos_2d

Grid = Sequence[int]  # rows, columns


def square_grid(positions: int) -> tuple[int, int] | None:
    """Return the square grid with this many positions; None if there is none."""
    side = math.isqrt(max(0, positions))
    return (side, side) if side and side * side == positions else None


def grid_of(positions: int, grid: Grid | None, what: str) -> tuple[int, int]:
    """Return `grid`, or the square grid if None; ValueError if it does not fit."""
    found = square_grid(positions) if grid is None else (int(grid[0]), int(grid[1]))
    if found is None:
        raise ValueError(
            f"{what} has {positions} positions, which is no square: give their grid "
            "(rows, columns)"
        )
    if math.prod(found) != positions:
        raise ValueError(
            f"{what} has {positions} positions, which is not a grid of "
            f"{found[0]}x{found[1]}"
        )
    return found


class GridUnknown(ValueError):
    """The number of positions, `stored`, does not show how many are the patches'."""

    def __init__(self, sentence: str, stored: int):
        super().__init__(sentence)
        self.stored = stored


def of_tokens(
    what: str,
    stored: int,
    tokens: int,
    usual: int | None,
    *,
    grid: Grid | None,
    model_grid: Grid | None,
) -> int:
    """Return how many of `stored` positions belong to the `tokens` non-patch tokens.

    The answer is `tokens` or 0, and may be ambiguous: 25 positions are 5 x 5 patches,
    or 4 x 6 patches and one token. The patches' `grid` decides if given. Otherwise
    `usual`, the usual answer for such a file, and `model_grid`, the grid of the model
    that gets them, decide. Raises GridUnknown if neither gives an answer, or they
    disagree.
    """
    fits = {stored - n: n for n in (0, tokens)}
    problem = (
        f"{what} has {stored} positions, with or without the {tokens} other tokens"
    )
    if grid is not None:
        if math.prod(grid) not in fits:
            raise ValueError(f"{problem}, which do not fit the grid {tuple(grid)}")
        return fits[math.prod(grid)]
    hint = None if model_grid is None else fits.get(math.prod(model_grid))
    answer = hint if usual is None else usual
    if answer is not None and hint in (None, answer):
        return answer
    raise GridUnknown(
        f"{problem}: give grid=(rows, columns) of the patches (--grid of convert, "
        "--config.model_init_grid of a run)",
        stored,
    )


def resample(
    table: Shaped[np.ndarray, "1 n d"], old: Grid, new: Grid
) -> Shaped[np.ndarray, "1 m d"]:
    """Resample embeddings from grid `old` (rows, columns) to `new`, in their dtype.

    The interpolation is linear along both sides with aligned corners, as in big_vision
    for squares (models/vit.py:411-426), and is computed in float64. Equal grids return
    the table unchanged.
    """
    if tuple(old) == tuple(new):
        return table
    x = np.asarray(table, np.float64).reshape(*old, -1)
    rows, columns = (_linear(a, b) for a, b in zip(old, new, strict=True))
    x = np.einsum("Yy,Xx,yxd->YXd", rows, columns, x, optimize=True)
    return x.reshape(1, math.prod(new), -1).astype(table.dtype)


def _linear(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Return the interpolation matrix; row i weighs the old positions for new one i."""
    at = np.linspace(0, old - 1, new)[:, None]
    return np.maximum(0, 1 - np.abs(at - np.arange(old)[None]))


def sincos2d(grid: Grid, width: int, dtype: np.dtype) -> Shaped[np.ndarray, "1 n d"]:
    """Return the constant sincos2d embeddings that the model adds."""
    rows, columns = grid
    return posemb_sincos_2d(rows, columns, width).astype(dtype)


def is_sincos2d(
    table: Shaped[np.ndarray, "1 n d"], grid: Grid | None = None
) -> tuple[int, int] | None:
    """Return the grid whose sincos2d embeddings these are; None if there is none.

    If `grid` is given, only that one is tried. Rounding is allowed for: libraries
    compute the constants in float32, with errors of up to 1e-5.
    """
    _, positions, width = table.shape
    if width % 4 or width < 8:
        return None
    grids = [(h, positions // h) for h in range(1, positions + 1) if positions % h == 0]
    x = np.asarray(table, np.float64)
    tolerance = 1e-5 if table.itemsize > 2 else 2**-8  # 16-bit floats
    for rows, columns in grids if grid is None else [grid]:
        expected = posemb_sincos_2d(rows, columns, width)
        if expected.shape == x.shape and np.abs(x - expected).max() < tolerance:
            return rows, columns
    return None
