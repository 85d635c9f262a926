"""torchvision's single augmentation ops on resolved values: degrees, bits, factors.

Each takes a uint8 image [h, w, c], where c is 1 or 3, and returns one of the same
shape, deterministically, eagerly and in graph; values are Python numbers or scalar
tensors. The reference is torchvision on PIL images, which leaves all of them to Pillow.
Each op equals Pillow's to the bit, nearest-neighbour warps included; only bilinear
rotation differs, by one level in a few of 10,000 values. torchvision's other path, for
uint8 tensors, differs from it by one level in Contrast, Color, Sharpness and
AutoContrast (other rounding, other weights of the colours), and in those pixels of a
warp that show a place on the border of two.

ops.py has big_vision's ops, which have the same names and do other things; Equalize and
Invert are the same and come from there.
"""

import math
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from input_pipeline.randaug import geometry, ops
from input_pipeline.randaug.geometry import Interpolation, Number

Image: TypeAlias = tf.Tensor | np.ndarray  # uint8 [h, w, 1] or [h, w, 3]


def _float(image: tf.Tensor) -> tf.Tensor:
    return tf.cast(image, tf.float32)


def _double(value: Number) -> tf.Tensor:
    """Return `value` as float64; tf.cast alone takes a number through float32."""
    if isinstance(value, tf.Tensor):
        return tf.cast(value, tf.float64)
    return tf.constant(value, tf.float64)


def _blend(base: tf.Tensor, image: tf.Tensor, factor: Number) -> tf.Tensor:
    """Blend as PIL.Image.blend: base + factor * (image - base), clipped, truncated.

    The sum is float32. `base` holds whole numbers in float32 and broadcasts against the
    image.
    """
    mixed = base + tf.cast(factor, tf.float32) * (_float(image) - base)
    return tf.cast(tf.clip_by_value(mixed, 0.0, 255.0), tf.uint8)


def _grey(image: tf.Tensor) -> tf.Tensor:
    """Return luma (ITU-R 601-2), whole float32 [h, w, 1], as PIL converts to "L".

    All products and sums are whole and below 2**24, so none is rounded in any order.
    """
    if image.shape[-1] == 1:
        return _float(image)
    r, g, b = tf.split(_float(image), 3, axis=-1)
    luma = r * 19595.0 + g * 38470.0 + b * 7471.0 + 32768.0
    return tf.floor(luma * (1.0 / 65536.0))


