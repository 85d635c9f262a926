"""Convert vitjax's parameters or gradients to the reference's state dict, and back.

The reference is one more format of vitjax.weights. The conversion fails unless every
name of both sides is used exactly once and every shape fits; the error names the rest.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from vitjax.trees import flatten_with_names
from vitjax.weights import state_dicts, table
from vitjax.weights.describe import check_names, check_shape
from vitjax.weights.table import ATTENTION, BLOCK, Entry, Parts, our_parts

TOKENS = ("cls", "registers", "pos_embedding")


def _attention(theirs: str, ours: str) -> Iterator[Entry]:
    in_proj = f"{theirs}.in_proj"
    yield from table.fused(f"{in_proj}_weight", f"{in_proj}_bias", ours)
    yield from table.dense(f"{theirs}.out_proj", f"{ours}/out", num_in=2)


def _mlp(theirs: str, ours: str) -> Iterator[Entry]:
    yield from table.dense(f"{theirs}.fc1", f"{ours}/Dense_0")
    yield from table.dense(f"{theirs}.fc2", f"{ours}/Dense_1")


def entries(parts: Parts) -> Iterator[Entry]:
    """Yield the conversion table of a model with these parts."""
    yield from table.conv("embedding", "embedding")
    yield from (table.same(name, name) for name in TOKENS if name in parts.has())
    for i in range(parts.depth):
        theirs, ours = f"blocks.{i}", BLOCK.format(i)
        yield from table.norm(f"{theirs}.norm1", f"{ours}/LayerNorm_0")
        yield from _attention(f"{theirs}.attention", f"{ours}/{ATTENTION}")
        yield from table.norm(f"{theirs}.norm2", f"{ours}/LayerNorm_1")
        yield from _mlp(f"{theirs}.mlp", f"{ours}/MlpBlock_0")
    yield from table.norm("norm", "Transformer/encoder_norm")
    if parts.map_head:
        yield table.same("map_head.probe", "MAPHead_0/probe")
        yield from _attention("map_head.attention", f"MAPHead_0/{ATTENTION}")
        yield from table.norm("map_head.norm", "MAPHead_0/LayerNorm_0")
        yield from _mlp("map_head.mlp", "MAPHead_0/MlpBlock_0")
    if parts.pre_logits:
        yield from table.dense("pre_logits", "pre_logits")
    yield from table.dense("head", "head")


def to_state_dict(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return vitjax's params as the reference's state dict, in numpy arrays."""
    leaves = state_dicts.loop_leaves(params)
    found = list(entries(our_parts(leaves)))
    check_names("vitjax's parameters", leaves, [n for e in found for n in e.ours])
    return state_dicts.join(leaves, found)


def from_state_dict(state: Mapping[str, np.ndarray], shapes: Any) -> dict[str, Any]:
    """Return the reference's parameters or gradients as vitjax's.

    `shapes` is the tree of vitjax's.
    """
    wanted = {k: tuple(v.shape) for k, v in flatten_with_names(shapes)}
    found = list(entries(our_parts(wanted)))
    check_names("the state dict", state, [key for e in found for key in e.theirs])
    state = {key: np.asarray(value) for key, value in state.items()}
    return unflatten_dict(state_dicts.split(state, found, wanted), sep="/")


def load(model: Any, params: Mapping[str, Any]) -> None:
    """Load vitjax's params into the reference `model`, in the model's dtype."""
    import torch

    state = to_state_dict(params)
    own = model.state_dict()
    check_names("the reference's state dict", own, state)
    for name, value in state.items():
        check_shape(name, tuple(own[name].shape), value.shape)
    model.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
