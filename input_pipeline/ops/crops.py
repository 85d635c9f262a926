"""Host ops that crop an image, most of them at random.

Each is a function of its literal arguments that returns fn(value), or fn(value, seed)
if it is random. Names, arguments and defaults of inception_crop,
decode_jpeg_and_inception_crop, random_crop and central_crop are big_vision's
(pp/ops_image.py), which lacks sampler, ratio_min, ratio_max and precise. Those of
random_resized_crop are torchvision's.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from input_pipeline.ops.crop_boxes import Bounds, Box, sampler_law
from input_pipeline.ops.image import (
    PRECISE,
    Method,
    Size,
    decode_other,
    pair_of,
    resize_to,
)


def inception_crop(
    size: Size | None = None,
    area_min: float = 5,
    area_max: float = 100,
    method: Method = "bilinear",
    antialias: bool = False,
    ratio_min: float = 0.75,
    ratio_max: float = 1.33,
    sampler: str = "tf",
) -> Callable[..., tf.Tensor]:
    """Crop a random part (areas in percent), then resize to `size` if given.

    `sampler` is "tf", "torchvision", "power(p)" or "beta(a, b)": see crop_boxes.py.
    """
    box = _box(area_min, area_max, ratio_min, ratio_max, sampler)
    sides = None if size is None else pair_of(size)

    def _crop(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        crop = _cut(image, box(tf.shape(image), seed))
        return crop if sides is None else resize_to(crop, sides, method, antialias)

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
    sampler: str = "tf",
) -> Callable[..., tf.Tensor]:
    """Apply inception_crop to JPEG bytes, and decode only the crop.

    Other bytes are decoded whole and then cropped: ImageNet has a PNG under a .JPEG
    name. With precise, the pixels are those of PIL's decoder.
    """
    box = _box(area_min, area_max, ratio_min, ratio_max, sampler)
    sides = None if size is None else pair_of(size)

    def _fused(data: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        shape = tf.io.extract_jpeg_shape(data)
        y, x, h, w = box(shape, seed)
        # libjpeg smooths subsampled colours across columns, but not across the edges of
        # the decoded part. The outer columns of a crop thus differ from those of the
        # whole image by up to a few levels; precise decodes two more on each side.
        left = tf.minimum(x, 2) if precise else 0
        right = tf.minimum(shape[1] - x - w, 2) if precise else 0
        wide = tf.io.decode_and_crop_jpeg(
            data,
            tf.stack([y, x - left, h, left + w + right]),
            channels=3,
            dct_method=PRECISE if precise else "",
        )
        return wide[:, left : left + w]

    def _whole(data: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        image = tf.ensure_shape(decode_other(data, 3), [None, None, 3])
        return _cut(image, box(tf.shape(image), seed))

    def _crop(data: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        image = tf.cond(
            tf.io.is_jpeg(data), lambda: _fused(data, seed), lambda: _whole(data, seed)
        )
        image = tf.ensure_shape(image, [None, None, 3])
        return image if sides is None else resize_to(image, sides, method, antialias)

    return _crop


def random_resized_crop(
    size: Size,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    method: Method = "bilinear",
    antialias: bool = True,
) -> Callable[..., tf.Tensor]:
    """Apply torchvision's RandomResizedCrop, with its defaults; areas as fractions.

    The sampler is that of inception_crop's sampler="torchvision", with other ranges and
    antialiasing. As in PIL, uint8 images are rounded to the nearest value; resize
    truncates them.
    """
    if not (0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1] < math.inf):
        raise ValueError(
            "scale and ratio must be (low, high) with 0 < low <= high, and scale at most "
            f"1, got {scale} and {ratio}"
        )
    sample = sampler_law("torchvision")
    sides = pair_of(size)

    def _crop(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        crop = _cut(image, sample(tf.shape(image), seed, scale, ratio))
        return resize_to(crop, sides, method, antialias, nearest=True)

    return _crop


def _box(
    area_min: float | int,
    area_max: float | int,
    ratio_min: float | int,
    ratio_max: float | int,
    sampler: str,
) -> Callable[[tf.Tensor, tf.Tensor], Box]:
    """Return fn(image shape, seed) -> (y, x, height, width); areas in percent."""
    if not 0 < area_min <= area_max <= 100:
        raise ValueError(
            "areas in percent must satisfy 0 < area_min <= area_max <= 100, got "
            f"{area_min} and {area_max}"
        )
    if not 0 < ratio_min <= ratio_max < math.inf:
        raise ValueError(
            "ratios of width / height must satisfy 0 < ratio_min <= ratio_max, got "
            f"{ratio_min} and {ratio_max}"
        )
    area: Bounds = area_min / 100, area_max / 100
    sample = sampler_law(sampler)
    return lambda shape, seed: sample(shape, seed, area, (ratio_min, ratio_max))


def _cut(image: tf.Tensor, box: Box) -> tf.Tensor:
    y, x, h, w = box
    return tf.ensure_shape(image[y : y + h, x : x + w], [None, None, image.shape[-1]])


def random_crop(crop_size: Size) -> Callable[..., tf.Tensor]:
    """Crop (height, width) at a uniform position; the image must be no smaller."""
    h, w = pair_of(crop_size)

    def _crop(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return tf.image.stateless_random_crop(image, (h, w, image.shape[-1]), seed)

    return _crop


def pad_crop(size: Size, padding: int = 4, fill: float = 0) -> Callable[..., tf.Tensor]:
    """Pad each side by `padding` pixels of `fill`, then random_crop (height, width).

    This is torchvision's RandomCrop(size, padding), usual for small images. The padded
    image must be at least as large as `size`.
    """
    if padding < 0:
        raise ValueError(f"padding must not be negative, got {padding}")
    crop = random_crop(size)

    def _pad_crop(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        around = [[padding, padding], [padding, padding], [0, 0]]
        value = tf.cast(fill, image.dtype)
        return crop(tf.pad(image, around, constant_values=value), seed)

    return _pad_crop


def central_crop(crop_size: Size | None = None) -> Callable[..., tf.Tensor]:
    """Crop the middle, with offsets rounded down; None: the largest central square."""
    pair = None if crop_size is None else pair_of(crop_size)

    def _crop(image: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(image)
        small = tf.minimum(shape[0], shape[1])
        h, w = (small, small) if pair is None else pair
        y, x = (shape[0] - h) // 2, (shape[1] - w) // 2
        return tf.image.crop_to_bounding_box(image, y, x, h, w)

    return _crop
