"""The boxes of random resized crops: four samplers under one name, "inception crop".

A sampler is fn(shape, seed, area, ratio) -> (y, x, height, width). Its arguments are
the image's shape, int32 [3], a seed, int32 [2], the bounds of the crop's share of the
image's area, and those of its aspect ratio, width / height. A crop never leaves the
image.

- "tf", TensorFlow's and so big_vision's: the ratio is uniform, the height uniform among
  those whose area fits; after 100 attempts the whole image. A crop that is lower or
  narrower than the image never reaches its last row or column.
- "torchvision", its RandomResizedCrop: the area is uniform, the ratio log-uniform;
  after 10 attempts the largest central crop whose ratio is clipped to the bounds.
- "power(p)": as torchvision, but area ** (1 / p) is uniform. p=1 is torchvision;
  p=2 is near TensorFlow's: heights are then uniform.
- "beta(a, b)": as torchvision, but the area is at a Beta(a, b) share of its range;
  beta(1, 1) is uniform.

The last two are the branches inception-power and beta-crop of EIFY/mup-vit. The
distributions are reproduced, not the random bits of any library.
"""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from input_pipeline import spec

Bounds = tuple[float | int, float | int]  # low, high
Box = tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]  # y, x, height, width
Law = Callable[[tf.Tensor, tf.Tensor, Bounds, Bounds], Box]
# fn(uniform float32 [n], seed, area) -> float32 [n], shares of the image's area.
Areas = Callable[[tf.Tensor, tf.Tensor, Bounds], tf.Tensor]

ATTEMPTS_TF = 100
ATTEMPTS_TORCHVISION = 10


def tf_law() -> Law:
    """Return TensorFlow's sampler."""

    def sample(shape: tf.Tensor, seed: tf.Tensor, area: Bounds, ratio: Bounds) -> Box:
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            tf.zeros([0, 0, 4], tf.float32),
            seed,
            min_object_covered=0.0,
            aspect_ratio_range=ratio,
            area_range=area,
            max_attempts=ATTEMPTS_TF,
            use_image_if_no_bounding_boxes=True,
        )
        return begin[0], begin[1], size[0], size[1]

    return sample


def power(p: float = 1.0) -> Law:
    """Return torchvision's sampler with a uniform area ** (1 / p)."""
    if not 0 < p < math.inf:
        raise ValueError(f"p must be positive, got {p}")

    def areas(uniform: tf.Tensor, seed: tf.Tensor, area: Bounds) -> tf.Tensor:
        low, high = area[0] ** (1 / p), area[1] ** (1 / p)
        return tf.pow(low + uniform * (high - low), p)

    return _torchvision_law(areas)


def beta(a: float, b: float) -> Law:
    """Return torchvision's sampler with a Beta(a, b) share of the range of areas."""
    if not (0.1 <= a <= 1000 and 0.1 <= b <= 1000):
        raise ValueError(f"a and b must be 0.1 to 1000, got {a} and {b}")

    def areas(uniform: tf.Tensor, seed: tf.Tensor, area: Bounds) -> tf.Tensor:
        # x / (x + y) of two gamma variables. In float64 neither is ever 0 for the
        # accepted parameters; the fold makes them independent of the uniform numbers.
        gamma_seed: Any = tf.random.fold_in(seed, 1)
        gamma = tf.random.stateless_gamma(
            [*uniform.shape, 2],
            gamma_seed,
            tf.constant([a, b], tf.float64),
            dtype=tf.float64,
        )
        x, y = tf.unstack(gamma, axis=-1)
        share = tf.cast(x / (x + y), tf.float32)
        return area[0] + share * (area[1] - area[0])

    return _torchvision_law(areas)


def _torchvision_law(areas: Areas) -> Law:
    def sample(shape: tf.Tensor, seed: tf.Tensor, area: Bounds, ratio: Bounds) -> Box:
        h, w = shape[0], shape[1]
        height, width = tf.cast(h, tf.float32), tf.cast(w, tf.float32)
        u = tf.random.stateless_uniform([4, ATTEMPTS_TORCHVISION], seed, alg="philox")
        target = areas(u[0], seed, area) * height * width
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = tf.exp(low + u[1] * (high - low))
        hs = tf.cast(tf.round(tf.sqrt(target / aspect)), tf.int32)
        ws = tf.cast(tf.round(tf.sqrt(target * aspect)), tf.int32)
        fits = (hs > 0) & (hs <= h) & (ws > 0) & (ws <= w)
        first = tf.argmax(fits)

        own_h = tf.minimum(h, tf.cast(tf.round(width / ratio[0]), tf.int32))
        own_w = tf.minimum(w, tf.cast(tf.round(height * ratio[1]), tf.int32))
        found = tf.reduce_any(fits)
        out_h = tf.where(found, hs[first], own_h)
        out_w = tf.where(found, ws[first], own_w)

        def place(u: tf.Tensor, room: tf.Tensor) -> tf.Tensor:
            anywhere = tf.cast(u * tf.cast(room + 1, tf.float32), tf.int32)
            return tf.where(found, tf.minimum(anywhere, room), room // 2)

        y, x = place(u[2, first], h - out_h), place(u[3, first], w - out_w)
        return y, x, out_h, out_w

    return sample


def torchvision() -> Law:
    """Return torchvision's sampler."""
    return power(1.0)


SAMPLERS: dict[str, Callable[..., Law]] = {
    "tf": tf_law,
    "torchvision": torchvision,
    "power": power,
    "beta": beta,
}


def sampler_law(sampler: str) -> Law:
    """Return the sampler that a text names, such as "tf" or "beta(1, 2)".

    Raises:
      ValueError: an unknown sampler, or wrong arguments; names the samplers, or the
        arguments of the one named.
    """
    known = "'tf', 'torchvision', 'power(p)' or 'beta(a, b)'"
    try:
        calls = spec.parse(sampler)
    except ValueError:
        calls = []
    if len(calls) != 1 or calls[0].name not in SAMPLERS:
        raise ValueError(f"sampler cannot be {sampler!r}: use {known}")
    try:
        return spec.build(calls[0], SAMPLERS[calls[0].name])
    except ValueError as e:
        raise ValueError(f"sampler cannot be {sampler!r}: {e}") from None
