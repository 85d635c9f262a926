"""Host ops on one image: decoding, resizing, cropping, flipping, value ranges.

Each is a function of its literal arguments that returns fn(value), or fn(value, seed)
where chance decides. Names, arguments and defaults are big_vision's (pp/ops_image.py);
what it lacks: inception_crop's ratio_min, ratio_max and sampler, precise in
decode_jpeg_and_inception_crop, random_affine. uint8 images stay uint8, truncated after
resizing, until value_range.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import tensorflow as tf

from input_pipeline.geometry import (
    CROP_BOXES,
    Interpolation,
    affine,
    project,
)

Method = Literal["bilinear", "area", "nearest", "bicubic", "lanczos3", "lanczos5"]
Size = int | tuple[int, int]
Sampler = Literal["tf", "torchvision"]

# libjpeg's accurate integer transform, which PIL and torchvision use too; TensorFlow's
# default is faster and differs by a level or two here and there.
_PRECISE = "INTEGER_ACCURATE"


def _pair(size: Size) -> tuple[int, int]:
    """(height, width) from one number or two."""
    h, w = (size, size) if isinstance(size, int) else size
    if h <= 0 or w <= 0:
        raise ValueError(f"sizes are positive, got {size!r}")
    return h, w


def _decode_bytes(data: tf.Tensor, channels: int, precise: bool) -> tf.Tensor:
    if precise:  # reads PNG and GIF as well
        return tf.io.decode_jpeg(data, channels=channels, dct_method=_PRECISE)
    return tf.io.decode_image(data, channels=channels, expand_animations=False)


def _resize_to(
    image: tf.Tensor, size: Any, method: Method, antialias: bool
) -> tf.Tensor:
    """tf.image.resize, clipped and cast back (truncated) to the image's dtype."""
    out = tf.image.resize(image, size, method=method, antialias=antialias)
    if image.dtype.is_integer:
        out = tf.clip_by_value(out, image.dtype.min, image.dtype.max)
    return tf.cast(out, image.dtype)


