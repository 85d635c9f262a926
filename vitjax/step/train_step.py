"""The training step and the evaluation step: pure functions of state, batch and key.

One jitted training step augments the uint8 batch, pairs its rows for mixup, splits them
into microbatches, computes device_pp -> mix -> forward -> backward for each microbatch,
and makes one update.

Shapes: b rows of the global batch, h w c image, k classes.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key

from vitjax.devices.sharding import (
    is_replicated,
    replicated,
)
from vitjax.step import ema as ema_lib
from vitjax.step import loss_scale
from vitjax.step import mixup as mixup_lib
from vitjax.step.accumulate import accumulate_gspmd, accumulate_local
from vitjax.step.losses import find_loss
from vitjax.step.precision import at_precision
from vitjax.step.state import TrainState

Features = dict[str, Any]  # feature name -> array


def check_scaled(image: Array, where: str) -> None:
    """Raise ValueError if images reach the model as integers, such as pixels 0 to 255.

    `where` names the op strings that make them. A model that needs such numbers gets
    the same ones as floats from value_range(0, 255).
    """
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(
            f"the images reach the model as {image.dtype}, unscaled: add "
            f"value_range(-1, 1), or what the model was trained with, to {where} "
            "(value_range(0, 255) keeps the pixels' numbers)"
        )


def make_prepare(
    device_pp: Callable[[Features], Features] | None,
) -> Callable[[Any, Any], tuple[Array, Array]]:
    """Return prepare((rows, partner rows), lambda) -> (images, labels) for the model.

    `device_pp` maps a feature dict to one with float "image" (b h w c) and "labels"
    (b k); None keeps the features. If lambda is None, nothing is mixed. `prepare`
    raises ValueError if a feature is missing, or if the images are integers.
    """
    preprocess = device_pp or (lambda features: features)

    def finish(features: Features) -> tuple[Array, Array]:
        features = preprocess(features)
        for name in ("image", "labels"):
            if name not in features:
                raise ValueError(
                    f"the model needs a feature {name!r}, got {sorted(features)}; "
                    "make it in input.pp or in device_pp, e.g. with "
                    "onehot(num_classes, key='label', key_result='labels')"
                )
        check_scaled(features["image"], "input.pp or device_pp")
        return features["image"], features["labels"]

    def prepare(rows: Any, lam: Any) -> tuple[Array, Array]:
        own, partner = rows
        if lam is None:
            return finish(own)
        return mixup_lib.mix(finish(own), finish(partner), lam)

    return prepare


def _pair(
    augment: Callable[[Features], Features] | None,
    batch: Features,
    key: Any,
    mesh: Mesh,
    mixup: tuple[int | float, str] | None,
) -> tuple[tuple[Features, Features | None], Any]:
    """Return ((rows, partner rows), lambda), or ((rows, None), None) without mixup.

    Each device augments its own rows before.
    """
    if augment is not None:
        rows = P(mesh.axis_names)
        own_rows = jax.shard_map(
            augment, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False
        )
        batch = own_rows(batch)
    if mixup is None:
        return (batch, None), None
    p, scope = mixup
    partner = mixup_lib.partners(batch, mesh, scope)
    return (batch, partner), mixup_lib.sample_lambda(key, p)


def step_keys(key: Key[Array, ""], step: Int[Array, ""]) -> Iterator[Any]:
    """Return the two keys of a step: for mixup's lambda and for the model."""
    return iter(jax.random.split(jax.random.fold_in(key, step), 2))


def _unless(finite: Any, new: Any, old: Any) -> Any:
    """Select `new` if `finite`, else `old`.

    Schedule counters always advance, because the global step does.
    """

    def is_schedule(x: Any) -> bool:
        return isinstance(x, optax.ScaleByScheduleState)

    def choose(new: Any, old: Any) -> Any:
        return new if is_schedule(new) else jnp.where(finite, new, old)

    return jax.tree.map(choose, new, old, is_leaf=is_schedule)


def _without(frozen: Any, grads: Any) -> Any:
    """Return the gradients, zero where `frozen`, a tree of bools or None, is true."""
    if frozen is None:
        return grads
    return jax.tree.map(lambda f, g: jnp.zeros_like(g) if f else g, frozen, grads)


def _updated(
    state: TrainState,
    grads: Any,
    updates: Any,
    opt_state: Any,
    average: Callable[..., Any] | None,
) -> tuple[TrainState, dict[str, Array]]:
    """Return (state after these updates, their metrics).

    With a loss_scale, gradients that are not finite change only the scale, the step and
    the schedule counters.
    """
    metrics, finite, scale = {}, jnp.array(True), state.loss_scale
    if scale is not None:
        finite = loss_scale.all_finite(grads)
        updates = jax.tree.map(lambda u: jnp.where(finite, u, 0), updates)
        opt_state = _unless(finite, opt_state, state.opt_state)
        scale = scale.after(finite)
        metrics = {"update_skipped": ~finite, **scale.metrics()}
    params = optax.apply_updates(state.params, updates)
    metrics |= {
        "l2_params": optax.tree.norm(params),
        "l2_updates": optax.tree.norm(updates),
    }
    state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        loss_scale=scale,
    )
    if average is not None:
        mean = average(state.ema, params, state.step)
        if scale is not None:
            mean = _unless(finite, mean, state.ema)
        state = dataclasses.replace(state, ema=mean)
    return state, metrics


