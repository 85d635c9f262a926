"""big_vision's .npz files, and its older names for the same parameters."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitjax.trees import flatten_with_names
from vitjax.weights import posemb as posembs

# (regex, replacement) for the names of vision_transformer and of early big_vision,
# which counted the layers of a block as they came.
RENAMES = (
    (r"/LayerNorm_2/", "/LayerNorm_1/"),
    (r"/MlpBlock_3/", "/MlpBlock_0/"),
    (r"/MultiHeadDotProductAttention_1/", "/MultiHeadDotProductAttention_0/"),
    (r"^Transformer/posembed_input/pos_embedding$", "pos_embedding"),
    (r"^Transformer/pos_embedding$", "pos_embedding"),
    (
        r"^(probe$|LayerNorm_0/|MlpBlock_0/|MultiHeadDotProductAttention_0/)",
        r"MAPHead_0/\1",
    ),
)
# Where a file that holds more than parameters has these.
ROOTS = ("params/", "opt/target/")


def leaves(
    arrays: Mapping[str, np.ndarray],
    subtree: str = "",
    grid: posembs.Grid | None = None,
) -> dict[str, np.ndarray]:
    """The leaves by today's names, of a whole file or of one tree below ("img").

    A position of the class token is added to that token.
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
    renamed = {}
    for name, value in found.items():
        for regex, replacement in RENAMES:
            name = re.sub(regex, replacement, name)
        if name in renamed:
            raise ValueError(f"the file has {name!r} under two names")
        renamed[name] = value
    return _without_cls_position(renamed, grid)


def flat(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Parameters as the arrays of a file, in the form (scan or not) that they have."""
    return {name: np.asarray(leaf) for name, leaf in flatten_with_names(params)}


def _below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {
        k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)
    }


def _without_cls_position(
    leaves: dict[str, np.ndarray], grid: posembs.Grid | None
) -> dict[str, np.ndarray]:
    """Old models added positions after they had put the class token first."""
    if not {"cls", "pos_embedding"} <= leaves.keys():
        return leaves
    cls, positions = leaves["cls"], leaves["pos_embedding"]
    patches = positions.shape[1] - 1
    if grid is None:
        old = posembs.square_grid(patches) is not None
    else:
        old = patches == grid[0] * grid[1]
    if not old:
        return leaves
    cls = np.where(positions[:, :1] == 0, cls, cls + positions[:, :1])
    return {**leaves, "cls": cls, "pos_embedding": positions[:, 1:]}
