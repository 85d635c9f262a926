"""E-SPA and TAT against the kernels they promise, tables and closed forms."""

import math

import numpy as np
import pytest
import scipy.linalg
import threadpoolctl

from vitjax.models.reproductions import signal_propagation as sp

# -ln(1 - a^(2 l / 12)) / 2 of a^2 = 1 - exp(-0.01), for the last layer's 0.005.
GAMMAS_12 = [
    *(0.571295, 0.311598, 0.189777, 0.121090, 0.079190, 0.052542),
    *(0.035174, 0.023683, 0.016006, 0.010844, 0.007359, 0.005000),
]
# depth -> slope and scale for eta 0.9, from DeepMind's own solver (dks).
SLOPES = {
    7: (0.05398939, 1.41215694),
    8: (0.10449863, 1.40655465),
    12: (0.23850260, 1.37562937),
    24: (0.42116175, 1.30333838),
    64: (0.61251253, 1.20597013),
}
ITERATES_12 = {1: 0.1746, 2: 0.3041, 4: 0.4818, 8: 0.6761, 12: 0.7765, 16: 0.8358}
ITERATES_12 |= {20: 0.8739, 24: 0.9000}


@pytest.fixture(autouse=True)
def one_thread():
    """Small matrices: several threads would wait for each other most of the time."""
    with threadpoolctl.threadpool_limits(1):
        yield


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kernel(n, gamma):
    return scipy.linalg.toeplitz(np.exp(-gamma * np.arange(n)))


def test_gammas_are_the_table_and_its_law():
    np.testing.assert_allclose(sp.espa_gammas(12), GAMMAS_12, atol=1e-6)
    for depth, gamma in ((1, 0.005), (4, 0.1), (64, 0.005)):
        rates = sp.espa_gammas(depth, gamma)
        assert rates[-1] == pytest.approx(gamma, rel=1e-12)
        a = np.sqrt(1 - np.exp(-2 * rates))
        ratios = np.append(a[1:] / a[:-1], a[0])
        np.testing.assert_allclose(ratios, ratios[-1], rtol=1e-9)
    a = np.sqrt(1 - np.exp(-2 * sp.espa_gammas(12)))
    np.testing.assert_allclose(a[1:] / a[:-1], 0.825232, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("num_tokens", "depth"), [(16, 4), (64, 64), (196, 12)])
def test_attention_begins_as_promised_and_ends_at_the_kernel(num_tokens, depth, causal):
    """B, d and softmax in float32, as models have them; each layer by its own root.

    Multiplied in float64: 64 products of 196 x 196 in float32 are off by 1.3e-5 by
    themselves, where exact matrices, rounded, are multiplied.
    """
    biases, scales = sp.espa(num_tokens, depth, causal=causal)
    assert biases.shape == (depth, num_tokens, num_tokens)
    assert scales.shape == (depth, num_tokens)
    assert biases.dtype == scales.dtype == np.float64
    made = scales[:, :, None].astype(np.float32) * softmax(biases.astype(np.float32))
    product = before = np.eye(num_tokens)
    for a, rate in zip(made, sp.espa_gammas(depth), strict=True):
        root = (closed_form_factor if causal else square_root)(num_tokens, rate)
        np.testing.assert_allclose(a, np.linalg.solve(before.T, root.T).T, atol=1e-6)
        product, before = a @ product, root
    np.testing.assert_allclose(
        product @ product.T, kernel(num_tokens, 0.005), atol=1e-5
    )
    if causal:
        assert not np.triu(made, 1).any()


def square_root(n, gamma):
    """The one symmetric matrix without negative eigenvalues whose square it is."""
    values, vectors = np.linalg.eigh(kernel(n, gamma))
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    np.testing.assert_allclose(root @ root, kernel(n, gamma), atol=1e-12)
    return root


def closed_form_factor(n, gamma):
    """e^-g(i-1) in the first column, a(g) e^-g(i-j) in the others, up to the diagonal."""
    root = np.tril(kernel(n, gamma)) * math.sqrt(1 - math.exp(-2 * gamma))
    root[:, 0] = kernel(n, gamma)[:, 0]
    return root


def test_in_float64_only_the_clamp_is_left_of_the_error():
    biases, scales = sp.espa(64, 12)
    product = np.eye(64)
    for bias, scale in zip(biases, scales, strict=True):
        product = scale[:, None] * softmax(bias) @ product
    np.testing.assert_allclose(
        product @ product.T, kernel(64, 0.005), atol=1e-10, rtol=0
    )
    for layer, low, high in ((0, 1.466, 1.896), (-1, 1.023, 1.032)):
        limits = scales[layer].min(), scales[layer].max()
        assert limits == pytest.approx((low, high), abs=1e-3)