def _warp(
    image: tf.Tensor, matrix: list[Number], fill: int, interpolation: Interpolation
) -> tf.Tensor:
    """Warp as PIL.Image.transform does with an affine matrix of six values, row by row.

    The matrix maps an output position to the input position that it shows. Both are in
    pixels from the upper left corner of the image, so (0.5, 0.5) is the middle of the
    first pixel. "nearest" computes in fixed point with 16 bits of fraction, as Pillow
    does: exact, and faster than a projective transform. Sides must be below 32,768 /
    (1 + shear).
    """
    a, b, c, d, e, f = map(_double, matrix)
    height, width, channels = tf.shape(image)[0], tf.shape(image)[1], image.shape[-1]
    x, y = tf.range(width)[None], tf.range(height)[:, None]
    # One extra pixel, the last, is shown for positions outside.
    outside = tf.fill([1, channels], tf.cast(fill, tf.uint8))
    pixels = tf.concat([tf.reshape(image, [-1, channels]), outside], axis=0)

    def gather(xs: tf.Tensor, ys: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
        index = tf.where(inside, ys * width + xs, height * width)
        return tf.ensure_shape(tf.gather(pixels, index), image.shape)

    if interpolation == "nearest":

        def along(of_x: tf.Tensor, of_y: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
            numbers = tf.stack([of_x, of_y, first + (of_x + of_y) * 0.5])
            fixed = tf.cast(tf.floor(numbers * 65536.0 + 0.5), tf.int32)
            place = (fixed[2] + fixed[0] * x) + fixed[1] * y
            return tf.bitwise.right_shift(place, 16)

        xs, ys = along(a, b, c), along(d, e, f)
        inside = (xs >= 0) & (xs < width) & (ys >= 0) & (ys < height)
        return gather(xs, ys, inside)

    middle_x, middle_y = tf.cast(x, tf.float64) + 0.5, tf.cast(y, tf.float64) + 0.5
    xs = a * middle_x + b * middle_y + c
    ys = d * middle_x + e * middle_y + f
    inside = (xs >= 0) & (ys >= 0)
    inside &= (xs < tf.cast(width, tf.float64)) & (ys < tf.cast(height, tf.float64))
    left, top = tf.floor(xs - 0.5), tf.floor(ys - 0.5)

    def corner(dx: int, dy: int) -> tf.Tensor:
        column = tf.clip_by_value(tf.cast(left, tf.int32) + dx, 0, width - 1)
        row = tf.clip_by_value(tf.cast(top, tf.int32) + dy, 0, height - 1)
        return tf.cast(gather(column, row, inside), tf.float64)

    across, down = (xs - 0.5 - left)[..., None], (ys - 0.5 - top)[..., None]
    upper = corner(0, 0) + (corner(1, 0) - corner(0, 0)) * across
    lower = corner(0, 1) + (corner(1, 1) - corner(0, 1)) * across
    return tf.cast(upper + (lower - upper) * down, image.dtype)


def identity(image: Image) -> tf.Tensor:
    """Return the image."""
    return tf.convert_to_tensor(image)


def shear_x(
    image: Image,
    shear: Number,
    fill: int = 0,
    interpolation: Interpolation = "nearest",
) -> tf.Tensor:
    """Shear about the upper left corner; a positive shear moves lower rows left."""
    matrix = [1.0, shear, 0.0, 0.0, 1.0, 0.0]
    return _warp(tf.convert_to_tensor(image), matrix, fill, interpolation)


def shear_y(
    image: Image,
    shear: Number,
    fill: int = 0,
    interpolation: Interpolation = "nearest",
) -> tf.Tensor:
    """Shear about the upper left corner; a positive shear moves the right side up."""
    matrix = [1.0, 0.0, 0.0, shear, 1.0, 0.0]
    return _warp(tf.convert_to_tensor(image), matrix, fill, interpolation)


def translate_x(image: Image, pixels: tf.Tensor | int, fill: int = 0) -> tf.Tensor:
    """Move to the right by whole pixels, to the left if negative."""
    return geometry.translate(tf.convert_to_tensor(image), -pixels, 1, fill, "nearest")


def translate_y(image: Image, pixels: tf.Tensor | int, fill: int = 0) -> tf.Tensor:
    """Move down by whole pixels, up if negative."""
    return geometry.translate(tf.convert_to_tensor(image), -pixels, 0, fill, "nearest")


def rotate(
    image: Image,
    degrees: Number,
    fill: int = 0,
    interpolation: Interpolation = "nearest",
) -> tf.Tensor:
    """Rotate counter-clockwise about the centre."""
    image = tf.convert_to_tensor(image)
    radians = _double(degrees) * (math.pi / 180.0)
    # Pillow keeps 15 decimals, so that a right angle is exact.
    cos = tf.round(tf.cos(radians) * 1e15) / 1e15
    sin = tf.round(tf.sin(radians) * 1e15) / 1e15
    sides = tf.cast(tf.shape(image)[:2], tf.float64)
    y, x = sides[0] / 2.0, sides[1] / 2.0
    dx, dy = (sin * y - cos * x) + x, (-sin * x - cos * y) + y
    matrix: list[Number] = [cos, -sin, dx, sin, cos, dy]
    return _warp(image, matrix, fill, interpolation)


def brightness(image: Image, factor: Number) -> tf.Tensor:
    """Multiply each value by the factor."""
    return _blend(tf.constant(0.0), tf.convert_to_tensor(image), factor)


def color(image: Image, factor: Number) -> tf.Tensor:
    """Blend away from (factor > 1) or towards the grey image; one channel is kept."""
    image = tf.convert_to_tensor(image)
    return (
        image
        if image.shape[-1] == 1
        else _blend(tf.repeat(_grey(image), 3, axis=-1), image, factor)
    )


def contrast(image: Image, factor: Number) -> tf.Tensor:
    """Blend away from (factor > 1) or towards the grey image's rounded mean."""
    image = tf.convert_to_tensor(image)
    grey = tf.cast(_grey(image), tf.int64)
    pixels = tf.size(grey, tf.int64)
    mean = (2 * tf.reduce_sum(grey) + pixels) // (2 * pixels)
    return _blend(_float(mean), image, factor)


def sharpness(image: Image, factor: Number) -> tf.Tensor:
    """Blend away from (factor > 1) or towards the smoothed image; borders stay.

    The smoothing kernel is (1 1 1, 1 5 1, 1 1 1) / 13, rounded to whole numbers; no sum
    is half way between two.
    """
    image = tf.convert_to_tensor(image)
    wide = _float(image)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    box = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    inside = image[1:-1, 1:-1]
    smooth = tf.floor((box + 4.0 * _float(inside)) * (1.0 / 13.0) + 0.5)
    # An image of fewer than three rows or columns is all border.
    middle = tf.concat(
        [image[1:-1, :1], _blend(smooth, inside, factor), image[1:-1, 1:][:, -1:]],
        axis=1,
    )
    out = tf.concat([image[:1], middle, image[1:][-1:]], axis=0)
    return tf.ensure_shape(out, image.shape)


def posterize(image: Image, bits: tf.Tensor | int) -> tf.Tensor:
    """Keep the top `bits` bits, 1 to 8."""
    dropped = tf.cast(8 - bits, tf.uint8)
    mask = tf.bitwise.left_shift(tf.constant(255, tf.uint8), dropped)
    return tf.bitwise.bitwise_and(tf.convert_to_tensor(image), mask)


def solarize(image: Image, threshold: tf.Tensor | int) -> tf.Tensor:
    """Invert values of at least `threshold`, a whole number in 0 ... 255."""
    image = tf.convert_to_tensor(image)
    inverted = tf.cast(image >= tf.cast(threshold, tf.uint8), tf.uint8)
    # 255 - value flips all bits; three times as fast as a choice by tf.where.
    return tf.bitwise.bitwise_xor(image, inverted * 255)


def autocontrast(image: Image) -> tf.Tensor:
    """Stretch each channel to 0 ... 255, in float64; a constant channel stays."""
    image = tf.convert_to_tensor(image)
    width, channels = tf.shape(image)[1], tf.shape(image)[2]
    # Whole rows, because TensorFlow is slow to broadcast along three channels.
    rows = tf.reshape(image, [-1, width * channels])
    low = tf.reduce_min(tf.reshape(tf.reduce_min(rows, 0), [width, channels]), 0)
    high = tf.reduce_max(tf.reshape(tf.reduce_max(rows, 0), [width, channels]), 0)
    low, high = tf.cast(low, tf.float64), tf.cast(high, tf.float64)
    scale = tf.where(high > low, 255.0 / (high - low), 1.0)
    offset = tf.where(high > low, low * scale, 0.0)
    values = tf.cast(rows, tf.float64) * tf.tile(scale, width[None])
    stretched = tf.clip_by_value(values - tf.tile(offset, width[None]), 0.0, 255.0)
    out = tf.reshape(tf.cast(stretched, tf.uint8), tf.shape(image))
    return tf.ensure_shape(out, image.shape)


def equalize(image: Image) -> tf.Tensor:
    """Flatten each channel's histogram."""
    image = tf.convert_to_tensor(image)
    if image.shape[-1] == 3:
        return ops.equalize(image)
    return ops.equalize(tf.repeat(image, 3, axis=-1))[:, :, :1]


invert = ops.invert
