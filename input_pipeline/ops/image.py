"""Host ops on one image: decoding, resizing, flipping, value ranges; see also crops.py.

Each is a function of its literal arguments that returns fn(value), or fn(value, seed)
if it is random. Names, arguments and defaults are big_vision's (pp/ops_image.py),
which has no random_affine, normalize and grayscale_to_rgb. uint8 images stay uint8,
truncated after resizing, until a value range is set.
"""

from collections.abc import Callable
from typing import Any, Literal

import tensorflow as tf

from input_pipeline.device_ops import CLIP_MEAN, CLIP_STD
from input_pipeline.randaug.geometry import Interpolation, affine, project

Method = Literal["bilinear", "area", "nearest", "bicubic", "lanczos3", "lanczos5"]
Size = int | tuple[int, int]

# libjpeg's accurate integer transform, which PIL and torchvision also use. TensorFlow's
# default is faster and differs by a level or two in places.
PRECISE = "INTEGER_ACCURATE"
# The most pixels that resize_small and resize_long make: 400 MB of float32 RGB. An
# image of 1 x 20,000 would become 256 x 5,120,000.
MOST_PIXELS = 2**25

# tf.image.resize's kernels of ScaleAndTranslate. With antialias, area and nearest are
# what they are without.
_KERNELS = {
    "bilinear": "triangle",
    "bicubic": "keyscubic",
    "lanczos3": "lanczos3",
    "lanczos5": "lanczos5",
}
# Methods without negative weights.
_MEANS = ("bilinear", "area", "nearest")


def pair_of(size: Size) -> tuple[int, int]:
    """Return (height, width) from one number or two.

    Raises:
      ValueError: a side is not positive.
    """
    h, w = (size, size) if isinstance(size, int) else size
    if h <= 0 or w <= 0:
        raise ValueError(f"sizes must be positive, got {size!r}")
    return h, w


def decode_other(data: tf.Tensor, channels: int) -> tf.Tensor:
    """Decode any format, JPEG by TensorFlow's default; of a GIF, the first image."""
    return tf.io.decode_image(data, channels=channels, expand_animations=False)


def resize_to(
    image: tf.Tensor, size: Any, method: Method, antialias: bool, nearest: bool = False
) -> tf.Tensor:
    """Resize with tf.image.resize, clip, and cast back to the image's dtype.

    Integers are truncated, as in big_vision, or with `nearest` rounded half to even.
    """

    def finish(out: tf.Tensor) -> tf.Tensor:
        if image.dtype.is_integer:
            out = tf.round(out) if nearest else out
            # A mean of bytes is no byte more than the largest, whatever its rounding.
            if image.dtype != tf.uint8 or method not in _MEANS:
                out = tf.clip_by_value(out, image.dtype.min, image.dtype.max)
        return tf.cast(out, image.dtype)

    if antialias and method in _KERNELS and image.shape.rank == 3:
        return _antialiased(image, size, _KERNELS[method], finish)
    return finish(tf.image.resize(image, size, method=method, antialias=antialias))


