"""Where a ViT looks: attention rollout (arXiv:2005.00928), and maps of its patches.

Shapes: b batch, n tokens, y x the grid of patches; layers may differ in their heads.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def rollout(
    layers: Sequence[Float[np.ndarray, "b _ n n"]],
) -> Float[np.ndarray, "b n n"]:
    """How much of each token (column) has come to each token (row) after all layers.

    The product of (mean over the heads + identity) of all layers, the first rightmost,
    its rows scaled to sum to 1. In float64, whatever the probabilities were computed in.
    """
    if not layers:
        raise ValueError("attention rollout needs at least one layer")
    total = np.eye(layers[0].shape[-1])[None]
    for probs in layers:
        mean = probs.astype(np.float64).mean(axis=1)
        # Halved, so that a hundred layers stay near 1; the rows' scaling undoes it.
        total = (mean @ total + total) / 2
    return total / total.sum(axis=-1, keepdims=True)


def patch_map(
    weights: Float[np.ndarray, "b n n"], grid: tuple[int, int], cls: bool
) -> Float[np.ndarray, "b y x"]:
    """What each patch gives to the class token, or where there is none to the mean patch.

    The patches follow the class token, row by row. Tokens after them (registers) are
    left out, as columns and as rows.
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
    """The cosine of the angle between each two rows, such as position embeddings."""
    table = table.astype(np.float64)
    length = np.linalg.norm(table, axis=-1, keepdims=True)
    unit = table / np.maximum(length, np.finfo(np.float64).tiny)
    return unit @ unit.T
