"""RandAugment inside the jitted step: the host's `randaug`, to the uint8 value.

It reads the plans that the host draws. A layer is one pass over all images, in which
each has its own table of values and its own map of pixels. The five ops that look at
whole images run before it, on their rows alone: `_on_rows`. They have room for a usual
number of rows; images beyond it start again in a loop, mostly of no round: `_rest`.

It is for the rows of one device. On several, call it inside shard_map.

Shapes: b images, h w, n = h * w pixels, l layers.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32, UInt8, UInt32

from input_pipeline import layers
from input_pipeline.device_randaug import ops, tables
from input_pipeline.device_randaug.tables import Tables
from input_pipeline.layers import NAMES

_GREY = np.uint32(0x010101)
MOST_PIXELS = 2**20  # the tables have 11 numbers a pixel
_AT_ONCE = 8  # images of a round of `_rest`


class Policy(NamedTuple):
    """A policy on the devices, as plans.Policy is one on the host."""

    words: int  # that it reads
    apply: Callable[[Any, Any], Any]  # fn(images, plans) -> images
    explain: Callable[[np.ndarray], list[str]]  # of the plan of one image


def randaug(
    num_layers: int = 2,
    magnitude: float | int = 10,
    contrast: Literal["legacy", "fixed"] = "legacy",
    fill: int = 128,
    interpolation: Literal["nearest", "bilinear"] = "nearest",
) -> Policy:
    """Return the policy for batches of uint8 images [b, h, w, 3], plans uint32 [b, l].

    The arguments are those of the host's op.
    """
    layers.check(num_layers, magnitude, fill)
    if interpolation != "nearest":
        raise ValueError(
            f"on the devices interpolation must be 'nearest', got {interpolation!r}: put "
            "randaug into pp instead"
        )

    def apply(image: Any, plan: Any) -> Any:
        _check_images(image)
        _, height, width, _ = image.shape
        t = tables.build(height, width, float(magnitude), contrast, fill)
        return applied(image, plan[:, :num_layers], t)

    def explain(plan: np.ndarray) -> list[str]:
        return layers.explain(plan[:num_layers], float(magnitude))

    return Policy(num_layers, apply, explain)


def applied(
    image: UInt8[Array, "b h w 3"], plan: UInt32[Array, "b l"], t: Tables
) -> UInt8[Array, "b h w 3"]:
    """Return the images after all layers of their plans, by the tables of their size."""
    with jax.named_scope("randaug"):
        b, height, width, _ = image.shape
        room = _usual(b)
        pixels = _all_layers(ops.pack(image), plan, room, t, height, width)
        if room < b:
            late = _late(plan, room, t, height, width)
            pixels = _rest(pixels, late, image, plan, t)
        return ops.unpack(pixels).reshape(image.shape)


def _all_layers(
    pixels: UInt32[Array, "b n"],
    plan: UInt32[Array, "b l"],
    room: int,
    t: Tables,
    height: int,
    width: int,
) -> UInt32[Array, "b n"]:
    """Return the images after all layers, right if no op has more than `room` rows."""
    # A loop, since the compiler takes seconds for a layer.
    pixels, _ = jax.lax.scan(
        lambda pixels, word: (_layer(pixels, word, room, t, height, width), None),
        pixels,
        plan.T,
    )
    return pixels


def _rest(
    pixels: UInt32[Array, "b n"],
    late: Bool[Array, " b"],
    image: UInt8[Array, "b h w 3"],
    plan: UInt32[Array, "b l"],
    t: Tables,
) -> UInt32[Array, "b n"]:
    """Replace the pixels of `late` images by what the images become, a few at a time.

    The loop is the only one whose length depends on data, and that on the plans alone.
    """
    b, height, width, _ = image.shape
    count, number = min(b, _AT_ONCE), jnp.sum(late)

    def one_round(state: Any) -> Any:
        done, pixels = state
        rows, valid = _some(late, done, count)
        some = ops.pack(ops.at(image, rows)), ops.at(plan, rows)
        made = _all_layers(*some, count, t, height, width)
        return done + count, _put(pixels, _targets(rows, valid, b), made)

    def left(state: Any) -> Any:
        return state[0] < number

    _, pixels = jax.lax.while_loop(left, one_round, (jnp.int32(0), pixels))
    return pixels


def _late(
    plan: UInt32[Array, "b l"], room: int, t: Tables, height: int, width: int
) -> Bool[Array, " b"]:
    """Return which images have an op that looks at whole images and no room for them."""
    [drawn] = layers.read_plan([plan], height, width)
    late = jnp.zeros(plan.shape, bool)
    for name in (*_tabled(t), *_whole(height, width)):
        mask = drawn.op == NAMES.index(name)
        late |= mask & (jnp.cumsum(mask, 0) > room)
    return late.any(1)


def _check_images(image: Any) -> None:
    if image.dtype != jnp.uint8 or image.ndim != 4 or image.shape[-1] != 3:
        raise ValueError(
            "randaug takes uint8 images [b, h, w, 3], got "
            f"{image.dtype.name} {list(image.shape)}: put it before value_range, and "
            "resize or crop to one size in pp"
        )
    height, width = image.shape[1:3]
    if not 0 < height * width <= MOST_PIXELS:
        raise ValueError(
            f"on the devices randaug has tables for images of 1 to {MOST_PIXELS:,} "
            f"pixels, got {height} x {width}: put it into pp instead"
        )


def _layer(
    pixels: UInt32[Array, "b n"],
    word: UInt32[Array, " b"],
    room: int,
    t: Tables,
    height: int,
    width: int,
) -> UInt32[Array, "b n"]:
    """Apply one layer: to each image the op that its word says."""
    [drawn] = layers.read_plan([word], height, width)
    op, negate = drawn.op.astype(jnp.int32), drawn.negate.astype(jnp.int32)
    lookups = ops.at(t.values, op)
    lookups = jnp.broadcast_to(lookups[:, None], (len(op), 3, 256))
    pixels, lookups = _on_rows(pixels, lookups, op, room, t, height, width)
    pixels = _moved(pixels, ops.at(t.which, negate, op), t)
    row = jnp.arange(len(op))[:, None]
    changed = ops.joined(
        [ops.at(lookups[:, c], row, ops.channel(pixels, c)) for c in range(3)]
    )
    y, x = (place.astype(jnp.int32)[:, None, None] for place in drawn.centre)
    rows, columns = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None]
    hidden = (rows >= y - t.cutout) & (rows < y + t.cutout)
    hidden &= (columns >= x - t.cutout) & (columns < x + t.cutout)
    hidden &= (op == NAMES.index("Cutout"))[:, None, None]
    return jnp.where(hidden.reshape(pixels.shape), t.fill * _GREY, changed)


def _moved(
    pixels: UInt32[Array, "b n"], which: Int32[Array, " b"], t: Tables
) -> UInt32[Array, "b n"]:
    """Look each pixel up where the image's map says."""
    n = pixels.shape[1]
    row, place = jnp.arange(len(which))[:, None], jnp.arange(n)[None]
    source = ops.at(t.maps, which[:, None], place).astype(jnp.int32)
    found = ops.at(pixels, row, jnp.minimum(source, n - 1))
    return jnp.where(source == n, t.fill * _GREY, found)