def _antialiased(
    image: tf.Tensor, size: Any, kernel: str, finish: Callable[[tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    """Return `finish`, elementwise, of tf.image.resize(..., antialias=True).

    The values are equal to the bit. ScaleAndTranslate makes each row a weighted sum of
    rows, and then each pixel one of pixels, whose few channels it adds one by one. Here
    both passes add rows: in the second, the columns are rows. The weights and the order
    of the sums are its own.
    """
    h, w, channels = tf.unstack(tf.shape(image))
    height, width = tf.unstack(tf.cast(size, tf.int32))

    def rows(values: tf.Tensor, old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        scale = tf.cast(new, tf.float32) / tf.cast(old, tf.float32)
        return tf.raw_ops.ScaleAndTranslate(
            images=tf.reshape(values, [1, old, 1, -1]),
            size=tf.stack([new, 1]),
            scale=tf.stack([scale, 1.0]),
            translation=[0.0, 0.0],
            kernel_type=kernel,
            antialias=True,
        )

    # Matrices of [y, x and channel], then of [x and channel, y]: TensorFlow turns those
    # twice as fast as [y, x, channel].
    turned = tf.transpose(tf.reshape(rows(image, h, height), [height, -1]))
    wide = tf.reshape(rows(turned, w, width), [width * channels, height])
    out = tf.reshape(tf.transpose(finish(wide)), [height, width, channels])
    sides = (None, None) if tf.is_tensor(size) else size
    return tf.ensure_shape(out, [*sides, image.shape[-1]])


def decode(channels: int = 3, precise: bool = False) -> Callable[..., tf.Tensor]:
    """Decode JPEG, PNG, GIF, BMP or WebP to uint8; with precise, JPEG to PIL's bits.

    Other formats always have PIL's values, except BMP with a palette, which TensorFlow
    misreads, and animated WebP, which it refuses; image_files.py passes on neither.
    channels=1 is for JPEG and PNG, 4 for PNG and BMP.
    """
    if channels not in (1, 3, 4):
        raise ValueError(f"channels must be 1, 3 or 4, got {channels}")

    def _jpeg(data: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_jpeg(data, channels=channels, dct_method=PRECISE)

    def _decode(data: tf.Tensor) -> tf.Tensor:
        if precise:
            image = tf.cond(
                tf.io.is_jpeg(data),
                lambda: _jpeg(data),
                lambda: decode_other(data, channels),
            )
        else:
            image = decode_other(data, channels)
        return tf.ensure_shape(image, [None, None, channels])

    return _decode


def resize(
    size: Size, method: Method = "bilinear", antialias: bool = False
) -> Callable[..., tf.Tensor]:
    """Resize to (height, width), or to a square."""
    sides = pair_of(size)
    return lambda image: resize_to(image, sides, method, antialias)


def _resize_by(
    goal: int, side: Callable[..., tf.Tensor], method: Method, antialias: bool
) -> Callable[..., tf.Tensor]:
    """Scale both sides by goal / side(h, w), each rounded half to even.

    An image that would become larger than MOST_PIXELS fails as a damaged one does.
    """
    if goal <= 0:
        raise ValueError(f"sizes must be positive, got {goal!r}")

    def _resize(image: tf.Tensor) -> tf.Tensor:
        hw = tf.cast(tf.shape(image)[:2], tf.float32)
        ratio = tf.cast(goal, tf.float32) / side(hw[0], hw[1])
        size = tf.cast(tf.round(hw * ratio), tf.int32)
        sides = [*tf.unstack(tf.shape(image)[:2]), *tf.unstack(size)]
        text = tf.strings.format("{} x {} pixels would become {} x {}: too many", sides)
        fits = tf.reduce_prod(tf.cast(size, tf.int64)) <= MOST_PIXELS
        check = tf.debugging.Assert(fits, [text])
        with tf.control_dependencies([check] if check is not None else []):
            size = tf.identity(size)
        return resize_to(image, size, method, antialias)

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


def flip_lr() -> Callable[..., tf.Tensor]:
    """Mirror left and right, half of the time, as plans.coin decides."""

    def _flip(image: tf.Tensor, coin: tf.Tensor) -> tf.Tensor:
        # tf.reverse takes a hundredth of the time of image[:, ::-1].
        return tf.cond(coin == 1, lambda: tf.reverse(image, [1]), lambda: image)

    return _flip


def random_affine(
    degrees: float = 0,
    translate: tuple[float, float] = (0, 0),
    scale: tuple[float, float] = (1, 1),
    fill: float = 0,
    interpolation: Interpolation = "bilinear",
) -> Callable[..., tf.Tensor]:
    """Rotate, enlarge and shift at random; for small images of any channel count.

    The draws are uniform: the angle in -degrees ... degrees, the factor in scale, the
    shift in -fx * width ... fx * width and -fy * height ... fy * height for
    translate=(fx, fy).
    """
    if not 0 < scale[0] <= scale[1] or degrees < 0 or min(translate) < 0:
        raise ValueError(
            "scale must be (low, high) with 0 < low <= high, and degrees and translate "
            f"must not be negative, got {scale}, {degrees} and {translate}"
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
        raise ValueError(f"in_min and in_max must differ, got {in_min} for both")

    def _value_range(image: tf.Tensor) -> tf.Tensor:
        image = (tf.cast(image, tf.float32) - in_min) / (in_max - in_min)
        image = vmin + image * (vmax - vmin)
        return tf.clip_by_value(image, vmin, vmax) if clip_values else image

    return _value_range


def vgg_value_range(
    mean: tuple[float, float, float] = (0.485 * 255, 0.456 * 255, 0.406 * 255),
    std: tuple[float, float, float] = (0.229 * 255, 0.224 * 255, 0.225 * 255),
) -> Callable[..., tf.Tensor]:
    """Compute (image - mean) / std per channel of a 0..255 image, as float32."""
    if 0 in std:
        raise ValueError(f"std must not contain 0, got {std}")

    def _vgg_value_range(image: tf.Tensor) -> tf.Tensor:
        return (tf.cast(image, tf.float32) - tf.constant(mean)) / tf.constant(std)

    return _vgg_value_range


def normalize(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[..., tf.Tensor]:
    """Apply torchvision's ToTensor and Normalize: (image / 255 - mean) / std, float32.

    Takes values of 0 ... 255, uint8 or float, never those of value_range(0, 1). `mean`
    and `std` are for 0 ... 1, one per channel.
    """
    if len(mean) != len(std) or 0 in std:
        raise ValueError(
            "mean and std must have the same length, and std must not contain 0, got "
            f"{mean} and {std}"
        )

    def _normalize(image: tf.Tensor) -> tf.Tensor:
        if image.shape[-1] != len(mean):
            raise ValueError(
                f"normalize has {len(mean)} mean(s), one for each channel, but got an "
                f"image of shape {image.shape}"
            )
        image = tf.cast(image, tf.float32) / 255.0
        return (image - tf.constant(mean)) / tf.constant(std)

    return _normalize


def clip_value_range() -> Callable[..., tf.Tensor]:
    """Normalize as CLIP: (image / 255 - mean) / std of its training data, float32."""
    return normalize(CLIP_MEAN, CLIP_STD)


def grayscale_to_rgb() -> Callable[..., tf.Tensor]:
    """Repeat one channel three times."""
    return tf.image.grayscale_to_rgb
