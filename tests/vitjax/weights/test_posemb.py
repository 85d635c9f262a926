"""Position embeddings on other grids, held against scipy and torch."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from vitjax.models.vit import posemb_sincos_2d
from vitjax.weights import posemb

GRIDS = [((3, 3), (7, 7)), ((7, 7), (3, 3)), ((2, 5), (4, 3)), ((4, 6), (1, 9))]


@pytest.mark.parametrize(("old", "new"), GRIDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_scipy_which_big_vision_uses_and_torch(old, new, dtype):
    table = np.random.default_rng(0).standard_normal((1, old[0] * old[1], 4))
    table = table.astype(dtype)
    got = posemb.resample(table, old, new)
    assert got.dtype == dtype
    grid = table.reshape(*old, 4)
    zoomed = ndimage.zoom(grid, (new[0] / old[0], new[1] / old[1], 1), order=1)
    bound = 1e-6 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(got, zoomed.reshape(1, -1, 4), rtol=0, atol=bound)
    tensor = torch.tensor(grid).permute(2, 0, 1)[None]
    theirs = torch.nn.functional.interpolate(
        tensor, new, mode="bilinear", align_corners=True
    )
    theirs = theirs[0].permute(1, 2, 0).reshape(1, -1, 4)
    np.testing.assert_allclose(got, theirs, rtol=0, atol=bound)


def test_the_same_grid_changes_no_bit_and_corners_stay():
    table = np.random.default_rng(0).standard_normal((1, 6, 4)).astype(np.float32)
    assert posemb.resample(table, [2, 3], (2, 3)) is table
    got = posemb.resample(table, (2, 3), (5, 4)).reshape(5, 4, 4)
    old = table.reshape(2, 3, 4)
    for y, x in [(0, 0), (0, -1), (-1, 0), (-1, -1)]:
        np.testing.assert_array_equal(got[y, x], old[y, x])


def test_constants_are_recognized_with_their_grid():
    table = posemb_sincos_2d(4, 6, 16)
    assert posemb.is_sincos2d(table.astype(np.float32)) == (4, 6)
    assert posemb.is_sincos2d(table.astype(np.float32), (4, 6)) == (4, 6)
    assert posemb.is_sincos2d(table, (6, 4)) is None
    changed = table.copy()
    changed[0, 5, 3] += 2e-5
    assert posemb.is_sincos2d(changed) is None
    assert posemb.is_sincos2d(np.zeros((1, 4, 6))) is None
    # As large as they come: what torch computes in float32.
    omega = 1.0 / 10_000 ** (torch.arange(192) / 191)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(64), indexing="ij")
    y, x = (t.flatten()[:, None] * omega for t in (y, x))
    table = torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], 1)[None].numpy()
    assert posemb.is_sincos2d(table) == (32, 64)


def test_a_grid_must_fit():
    assert posemb.grid_of(9, None, "x") == (3, 3)
    assert posemb.grid_of(6, [2, 3], "x") == (2, 3)
    with pytest.raises(ValueError, match="x has 6 positions, which is no square"):
        posemb.grid_of(6, None, "x")
    with pytest.raises(
        ValueError, match="x has 6 positions, which is not a grid of 2x2"
    ):
        posemb.grid_of(6, (2, 2), "x")
