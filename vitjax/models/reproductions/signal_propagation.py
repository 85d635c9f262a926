"""E-SPA and TAT: constants to train deep transformers without norms or residuals.

E-SPA (He et al., https://arxiv.org/abs/2302.10322) gives each attention layer a fixed
bias of its logits and a fixed scale of its outputs. At initialisation, with queries of
zero, layer l then turns a token kernel exp(-g_{l-1} |i - j|) into exp(-g_l |i - j|), so
tokens stay distinct at any depth. TAT (Zhang et al., https://arxiv.org/abs/2203.08120)
chooses the slope of all leaky ReLUs so that two orthogonal inputs leave the whole
network with a cosine of eta.

Both are computed once, here, in numpy and float64, and are never trained.
Shapes: l layers, n tokens in raster order.
"""

import math

import numpy as np
from jaxtyping import Float

from vitjax.config.arguments import unknown

ROW_NORMS = ("correct", "original")
# Rounding can make entries of the matrix products negative, but their log is taken.
_SMALLEST = 1e-12


def espa_gammas(depth: int, gamma: float | int = 0.005) -> Float[np.ndarray, " l"]:
    """Return the decay rates g_1 > ... > g_depth = gamma of the token kernels.

    sqrt(1 - exp(-2 g_l)) decreases geometrically: it is the last one's power l / depth.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    if not 0 < gamma < math.inf:
        raise ValueError(f"gamma must be above 0, got {gamma}")
    layers = np.arange(1, depth + 1)
    # (1 - exp(-2 gamma)) ** (l / depth), without cancellation where gamma is small.
    return -0.5 * np.log1p(-((-np.expm1(-2 * gamma)) ** (layers / depth)))


def token_kernel(num_tokens: int, gamma: float | int) -> Float[np.ndarray, "n n"]:
    """Return the matrix exp(-gamma |i - j|)."""
    i = np.arange(num_tokens)
    return np.exp(-gamma * np.abs(i[:, None] - i))


def espa_attention(
    num_tokens: int, depth: int, gamma: float | int = 0.005, causal: bool = False
) -> Float[np.ndarray, "l n n"]:
    """Return the attention matrices A_l = R_l R_{l-1}^-1 for initialisation.

    R_l R_l^T is the kernel of layer l and R_0 the identity, so A_l ... A_1 = R_l. R_l
    is the symmetric square root of the kernel. If `causal`, it is the Cholesky factor,
    and A_l is lower triangular. Entries are at least 1e-12, except the zeros above the
    diagonal of causal matrices.
    """
    if num_tokens < 1:
        raise ValueError(f"num_tokens must be at least 1, got {num_tokens}")
    attention, inverse = [], np.eye(num_tokens)
    for rate in espa_gammas(depth, gamma):
        kernel = token_kernel(num_tokens, rate)
        if causal:
            root = np.linalg.cholesky(kernel)
            next_inverse = np.linalg.inv(root)
        else:
            values, vectors = np.linalg.eigh(kernel)
            root = (vectors * np.sqrt(values)) @ vectors.T
            next_inverse = (vectors / np.sqrt(values)) @ vectors.T
        a = np.maximum(root @ inverse, _SMALLEST)
        attention.append(np.tril(a) if causal else a)
        inverse = next_inverse
    return np.stack(attention)


def espa(
    num_tokens: int,
    depth: int,
    gamma: float | int = 0.005,
    causal: bool = False,
    row_norm: str = "correct",
) -> tuple[Float[np.ndarray, "l n n"], Float[np.ndarray, "l n"]]:
    """Return the bias B of the attention logits and the scale d of the outputs.

    d are the row sums of `espa_attention`'s A, and diag(d) softmax(B) = A. B is -inf
    above the diagonal of causal layers.

    Args:
      num_tokens: number of tokens, in raster order; B and d are valid for it only.
      depth: number of layers.
      gamma: decay rate of the last layer; 0.005 is the published value.
      causal: each token attends to itself and to earlier ones.
      row_norm: "correct" divides each row of A by its sum before the logarithm.
        "original", as in the published code, divides column j by the sum of row j;
        diag(d) softmax(B) then equals A only to a few per cent.
    """
    if row_norm not in ROW_NORMS:
        raise unknown(row_norm, ROW_NORMS, "row_norm")
    a = espa_attention(num_tokens, depth, gamma, causal)
    d = a.sum(-1)
    divisor = d[:, :, None] if row_norm == "correct" else d[:, None, :]
    with np.errstate(divide="ignore"):
        return np.log(a / divisor), d


def tat_scale(slope: float | int) -> float:
    """Return the factor with which a leaky ReLU keeps the mean square of N(0, 1)."""
    return math.sqrt(2 / (1 + slope * slope))


def c_map(
    c: Float[np.ndarray, "*n"] | float, slope: float | int
) -> Float[np.ndarray, "*n"] | float:
    """Return the cosine after a wide layer and its leaky ReLU, given cosine c."""
    c = np.clip(c, -1.0, 1.0)
    bend = (1 - slope) ** 2 / (math.pi * (1 + slope * slope))
    return c + bend * (np.sqrt(1 - c * c) - c * np.arccos(c))


def network_c_map(num_maps: int, slope: float | int) -> float:
    """Return the cosine of two orthogonal inputs after `num_maps` such layers."""
    c: float = 0.0
    for _ in range(num_maps):
        c = float(c_map(c, slope))
    return c


def tat_slope(num_maps: int, eta: float | int = 0.9) -> float:
    """Return the slope at which `network_c_map` is eta, by bisection, to 1e-12.

    A transformer without residuals has two leaky ReLUs per block, and its attention
    counts as the identity. Slope 0 is a ReLU, 1 is linear. Raises ValueError, in one
    sentence, if so few maps cannot reach eta; it gives a depth and an eta that work.
    """
    if num_maps < 1:
        raise ValueError(f"TAT needs at least 1 leaky ReLU, got {num_maps}")
    if not 0 < eta < 1:
        raise ValueError(f"TAT needs eta between 0 and 1, got {eta}")
    most = network_c_map(num_maps, 0.0)
    if most < eta:
        enough, c = num_maps, most
        while c < eta:
            enough, c = enough + 1, float(c_map(c, 0.0))
        raise ValueError(
            f"{num_maps} leaky ReLUs ({num_maps / 2:g} blocks) cannot reach "
            f"eta={eta:g}, at most {most:.5f}: use a depth of at least "
            f"{math.ceil(enough / 2)} blocks, or an eta of at most "
            f"{math.floor(100 * most) / 100:g}"
        )
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        if network_c_map(num_maps, middle) > eta:
            low = middle
        else:
            high = middle
    return (low + high) / 2
