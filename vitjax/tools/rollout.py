"""Attention rollout of a ViT (arXiv:2005.00928), and maps over its patches.

Shapes: b batch, n tokens, y x the grid of patches. Layers may have different numbers of
heads.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def rollout(
    layers: Sequence[Float[np.ndarray, "b _ n n"]],
) -> Float[np.ndarray, "b n n"]:
    """Return the share of each token (column) in each token (row) after all layers.

    It is the product of (mean over the heads + identity) of all layers, the first one
    rightmost, with rows scaled to sum to 1. It is computed in float64.
    """
    if not layers:
        raise ValueError("attention rollout needs at least one layer")
    total = np.eye(layers[0].shape[-1])[None]
    for probs in layers:
        mean = probs.astype(np.float64).mean(axis=1)
        # Halving keeps entries bounded over many layers; the row scaling cancels it.
        total = (mean @ total + total) / 2
    return total / total.sum(axis=-1, keepdims=True)


def patch_map(
    weights: Float[np.ndarray, "b n n"], grid: tuple[int, int], cls: bool
) -> Float[np.ndarray, "b y x"]:
    """Return each patch's weight in the class token, or without one in the mean patch.

    Patches follow the class token, row by row. Later tokens (registers) are left out,
    as columns and as rows.
    """
    first, size = int(cls), grid[0] * grid[1]
    if weights.shape[-1] < first + size:
        raise ValueError(
            f"{weights.shape[-1]} tokens are too few for {grid[0]} x {grid[1]} patches"
        )
    patches = slice(first, first + size)
    rows = weights[:, 0] if cls else weights[:, patches].mean(axis=1)
    return rows[:, patches].reshape(-1, *grid)


def cosine_similarity(table: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """Return the cosine similarity of every pair of rows, such as positions."""
    table = table.astype(np.float64)
    length = np.linalg.norm(table, axis=-1, keepdims=True)
    unit = table / np.maximum(length, np.finfo(np.float64).tiny)
    return unit @ unit.T
