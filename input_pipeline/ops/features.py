"""Host ops on any feature: shapes, labels, and the set of features.

Each is a function of its literal arguments that returns fn(value), fn(features) or
fn(features, seed). Names, arguments and defaults are big_vision's (pp/ops_general.py).
"""

import io
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import tensorflow as tf

Features = dict[str, Any]  # feature name -> tensor
Keys = str | tuple[str, ...]


def reshape(new_shape: tuple[int, ...]) -> Callable[..., tf.Tensor]:
    """Reshape with tf.reshape; one entry may be -1."""
    return lambda value: tf.reshape(value, new_shape)


def pad_to_shape(
    shape: tuple[int | None, ...],
    pad_value: float = 0,
    where: Literal["before", "after", "both"] = "after",
) -> Callable[..., tf.Tensor]:
    """Pad to a shape; None keeps a dimension; "both" puts an odd element after."""

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
    """Copy feature `inkey` to the name `outkey`."""
    return lambda features: features | {outkey: features[inkey]}


def onehot(
    depth: int,
    key: str = "labels",
    key_result: str | None = None,
    multi: bool = True,
    on: float = 1.0,
    off: float = 0.0,
) -> Callable[[Features], Features]:
    """Convert an integer label, or with multi several at once, to float32 [depth].

    With multi, any of the labels is on. Labels outside 0 ... depth - 1 turn nothing on.
    multi=False gives each label a row.
    """
    if depth <= 0:
        raise ValueError(f"depth must be positive, got {depth}")

    def _onehot(features: Features) -> Features:
        labels = tf.cast(features[key], tf.int64)  # bytes cannot hold all classes
        hit = tf.expand_dims(labels, -1) == tf.range(depth, dtype=tf.int64)
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


def flatten() -> Callable[[Features], Features]:
    """Turn features inside features into features, named "outer/inner"."""

    def _flatten(features: Features) -> Features:
        flat = {}
        for name, value in features.items():
            if isinstance(value, dict):
                inner = _flatten(value)
                flat |= {f"{name}/{rest}": leaf for rest, leaf in inner.items()}
            else:
                flat[name] = value
        return flat

    return _flatten


def squeeze_last_dim() -> Callable[..., tf.Tensor]:
    """Remove the last dimension, which must be 1."""
    return lambda value: tf.squeeze(value, axis=-1)


def concat(
    inkeys: tuple[str, ...], outkey: str | None = None, axis: int = -1
) -> Callable[[Features], Features]:
    """Join features along an axis, into `outkey` or else the first of them."""
    if not inkeys:
        raise ValueError("inkeys must name at least one feature")
    out = outkey or inkeys[0]
    return lambda features: (
        features | {out: tf.concat([features[key] for key in inkeys], axis)}
    )


def setdefault(key: str, value: Any) -> Callable[[Features], Features]:
    """Set the feature to `value` where it is missing or empty.

    An empty feature keeps its dtype and rank; its unknown and empty sides become 1.
    """

    def _setdefault(features: Features) -> Features:
        if key not in features:
            return features | {key: tf.constant(value)}
        have = tf.convert_to_tensor(features[key])
        sides = [side or 1 for side in have.shape]
        default = tf.broadcast_to(tf.constant(value, have.dtype), sides)
        filled = tf.cond(tf.size(have) > 0, lambda: have, lambda: default)
        return features | {key: filled}

    return _setdefault


def lookup(
    mapping: str, npzkey: str = "fnames", sep: str | None = None
) -> Callable[..., tf.Tensor]:
    """Map a string to the number that a file gives it, int64; others to -1.

    The file is an .npz whose array `npzkey` lists the strings, or text with one string
    per line: the number is the position, from 0. With `sep`, text lines hold string and
    number.
    """
    try:
        with tf.io.gfile.GFile(mapping, "rb") as file:
            data: Any = file.read()
    except tf.errors.OpError as e:
        raise ValueError(f"cannot read {mapping!r}: {e.message}") from None
    if mapping.endswith(".npz"):
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            if npzkey not in arrays:
                raise ValueError(f"{mapping!r} has no {npzkey!r}: {arrays.files}")
            keys = [str(key) for key in arrays[npzkey]]
        values = range(len(keys))
    elif sep is None:
        keys = data.decode().splitlines()
        values = range(len(keys))
    else:
        pairs = [line.rsplit(sep, 1) for line in data.decode().splitlines()]
        try:
            keys, values = (
                [key for key, _ in pairs],
                [int(number) for _, number in pairs],
            )
        except ValueError:
            raise ValueError(
                f"the lines of {mapping!r} are not of the form string{sep}number"
            ) from None
    if len(set(keys)) < len(keys):
        raise ValueError(f"{mapping!r} holds a string twice")
    # Made once, now, and captured by each graph that the op becomes part of.
    with tf.init_scope():
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(keys, tf.string), tf.constant([*values], tf.int64)
            ),
            default_value=-1,
        )
    return table.lookup