@pytest.mark.parametrize(("num_tokens", "last"), [(64, 0.018), (196, 0.033)])
def test_the_original_row_norm_misses_by_what_was_measured(num_tokens, last):
    biases, scales = sp.espa(num_tokens, 12, row_norm="original")
    product, errors = np.eye(num_tokens), []
    for bias, scale, rate in zip(biases, scales, sp.espa_gammas(12), strict=True):
        product = scale[:, None] * softmax(bias) @ product
        errors.append(np.abs(product @ product.T - kernel(num_tokens, rate)).max())
    assert errors[-1] == pytest.approx(last, abs=1e-3)
    if num_tokens == 64:
        assert max(errors) == pytest.approx(0.107, abs=2e-3)


def test_slopes_are_the_tables():
    for depth, (slope, scale) in SLOPES.items():
        assert sp.tat_slope(2 * depth) == pytest.approx(slope, abs=1e-6)
        assert sp.tat_scale(sp.tat_slope(2 * depth)) == pytest.approx(scale, abs=1e-6)
    for depth, eta, slope in (
        (4, 0.8, 0.06949527),
        (4, 0.7, 0.21166491),
        (2, 0.6, 0.10916296),
    ):
        found = sp.tat_slope(2 * depth, eta)
        assert found == pytest.approx(slope, abs=1e-6)
        assert sp.network_c_map(2 * depth, found) == pytest.approx(eta)


def test_the_c_map_iterates_are_the_tables():
    for count, cosine in ITERATES_12.items():
        assert sp.network_c_map(count, 0.23850260) == pytest.approx(cosine, abs=6e-5)
    for depth, cosine in ((6, 0.89715), (8, 0.92946), (12, 0.96057), (24, 0.98699)):
        assert sp.network_c_map(2 * depth, 0.0) == pytest.approx(cosine, abs=6e-6)
    assert sp.network_c_map(128, 0.0) == pytest.approx(0.99773, abs=6e-6)


@pytest.mark.parametrize("slope", [0.0, 0.2385, 0.6, 1.0])
def test_the_c_map_is_an_expectation_and_dks_has_the_same(slope):
    """E[act(u) act(v)] of unit normals of cosine c, over polar angles."""
    cosines = np.linspace(-1, 1, 9)
    angle = (np.arange(100_000) + 0.5) * 2 * np.pi / 100_000
    for c, got in zip(cosines, sp.c_map(cosines, slope), strict=True):
        u, v = np.cos(angle), np.cos(angle - np.arccos(c))
        u, v = (np.where(x > 0, x, slope * x) for x in (u, v))
        # E[r^2] = 2 of two normals; the scale squared is 2 / (1 + slope^2).
        expected = 2 * np.mean(u * v) * 2 / (1 + slope**2)
        assert got == pytest.approx(expected, abs=1e-8)
        bend = (1 - slope) ** 2 * (np.sqrt(1 - c * c) + (np.pi - np.arccos(c)) * c)
        assert got == pytest.approx((bend / np.pi + 2 * slope * c) / (1 + slope**2))
    assert sp.c_map(1.0, slope) == 1
    assert (1 - sp.c_map(1 - 1e-8, slope)) / 1e-8 == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: sp.tat_slope(12),
            r"12 leaky ReLUs \(6 blocks\) cannot reach eta=0.9, at most 0.89715: use a "
            "depth of at least 7 blocks, or an eta of at most 0.89",
        ),
        (lambda: sp.tat_slope(8, 0.99), "a depth of at least 29 blocks"),
        (lambda: sp.tat_slope(0), "at least 1 leaky ReLU, got 0"),
        (lambda: sp.tat_slope(24, 1.0), "eta between 0 and 1, got 1.0"),
        (lambda: sp.espa(0, 3), "num_tokens must be at least 1, got 0"),
        (lambda: sp.espa(4, 0), "depth must be at least 1, got 0"),
        (lambda: sp.espa(4, 2, gamma=0.0), "gamma must be above 0, got 0.0"),
        (lambda: sp.espa(4, 2, row_norm="orignal"), "did you mean 'original'"),
    ],
)
def test_what_cannot_be_is_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_the_depth_that_an_error_names_will_do():
    assert sp.network_c_map(2 * 28, 0.0) < 0.99 <= sp.network_c_map(2 * 29, 0.0)
    assert sp.tat_slope(2 * 29, 0.99) > 0
