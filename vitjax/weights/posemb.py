"""Position embeddings of a grid of patches: another grid, and the constant ones.

n positions of a grid, row by row; d width.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from vitjax.models.vit import posemb_sincos_2d

Grid = Sequence[int]  # rows, columns


def square_grid(positions: int) -> tuple[int, int] | None:
    """The square grid of that many positions, None if there is none."""
    side = math.isqrt(max(0, positions))
    return (side, side) if side and side * side == positions else None


def grid_of(positions: int, grid: Grid | None, what: str) -> tuple[int, int]:
    """`grid`, or the square one if that is None; ValueError if it does not fit."""
    found = square_grid(positions) if grid is None else (int(grid[0]), int(grid[1]))
    if found is None:
        raise ValueError(
            f"{what} has {positions} positions, which is no square: say which grid "
            "(rows, columns) they are of"
        )
    if math.prod(found) != positions:
        raise ValueError(
            f"{what} has {positions} positions, which is not a grid of "
            f"{found[0]}x{found[1]}"
        )
    return found


class GridUnknown(ValueError):
    """A number of positions, `stored`, leaves open which of them are the patches'."""

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
    """How many of `stored` positions are for `tokens` tokens that are no patches.

    All of these or none: a square of 5 x 5 may also be 4 x 6 and one token. The `grid`
    of the patches tells; else what is `usual` in such a file, and the grid of the model
    that they are for, if it fits. Raises GridUnknown if neither tells, or they differ.
    """
    fits = {stored - n: n for n in (0, tokens)}
    told = f"{what} has {stored} positions, with or without the {tokens} other tokens"
    if grid is not None:
        if math.prod(grid) not in fits:
            raise ValueError(f"{told} not of the grid {tuple(grid)}")
        return fits[math.prod(grid)]
    hint = None if model_grid is None else fits.get(math.prod(model_grid))
    answer = hint if usual is None else usual
    if answer is not None and hint in (None, answer):
        return answer
    raise GridUnknown(
        f"{told}: say grid=(rows, columns) of the patches (--grid of convert, "
        "--config.model_init_grid of a run)",
        stored,
    )


def resample(
    table: Shaped[np.ndarray, "1 n d"], old: Grid, new: Grid
) -> Shaped[np.ndarray, "1 m d"]:
    """The embeddings of a grid `old` (rows, columns) on a grid `new`, in their dtype.

    Linear along both sides, corners upon corners, as big_vision does for squares
    (models/vit.py:411-426); computed in float64. The same grid changes no bit.
    """
    if tuple(old) == tuple(new):
        return table
    x = np.asarray(table, np.float64).reshape(*old, -1)
    rows, columns = (_linear(a, b) for a, b in zip(old, new, strict=True))
    x = np.einsum("Yy,Xx,yxd->YXd", rows, columns, x, optimize=True)
    return x.reshape(1, math.prod(new), -1).astype(table.dtype)


def _linear(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Row i: the weights of old positions in new position i."""
    at = np.linspace(0, old - 1, new)[:, None]
    return np.maximum(0, 1 - np.abs(at - np.arange(old)[None]))


def sincos2d(grid: Grid, width: int, dtype: np.dtype) -> Shaped[np.ndarray, "1 n d"]:
    """The constant embeddings as the model adds them."""
    rows, columns = grid
    return posemb_sincos_2d(rows, columns, width).astype(dtype)


def is_sincos2d(
    table: Shaped[np.ndarray, "1 n d"], grid: Grid | None = None
) -> tuple[int, int] | None:
    """The grid whose constant embeddings these are, None if of no grid (or not `grid`).

    Rounding does not count: libraries compute them in float32, errors of up to 1e-5.
    """
    _, positions, width = table.shape
    if width % 4 or width < 8:
        return None
    grids = [(h, positions // h) for h in range(1, positions + 1) if positions % h == 0]
    x = np.asarray(table, np.float64)
    tolerance = 1e-5 if table.itemsize > 2 else 2**-8  # of 16 bits
    for rows, columns in grids if grid is None else [grid]:
        expected = posemb_sincos_2d(rows, columns, width)
        if expected.shape == x.shape and np.abs(x - expected).max() < tolerance:
            return rows, columns
    return None
