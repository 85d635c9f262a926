"""Read big_vision's .npz files, including older names of the same parameters."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitjax.trees import flatten_with_names
from vitjax.weights import posemb

# vision_transformer's name; with it, the class token has a position too.
VERY_OLD = "Transformer/posembed_input/pos_embedding"
# (regex, replacement) for the names of vision_transformer and of early big_vision,
# which numbered a block's layers consecutively across types.
RENAMES = (
    (r"/LayerNorm_2/", "/LayerNorm_1/"),
    (r"/MlpBlock_3/", "/MlpBlock_0/"),
    (r"/MultiHeadDotProductAttention_1/", "/MultiHeadDotProductAttention_0/"),
    (rf"^{VERY_OLD}$", "pos_embedding"),
    (r"^Transformer/pos_embedding$", "pos_embedding"),
    (
        r"^(probe$|LayerNorm_0/|MlpBlock_0/|MultiHeadDotProductAttention_0/)",
        r"MAPHead_0/\1",
    ),
)
# The prefixes of the parameters in a file that holds more than these.
ROOTS = ("params/", "opt/target/")


def leaves(
    arrays: Mapping[str, np.ndarray],
    subtree: str = "",
    grid: posemb.Grid | None = None,
    model_grid: posemb.Grid | None = None,
) -> dict[str, np.ndarray]:
    """Return the leaves by current names, of a whole file or one subtree ("img").

    The class token's position, if stored, is added to the token.
    """
    found = dict(arrays)
    for root in ROOTS:
        if any(name.startswith(root) for name in found):
            found = _below(found, root)
    if subtree:
        below = _below(found, subtree.strip("/") + "/")
        if not below:
            tops = sorted({name.split("/")[0] for name in found})
            raise ValueError(f"there is no {subtree!r} in the file, only {tops}")
        found = below
    renamed, stored_as = {}, ""
    for name, value in found.items():
        stored_as = name if name.endswith("pos_embedding") else stored_as
        for regex, replacement in RENAMES:
            name = re.sub(regex, replacement, name)
        if name in renamed:
            raise ValueError(f"the file has {name!r} under two names")
        renamed[name] = value
    return _without_cls_position(renamed, stored_as, grid, model_grid)


def flat(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Flatten parameters to a file's arrays; the form (scan or not) stays."""
    return {name: np.asarray(leaf) for name, leaf in flatten_with_names(params)}


def _below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {
        k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)
    }


def _without_cls_position(
    leaves: dict[str, np.ndarray],
    stored_as: str,
    grid: posemb.Grid | None,
    model_grid: posemb.Grid | None,
) -> dict[str, np.ndarray]:
    """Add the class token's position, which only old models have, to the token.

    Old models added positions after prepending the class token. The name that the
    positions are `stored_as`, or else their number, identifies these models.
    """
    if not {"cls", "pos_embedding"} <= leaves.keys():
        return leaves
    cls, positions = leaves["cls"], leaves["pos_embedding"]
    stored = positions.shape[1]
    if grid is None and stored_as == VERY_OLD:
        extra = 1
    else:
        usual = _usual(stored, today=stored_as == "pos_embedding")
        extra = posemb.of_tokens(
            stored_as, stored, 1, usual, grid=grid, model_grid=model_grid
        )
    if not extra:
        return leaves
    cls = np.where(positions[:, :1] == 0, cls, cls + positions[:, :1])
    return {**leaves, "cls": cls, "pos_embedding": positions[:, 1:]}


def _usual(stored: int, today: bool) -> int | None:
    """Return how many of the positions are the class token's; None if ambiguous."""
    if posemb.square_grid(stored - 1) is None:
        return 0 if today else None
    # big_vision renames old files; it recognises them by a square plus one position.
    other_grid = any(stored % n == 0 for n in range(2, math.isqrt(stored) + 1))
    return None if today and other_grid else 1
