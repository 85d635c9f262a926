"""Attention rollout: its known cases, and the formula by hand, row by row."""

import numpy as np
import pytest

from vitjax.tools.attention_rollout import cosine_similarity, patch_map, rollout


def random_layers(layers=3, b=2, h=4, n=6, seed=0):
    probs = np.random.default_rng(seed).random((layers, b, h, n, n)) ** 4
    return list(probs / probs.sum(-1, keepdims=True))


def test_uniform_attention_gives_every_other_token_the_same():
    n = 10
    layers = [np.full((1, 2, n, n), 1 / n)] * 5
    found = rollout(layers)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-12)
    [row] = found[:, 0, 1:]
    np.testing.assert_allclose(row, row[0], rtol=1e-12)
    # What has not left the token itself: 2 ** -5; the rest is spread over all ten.
    np.testing.assert_allclose(row[0], (1 - 2.0**-5) / n, rtol=1e-12)
    np.testing.assert_allclose(
        patch_map(found, (3, 3), cls=True), np.full((1, 3, 3), row[0])
    )


def test_one_layer_is_half_of_attention_and_half_of_identity():
    [probs] = random_layers(layers=1)
    expected = 0.5 * (probs.mean(1) + np.eye(6))
    np.testing.assert_allclose(rollout([probs]), expected, rtol=1e-12)


def test_the_product_by_hand():
    """R = (A_L + I) ... (A_2 + I)(A_1 + I), in loops, rows scaled at the end."""
    layers = random_layers()
    found = rollout([x.astype(np.float32) for x in layers])
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-12)
    for example in range(2):
        total = [[float(i == j) for j in range(6)] for i in range(6)]
        for probs in layers:
            a = [
                [sum(probs[example, k, i, j] for k in range(4)) / 4 for j in range(6)]
                for i in range(6)
            ]
            total = [
                [
                    total[i][j] + sum(a[i][k] * total[k][j] for k in range(6))
                    for j in range(6)
                ]
                for i in range(6)
            ]
        expected = [[x / sum(row) for x in row] for row in total]
        np.testing.assert_allclose(found[example], expected, rtol=1e-6)
    assert not np.allclose(found, rollout(layers[::-1]), rtol=1e-3)


def test_rows_that_do_not_sum_to_1_are_scaled():
    layers = [3 * x for x in random_layers()]
    np.testing.assert_allclose(rollout(layers).sum(-1), 1, rtol=1e-12)


def test_the_map_is_the_class_tokens_row_or_the_patches_mean():
    weights = np.arange(2 * 8 * 8, dtype=float).reshape(2, 8, 8)
    found = patch_map(weights, (2, 3), cls=True)
    np.testing.assert_array_equal(found[0], [[1, 2, 3], [4, 5, 6]])  # 7: a register
    found = patch_map(weights, (2, 3), cls=False)
    expected = weights[1, :6, :6].mean(0).reshape(2, 3)
    np.testing.assert_allclose(found[1], expected)
    with pytest.raises(ValueError, match="8 tokens are too few for 2 x 4 patches"):
        patch_map(weights, (2, 4), cls=True)


def test_no_layers_is_an_error():
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
