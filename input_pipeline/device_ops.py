"""Device ops: the end of preprocessing, inside the jitted step, on whole batches.

The language is that of the host ops (ops.py) and equal ops give equal values, so that
uint8 images and integer labels travel to the device and are finished there. Imports
without TensorFlow.

Shapes: b batch, c channels or classes; an image batch is [b, h, w, c].
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from input_pipeline import spec as op_spec

Features = dict[str, Any]  # feature name -> array [b, ...]

# Names of host ops, for messages only: ops.py itself needs TensorFlow.
_HOST_OPS = frozenset(
    {
        "central_crop",
        "clip_value_range",
        "decode",
        "decode_jpeg_and_inception_crop",
        "flip_lr",
        "inception_crop",
        "pad_to_shape",
        "randaug",
        "random_affine",
        "random_crop",
        "reshape",
        "resize",
        "resize_long",
        "resize_small",
    }
)


def value_range(
    vmin: float = -1,
    vmax: float = 1,
    in_min: float = 0,
    in_max: float = 255.0,
    clip_values: bool = False,
) -> Callable[..., jax.Array]:
    """Map in_min ... in_max to vmin ... vmax, as float32."""
    if in_min == in_max:
        raise ValueError("in_min and in_max differ")

    def _value_range(image: Shaped[Array, "..."]) -> Float[Array, "..."]:
        image = (image.astype(jnp.float32) - in_min) / (in_max - in_min)
        image = vmin + image * (vmax - vmin)
        return jnp.clip(image, vmin, vmax) if clip_values else image

    return _value_range


def vgg_value_range(
    mean: tuple[float, float, float] = (0.485 * 255, 0.456 * 255, 0.406 * 255),
    std: tuple[float, float, float] = (0.229 * 255, 0.224 * 255, 0.225 * 255),
) -> Callable[..., jax.Array]:
    """(image - mean) / std for each channel of a 0..255 image, as float32."""
    if 0 in std:
        raise ValueError("std holds no 0")

    def _vgg_value_range(image: Shaped[Array, "*size 3"]) -> Float[Array, "*size 3"]:
        shape = (1,) * (image.ndim - 1) + (3,)
        centre = jnp.asarray(mean, jnp.float32).reshape(shape)
        spread = jnp.asarray(std, jnp.float32).reshape(shape)
        return (image.astype(jnp.float32) - centre) / spread

    return _vgg_value_range


def onehot(
    depth: int,
    key: str = "label",
    key_result: str = "labels",
    on: float = 1.0,
    off: float = 0.0,
) -> Callable[[Features], Features]:
    """Integer labels [b] to float32 [b, depth]; outside 0 ... depth - 1: all off."""
    if depth <= 0:
        raise ValueError("depth is positive")

    def _onehot(label: Int[Array, " b"]) -> Float[Array, "b c"]:
        hit = label[:, None] == jnp.arange(depth, dtype=label.dtype)[None]
        return jnp.where(hit, jnp.float32(on), jnp.float32(off))

    return lambda features: features | {key_result: _onehot(features[key])}


def copy(inkey: str, outkey: str) -> Callable[[Features], Features]:
    """Feature `inkey` under the name `outkey` as well."""
    return lambda features: features | {outkey: features[inkey]}


def keep(*keys: str) -> Callable[[Features], Features]:
    """Drop every feature but these."""
    return lambda features: {k: v for k, v in features.items() if k in keys}


def drop(*keys: str) -> Callable[[Features], Features]:
    """Drop these features."""
    return lambda features: {k: v for k, v in features.items() if k not in keys}


class Op(NamedTuple):
    """An op and what its function takes: one feature's value, or all features."""

    make: Callable[..., Any]
    takes: Literal["value", "features"]


OPS = {
    "copy": Op(copy, "features"),
    "drop": Op(drop, "features"),
    "keep": Op(keep, "features"),
    "onehot": Op(onehot, "features"),
    "value_range": Op(value_range, "value"),
    "vgg_value_range": Op(vgg_value_range, "value"),
}


def get_preprocess_fn(spec: str) -> Callable[[Features], Features]:
    """The function of a spec: features -> features, for one batch; "" changes nothing.

    Raises:
      ValueError: now, for an unknown op or wrong arguments; when the function is
        called (or traced), for a missing feature.
    """
    calls = op_spec.parse(spec)
    steps = [_build(call) for call in calls]

    def preprocess(features: Features) -> Features:
        features = dict(features)
        for call, step in zip(calls, steps, strict=True):
            try:
                features = step(features)
            except KeyError as e:
                raise ValueError(
                    f"op {call.text!r} reads feature {e}, which is not among "
                    f"{', '.join(map(repr, sorted(features)))}"
                ) from None
        return features

    return preprocess


def _build(call: op_spec.OpCall) -> Callable[[Features], Features]:
    if call.name in _HOST_OPS:
        raise ValueError(
            f"op {call.text!r} runs on the host: put it into pp, not into device_pp "
            f"(device ops: {', '.join(sorted(OPS))})"
        )
    if call.name not in OPS:
        raise op_spec.unknown_op(call, OPS, "device")
    op = OPS[call.name]
    if op.takes == "features":
        return op_spec.build(call, op.make)
    fn, inkey, outkey = op_spec.build_keyed(call, op.make)
    return lambda features: features | {outkey: fn(features[inkey])}
