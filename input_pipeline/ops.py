"""Host ops: what a `pp` string does to one example, in TensorFlow.

A feature dict goes in and comes out; `seed`, int32 [2], feeds every random op, which
folds its own position in the spec into it and draws stateless randomness: equal seeds
give equal images on any machine, thread or process.

To add an op, write a function of its literal arguments, annotated, that returns
fn(value), fn(value, seed) or fn(features), and list it in `OPS`. Names, arguments and
defaults are big_vision's (pp/ops_image.py, pp/ops_general.py).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from input_pipeline import image_ops
from input_pipeline import spec as op_spec
from input_pipeline.randaug import randaug

Features = dict[str, Any]  # feature name -> tensor


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


def copy(inkey: str, outkey: str) -> Callable[[Features], Features]:
    """Feature `inkey` under the name `outkey` as well."""
    return lambda features: features | {outkey: features[inkey]}


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
        hit = tf.expand_dims(labels, -1) == tf.range(depth, dtype=labels.dtype)
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
    "central_crop": Op(image_ops.central_crop, "value"),
    "clip_value_range": Op(image_ops.clip_value_range, "value"),
    "copy": Op(copy, "features"),
    "decode": Op(image_ops.decode, "value"),
    "decode_jpeg_and_inception_crop": Op(
        image_ops.decode_jpeg_and_inception_crop, "random"
    ),
    "drop": Op(drop, "features"),
    "flip_lr": Op(image_ops.flip_lr, "random"),
    "inception_crop": Op(image_ops.inception_crop, "random"),
    "keep": Op(keep, "features"),
    "onehot": Op(onehot, "features"),
    "pad_to_shape": Op(pad_to_shape, "value"),
    "randaug": Op(randaug, "random"),
    "random_affine": Op(image_ops.random_affine, "random"),
    "random_crop": Op(image_ops.random_crop, "random"),
    "reshape": Op(reshape, "value"),
    "resize": Op(image_ops.resize, "value"),
    "resize_long": Op(image_ops.resize_long, "value"),
    "resize_small": Op(image_ops.resize_small, "value"),
    "value_range": Op(image_ops.value_range, "value"),
    "vgg_value_range": Op(image_ops.vgg_value_range, "value"),
}


def get_preprocess_fn(spec: str) -> Callable[[Features], Features]:
    """The function of a spec: features -> features, for one example, unbatched.

    Raises:
      ValueError: now, for an unknown op or wrong arguments; when the function is
        called (or traced), for a missing feature, `seed` included if an op is random.
    """
    calls = op_spec.parse(spec)
    steps = [_build(call, position) for position, call in enumerate(calls)]

    @tf.autograph.experimental.do_not_convert
    def preprocess(features: Features) -> Features:
        features, seed = dict(features), features.get("seed")
        for call, step in zip(calls, steps, strict=True):
            try:
                features = step(features, seed)
            except KeyError as e:
                raise ValueError(
                    f"op {call.text!r} reads feature {e}, which is not among "
                    f"{', '.join(map(repr, sorted(features)))}"
                ) from None
        return features

    return preprocess


def _build(
    call: op_spec.OpCall, position: int
) -> Callable[[Features, tf.Tensor | None], Features]:
    if call.name not in OPS:
        raise op_spec.unknown_op(call, OPS, "host")
    op = OPS[call.name]
    if op.takes == "features":
        on_features = op_spec.build(call, op.make)
        return lambda features, seed: on_features(features)
    fn, inkey, outkey = op_spec.build_keyed(call, op.make)
    if op.takes == "value":
        return lambda features, seed: (
            features | {outkey: fn(tf.convert_to_tensor(features[inkey]))}
        )

    def random(features: Features, seed: tf.Tensor | None) -> Features:
        if seed is None:
            raise ValueError(
                f"op {call.text!r} is random and needs the feature 'seed' (int32 [2])"
            )
        folded = tf.random.fold_in(seed, position)
        value = tf.convert_to_tensor(features[inkey])
        return features | {outkey: fn(value, folded)}

    return random
