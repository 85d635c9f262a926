"""Infer the model from its parameters' shapes, and list every shape it must have."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from vitjax.models import vit
from vitjax.trees import flatten_with_names
from vitjax.weights.table import ATTENTION, BLOCK, Parts

Shapes = dict[str, tuple[int, ...]]
# Parameters do not show the initial value of LayerScale; this is DINOv2's.
LAYER_SCALE = 1e-5


@dataclasses.dataclass(frozen=True)
class Description:
    """A ViT's arguments (of vitjax.models.vit.Model), positions and channels."""

    arguments: dict[str, Any]
    positions: int | None  # number of learned position embeddings
    channels: int

    def shapes(self) -> Shapes:
        """Return the shape of each leaf by name, for the model without scan."""
        return _shapes(tuple(self.arguments.items()), self.positions, self.channels)


@functools.lru_cache(maxsize=8)
def _shapes(
    arguments: tuple[tuple[str, Any], ...], positions: int | None, channels: int
) -> Shapes:
    kw = dict(arguments)
    rows, columns = kw["patch_size"]
    shape = (1, rows, columns * (positions or 1), channels)
    model = vit.Model(**{**kw, "depth": 1})  # blocks are alike
    tree = jax.eval_shape(  # the key is made inside, so that no device is used
        lambda image: model.init(jax.random.key(0), image)["params"],
        jax.ShapeDtypeStruct(shape, np.float32),
    )
    first = BLOCK.format(0)
    found = {}
    for name, leaf in flatten_with_names(tree):
        if not name.startswith(first):
            found[name] = leaf.shape
            continue
        for i in range(kw["depth"]):
            found[BLOCK.format(i) + name.removeprefix(first)] = leaf.shape
    return found


def describe(
    shape_of: Callable[[str], tuple[int, ...]],
    parts: Parts,
    num_heads: int | None = None,
) -> Description:
    """Describe the model with these parts by the shapes of some of its leaves.

    If `num_heads` is None, it comes from a query kernel of shape (width, heads, head
    dim), or else from the variant of the same width.
    """
    if parts.cls and parts.map_head:
        raise ValueError(
            "the model has both a class token and attention pooling; vitjax's models "
            "have one of them"
        )
    rows, columns, channels, width = shape_of("embedding/kernel")
    if not parts.depth:
        raise ValueError("the parameters hold no block of a ViT")
    block = BLOCK.format(0)
    if num_heads is None:
        query = shape_of(f"{block}/{ATTENTION}/query/kernel")
        num_heads = query[1] if len(query) == 3 else heads_of_width(width)
    arguments = {
        "width": width,
        "depth": parts.depth,
        "mlp_dim": shape_of(f"{block}/MlpBlock_0/Dense_0/kernel")[1],
        "num_heads": num_heads,
        "patch_size": (rows, columns),
        "posemb": "learn" if parts.pos_embedding else "none",
        "pool_type": "map" if parts.map_head else "tok" if parts.cls else "gap",
        "rep_size": shape_of("pre_logits/kernel")[1] if parts.pre_logits else False,
        "registers": shape_of("registers")[1] if parts.registers else 0,
        "layer_scale": LAYER_SCALE if parts.layer_scale else None,
        "pre_norm": parts.pre_norm,
        "norm_after_pool": parts.pool_norm,
        "distilled": parts.distilled,
        "num_classes": shape_of("head/kernel")[1] if parts.head else None,
    }
    positions = shape_of("pos_embedding")[1] if parts.pos_embedding else None
    return Description(arguments, positions, channels)


class HeadsUnknown(ValueError):
    """A fused matrix hides the number of heads, and no variant has its width."""


def heads_of_width(width: int) -> int:
    """Return the number of heads that all variants of this width share.

    Raises HeadsUnknown if there is no such variant, or they differ.
    """
    heads = {v["num_heads"] for v in vit.VARIANTS.values() if v["width"] == width}
    if len(heads) != 1:
        raise HeadsUnknown(
            "a fused matrix does not show its number of heads, and no variant has the "
            f"width {width}: give num_heads"
        )
    return heads.pop()


def check_names(what: str, have: Iterable[str], used: Iterable[str]) -> None:
    """Raise ValueError, with the differing names, unless both sets are equal."""
    have, used = set(have), set(used)
    if have != used:
        raise ValueError(
            f"{what} and the table of its format must have the same names; "
            f"not in the table: {sorted(have - used)}, missing: {sorted(used - have)}"
        )


def check_shape(name: str, expected: tuple[int, ...], got: tuple[int, ...]) -> None:
    """Raise ValueError if the shapes differ."""
    if tuple(expected) != tuple(got):
        raise ValueError(f"{name} must have the shape {expected}, got {got}")
