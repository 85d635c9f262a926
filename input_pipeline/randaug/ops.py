"""RandAugment's 16 single ops on resolved values: degrees, bits, factors, pixels.

Each takes a uint8 image [h, w, 3] and returns one of the same shape, deterministically,
eagerly and in graph. Defaults are big_vision's, and so are the oddities that the
package's docstring lists. `zero` is for a caller that compiles an op: see xla.py.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import tensorflow as tf

from input_pipeline.randaug.geometry import (
    Interpolation,
    Number,
    project,
    rotation,
    translate,
)
from input_pipeline.randaug.xla import Zero, applies, compiled, once, rounded

Image: TypeAlias = tf.Tensor | np.ndarray  # uint8 [h, w, 3]


def _blend(
    base: tf.Tensor, image: tf.Tensor, factor: float | int, zero: Zero
) -> tf.Tensor:
    """Return base + factor * (image - base) in float32, clipped, truncated to uint8."""
    if factor == 0.0:
        return base
    if factor == 1.0:
        return image
    base, image = tf.cast(base, tf.float32), tf.cast(image, tf.float32)
    mixed = base + rounded(factor * (image - base), zero)
    return _bytes(tf.clip_by_value(mixed, 0.0, 255.0))


def _bytes(values: tf.Tensor) -> tf.Tensor:
    """Truncate floats of 0 to 255, by way of int32, for which processors have SIMD."""
    return tf.cast(tf.cast(values, tf.int32), tf.uint8)


def _rows(image: tf.Tensor) -> tf.Tensor:
    """Return [height, width * channels]: long rows, which are fast to compute on."""
    known = image.shape.is_fully_defined()
    shape: Any = image.shape if known else tf.unstack(tf.shape(image))
    height, width, channels = shape
    return tf.reshape(image, [height, width * channels])


def _sum_in_order(parts: list[tf.Tensor]) -> tf.Tensor:
    """Return parts[0] - parts[1] - ..., left to right; later parts come in negated.

    Float sums depend on their order. TensorFlow's graph optimizer rewrites chains of
    additions (seen with images of known size), but leaves subtractions as they are.
    """
    total = parts[0]
    for part in parts[1:]:
        total -= part
    return total


def _grey(image: tf.Tensor, zero: Zero) -> tf.Tensor:
    """Return luma, uint8 [h, w, 1]: tf.image.rgb_to_grayscale's on every colour."""
    channels = tf.split(tf.cast(image, tf.float32) * (1.0 / 255.0), 3, axis=-1)
    weights = 0.2989, -0.5870, -0.1140
    luma = _sum_in_order(
        [rounded(c * w, zero) for c, w in zip(channels, weights, strict=True)]
    )
    return _bytes(tf.minimum(luma * 255.5, 255.0))


def _per_channel(image: tf.Tensor, reduce: Callable[..., tf.Tensor]) -> tf.Tensor:
    """Reduce each channel to one number, by way of rows, which is many times as fast."""
    row = reduce(_rows(image), axis=0)
    return reduce(tf.reshape(row, [-1, image.shape[-1]]), axis=0)


def _channels(image: tf.Tensor) -> tf.Tensor:
    """Return [3, height * width]: reducing along the last dim is many times as fast."""
    return tf.transpose(tf.reshape(image, [-1, 3]))


@compiled
def _looked_up(image: tf.Tensor, tables: tf.Tensor) -> tf.Tensor:
    """Look up each channel in its table; `tables` is [3, 256]."""
    index = tf.cast(image, tf.int32) + tf.constant([0, 256, 512])
    return tf.gather(tf.reshape(tables, [-1]), index)


def autocontrast(image: Image, zero: Zero = None) -> tf.Tensor:
    """Stretch each channel to 0..255, in float32; a constant channel stays."""
    image = tf.convert_to_tensor(image)
    return _looked_up(image, once(lambda: _stretching(image, zero), zero))


def _stretching(image: tf.Tensor, zero: Zero) -> tf.Tensor:
    """Return the tables, uint8 [3, 256], that stretch each channel."""
    low, high = (
        tf.cast(_per_channel(image, extreme), tf.float32)[:, None]
        for extreme in (tf.reduce_min, tf.reduce_max)
    )
    values = tf.range(256, dtype=tf.float32)[None]
    scale = 255.0 / (high - low)
    stretched = rounded(values * scale, zero) - rounded(low * scale, zero)
    tables = tf.where(high > low, tf.clip_by_value(stretched, 0.0, 255.0), values)
    return tf.cast(tables, tf.uint8)


def equalize(image: Image, zero: Zero = None) -> tf.Tensor:
    """Flatten each channel's histogram, as PIL.ImageOps.equalize does."""
    image = tf.convert_to_tensor(image)
    tables = once(lambda: _equalizing(_histograms(image)), zero)
    return _looked_up(image, tables)


