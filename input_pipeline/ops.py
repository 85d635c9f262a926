"""Host ops: what a `pp` string does to one example, in TensorFlow.

A feature dict goes in and comes out; `seed`, int32 [2], feeds every random op, which
folds its own position in the spec into it and draws stateless randomness: equal seeds
give equal images on any machine, thread or process. uint8 images stay uint8 until
value_range, so that small bytes travel.

Names, arguments and defaults are big_vision's (pp/ops_image.py, pp/ops_general.py).
An op is a function of its literal arguments that returns fn(value), fn(value, seed) or
fn(features); `OPS` says which. To add one, write such a function and list it there.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from input_pipeline import spec as op_spec
from input_pipeline.geometry import (
    CROP_BOXES,
    Interpolation,
    affine,
    area_fractions,
    project,
)
from input_pipeline.randaug import randaug

Features = dict[str, Any]  # feature name -> tensor
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
    box = _sampler(area_min, area_max, ratio_min, ratio_max, sampler)
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
    box = _sampler(area_min, area_max, ratio_min, ratio_max, sampler)
    pair = None if size is None else _pair(size)

    def _fused(data: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_and_crop_jpeg(
            data,
            tf.stack(box(tf.io.extract_jpeg_shape(data), seed)),
            channels=3,
            dct_method=_PRECISE if precise else "",
        )

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
    area_min: float,
    area_max: float,
    ratio_min: float,
    ratio_max: float,
    sampler: Sampler,
) -> Callable[..., Any]:
    """fn(image shape, seed) -> (y, x, height, width)."""
    if not 0 < ratio_min <= ratio_max:
        raise ValueError("0 < ratio_min <= ratio_max is needed (width / height)")
    area, ratio = area_fractions(area_min, area_max), (ratio_min, ratio_max)
    return lambda shape, seed: CROP_BOXES[sampler](shape, seed, area, ratio)


def _crop_and_resize(
    image: tf.Tensor,
    seed: tf.Tensor,
    box: Callable[..., Any],
    size: tuple[int, int] | None,
    method: Method,
    antialias: bool,
) -> tf.Tensor:
    y, x, h, w = box(tf.shape(image), seed)
    crop = tf.ensure_shape(
        image[y : y + h, x : x + w], [None, None, image.shape[-1]]
    )
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


def reshape(new_shape: tuple[int, ...]) -> Callable[..., tf.Tensor]:
    """tf.reshape; one entry may be -1."""
    return lambda value: tf.reshape(value, new_shape)


def pad_to_shape(
    shape: tuple[int | None, ...],
    pad_value: float = 0,
    where: Literal["before", "after", "both"] = "after",
) -> Callable[..., tf.Tensor]:
    """Pad to a shape; None keeps a dimension; "both" puts the odd one after."""

    def _pad(value: tf.Tensor) -> tf.Tensor:
        if value.shape.rank != len(shape):
            raise ValueError(f"pad_to_shape{shape} got a value of shape {value.shape}")
        pads = []
        for need, have in zip(shape, tf.unstack(tf.shape(value)), strict=True):
            room = 0 if need is None else need - have
            before = {"before": room, "after": 0, "both": room // 2}[where]
            pads.append((before, room - before))
        out = tf.pad(value, pads, constant_values=tf.cast(pad_value, value.dtype))
        return tf.ensure_shape(out, shape)

    return _pad


def copy() -> Callable[..., tf.Tensor]:
    """Feature `inkey` under the name `outkey` as well."""
    return lambda value: value


def onehot(
    depth: int,
    key: str = "labels",
    key_result: str | None = None,
    multi: bool = True,
    on: float = 1.0,
    off: float = 0.0,
) -> Callable[[Features], Features]:
    """Integer label, or several with multi (any of them is on), to float32 [depth].

    Labels outside 0 ... depth - 1 turn nothing on. multi=False gives every label its
    own row.
    """
    if depth <= 0:
        raise ValueError("depth is positive")

    def _onehot(features: Features) -> Features:
        labels = tf.convert_to_tensor(features[key])
        hit = labels[..., None] == tf.range(depth, dtype=labels.dtype)
        if multi:
            hit = tf.reduce_any(tf.reshape(hit, [-1, depth]), axis=0)
        return features | {key_result or key: tf.where(hit, float(on), float(off))}

    return _onehot


def keep(*keys: str) -> Callable[[Features], Features]:
    """Drop every feature but these."""
    return lambda features: {k: v for k, v in features.items() if k in keys}


def drop(*keys: str) -> Callable[[Features], Features]:
    """Drop these features."""
    return lambda features: {k: v for k, v in features.items() if k not in keys}


class Op(NamedTuple):
    """An op and what its function takes."""

    make: Callable[..., Any]
    # "value": fn(value), of one feature; "random": fn(value, seed); "features":
    # fn(features). The first two take inkey, outkey and key (both at once) as well.
    takes: Literal["value", "random", "features"]


OPS = {
    "central_crop": Op(central_crop, "value"),
    "clip_value_range": Op(clip_value_range, "value"),
    "copy": Op(copy, "value"),
    "decode": Op(decode, "value"),
    "decode_jpeg_and_inception_crop": Op(decode_jpeg_and_inception_crop, "random"),
    "drop": Op(drop, "features"),
    "flip_lr": Op(flip_lr, "random"),
    "inception_crop": Op(inception_crop, "random"),
    "keep": Op(keep, "features"),
    "onehot": Op(onehot, "features"),
    "pad_to_shape": Op(pad_to_shape, "value"),
    "randaug": Op(randaug, "random"),
    "random_affine": Op(random_affine, "random"),
    "random_crop": Op(random_crop, "random"),
    "reshape": Op(reshape, "value"),
    "resize": Op(resize, "value"),
    "resize_long": Op(resize_long, "value"),
    "resize_small": Op(resize_small, "value"),
    "value_range": Op(value_range, "value"),
    "vgg_value_range": Op(vgg_value_range, "value"),
}