def decode(channels: int = 3, precise: bool = False) -> Callable[..., tf.Tensor]:
    """Bytes (JPEG, PNG, GIF, BMP) to a uint8 image; precise: PIL's bits for JPEG."""
    if channels not in (1, 3, 4):
        raise ValueError("channels is 1, 3 or 4")

    def _decode(data: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(
            _decode_bytes(data, channels, precise), [None, None, channels]
        )

    return _decode


def resize(
    size: Size, method: Method = "bilinear", antialias: bool = False
) -> Callable[..., tf.Tensor]:
    """Resize to (height, width), or to a square."""
    pair = _pair(size)
    return lambda image: _resize_to(image, pair, method, antialias)


def _resize_by(
    goal: int, side: Callable[..., tf.Tensor], method: Method, antialias: bool
) -> Callable[..., tf.Tensor]:
    """Scale both sides by goal / side(h, w), each rounded half to even."""
    if goal <= 0:
        raise ValueError(f"sizes are positive, got {goal!r}")

    def _resize(image: tf.Tensor) -> tf.Tensor:
        hw = tf.cast(tf.shape(image)[:2], tf.float32)
        ratio = tf.cast(goal, tf.float32) / side(hw[0], hw[1])
        return _resize_to(
            image, tf.cast(tf.round(hw * ratio), tf.int32), method, antialias
        )

    return _resize


def resize_small(
    smaller_size: int, method: Method = "area", antialias: bool = False
) -> Callable[..., tf.Tensor]:
    """Resize so that the smaller side is `smaller_size`; keeps the aspect ratio."""
    return _resize_by(smaller_size, tf.minimum, method, antialias)


def resize_long(
    longer_size: int, method: Method = "area", antialias: bool = False
) -> Callable[..., tf.Tensor]:
    """Resize so that the longer side is `longer_size`; keeps the aspect ratio."""
    return _resize_by(longer_size, tf.maximum, method, antialias)


def inception_crop(
    size: Size | None = None,
    area_min: float = 5,
    area_max: float = 100,
    ratio_min: float = 0.75,
    ratio_max: float = 1.33,
    method: Method = "bilinear",
    antialias: bool = False,
    sampler: Sampler = "tf",
) -> Callable[..., tf.Tensor]:
    """Crop a random part (areas in percent), then resize to `size` if given."""
    box = _sampler((area_min, area_max), (ratio_min, ratio_max), sampler)
    pair = None if size is None else _pair(size)

    def _crop(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return _crop_and_resize(image, seed, box, pair, method, antialias)

    return _crop


def decode_jpeg_and_inception_crop(
    size: Size | None = None,
    area_min: float = 5,
    area_max: float = 100,
    ratio_min: float = 0.75,
    ratio_max: float = 1.33,
    method: Method = "bilinear",
    antialias: bool = False,
    precise: bool = False,
    sampler: Sampler = "tf",
) -> Callable[..., tf.Tensor]:
    """inception_crop of JPEG bytes, decoding only what is kept.

    Other bytes are decoded whole and then cropped: ImageNet has a PNG under a .JPEG
    name.
    """
    box = _sampler((area_min, area_max), (ratio_min, ratio_max), sampler)
    pair = None if size is None else _pair(size)

    def _fused(data: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        shape = tf.io.extract_jpeg_shape(data)
        y, x, h, w = box(shape, seed)
        # libjpeg smooths subsampled colours across columns, but not across the edges
        # of what it decodes, so that the outer columns of a crop differ from those of
        # the whole image by up to a few levels: precise decodes two more on each side.
        left = tf.minimum(x, 2) if precise else 0
        right = tf.minimum(shape[1] - x - w, 2) if precise else 0
        wide = tf.io.decode_and_crop_jpeg(
            data,
            tf.stack([y, x - left, h, left + w + right]),
            channels=3,
            dct_method=_PRECISE if precise else "",
        )
        return wide[:, left : left + w]

    def _whole(data: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        image = tf.ensure_shape(_decode_bytes(data, 3, precise), [None, None, 3])
        return _crop_and_resize(image, seed, box, None, method, antialias)

    def _crop(data: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        image = tf.cond(
            tf.io.is_jpeg(data), lambda: _fused(data, seed), lambda: _whole(data, seed)
        )
        image = tf.ensure_shape(image, [None, None, 3])
        return image if pair is None else _resize_to(image, pair, method, antialias)

    return _crop


def _sampler(
    area: tuple[float | int, float | int],
    ratio: tuple[float | int, float | int],
    sampler: Sampler,
) -> Callable[..., Any]:
    """fn(image shape, seed) -> (y, x, height, width); areas in percent."""
    if not 0 < area[0] <= area[1] <= 100:
        raise ValueError("0 < area_min <= area_max <= 100 is needed (percent)")
    if not 0 < ratio[0] <= ratio[1] < math.inf:
        raise ValueError("0 < ratio_min <= ratio_max is needed (width / height)")
    fractions = area[0] / 100, area[1] / 100
    return lambda shape, seed: CROP_BOXES[sampler](shape, seed, fractions, ratio)


def _crop_and_resize(
    image: tf.Tensor,
    seed: tf.Tensor,
    box: Callable[..., Any],
    size: tuple[int, int] | None,
    method: Method,
    antialias: bool,
) -> tf.Tensor:
    y, x, h, w = box(tf.shape(image), seed)
    crop = tf.ensure_shape(image[y : y + h, x : x + w], [None, None, image.shape[-1]])
    return crop if size is None else _resize_to(crop, size, method, antialias)


def random_crop(crop_size: Size) -> Callable[..., tf.Tensor]:
    """Crop (height, width) at a uniform place; the image must be as large."""
    h, w = _pair(crop_size)

    def _crop(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return tf.image.stateless_random_crop(image, (h, w, image.shape[-1]), seed)

    return _crop


def central_crop(crop_size: Size | None = None) -> Callable[..., tf.Tensor]:
    """Crop the middle, offsets rounded down; None: the largest central square."""
    pair = None if crop_size is None else _pair(crop_size)

    def _crop(image: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(image)
        small = tf.minimum(shape[0], shape[1])
        h, w = (small, small) if pair is None else pair
        y, x = (shape[0] - h) // 2, (shape[1] - w) // 2
        return tf.image.crop_to_bounding_box(image, y, x, h, w)

    return _crop


def flip_lr() -> Callable[..., tf.Tensor]:
    """Mirror left and right, half of the time."""
    return tf.image.stateless_random_flip_left_right


def random_affine(
    degrees: float = 0,
    translate: tuple[float, float] = (0, 0),
    scale: tuple[float, float] = (1, 1),
    fill: float = 0,
    interpolation: Interpolation = "bilinear",
) -> Callable[..., tf.Tensor]:
    """Rotate, enlarge and shift at random; for small images of any channel count.

    Uniform: the angle in -degrees ... degrees, the factor in scale, the shift in
    -fx * width ... fx * width and -fy * height ... fy * height for translate=(fx, fy).
    """
    if not 0 < scale[0] <= scale[1] or degrees < 0 or min(translate) < 0:
        raise ValueError(
            "0 < low <= high is needed for scale=(low, high), and degrees and "
            "translate are not negative"
        )

    def _affine(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        u = tf.random.stateless_uniform([4], seed, alg="philox")
        signed = u[:3] * 2.0 - 1.0
        sides = tf.cast(tf.shape(image), tf.float32)
        matrix = affine(
            image,
            degrees=signed[0] * degrees,
            scale=scale[0] + u[3] * (scale[1] - scale[0]),
            dx=signed[1] * translate[0] * sides[1],
            dy=signed[2] * translate[1] * sides[0],
        )
        return project(image, matrix, fill, interpolation)

    return _affine


def value_range(
    vmin: float = -1,
    vmax: float = 1,
    in_min: float = 0,
    in_max: float = 255.0,
    clip_values: bool = False,
) -> Callable[..., tf.Tensor]:
    """Map in_min ... in_max to vmin ... vmax, as float32."""
    if in_min == in_max:
        raise ValueError("in_min and in_max differ")

    def _value_range(image: tf.Tensor) -> tf.Tensor:
        image = (tf.cast(image, tf.float32) - in_min) / (in_max - in_min)
        image = vmin + image * (vmax - vmin)
        return tf.clip_by_value(image, vmin, vmax) if clip_values else image

    return _value_range


def vgg_value_range(
    mean: tuple[float, float, float] = (0.485 * 255, 0.456 * 255, 0.406 * 255),
    std: tuple[float, float, float] = (0.229 * 255, 0.224 * 255, 0.225 * 255),
) -> Callable[..., tf.Tensor]:
    """(image - mean) / std for each channel of a 0..255 image, as float32."""
    if 0 in std:
        raise ValueError("std holds no 0")

    def _vgg_value_range(image: tf.Tensor) -> tf.Tensor:
        return (tf.cast(image, tf.float32) - tf.constant(mean)) / tf.constant(std)

    return _vgg_value_range


def clip_value_range(vmin: float = -1, vmax: float = 1) -> Callable[..., tf.Tensor]:
    """Clip, as float32."""
    return lambda image: tf.clip_by_value(tf.cast(image, tf.float32), vmin, vmax)