def _histograms(image: tf.Tensor) -> tf.Tensor:
    """Count the values of each channel, int32 [3, 256]."""
    if applies(image):
        return _counted(image)
    channels = tf.cast(_channels(image), tf.int32)
    # Exact for whole numbers, at a quarter of the cost of tf.math.bincount.
    return tf.stack(
        [
            tf.histogram_fixed_width(channel, [0, 256], 256)
            for channel in tf.unstack(channels, num=3)
        ]
    )


@compiled
def _counted(image: tf.Tensor) -> tf.Tensor:
    places = tf.reshape(tf.cast(image, tf.int32) + tf.constant([0, 256, 512]), [-1, 1])
    ones = tf.ones_like(places[:, 0])
    counts = tf.tensor_scatter_nd_add(tf.zeros([768], tf.int32), places, ones)
    return tf.reshape(counts, [3, 256])


def _equalizing(counts: tf.Tensor) -> tf.Tensor:
    """Return the tables, uint8 [3, 256], that equalize histograms."""
    values = tf.range(256)[None]
    brightest = tf.reduce_max(tf.where(counts > 0, values, 0), axis=1)[:, None]
    last = tf.reduce_sum(tf.where(values == brightest, counts, 0), axis=1)
    step = ((tf.reduce_sum(counts, axis=1) - last) // 255)[:, None]
    below = tf.cumsum(counts, axis=1, exclusive=True)
    flat = (below + step // 2) // tf.maximum(step, 1)
    tables = tf.where(step == 0, values, tf.clip_by_value(flat, 0, 255))
    return tf.cast(tables, tf.uint8)


def invert(image: Image) -> tf.Tensor:
    """Return 255 minus each value."""
    return 255 - tf.convert_to_tensor(image)


def rotate(
    image: Image,
    degrees: Number,
    fill: int = 128,
    interpolation: Interpolation = "nearest",
) -> tf.Tensor:
    """Rotate counter-clockwise about the centre."""
    image = tf.convert_to_tensor(image)
    return project(image, rotation(image, degrees), fill, interpolation)


def posterize(image: Image, bits: int) -> tf.Tensor:
    """Keep the top `bits` bits, for 1 to 8; any other number keeps one."""
    # Upstream shifts right and left by 8 - bits, as uint8. TensorFlow treats a shift by
    # 8 or more, which a negative one becomes, as one by 7.
    dropped = 8 - bits if 1 <= bits <= 8 else 7
    return tf.bitwise.bitwise_and(
        tf.convert_to_tensor(image), tf.constant(256 - 2**dropped, tf.uint8)
    )


def solarize(image: Image, threshold: int) -> tf.Tensor:
    """Invert values of at least `threshold` modulo 256."""
    return _solarize(tf.convert_to_tensor(image), threshold % 256)


@compiled
def _solarize(image: tf.Tensor, threshold: int) -> tf.Tensor:
    return tf.where(image < threshold, image, 255 - image)


def solarize_add(image: Image, addition: int) -> tf.Tensor:
    """Add to values below 128, up to 255."""
    return _solarize_add(tf.convert_to_tensor(image), addition)


@compiled
def _solarize_add(image: tf.Tensor, addition: int) -> tf.Tensor:
    added = tf.clip_by_value(tf.cast(image, tf.int32) + addition, 0, 255)
    return tf.where(image < 128, tf.cast(added, tf.uint8), image)


def color(image: Image, factor: float | int, zero: Zero = None) -> tf.Tensor:
    """Blend away from (factor > 1) or towards the grey image."""
    image = tf.convert_to_tensor(image)
    grey = tf.broadcast_to(_grey(image, zero), tf.shape(image))
    return tf.ensure_shape(_blend(grey, image, factor, zero), image.shape)


def contrast(
    image: Image,
    factor: float | int,
    contrast: Literal["legacy", "fixed"] = "legacy",
    zero: Zero = None,
) -> tf.Tensor:
    """Blend away from (factor > 1) or towards one grey value, truncated to uint8.

    That value is min(height * width / 256, 255) for "legacy" and the mean of the grey
    image for "fixed".
    """
    image = tf.convert_to_tensor(image)
    pixels = tf.shape(image)[0] * tf.shape(image)[1]
    if contrast == "legacy":
        value = tf.minimum(pixels // 256, 255)
    elif contrast == "fixed":
        total = tf.reduce_sum(tf.cast(_grey(image, zero), tf.int64))
        value = total // tf.cast(pixels, tf.int64)
    else:
        raise ValueError(f"contrast must be 'legacy' or 'fixed', got {contrast!r}")
    base = tf.fill(tf.shape(image), tf.cast(value, tf.uint8))
    return tf.ensure_shape(_blend(base, image, factor, zero), image.shape)


def brightness(image: Image, factor: float | int) -> tf.Tensor:
    """Multiply each value by the factor, and clip."""
    image = tf.convert_to_tensor(image)
    return _blend(tf.zeros_like(image), image, factor, None)


def sharpness(image: Image, factor: float | int, zero: Zero = None) -> tf.Tensor:
    """Blend away from (factor > 1) or towards the smoothed image; borders stay.

    The smoothing kernel is PIL's SMOOTH, (1 1 1, 1 5 1, 1 1 1) / 13, in float32 and
    truncated, so sums that should be whole can fall one short. They are added row by
    row without contraction, as TensorFlow's convolution does without oneDNN (with it,
    about 0.4 % of a photograph's values differ by one).
    """
    image = tf.convert_to_tensor(image)
    c, rows = 3, _rows(image)
    inside = _blend(_smooth(rows, c, zero), rows[1:-1, c:-c], factor, zero)
    middle = tf.concat([rows[1:-1, :c], inside, rows[1:-1, -c:]], axis=1)
    whole = tf.concat([rows[:1], middle, rows[-1:]], axis=0)
    return tf.ensure_shape(tf.reshape(whole, tf.shape(image)), image.shape)


def _smooth(rows: tf.Tensor, channels: int, zero: Zero) -> tf.Tensor:
    """Return the smoothed image without its borders, from `_rows` to such rows."""

    def products() -> list[tf.Tensor]:
        wide = tf.cast(rows, tf.float32)
        one, five = (np.float32(weight) / np.float32(13) for weight in (1, 5))
        return [rounded(wide * weight, zero) for weight in (one, -one, -five)]

    first, other, centre = once(products, zero)
    return _summed(first, other, centre, channels)


@compiled
def _summed(
    first: tf.Tensor, other: tf.Tensor, centre: tf.Tensor, channels: int
) -> tf.Tensor:
    """Return the sum over each neighbourhood, from the rows times their weights."""
    h, w = tf.shape(first)[0] - 2, tf.shape(first)[1] - 2 * channels
    weighted = [first, *[other] * 3, centre, *[other] * 4]
    parts = [
        weighted[3 * y + x][y : y + h, channels * x : channels * x + w]
        for y in range(3)
        for x in range(3)
    ]
    return _bytes(tf.clip_by_value(_sum_in_order(parts), 0.0, 255.0))


def shear_x(
    image: Image,
    shear: Number,
    fill: int = 128,
    interpolation: Interpolation = "nearest",
) -> tf.Tensor:
    """Shear: output (x, y) shows input (x + shear * y, y)."""
    matrix = [1.0, shear, 0.0, 0.0, 1.0, 0.0]
    return project(tf.convert_to_tensor(image), matrix, fill, interpolation)


def shear_y(
    image: Image,
    shear: Number,
    fill: int = 128,
    interpolation: Interpolation = "nearest",
) -> tf.Tensor:
    """Shear: output (x, y) shows input (x, y + shear * x)."""
    matrix = [1.0, 0.0, 0.0, shear, 1.0, 0.0]
    return project(tf.convert_to_tensor(image), matrix, fill, interpolation)


def translate_x(
    image: Image,
    pixels: Number,
    fill: int = 128,
    interpolation: Interpolation = "nearest",
) -> tf.Tensor:
    """Shift: output (x, y) shows input (x + pixels, y); positive moves to the left."""
    image = tf.convert_to_tensor(image)
    return translate(image, pixels, 1, fill, interpolation)


def translate_y(
    image: Image,
    pixels: Number,
    fill: int = 128,
    interpolation: Interpolation = "nearest",
) -> tf.Tensor:
    """Shift: output (x, y) shows input (x, y + pixels); positive moves up."""
    image = tf.convert_to_tensor(image)
    return translate(image, pixels, 0, fill, interpolation)


def cutout(image: Image, half: int, y: Number, x: Number, fill: int = 128) -> tf.Tensor:
    """Fill rows y - half ... y + half - 1 and columns x - half ... x + half - 1."""
    y, x = tf.cast(y, tf.int32), tf.cast(x, tf.int32)
    return _cutout(tf.convert_to_tensor(image), half, y, x, fill)


@compiled
def _cutout(
    image: tf.Tensor, half: int, y: tf.Tensor, x: tf.Tensor, fill: int
) -> tf.Tensor:
    height, width, channels = tf.unstack(tf.shape(image))
    rows = tf.range(height)[:, None]
    columns = tf.range(width * channels)[None] // channels
    inside = (rows >= y - half) & (rows < y + half)
    inside &= (columns >= x - half) & (columns < x + half)
    out = tf.where(inside, tf.constant(fill, tf.uint8), _rows(image))
    return tf.reshape(out, tf.shape(image))
