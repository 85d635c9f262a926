"""Move the pixels of one image [h, w, c] by projective warps and slices.

A matrix maps an output position (x, y, 1) to the input position that it shows. All
functions run in graph and eagerly; images keep their dtype.
"""

import math
from typing import Any, Literal

import tensorflow as tf

from input_pipeline import warps
from input_pipeline.randaug.xla import applies, compiled

Interpolation = Literal["nearest", "bilinear"]
Number = tf.Tensor | float | int  # a Python number or a scalar tensor


def image_size(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return height and width as float32 scalars."""
    known = image.shape[:2].is_fully_defined()
    shape: Any = image.shape.as_list() if known else tf.shape(image)
    return tf.cast(shape[0], tf.float32), tf.cast(shape[1], tf.float32)


def _sides(image: tf.Tensor) -> list[Any]:
    """Return the shape, which is known."""
    return image.shape.as_list()


def project(
    image: tf.Tensor,
    matrix: list[Number],
    fill: float | int,
    interpolation: Interpolation,
) -> tf.Tensor:
    """Warp by the first two rows of `matrix` (six values, row by row).

    Positions are computed as a * x + b * y + c in float32 and, for "nearest", rounded
    half away from zero, as TensorFlow Addons did. Outside of the image, pixels are
    `fill`. Users of TensorFlow Addons wrapped and unwrapped a fourth channel for that;
    for "nearest" the result is the same. "bilinear" rounds integer images to the
    nearest value.

    If a graph is traced with an image of known size and a matrix of numbers, "nearest"
    looks up the source of each pixel in a table: ten times as fast, the same image.
    """
    numbers = [value for value in matrix if not isinstance(value, tf.Tensor)]
    fixed = len(numbers) == len(matrix)
    if interpolation == "nearest" and fixed and applies(image):
        height, width, _ = _sides(image)
        return _look_up(image, warps.pixel_map(height, width, numbers), fill)
    row = [tf.cast(value, tf.float32) for value in [*matrix, 0.0, 0.0]]
    smooth = interpolation == "bilinear" and image.dtype.is_integer
    out = tf.raw_ops.ImageProjectiveTransformV3(
        images=(tf.cast(image, tf.float32) if smooth else image)[None],
        transforms=tf.stack(row)[None],
        output_shape=tf.shape(image)[:2],
        fill_value=float(fill),
        interpolation=interpolation.upper(),
        fill_mode="CONSTANT",
    )[0]
    out.set_shape(image.shape)
    return tf.cast(tf.round(out), image.dtype) if smooth else out


@compiled
def _look_up(image: tf.Tensor, pixels: Any, fill: float | int) -> tf.Tensor:
    flat = tf.reshape(image, [-1, image.shape[-1]])
    outside = tf.fill([1, image.shape[-1]], tf.cast(fill, image.dtype))
    return tf.gather(tf.concat([flat, outside], axis=0), pixels)


def rotation(image: tf.Tensor, degrees: Number) -> list[Number]:
    """Return the matrix of a rotation about ((w - 1) / 2, (h - 1) / 2).

    It is that of `warps.rotation`, also for images of unknown size and for tensors.
    """
    if image.shape[:2].is_fully_defined() and not isinstance(degrees, tf.Tensor):
        height, width, _ = _sides(image)
        return list(warps.rotation(height, width, degrees))
    return _rotation(image, degrees)


def _rotation(image: tf.Tensor, degrees: Number) -> list[Any]:
    radians = tf.cast(degrees, tf.float32) * (math.pi / 180.0)
    cos, sin = tf.cos(radians), tf.sin(radians)
    h, w = (side - 1.0 for side in image_size(image))
    dx = (w - (cos * w - sin * h)) / 2.0
    dy = (h - (sin * w + cos * h)) / 2.0
    return [cos, -sin, dx, sin, cos, dy]


def translate(
    image: tf.Tensor,
    pixels: Number,
    axis: Literal[0, 1],
    fill: float | int,
    interpolation: Interpolation,
) -> tf.Tensor:
    """Shift so that output row (axis 0) or column (axis 1) i shows input i + pixels.

    `pixels` is a Python number or a scalar tensor of an integer or float type. Shifts
    by whole numbers (an integer tensor, or a number without fraction) use slicing,
    which is fifteen times as fast as a warp and gives the same image. Columns of images
    of known size use a table, which is faster still.
    """
    whole = (
        pixels.dtype.is_integer
        if isinstance(pixels, tf.Tensor)
        else float(pixels).is_integer()
    )
    if not whole or (axis == 1 and applies(image)):
        x, y = (pixels, 0.0) if axis == 1 else (0.0, pixels)
        return project(image, [1.0, 0.0, x, 0.0, 1.0, y], fill, interpolation)
    side = tf.shape(image)[axis]
    shift = tf.clip_by_value(tf.cast(pixels, tf.int32), -side, side)
    kept = tf.minimum(side, side + shift) - tf.maximum(shift, 0)
    begin = tf.one_hot(axis, 3, tf.maximum(shift, 0))
    size = tf.one_hot(axis, 3, kept, -1)
    before = tf.one_hot(axis, 3, tf.maximum(-shift, 0))
    after = tf.one_hot(axis, 3, tf.maximum(shift, 0))
    out = tf.pad(
        tf.slice(image, begin, size),
        tf.stack([before, after], axis=1),
        constant_values=tf.cast(fill, image.dtype),
    )
    out.set_shape(image.shape)
    return out


def affine(
    image: tf.Tensor,
    degrees: tf.Tensor,
    scale: tf.Tensor,
    dx: tf.Tensor,
    dy: tf.Tensor,
) -> list[Number]:
    """Return the matrix: rotate and enlarge about the centre, then move by (dx, dy)."""
    radians = degrees * (math.pi / 180.0)
    cos, sin = tf.cos(radians) / scale, tf.sin(radians) / scale
    h, w = image_size(image)
    cx, cy = (w - 1.0) / 2.0, (h - 1.0) / 2.0
    # The input position of output p is centre + R(p - centre - d) / scale.
    ox, oy = cx + dx, cy + dy
    return [cos, -sin, cx - cos * ox + sin * oy, sin, cos, cy - sin * ox - cos * oy]
