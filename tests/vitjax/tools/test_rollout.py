"""Attention rollout: its known cases, and the formula by hand, row by row."""

import numpy as np
import pytest

from vitjax.tools.attention_rollout import cosine_similarity, patch_map, rollout


def test_uniform_attention_gives_every_other_token_the_same():
    n = 10
    layers = [np.full((1, 2, n, n), 1 / n)] * 5
    found = rollout(layers)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-12)
    [row] = found[:, 0, 1:]
    np.testing.assert_allclose(row, row[0], rtol=1e-12)
    # 2 ** -5 stays in the token itself; the rest is spread over all ten.
    np.testing.assert_allclose(row[0], (1 - 2.0**-5) / n, rtol=1e-12)
    np.testing.assert_allclose(
        patch_map(found, (3, 3), cls=True), np.full((1, 3, 3), row[0])
    )


def test_the_product_by_hand():
    """R = (A_L + I) ... (A_2 + I)(A_1 + I), with rows scaled at the end."""
    layers = list(np.random.default_rng(0).random((3, 2, 4, 6, 6)) ** 4)
    found = rollout([x.astype(np.float32) for x in layers])
    for example in range(2):
        first, second, third = (x[example].mean(0) + np.eye(6) for x in layers)
        total = third @ second @ first
        expected = total / total.sum(1, keepdims=True)
        np.testing.assert_allclose(found[example], expected, rtol=1e-6)


def test_the_map_is_the_class_tokens_row_or_the_patches_mean():
    weights = np.arange(2 * 8 * 8, dtype=float).reshape(2, 8, 8)
    found = patch_map(weights, (2, 3), cls=True)
    np.testing.assert_array_equal(found[0], [[1, 2, 3], [4, 5, 6]])  # 7: a register
    found = patch_map(weights, (2, 3), cls=False)
    expected = weights[1, :6, :6].mean(0).reshape(2, 3)
    np.testing.assert_allclose(found[1], expected)
    with pytest.raises(ValueError, match="8 tokens are too few for 2 x 4 patches"):
        patch_map(weights, (2, 4), cls=True)
    with pytest.raises(ValueError, match="at least one layer"):
        rollout([])


def test_cosines():
    table = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [1.0, 1.0]], np.float32)
    half = 0.5**0.5
    np.testing.assert_allclose(
        cosine_similarity(table),
        [[1, 0, -1, half], [0, 1, 0, half], [-1, 0, 1, -half], [half, half, -half, 1]],
        atol=1e-7,
    )
