"""RandAugment's 16 single ops on resolved values: degrees, bits, factors, pixels.

Each takes a uint8 image [h, w, 3] and returns one of the same shape, deterministically,
eagerly and in graph. Defaults are big_vision's, and so are the oddities that the
package's docstring lists.
"""

from typing import Literal, TypeAlias

import numpy as np
import tensorflow as tf

from input_pipeline.randaug.geometry import (
    Interpolation,
    Number,
    compiled,
    project,
    rotation,
    translate,
)

Image: TypeAlias = tf.Tensor | np.ndarray  # uint8 [h, w, 3]


def _blend(base: tf.Tensor, image: tf.Tensor, factor: float | int) -> tf.Tensor:
    """Return base + factor * (image - base) in float32, clipped, truncated to uint8."""
    if factor == 0.0:
        return base
    if factor == 1.0:
        return image
    base, image = tf.cast(base, tf.float32), tf.cast(image, tf.float32)
    mixed = base + factor * (image - base)
    return tf.cast(tf.clip_by_value(mixed, 0.0, 255.0), tf.uint8)


def _sum_in_order(parts: list[tf.Tensor]) -> tf.Tensor:
    """Return parts[0] - parts[1] - ..., left to right; later parts come in negated.

    Float sums depend on their order. TensorFlow's graph optimizer rewrites chains of
    additions (seen with images of known size), but leaves subtractions as they are.
    """
    total = parts[0]
    for part in parts[1:]:
        total -= part
    return total


def _grey(image: tf.Tensor) -> tf.Tensor:
    """Return luma, uint8 [h, w, 1]: tf.image.rgb_to_grayscale's on every colour."""
    r, g, b = tf.split(tf.cast(image, tf.float32) * (1.0 / 255.0), 3, axis=-1)
    luma = _sum_in_order([r * 0.2989, g * -0.5870, b * -0.1140])
    return tf.cast(tf.minimum(luma * 255.5, 255.0), tf.uint8)


def _channels(image: tf.Tensor) -> tf.Tensor:
    """Return [3, height * width]: reducing along the last dim is many times as fast."""
    return tf.transpose(tf.reshape(image, [-1, 3]))


@compiled
def _per_channel(image: tf.Tensor, tables: tf.Tensor) -> tf.Tensor:
    """Look up each channel in its table; `tables` is [3, 256]."""
    index = tf.cast(image, tf.int32) + tf.constant([0, 256, 512])
    return tf.gather(tf.reshape(tables, [-1]), index)


def autocontrast(image: Image) -> tf.Tensor:
    """Stretch each channel to 0..255, in float32; a constant channel stays."""
    image = tf.convert_to_tensor(image)
    channels = _channels(image)
    low = tf.cast(tf.reduce_min(channels, axis=1), tf.float32)[:, None]
    high = tf.cast(tf.reduce_max(channels, axis=1), tf.float32)[:, None]
    values = tf.range(256, dtype=tf.float32)[None]
    scale = 255.0 / (high - low)
    stretched = tf.clip_by_value(values * scale - low * scale, 0.0, 255.0)
    tables = tf.where(high > low, stretched, values)
    return _per_channel(image, tf.cast(tables, tf.uint8))


def equalize(image: Image) -> tf.Tensor:
    """Flatten each channel's histogram, as PIL.ImageOps.equalize does."""
    image = tf.convert_to_tensor(image)
    channels = tf.cast(_channels(image), tf.int32)
    # Exact for whole numbers, at a quarter of the cost of tf.math.bincount.
    counts = tf.stack(
        [
            tf.histogram_fixed_width(channel, [0, 256], 256)
            for channel in tf.unstack(channels, num=3)
        ]
    )
    brightest = tf.reduce_max(channels, axis=1)
    last = tf.gather(counts, brightest, axis=1, batch_dims=1)
    step = ((tf.reduce_sum(counts, axis=1) - last) // 255)[:, None]
    below = tf.cumsum(counts, axis=1, exclusive=True)
    flat = (below + step // 2) // tf.maximum(step, 1)
    tables = tf.where(step == 0, tf.range(256)[None], tf.clip_by_value(flat, 0, 255))
    return _per_channel(image, tf.cast(tables, tf.uint8))


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


def color(image: Image, factor: float | int) -> tf.Tensor:
    """Blend away from (factor > 1) or towards the grey image."""
    image = tf.convert_to_tensor(image)
    return _blend(tf.repeat(_grey(image), 3, axis=-1), image, factor)


def contrast(
    image: Image, factor: float | int, contrast: Literal["legacy", "fixed"] = "legacy"
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
        total = tf.reduce_sum(tf.cast(_grey(image), tf.int64))
        value = total // tf.cast(pixels, tf.int64)
    else:
        raise ValueError(f"contrast must be 'legacy' or 'fixed', got {contrast!r}")
    base = tf.fill(tf.shape(image), tf.cast(value, tf.uint8))
    return tf.ensure_shape(_blend(base, image, factor), image.shape)


def brightness(image: Image, factor: float | int) -> tf.Tensor:
    """Multiply each value by the factor, and clip."""
    image = tf.convert_to_tensor(image)
    return _blend(tf.zeros_like(image), image, factor)


def sharpness(image: Image, factor: float | int) -> tf.Tensor:
    """Blend away from (factor > 1) or towards the smoothed image; borders stay.

    The smoothing kernel is PIL's SMOOTH, (1 1 1, 1 5 1, 1 1 1) / 13, in float32 and
    truncated, so sums that should be whole can fall one short. They are added row by
    row without contraction, as TensorFlow's convolution does without oneDNN (with it,
    about 0.4 % of a photograph's values differ by one).
    """
    image = tf.convert_to_tensor(image)
    one, five = (np.float32(weight) / np.float32(13) for weight in (1, 5))
    wide = tf.cast(image, tf.float32)
    # The products are made outside of the compiled part, so they cannot be contracted.
    smooth = _smooth(wide * one, wide * -one, wide * -five)
    inside = _blend(smooth, image[1:-1, 1:-1], factor)
    middle = tf.concat([image[1:-1, :1], inside, image[1:-1, -1:]], axis=1)
    return tf.ensure_shape(
        tf.concat([image[:1], middle, image[-1:]], axis=0), image.shape
    )


@compiled
def _smooth(one: tf.Tensor, minus_one: tf.Tensor, minus_five: tf.Tensor) -> tf.Tensor:
    """Return the sum over each neighbourhood, from the image times its weights."""
    h, w = tf.shape(one)[0] - 2, tf.shape(one)[1] - 2
    weighted = [one, *[minus_one] * 3, minus_five, *[minus_one] * 4]
    parts = [
        weighted[3 * y + x][y : y + h, x : x + w] for y in range(3) for x in range(3)
    ]
    return tf.cast(tf.clip_by_value(_sum_in_order(parts), 0.0, 255.0), tf.uint8)


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
    shape = tf.shape(image)
    rows, columns = tf.range(shape[0])[:, None], tf.range(shape[1])[None]
    inside = (rows >= y - half) & (rows < y + half)
    inside &= (columns >= x - half) & (columns < x + half)
    return tf.where(inside[..., None], tf.constant(fill, tf.uint8), image)
