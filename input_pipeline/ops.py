"""Host ops: what a `pp` string does to one example, in TensorFlow.

A feature dict goes in and comes out; `seed`, int32 [2], feeds every random op, which
folds its own position in the spec into it and draws stateless randomness: equal seeds
give equal images on any machine, thread or process.

To add an op, write a function of its literal arguments, annotated, that returns what
`Op.takes` names, and list it in `OPS`. Names, arguments and defaults are big_vision's
(pp/ops_image.py, pp/ops_general.py) where it has the op.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from input_pipeline import crops, general_ops, image_ops, plans
from input_pipeline import spec as op_spec
from input_pipeline.randaug import randaug

Features = dict[str, Any]  # feature name -> tensor


class Op(NamedTuple):
    """An op and what its function takes."""

    make: Callable[..., Any]
    # Of one feature, and with inkey, outkey and key (both at once) as arguments:
    # "value": fn(value); "random": fn(value, seed); "coin": fn(value, coin), where the
    # coin is plans.coin. Of all: "features": fn(features); "random_features":
    # fn(features, seed).
    takes: Literal["value", "random", "coin", "features", "random_features"]


OPS = {
    "central_crop": Op(crops.central_crop, "value"),
    "choice": Op(general_ops.choice, "random_features"),
    "choice_no_replacement": Op(general_ops.choice_no_replacement, "features"),
    "clip_value_range": Op(image_ops.clip_value_range, "value"),
    "concat": Op(general_ops.concat, "features"),
    "copy": Op(general_ops.copy, "features"),
    "decode": Op(image_ops.decode, "value"),
    "decode_jpeg_and_inception_crop": Op(
        crops.decode_jpeg_and_inception_crop, "random"
    ),
    "drop": Op(general_ops.drop, "features"),
    "flatten": Op(general_ops.flatten, "features"),
    "flip_lr": Op(image_ops.flip_lr, "coin"),
    "grayscale_to_rgb": Op(image_ops.grayscale_to_rgb, "value"),
    "inception_crop": Op(crops.inception_crop, "random"),
    "keep": Op(general_ops.keep, "features"),
    "lookup": Op(general_ops.lookup, "value"),
    "normalize": Op(image_ops.normalize, "value"),
    "onehot": Op(general_ops.onehot, "features"),
    "pad_crop": Op(crops.pad_crop, "random"),
    "pad_to_shape": Op(general_ops.pad_to_shape, "value"),
    "randaug": Op(randaug, "random"),
    "random_affine": Op(image_ops.random_affine, "random"),
    "random_crop": Op(crops.random_crop, "random"),
    "random_resized_crop": Op(crops.random_resized_crop, "random"),
    "reshape": Op(general_ops.reshape, "value"),
    "resize": Op(image_ops.resize, "value"),
    "resize_long": Op(image_ops.resize_long, "value"),
    "resize_small": Op(image_ops.resize_small, "value"),
    "setdefault": Op(general_ops.setdefault, "features"),
    "squeeze_last_dim": Op(general_ops.squeeze_last_dim, "value"),
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
    steps = [_build(calls, position) for position in range(len(calls))]

    @tf.autograph.experimental.do_not_convert
    def preprocess(features: Features) -> Features:
        features, seed = dict(features), features.get("seed")
        seed = None if seed is None else tf.cast(seed, tf.int32)
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
    calls: list[op_spec.OpCall], position: int
) -> Callable[[Features, tf.Tensor | None], Features]:
    call = calls[position]
    if call.name not in OPS:
        raise op_spec.unknown_op(call, OPS, "host")
    op = OPS[call.name]

    def needed(seed: tf.Tensor | None) -> tf.Tensor:
        if seed is None:
            raise ValueError(
                f"op {call.text!r} is random and needs the feature 'seed' (int32 [2])"
            )
        return seed

    def folded(seed: tf.Tensor | None) -> Any:
        return tf.random.fold_in(needed(seed), position)

    if op.takes in ("features", "random_features"):
        on_features = op_spec.build(call, op.make)
        if op.takes == "features":
            return lambda features, seed: on_features(features)
        return lambda features, seed: on_features(features, folded(seed))

    fn, inkey, outkey = op_spec.build_keyed(call, op.make)
    nth = sum(earlier.name == call.name for earlier in calls[:position])

    def on_value(features: Features, seed: tf.Tensor | None) -> Features:
        chance = ()
        if op.takes == "random":
            chance = (folded(seed),)
        elif op.takes == "coin":
            words = tf.bitcast(needed(seed), tf.uint32)
            chance = (plans.coin((words[0], words[1]), nth),)
        value = tf.convert_to_tensor(features[inkey])
        return features | {outkey: fn(value, *chance)}

    return on_value
