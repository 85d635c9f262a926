"""Which model parameters belong to, and the shapes that they must then have."""

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
# Where there is LayerScale, parameters do not tell its initial value: DINOv2's.
LAYER_SCALE = 1e-5


@dataclasses.dataclass(frozen=True)
class Description:
    """A ViT: its arguments (of vitjax.models.vit.Model), positions and channels."""

    arguments: dict[str, Any]
    positions: int | None  # of learned position embeddings
    channels: int

    def shapes(self) -> Shapes:
        """The shape of every leaf by name, blocks unstacked: the model's own."""
        return _shapes(tuple(self.arguments.items()), self.positions, self.channels)


@functools.lru_cache(maxsize=8)
def _shapes(
    arguments: tuple[tuple[str, Any], ...], positions: int | None, channels: int
) -> Shapes:
    kw = dict(arguments)
    rows, columns = kw["patch_size"]
    shape = (1, rows, columns * (positions or 1), channels)
    model = vit.Model(**{**kw, "depth": 1})  # blocks are alike
    tree = jax.eval_shape(  # the key is made inside, lest a device be asked for it
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
    """The model with these parts, by the shapes of some of its leaves.

    Without `num_heads`, the shape of a query kernel (width, heads, width of a head)
    tells it, or else the variant of the same width.
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
    """A fused matrix does not say how many heads it is for, and no variant tells."""


def heads_of_width(width: int) -> int:
    """The number of heads of the known variants of this width."""
    heads = {v["num_heads"] for v in vit.VARIANTS.values() if v["width"] == width}
    if len(heads) != 1:
        raise HeadsUnknown(
            f"a fused matrix does not say how many heads it is for, and no variant has "
            f"the width {width}: say num_heads"
        )
    return heads.pop()


def check_names(what: str, have: Iterable[str], used: Iterable[str]) -> None:
    """ValueError, which names the rest, unless both sets of names are equal."""
    have, used = set(have), set(used)
    if have != used:
        raise ValueError(
            f"{what} and the table of its format must have the same names; "
            f"not in the table: {sorted(have - used)}, missing: {sorted(used - have)}"
        )


def check_shape(name: str, expected: tuple[int, ...], got: tuple[int, ...]) -> None:
    """ValueError if the shapes differ."""
    if tuple(expected) != tuple(got):
        raise ValueError(f"{name} must have the shape {expected}, got {got}")