def _in_and_out(
    key: Keys | None, inkey: Keys | None, outkey: Keys | None
) -> list[tuple[str, str]]:
    """Return (feature read, feature written) of an op that takes several at once."""
    read, written = key or inkey or "image", key or outkey or inkey or "image"
    reads, writes = ((k,) if isinstance(k, str) else k for k in (read, written))
    if len(reads) != len(writes):
        raise ValueError(
            "inkey and outkey must name the same number of features, got "
            f"{len(reads)} and {len(writes)}"
        )
    return list(zip(reads, writes, strict=True))


def _shuffled(count: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Return 0 ... count - 1 in random order, int32."""
    shape = tf.reshape(count, [1])
    return tf.argsort(tf.random.stateless_uniform(shape, seed, alg="philox"))


def choice(
    n: Literal["single"] | int | tuple[int, int] = "single",
    key: Keys | None = None,
    fewer_ok: bool = False,
    inkey: Keys | None = None,
    outkey: Keys | None = None,
) -> Callable[[Features, tf.Tensor], Features]:
    """Choose random entries of a feature's first axis, the same of several features.

    n="single" takes one entry and drops the axis; a number takes that many different
    entries, in random order; (low, high) takes low ... high - 1 of them. With fewer_ok
    there may be fewer, and the shape is unknown.
    """
    keys = _in_and_out(key, inkey, outkey)
    low, high = (1, 2) if n == "single" else (n, n + 1) if isinstance(n, int) else n
    if not 0 < low < high:
        raise ValueError(
            f"n must be positive, or two numbers with 0 < low < high, got {n!r}"
        )

    def _choice(features: Features, seed: tf.Tensor) -> Features:
        values = [tf.convert_to_tensor(features[name]) for name, _ in keys]
        have = tf.shape(values[0])[0]
        order_seed, count_seed = tf.unstack(tf.random.split(seed, 2, alg="philox"))
        order = _shuffled(have, order_seed)
        count: Any = low
        if high - low > 1:
            count = tf.random.stateless_uniform(
                [], count_seed, low, high, tf.int32, alg="philox"
            )
        chosen = order[:count]
        if not fewer_ok:
            enough = tf.debugging.assert_greater_equal(
                have, count, f"choice({n!r}) has too few entries to choose from"
            )
            with tf.control_dependencies([enough] if enough is not None else []):
                chosen = tf.identity(chosen)
            if high - low == 1:
                chosen = tf.ensure_shape(chosen, [low])
        taken = [tf.gather(value, chosen) for value in values]
        if n == "single":
            taken = [value[0] for value in taken]
        return features | {
            name: value for (_, name), value in zip(keys, taken, strict=True)
        }

    return _choice


def choice_no_replacement(
    key: str | None = None, inkey: str = "image", outkey: str = "image"
) -> Callable[[Features], Features]:
    """Choose one entry of the first axis, and none twice before each was chosen.

    Each example has a random order of its entries, with another order once all were
    chosen. Needs the integer features "epoch" and "index" of the global order.
    """

    def _choice(features: Features) -> Features:
        value = tf.convert_to_tensor(features[key or inkey])
        epoch = tf.cast(features["epoch"], tf.int32)
        index = tf.cast(features["index"], tf.int32)
        have = tf.shape(value)[0]
        order = _shuffled(have, tf.stack([index, epoch // have]))
        return features | {key or outkey: value[order[epoch % have]]}

    return _choice
