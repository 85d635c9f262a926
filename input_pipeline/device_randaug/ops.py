"""The ops of randaug that look at whole images, on the rows of a batch that have them.

An image is a row of packed pixels, uint32, red + 256 * green + 65,536 * blue. No
product of floats is added to anything: `tables` says why.

Shapes: k rows, h w image, n = h * w pixels, three channels.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, UInt8, UInt32

from input_pipeline.device_randaug.tables import VALUES, Tables

Pixels = UInt32[Array, "k n"]
Lookups = UInt8[Array, "k 3 256"]  # the new value of each old one, by channel


def pack(image: UInt8[Array, "b h w 3"]) -> UInt32[Array, "b n"]:
    """Return the packed pixels of images."""
    wide = image.reshape(image.shape[0], -1, 3).astype(jnp.uint32)
    return wide[..., 0] | (wide[..., 1] << 8) | (wide[..., 2] << 16)


def channel(pixels: UInt32[Array, "*any"], c: int) -> Int32[Array, "*any"]:
    """Return one channel of packed pixels."""
    return ((pixels >> (8 * c)) & 255).astype(jnp.int32)


def unpack(pixels: UInt32[Array, "*any"]) -> UInt8[Array, "*any 3"]:
    """Return the images of packed pixels."""
    return jnp.stack([channel(pixels, c) for c in range(3)], -1).astype(jnp.uint8)


def joined(values: list[Array]) -> Array:
    """Return packed pixels from the three channels."""
    r, g, b = (value.astype(jnp.uint32) for value in values)
    return r | (g << 8) | (b << 16)


def at(table: Array | np.ndarray, *index: Array) -> Array:
    """Return table[index], whose indices are known to be inside."""
    return jnp.asarray(table).at[index].get(mode="promise_in_bounds")


def equalize(pixels: Pixels, t: Tables) -> Lookups:
    """Flatten each channel's histogram, in integers."""
    del t
    counts = histograms(jnp.stack([channel(pixels, c) for c in range(3)], 1))
    values = jnp.asarray(VALUES, jnp.int32)[None, None]
    brightest = jnp.max(jnp.where(counts > 0, values, 0), -1, keepdims=True)
    last = jnp.sum(jnp.where(values == brightest, counts, 0), -1, keepdims=True)
    step = (pixels.shape[1] - last) // 255
    below = jnp.cumsum(counts, -1) - counts
    flat = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step == 0, values, flat).astype(jnp.uint8)


def histograms(values: Int32[Array, "k 3 n"]) -> Int32[Array, "k 3 256"]:
    """Count values of 0 to 255, with whatever the platform is fast at."""
    return jax.lax.platform_dependent(values, cpu=_scattered, default=_multiplied)


def _scattered(values: Int32[Array, "k 3 n"]) -> Int32[Array, "k 3 256"]:
    k = values.shape[0]
    row, c = jnp.arange(k)[:, None, None], jnp.arange(3)[None, :, None]
    row, c = (jnp.broadcast_to(index, values.shape) for index in (row, c))
    return jnp.zeros((k, 3, 256), jnp.int32).at[row, c, values].add(1)


def _multiplied(values: Int32[Array, "k 3 n"]) -> Int32[Array, "k 3 256"]:
    """Multiply the one-hot rows of the upper and the lower four bits: exact counts."""
    nibbles = jnp.arange(16)[None, None, None]
    upper, lower = (
        (half[..., None] == nibbles).astype(jnp.bfloat16)
        for half in (values >> 4, values & 15)
    )
    counts = jnp.einsum(
        "kcnu,kcnl->kcul", upper, lower, preferred_element_type=jnp.float32
    )
    return counts.reshape(*values.shape[:2], 256).astype(jnp.int32)


def autocontrast(pixels: Pixels, t: Tables) -> Lookups:
    """Stretch each channel to 0..255; a constant channel stays."""
    channels = [channel(pixels, c) for c in range(3)]
    low = jnp.stack([jnp.min(values, -1) for values in channels], 1)
    high = jnp.stack([jnp.max(values, -1) for values in channels], 1)
    stretched = at(t.stretch, high - low) - at(t.stretch, high - low, low)[..., None]
    values = jnp.asarray(VALUES, jnp.int32)[None, None]
    moved = jnp.clip(stretched, 0, 255).astype(jnp.int32)
    return jnp.where((high > low)[..., None], moved, values).astype(jnp.uint8)


def contrast(pixels: Pixels, t: Tables) -> Lookups:
    """Blend with the mean of the grey image, truncated."""
    mean = jnp.sum(grey(pixels, t), -1) // pixels.shape[1]
    row = at(t.blend, mean)[:, None]
    return jnp.broadcast_to(row, (pixels.shape[0], 3, 256))


def grey(pixels: Pixels, t: Tables) -> Int32[Array, "k n"]:
    """Return luma, 0 to 255."""
    r, g, b = (at(t.grey[c], channel(pixels, c)) for c in range(3))
    # A product that nothing is added to.
    luma = ((r + g) + b) * np.float32(255.5)
    return jnp.minimum(luma, 255.0).astype(jnp.int32)


def color(pixels: Pixels, t: Tables) -> Pixels:
    """Blend with the grey image."""
    base = grey(pixels, t)
    return joined([at(t.blend, base, channel(pixels, c)) for c in range(3)])


def sharpness(pixels: Pixels, t: Tables, height: int, width: int) -> Pixels:
    """Blend with the mean of each neighbourhood; borders stay."""
    image = pixels.reshape(-1, height, width)
    if min(height, width) < 3:
        return pixels
    inner = image[:, 1:-1, 1:-1]
    mixed = []
    for c in range(3):
        value = channel(image, c)
        near, centre = (at(t.smooth[which], value) for which in range(2))
        total: Array | None = None
        for y, x in np.ndindex(3, 3):
            part = centre if y == x == 1 else near
            part = part[:, y : y + height - 2, x : x + width - 2]
            total = part if total is None else total + part
        assert total is not None
        base = jnp.minimum(total, 255.0).astype(jnp.int32)
        mixed.append(at(t.blend, base, value[:, 1:-1, 1:-1]))
    assert inner.shape == mixed[0].shape
    return image.at[:, 1:-1, 1:-1].set(joined(mixed)).reshape(pixels.shape)