def _tabled(t: Tables) -> dict[str, Callable[[Any, Tables], Any]]:
    """Return the ops that make a table of values from the whole image."""
    found = {"AutoContrast": ops.autocontrast, "Equalize": ops.equalize}
    return found | ({"Contrast": ops.contrast} if t.contrast == "fixed" else {})


def _whole(height: int, width: int) -> dict[str, Callable[[Any, Tables], Any]]:
    """Return the ops that make pixels from several numbers."""
    return {
        "Color": ops.color,
        "Sharpness": lambda rows, t: ops.sharpness(rows, t, height, width),
    }


def _on_rows(
    pixels: UInt32[Array, "b n"],
    lookups: UInt8[Array, "b 3 256"],
    op: Int32[Array, " b"],
    room: int,
    t: Tables,
    height: int,
    width: int,
) -> tuple[UInt32[Array, "b n"], UInt8[Array, "b 3 256"]]:
    """Return pixels and lookups after the ops that look at whole images.

    Each takes its first `room` rows.
    """
    tabled, whole = _tabled(t), _whole(height, width)
    mine = [op == NAMES.index(name) for name in (*tabled, *whole)]
    places = [_some(mask, 0, room) for mask in mine]
    sources, valid = map(jnp.concatenate, zip(*places, strict=True))
    # Read all before anything is written, or XLA copies the whole batch.
    rows = jnp.split(ops.at(pixels, sources), len(mine))
    here, there = jnp.split(_targets(sources, valid, len(op)), [room * len(tabled)])
    made = [f(r, t) for f, r in zip(tabled.values(), rows, strict=False)]
    lookups = _put(lookups, here, jnp.concatenate(made))
    made = [f(r, t) for f, r in zip(whole.values(), rows[len(tabled) :], strict=True)]
    return _put(pixels, there, jnp.concatenate(made)), lookups


def _usual(b: int) -> int:
    """Return a number that rows of one op, of b images, exceed in 1 of 10,000 layers."""
    share = 1 / len(NAMES)
    spread = math.sqrt(b * share * (1 - share))
    return min(b, math.ceil(b * share + 4 * spread))


def _some(
    mask: Bool[Array, " b"], done: Array | int, count: int
) -> tuple[Int32[Array, " k"], Bool[Array, " k"]]:
    """Return the next `count` rows of a mask, after `done`, and whether there are any.

    Row 0 stands for those that are missing. Each row is compared with each number, since
    sorting and scattering are slower.
    """
    number = done + jnp.arange(count)
    rank = jnp.cumsum(mask) - 1
    hit = mask[None] & (rank[None] == number[:, None])
    rows = jnp.sum(jnp.where(hit, jnp.arange(len(mask))[None], 0), 1)
    return rows, number <= rank[-1]


def _targets(
    rows: Int32[Array, " k"], valid: Bool[Array, " k"], b: int
) -> Int32[Array, " k"]:
    """Return where to write: nowhere, beyond the last of b rows, what is not valid."""
    return jnp.where(valid, rows, b + jnp.arange(len(rows)))


def _put(whole: Array, target: Int32[Array, " k"], rows: Array) -> Array:
    return whole.at[target].set(rows, mode="drop", unique_indices=True)
