"""Host ops: what a `pp` string does to one example, in TensorFlow.

Ops take and return a feature dict. `seed`, int32 [2], feeds every random op: the op
folds its position in the spec into it and draws with stateless functions, so equal
seeds give equal images on any machine, thread or process.

An op is a function of its literal arguments, annotated, that returns what `Op.takes`
names. `OPS` lists them; a dotted name is that of a person's own. Names, arguments and defaults are big_vision's
(pp/ops_image.py, pp/ops_general.py) where it has the op.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from input_pipeline import parts, plans
from input_pipeline import spec as spec_lib
from input_pipeline.ops import crops, image
from input_pipeline.ops import features as features_lib
from input_pipeline.randaug import randaug, randaug_plan, torchvision_policies
from input_pipeline.tracing import as_written

Features = dict[str, Any]  # feature name -> tensor
Step = Callable[[Features, Features], Features]  # fn(features, seeds)


class Op(NamedTuple):
    """An op and what its function takes."""

    make: Callable[..., Any]
    # On one feature, with inkey, outkey and key (both at once) as arguments:
    # "value": fn(value); "random": fn(value, seed); "coin": fn(value, coin), where the
    # coin is plans.coin; "policy": a plans.Policy; "plan": one that is only drawn, and
    # named after the policy of device_pp that applies it. On all features: "features":
    # fn(features); "random_features": fn(features, seed).
    # "own": what the function needs, fn(value) or fn(value, seed).
    takes: Literal[
        "value", "random", "coin", "policy", "plan", "features", "random_features",
        "own",
    ]  # fmt: skip


OPS = {
    "autoaugment_cifar10": Op(torchvision_policies.autoaugment_cifar10, "policy"),
    "central_crop": Op(crops.central_crop, "value"),
    "choice": Op(features_lib.choice, "random_features"),
    "choice_no_replacement": Op(features_lib.choice_no_replacement, "features"),
    "clip_value_range": Op(image.clip_value_range, "value"),
    "concat": Op(features_lib.concat, "features"),
    "copy": Op(features_lib.copy, "features"),
    "decode": Op(image.decode, "value"),
    "decode_jpeg_and_inception_crop": Op(
        crops.decode_jpeg_and_inception_crop, "random"
    ),
    "drop": Op(features_lib.drop, "features"),
    "flatten": Op(features_lib.flatten, "features"),
    "flip_lr": Op(image.flip_lr, "coin"),
    "grayscale_to_rgb": Op(image.grayscale_to_rgb, "value"),
    "inception_crop": Op(crops.inception_crop, "random"),
    "keep": Op(features_lib.keep, "features"),
    "lookup": Op(features_lib.lookup, "value"),
    "normalize": Op(image.normalize, "value"),
    "onehot": Op(features_lib.onehot, "features"),
    "pad_crop": Op(crops.pad_crop, "random"),
    "pad_to_shape": Op(features_lib.pad_to_shape, "value"),
    "randaug": Op(randaug, "policy"),
    "randaug_plan": Op(randaug_plan, "plan"),
    "randaug_tv": Op(torchvision_policies.randaug_tv, "policy"),
    "random_affine": Op(image.random_affine, "random"),
    "random_crop": Op(crops.random_crop, "random"),
    "random_resized_crop": Op(crops.random_resized_crop, "random"),
    "reshape": Op(features_lib.reshape, "value"),
    "resize": Op(image.resize, "value"),
    "resize_long": Op(image.resize_long, "value"),
    "resize_small": Op(image.resize_small, "value"),
    "setdefault": Op(features_lib.setdefault, "features"),
    "squeeze_last_dim": Op(features_lib.squeeze_last_dim, "value"),
    "trivial_augment_wide": Op(torchvision_policies.trivial_augment_wide, "policy"),
    "value_range": Op(image.value_range, "value"),
    "vgg_value_range": Op(image.vgg_value_range, "value"),
}


def op_of(call: spec_lib.OpCall) -> Op:
    """Return the op of a call: of `OPS`, or a person's own of a dotted name.

    A dotted name is that of an `Op`, or of a function that returns fn(value) or
    fn(value, seed). Raises ValueError if there is no such op.
    """
    if parts.is_dotted(call.name):
        found = parts.find(call.name, "ops")
        return found if isinstance(found, Op) else Op(found, "own")
    if call.name not in OPS:
        raise spec_lib.unknown_op(call, OPS, "host")
    return OPS[call.name]


DECODERS = ("decode", "decode_jpeg_and_inception_crop")


class Preprocess:
    """The function of a spec: features -> features, for one example, unbatched.

    Policies (such as randaug) and flip_lr read their random draws from features such as
    "randaug_plan" and "flip_lr_coin". Missing ones are drawn from `seed`, or from
    `batch_seed` if all images of a batch share them. The result is the same as that of
    `draw`, which is faster for many examples. A `keep` that names such a feature keeps
    it.
    """

    def __init__(self, spec: str):
        """Raise ValueError for an unknown op or wrong arguments."""
        self._calls = spec_lib.parse(spec)
        self._draws: dict[str, _Draws] = {}
        self._for_device: set[str] = set()  # plans that are only drawn
        self._functions = [self._build(at) for at in range(len(self._calls))]
        self.follows_epochs = any(
            call.name == "choice_no_replacement" for call in self._calls
        )
        self.kept = frozenset(
            name for call in self._calls if call.name == "keep" for name in call.args
        ).union(self._for_device)

    @as_written
    def __call__(self, features: Features) -> Features:
        """Preprocess one example.

        Raises ValueError, when called or traced, for a missing feature, `seed` included
        if an op is random.
        """
        features = dict(features)
        # An op may drop these from the features; later ops still need them.
        seeds = {
            name: tf.cast(features[name], tf.int32)
            for name in ("seed", "batch_seed")
            if name in features
        }
        seeds |= {name: features[name] for name in self._draws if name in features}
        for call, function in zip(self._calls, self._functions, strict=True):
            with parts.explained(f"op {call.text!r}"):
                try:
                    features = function(features, seeds)
                except KeyError as e:
                    raise ValueError(
                        f"op {call.text!r} reads feature {e}, which is not among "
                        f"{', '.join(map(repr, sorted(features)))}"
                    ) from None
        return features

    def draw(self, seed: tf.Tensor, batch_seed: tf.Tensor) -> Features:
        """Return the draws of examples with seeds int32 [..., 2], by feature name.

        Plans are uint32 [..., words], coins uint32 [...].
        """
        return {
            name: draws.draw(batch_seed if draws.per_batch else seed)
            for name, draws in self._draws.items()
        }

    def explain(self, drawn: Features) -> dict[str, list[str]]:
        """Describe what `draw` returned for one example, one line per step."""
        return {
            name: draws.explain(np.asarray(drawn[name]))
            for name, draws in self._draws.items()
        }

    def _build(self, at: int) -> Step:
        call = self._calls[at]
        op = op_of(call)

        def folded(seeds: Features) -> Any:
            return tf.random.fold_in(_needed(seeds, "seed", call), at)

        if op.takes in ("features", "random_features"):
            on_features = spec_lib.build(call, op.make)
            if op.takes == "features":
                return lambda features, seeds: on_features(features)
            return lambda features, seeds: on_features(features, folded(seeds))

        fn, inkey, outkey = spec_lib.build_keyed(call, op.make)
        if op.takes in ("policy", "plan", "coin"):
            drawn_for = call.name.removesuffix("_plan")
            earlier = (c.name.removesuffix("_plan") for c in self._calls[:at])
            nth = sum(name == drawn_for for name in earlier)
            name = drawn_for + ("_coin" if op.takes == "coin" else "_plan")
            name += f"_{nth}" if nth else ""
            draws = _coin(nth) if op.takes == "coin" else _draws_of_policy(fn, at)
            self._draws[name] = draws
            if op.takes == "plan":
                self._for_device.add(name)
            use = fn if op.takes == "coin" else fn.apply

            def on_draws(features: Features, seeds: Features) -> Features:
                drawn = seeds.get(name)
                if drawn is None:
                    source = "batch_seed" if draws.per_batch else "seed"
                    drawn = draws.draw(_needed(seeds, source, call))
                value = _decoded(features, inkey, call)
                record = {name: drawn} if name in self.kept else {}
                return features | {outkey: use(value, drawn)} | record

            return on_draws

        random = op.takes == "random" or (
            op.takes == "own" and parts.random_or_not(fn, call.text, "seed")
        )

        def on_value(features: Features, seeds: Features) -> Features:
            seed = (folded(seeds),) if random else ()
            value = _decoded(features, inkey, call)
            return features | {outkey: fn(value, *seed)}

        return on_value


class _Draws(NamedTuple):
    """The random draws of one op of a spec, and their description."""

    draw: Callable[[Any], tf.Tensor]  # takes seeds int32 [..., 2]
    explain: Callable[[np.ndarray], list[str]]
    per_batch: bool = False


def _words(seed: Any) -> tuple[tf.Tensor, tf.Tensor]:
    first, second = tf.unstack(tf.bitcast(seed, tf.uint32), axis=-1, num=2)
    return first, second


def _draws_of_policy(policy: plans.Policy, at: int) -> _Draws:
    return _Draws(
        lambda seed: tf.stack(plans.draw(_words(seed), at, policy.words), axis=-1),
        policy.explain,
        policy.per_batch,
    )


def _coin(nth: int) -> _Draws:
    return _Draws(
        lambda seed: plans.coin(_words(seed), nth),
        lambda coin: ["mirrored" if coin else "not mirrored"],
    )


def _needed(seeds: Features, name: str, call: spec_lib.OpCall) -> tf.Tensor:
    if name not in seeds:
        raise ValueError(
            f"op {call.text!r} is random and needs the feature {name!r} (int32 [2])"
        )
    return seeds[name]


def _decoded(features: Features, key: str, call: spec_lib.OpCall) -> tf.Tensor:
    """Return a feature for an op, which may need an image to be decoded."""
    value = tf.convert_to_tensor(features[key])
    if key == "image" and value.dtype == tf.string and call.name not in DECODERS:
        raise ValueError(
            f"op {call.text!r} takes pixels, but the images of the data are files: put "
            f"decode before it, such as 'decode|resize(224)|{call.text}'"
        )
    return value


def get_preprocess_fn(spec: str) -> Preprocess:
    """Return the function of a spec. Raises ValueError as `Preprocess` does."""
    return Preprocess(spec)