def _make_loss(
    model: nn.Module,
    prepare: Callable[[Any, Any], tuple[Array, Array]],
    loss_of: Callable[..., Array],
) -> Callable[..., Array]:
    def loss_fn(params: Any, rows: Any, key: Any, lam: Any) -> Float[Array, ""]:
        image, labels = prepare(rows, lam)
        rngs = {"dropout": key}
        logits, _ = model.apply({"params": params}, image, train=True, rngs=rngs)
        return loss_of(logits=logits, labels=labels)

    return loss_fn


def _accumulate(state_sharding: Any) -> Callable[..., tuple[Array, Any]]:
    whole = state_sharding is None or is_replicated(state_sharding)
    return accumulate_local if whole else accumulate_gspmd


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    loss: str,
    mesh: Mesh,
    mixup: Mapping[str, Any] | None = None,
    accum_freq: int = 1,
    augment: Callable[[Features], Features] | None = None,
    device_pp: Callable[[Features], Features] | None = None,
    label_smoothing: int | float = 0.0,
    class_weights: Sequence[int | float] | None = None,
    frozen: Any = None,
    ema: Mapping[str, Any] | None = None,
    state_sharding: Any = None,
    matmul_precision: str | None = None,
    compiler_options: Mapping[str, Any] | None = None,
) -> Callable[[TrainState, Features, Any], tuple[TrainState, dict[str, Array]]]:
    """Make the jitted step(state, batch, key) -> (state, metrics). It donates `state`.

    Args:
      loss: see `losses.find_loss`; it gets `label_smoothing` and `class_weights`.
      mesh: the batch is split over all its axes.
      mixup, ema: keyword arguments of `mixup.check` and `ema.make_update`, or None.
      accum_freq: microbatches per device and update.
      augment: maps the features of any rows; it runs once, before rows are paired.
      device_pp: see `make_prepare`; it runs after it, once per microbatch.
      frozen: tree of bools; gradients of True leaves are set to zero, also in l2_grads.
      state_sharding: NamedShardings from `init_state`; None means replicated.
      matmul_precision: see `vitjax.step.at_precision`. compiler_options: XLA's.

    The metrics are big_vision's: training_loss (of the mixed batch), l2_grads (before
    clipping), l2_params (after the update), l2_updates (signed, with rate and decay);
    with a loss_scale also `LossScale.metrics` and update_skipped (0 or 1).
    """
    mix = mixup_lib.check(**mixup) if mixup else None
    average = ema_lib.make_update(**ema) if ema is not None else None
    loss_of = functools.partial(
        find_loss(loss), label_smoothing=label_smoothing, class_weights=class_weights
    )
    loss_fn = _make_loss(model, make_prepare(device_pp), loss_of)
    tx = optax.with_extra_args_support(tx)
    accumulate = functools.partial(
        _accumulate(state_sharding), accum_freq=accum_freq, mesh=mesh
    )

    def train_step(
        state: TrainState, batch: Features, key: Key[Array, ""]
    ) -> tuple[TrainState, dict[str, Array]]:
        mix_key, model_key = step_keys(key, state.step)
        rows, lam = _pair(augment, batch, mix_key, mesh, mix)
        scale = state.loss_scale
        value_and_grad = jax.value_and_grad if scale is None else scale.value_and_grad

        def loss_and_grads(params: Any) -> tuple[Array, Any]:
            value, grads = accumulate(
                loss_fn, params, rows, model_key, lam, value_and_grad=value_and_grad
            )
            return value, _without(frozen, grads)

        value, grads = loss_and_grads(state.params)
        updates, opt_state = tx.update(
            grads,
            state.opt_state,
            state.params,
            grad_fn=lambda params, i: loss_and_grads(params)[1],
        )
        metrics = {"training_loss": value, "l2_grads": optax.tree.norm(grads)}
        state, more = _updated(state, grads, updates, opt_state, average)
        return state, metrics | more

    home = replicated(mesh) if state_sharding is None else state_sharding
    return jax.jit(
        at_precision(matmul_precision, train_step),
        donate_argnums=0,
        out_shardings=(home, replicated(mesh)),
        compiler_options=dict(compiler_options) if compiler_options else None,
    )


def make_preview(
    *,
    mesh: Mesh,
    mixup: Mapping[str, Any] | None = None,
    augment: Callable[[Features], Features] | None = None,
    device_pp: Callable[[Features], Features] | None = None,
    rows: int = 32,
) -> Callable[[Features, Any, Any], tuple[Array, Array]]:
    """Make the jitted preview(batch, key, step) -> (images, labels).

    It returns the first `rows` rows of the model's (mixed) input in that step.
    """
    mix = mixup_lib.check(**mixup) if mixup else None
    prepare = make_prepare(device_pp)

    def preview(batch: Features, key: Any, step: Any) -> tuple[Array, Array]:
        mix_key, _ = step_keys(key, step)
        both, lam = _pair(augment, batch, mix_key, mesh, mix)
        # Cut first: a float copy of the whole batch may not fit in memory.
        return prepare(jax.tree.map(lambda x: x[:rows], both), lam)

    return jax.jit(preview, out_shardings=replicated(mesh))


def make_eval_step(
    model: nn.Module,
) -> Callable[[TrainState, Array], Any]:
    """Return predict(state, image) -> (logits, out), without dropout and not jitted."""

    def predict(state: TrainState, image: Array) -> Any:
        return model.apply({"params": state.params}, image, train=False)

    return predict
