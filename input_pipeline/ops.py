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

import numpy as np
import tensorflow as tf

from input_pipeline import image_ops, plans
from input_pipeline import spec as op_spec
from input_pipeline.plans import Policy
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
    # "value": fn(value), of one feature; "random": fn(value, seed); "policy": a
    # plans.Policy; "features": fn(features). All but the last take inkey, outkey and
    # key (both at once) as well.
    takes: Literal["value", "random", "policy", "features"]


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
    "randaug": Op(randaug, "policy"),
    "random_affine": Op(image_ops.random_affine, "random"),
    "random_crop": Op(image_ops.random_crop, "random"),
    "reshape": Op(reshape, "value"),
    "resize": Op(image_ops.resize, "value"),
    "resize_long": Op(image_ops.resize_long, "value"),
    "resize_small": Op(image_ops.resize_small, "value"),
    "value_range": Op(image_ops.value_range, "value"),
    "vgg_value_range": Op(image_ops.vgg_value_range, "value"),
}


class Preprocess:
    """The function of a spec: features -> features, for one example, unbatched.

    Policies (randaug and its like) read their plans from features named `plan_names`,
    such as "randaug_plan"; where such a feature is missing the plan is drawn from
    `seed`, or from `batch_seed` if all images of a batch share it: with the same result
    as `draw`, which is the fast way for many examples.
    """

    def __init__(self, spec: str):
        """Raise ValueError for an unknown op or wrong arguments."""
        self._calls = op_spec.parse(spec)
        self._policies: dict[str, _PlacedPolicy] = {}
        self._steps = [self._build(call, at) for at, call in enumerate(self._calls)]
        self.kept = frozenset(
            name for call in self._calls if call.name == "keep" for name in call.args
        )

    @tf.autograph.experimental.do_not_convert
    def __call__(self, features: Features) -> Features:
        """One example, preprocessed.

        Raises ValueError, when called or traced, for a missing feature, `seed` included
        if an op is random.
        """
        features, seed = dict(features), features.get("seed")
        for call, step in zip(self._calls, self._steps, strict=True):
            try:
                features = step(features, seed)
            except KeyError as e:
                raise ValueError(
                    f"op {call.text!r} reads feature {e}, which is not among "
                    f"{', '.join(map(repr, sorted(features)))}"
                ) from None
        return features

    @property
    def plan_names(self) -> tuple[str, ...]:
        """The features that hold plans, in the order of the spec."""
        return tuple(self._policies)

    def draw(self, seed: tf.Tensor, batch_seed: tf.Tensor) -> Features:
        """The plan of every policy, from seeds int32 [..., 2]: uint32 [..., words]."""
        return {
            name: placed.draw(batch_seed if placed.policy.per_batch else seed)
            for name, placed in self._policies.items()
        }

    def explain(self, plans: Features) -> dict[str, list[str]]:
        """What the plans of one example do, a line a step; `plans` as of `draw`."""
        return {
            name: placed.policy.explain(np.asarray(plans[name]))
            for name, placed in self._policies.items()
        }

    def _build(
        self, call: op_spec.OpCall, at: int
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
        if op.takes == "policy":
            return self._build_policy(call, at, fn, inkey, outkey)

        def random(features: Features, seed: tf.Tensor | None) -> Features:
            folded = tf.random.fold_in(_needed(seed, call, "seed"), at)
            value = tf.convert_to_tensor(features[inkey])
            return features | {outkey: fn(value, folded)}

        return random

    def _build_policy(
        self, call: op_spec.OpCall, at: int, policy: Policy, inkey: str, outkey: str
    ) -> Callable[[Features, tf.Tensor | None], Features]:
        name = f"{call.name}_plan"
        name = f"{name}_{at}" if name in self._policies else name
        placed = self._policies[name] = _PlacedPolicy(policy, at)
        source = "batch_seed" if policy.per_batch else "seed"

        def apply(features: Features, seed: tf.Tensor | None) -> Features:
            if name not in features:
                seed = _needed(features.get(source), call, source)
                features = features | {name: placed.draw(seed)}
            return features | {outkey: policy.apply(features[inkey], features[name])}

        return apply


class _PlacedPolicy(NamedTuple):
    policy: Policy
    at: int  # its place in the spec

    def draw(self, seed: Any) -> tf.Tensor:
        """Seeds int32 [..., 2] to plans uint32 [..., words]."""
        words = tf.unstack(tf.bitcast(seed, tf.uint32), axis=-1, num=2)
        return tf.stack(plans.draw(tuple(words), self.at, self.policy.words), axis=-1)


def _needed(seed: tf.Tensor | None, call: op_spec.OpCall, name: str) -> tf.Tensor:
    if seed is None:
        raise ValueError(
            f"op {call.text!r} is random and needs the feature {name!r} (int32 [2])"
        )
    return seed


def get_preprocess_fn(spec: str) -> Preprocess:
    """The function of a spec. Raises ValueError for an unknown op or wrong arguments."""
    return Preprocess(spec)
