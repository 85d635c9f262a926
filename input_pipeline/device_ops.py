"""Device ops: the last part of preprocessing, on whole batches in the jitted step.

The language is that of the host ops (`ops`), and equal ops give equal values. uint8
images and integer labels can thus travel to the device and be finished there. Importing
this module does not need TensorFlow.

flip_lr reads each example's `seed`, int32 [b, 2], from the batch: pp then ends with
keep("image", "label", "seed"). The coin is the host's (plans.coin), so the flip of an
image is a function of (seed, epoch, index), wherever flip_lr is in the specs. An image
would be mirrored twice, and so never, with flip_lr in both specs.

randaug reads `randaug_plan`, uint32 [b, layers], which the host's op randaug_plan draws:
pp then ends with randaug_plan(2)|keep("image", "label", "randaug_plan").

Shapes: b batch, c channels or classes; an image batch is [b, h, w, c].
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer, Shaped, UInt32

from input_pipeline import device_randaug, parts, plans
from input_pipeline import spec as spec_lib

Features = dict[str, Any]  # feature name -> array [b, ...]

# Mean and deviation of the images that CLIP was trained on, scaled to 0 ... 1.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# Names of host ops, for messages only: importing `ops` needs TensorFlow.
_HOST_OPS = frozenset(
    {
        "central_crop",
        "choice",
        "choice_no_replacement",
        "concat",
        "decode",
        "decode_jpeg_and_inception_crop",
        "flatten",
        "grayscale_to_rgb",
        "inception_crop",
        "lookup",
        "pad_crop",
        "pad_to_shape",
        "randaug_plan",
        "randaug_tv",
        "trivial_augment_wide",
        "autoaugment_cifar10",
        "random_affine",
        "random_crop",
        "random_resized_crop",
        "reshape",
        "resize",
        "resize_long",
        "resize_small",
        "setdefault",
        "squeeze_last_dim",
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
        raise ValueError(f"in_min and in_max must differ, got {in_min} for both")

    def _value_range(image: Shaped[Array, "..."]) -> Float[Array, "..."]:
        image = (image.astype(jnp.float32) - in_min) / (in_max - in_min)
        image = vmin + image * (vmax - vmin)
        return jnp.clip(image, vmin, vmax) if clip_values else image

    return _value_range


def vgg_value_range(
    mean: tuple[float, float, float] = (0.485 * 255, 0.456 * 255, 0.406 * 255),
    std: tuple[float, float, float] = (0.229 * 255, 0.224 * 255, 0.225 * 255),
) -> Callable[..., jax.Array]:
    """Compute (image - mean) / std per channel of a 0..255 image, as float32."""
    if 0 in std:
        raise ValueError(f"std must not contain 0, got {std}")

    def _vgg_value_range(image: Shaped[Array, "*size 3"]) -> Float[Array, "*size 3"]:
        shape = (1,) * (image.ndim - 1) + (3,)
        centre = jnp.asarray(mean, jnp.float32).reshape(shape)
        spread = jnp.asarray(std, jnp.float32).reshape(shape)
        return (image.astype(jnp.float32) - centre) / spread

    return _vgg_value_range


def normalize(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[..., jax.Array]:
    """Compute (image / 255 - mean) / std of a 0..255 image, as float32.

    The image is uint8 or float.
    """
    if len(mean) != len(std) or 0 in std:
        raise ValueError(
            "mean and std must have the same length, and std must not contain 0, got "
            f"{mean} and {std}"
        )

    def _normalize(image: Shaped[Array, "*size c"]) -> Float[Array, "*size c"]:
        if image.shape[-1] != len(mean):
            raise ValueError(
                f"normalize has {len(mean)} mean(s), one for each channel, but got "
                f"images of shape {image.shape}"
            )
        shape = (1,) * (image.ndim - 1) + (len(mean),)
        centre = jnp.asarray(mean, jnp.float32).reshape(shape)
        spread = jnp.asarray(std, jnp.float32).reshape(shape)
        return (image.astype(jnp.float32) / 255.0 - centre) / spread

    return _normalize


def clip_value_range() -> Callable[..., jax.Array]:
    """Normalize as CLIP: (image / 255 - mean) / std of its training data, float32."""
    return normalize(CLIP_MEAN, CLIP_STD)


def flip_lr() -> Callable[..., jax.Array]:
    """Mirror left and right where the coin is 1, half of the time."""

    def _flip(
        image: Shaped[Array, "b h w c"], coin: UInt32[Array, " b"]
    ) -> Shaped[Array, "b h w c"]:
        return jnp.where(coin[:, None, None, None] == 1, image[:, :, ::-1], image)

    return _flip


def onehot(
    depth: int,
    key: str = "labels",
    key_result: str | None = None,
    multi: bool = True,
    on: float = 1.0,
    off: float = 0.0,
) -> Callable[[Features], Features]:
    """Convert integer labels [b], or several per example [b, n], to float32 [b, depth].

    Labels outside 0 ... depth - 1 turn nothing on. With multi, all labels of an example
    are on in one row; multi=False gives each label a row.
    """
    if depth <= 0:
        raise ValueError(f"depth must be positive, got {depth}")

    def _onehot(labels: Integer[Array, "b *n"]) -> Float[Array, "b *m c"]:
        classes = jnp.arange(depth).reshape((1,) * labels.ndim + (depth,))
        # As int32, because bytes cannot hold all classes.
        hit = labels.astype(jnp.int32)[..., None] == classes
        if multi:
            hit = hit.any(axis=tuple(range(1, labels.ndim)))
        return jnp.where(hit, jnp.float32(on), jnp.float32(off))

    return lambda features: features | {key_result or key: _onehot(features[key])}


def copy(inkey: str, outkey: str) -> Callable[[Features], Features]:
    """Copy feature `inkey` to the name `outkey`."""
    return lambda features: features | {outkey: features[inkey]}


def keep(*keys: str) -> Callable[[Features], Features]:
    """Drop every feature but these."""
    return lambda features: {k: v for k, v in features.items() if k in keys}


def drop(*keys: str) -> Callable[[Features], Features]:
    """Drop these features."""
    return lambda features: {k: v for k, v in features.items() if k not in keys}


class Op(NamedTuple):
    """An op and what its function takes."""

    make: Callable[..., Any]
    # "value": fn(value), of one feature; "coin": fn(value, coin); "policy": a
    # device_randaug.Policy; "features": fn(features). All but the last take inkey,
    # outkey and key (both at once) as well.
    # "own": what the function needs, fn(value) or fn(value, keys).
    takes: Literal["value", "coin", "policy", "features", "own"]


OPS = {
    "clip_value_range": Op(clip_value_range, "value"),
    "copy": Op(copy, "features"),
    "drop": Op(drop, "features"),
    "flip_lr": Op(flip_lr, "coin"),
    "keep": Op(keep, "features"),
    "normalize": Op(normalize, "value"),
    "onehot": Op(onehot, "features"),
    "randaug": Op(device_randaug.randaug, "policy"),
    "value_range": Op(value_range, "value"),
    "vgg_value_range": Op(vgg_value_range, "value"),
}


Preprocess = Callable[[Features], Features]


def get_preprocess_fn(spec: str) -> Preprocess:
    """Return the function of a spec: features -> features, for one batch.

    An empty spec changes nothing.

    Raises:
      ValueError: at once, for an unknown op or wrong arguments; when the function is
        called (or traced), for a missing feature, `seed` included if an op is random.
    """
    calls = spec_lib.parse(spec)
    return _in_turn(calls, range(len(calls)))


def in_two(spec: str) -> tuple[Preprocess | None, Preprocess]:
    """Return the function of a spec in two parts: up to the last randaug, and the rest.

    The first is for each device's own rows, once, before mixup pairs them; it is None
    for a spec without randaug. Raises ValueError as `get_preprocess_fn` does.
    """
    calls = spec_lib.parse(spec)
    end = max((at for at, c in enumerate(calls, 1) if c.name == "randaug"), default=0)
    first = _in_turn(calls, range(end))
    rest = _in_turn(calls, range(end, len(calls)))

    def augment(features: Features) -> Features:
        # A keep may drop the seed, which a later op may read.
        seed = {name: features[name] for name in ("seed",) if name in features}
        return seed | first(features)

    return (augment if end else None), rest


def check_once(pp: str, device_pp: str) -> None:
    """Raise ValueError if both specs apply randaug, or neither applies a drawn plan."""
    own = [c for c in spec_lib.parse(pp) if c.name == "randaug"]
    here = spec_lib.names(device_pp)
    if own and "randaug" in here:
        raise ValueError(
            f"randaug is in pp and in device_pp, so that images would get the same ops "
            f"twice: in pp write randaug_plan in place of {own[0].text}"
        )
    planned = "randaug_plan" in spec_lib.names(pp)
    if planned and not any(n == "randaug" or parts.is_dotted(n) for n in here):
        raise ValueError(
            "pp draws randaug_plan and device_pp applies no randaug, so that images would "
            "stay as they are: begin device_pp with randaug(2, 10), or leave out "
            "randaug_plan"
        )


def _in_turn(calls: list[spec_lib.OpCall], positions: range) -> Preprocess:
    """Return the function of the calls at some positions, one after the other."""
    ops = [(calls[position], _build(calls, position)) for position in positions]

    def preprocess(features: Features) -> Features:
        given, features = features, dict(features)
        for call, op in ops:
            with parts.explained(f"op {call.text!r}"):
                try:
                    features = op(features, given)
                except KeyError as e:
                    raise ValueError(
                        f"op {call.text!r} reads feature {e}, which is not among "
                        f"{', '.join(map(repr, sorted(features)))}"
                    ) from None
        return features

    return preprocess


def _build(
    calls: list[spec_lib.OpCall], position: int
) -> Callable[[Features, Features], Features]:
    """Return fn(features, those of the batch as it came) of the op at a position.

    An op may drop the random draws from the features; later ops still need them.
    """
    call = calls[position]
    if call.name in _HOST_OPS:
        raise ValueError(
            f"op {call.text!r} runs on the host: put it into pp, not into device_pp "
            f"(device ops: {', '.join(sorted(OPS))})"
        )
    op = _op_of(call)
    if op.takes == "features":
        on_features = spec_lib.build(call, op.make)
        return lambda features, given: on_features(features)
    fn, inkey, outkey = spec_lib.build_keyed(call, op.make)
    own = op.takes == "own"
    if op.takes == "value" or (own and not parts.random_or_not(fn, call.text, "keys")):
        return lambda features, given: features | {outkey: fn(features[inkey])}
    nth = sum(earlier.name == call.name for earlier in calls[:position])

    def policy(features: Features, given: Features) -> Features:
        name = f"{call.name}_plan_{nth}" if nth else f"{call.name}_plan"
        plan = _plan_of(given, name, fn.words, call)
        return features | {outkey: fn.apply(features[inkey], plan)}

    def random(features: Features, given: Features) -> Features:
        seed: Int[Array, "b 2"] | None = given.get("seed")
        if seed is None:
            raise ValueError(
                f"op {call.text!r} is random and needs the feature 'seed' (int32 "
                "[b, 2]): end pp with keep('image', 'label', 'seed')"
            )
        words = jax.lax.bitcast_convert_type(seed, jnp.uint32)
        if own:
            keys = jax.random.wrap_key_data(words, impl="threefry2x32")
            keys = jax.vmap(jax.random.fold_in, (0, None))(keys, position)
            return features | {outkey: fn(features[inkey], keys)}
        coin = plans.coin((words[:, 0], words[:, 1]), nth)
        return features | {outkey: fn(features[inkey], coin)}

    return policy if op.takes == "policy" else random


def _plan_of(
    given: Features, name: str, words: int, call: spec_lib.OpCall
) -> UInt32[Array, "b l"]:
    """Return the plans of a policy. ValueError if the host does not send them."""
    end = f"{call.name}_plan({words})|keep('image', 'label', {name!r})"
    if name not in given:
        raise ValueError(
            f"op {call.text!r} needs the feature {name!r}, which the host draws: end pp "
            f"with {end}"
        )
    plan = given[name]
    if plan.dtype != jnp.uint32 or plan.ndim != 2 or plan.shape[1] < words:
        raise ValueError(
            f"op {call.text!r} needs the feature {name!r} as uint32 [b, {words}], got "
            f"{plan.dtype.name} {list(plan.shape)}: end pp with {end}"
        )
    return plan


def _op_of(call: spec_lib.OpCall) -> Op:
    """Return the op of a call: of `OPS`, or a person's own of a dotted name."""
    if parts.is_dotted(call.name):
        found = parts.find(call.name, "device_ops")
        return found if isinstance(found, Op) else Op(found, "own")
    if call.name not in OPS:
        raise spec_lib.unknown_op(call, OPS, "device")
    return OPS[call.name]
