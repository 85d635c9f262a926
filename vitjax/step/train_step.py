"""The training step and the evaluation step: pure functions of state, batch and key.

Inside one jitted train step: pair the rows for mixup (on the uint8 batch), split into
microbatches, then per microbatch device_pp -> mix -> forward -> backward; one update.

Shapes: b rows of the global batch, h w c image, k classes.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key

from vitjax.config.lookup import lookup
from vitjax.devices.sharding import (
    batch_sharding,
    infer_sharding,
    is_replicated,
    replicated,
)
from vitjax.step import ema as ema_lib
from vitjax.step import loss_scale as loss_scale_lib
from vitjax.step import mixup as mixup_lib
from vitjax.step.losses import LOSSES

Features = dict[str, Any]  # feature name -> array
LossFn = Callable[[Any, Any, Any, Any], Float[Array, ""]]
GradFn = Callable[[Any, Any, Any, Any], tuple[Float[Array, ""], Any]]


@flax.struct.dataclass
class TrainState:
    """All that a step changes; arrays only. `step` counts completed updates, int32[].

    `ema` is the average of `params`, `loss_scale` a `vitjax.step.loss_scale.LossScale`, or
    None. A tree of this class may also hold the arrays' shapes or shardings.
    """

    step: Any
    params: Any
    opt_state: Any
    ema: Any = None
    loss_scale: Any = None


def param_shapes(model: nn.Module, image_shape: tuple[int, int, int]) -> Any:
    """The ShapeDtypeStructs of the model's parameters for images of h, w, c."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)["params"]


def copied(params: Any) -> Any:
    """A tree of new arrays: what a step donates must not lie in one buffer twice."""
    return jax.tree.map(jnp.copy, params)


def init_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    key: Key[Array, ""],
    image_shape: tuple[int, int, int],
    *,
    mesh: Mesh,
    sharding_strategy: Any = ((".*", "replicate"),),
    ema: bool = False,
    loss_scale: Mapping[str, Any] | None = None,
) -> tuple[Callable[[], TrainState], Any, Any]:
    """Shapes first, then shardings; nothing is allocated yet.

    Returns (init, shapes, shardings): `init()` makes the state directly on the devices
    where `shardings` puts it; `shapes` is the state as ShapeDtypeStructs. With `ema`
    there is an average of the parameters, which lies where they do and starts as them.
    `loss_scale` is the keyword arguments of `vitjax.step.loss_scale.make`, or None.
    """

    def create(key: Key[Array, ""]) -> TrainState:
        image = jnp.zeros((1, *image_shape), jnp.float32)
        params = model.init(key, image)["params"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=tx.init(params),
            ema=copied(params) if ema else None,
            loss_scale=(
                None if loss_scale is None else loss_scale_lib.make(**loss_scale)
            ),
        )

    shapes = jax.eval_shape(create, key)
    shardings = infer_sharding(shapes, mesh, sharding_strategy)
    if ema:
        shardings = dataclasses.replace(shardings, ema=shardings.params)
    init = jax.jit(create, out_shardings=shardings)
    return lambda: init(key), shapes, shardings


def _microbatches(
    grad_fn: GradFn, params: Any, batch: Any, key: Any, lam: Any, accum_freq: int
) -> tuple[Float[Array, ""], Any]:
    """Mean loss and gradients over `accum_freq` microbatches: rows i, i + freq, ...

    Strided, because a split batch axis stays split through that reshape, whereas
    contiguous chunks of the global batch would have to travel to every device.
    """
    if accum_freq == 1:
        return grad_fn(params, batch, jax.random.fold_in(key, 0), lam)
    strided = jax.tree.map(
        lambda x: x.reshape(x.shape[0] // accum_freq, accum_freq, *x.shape[1:]), batch
    )

    def body(i: Array, total: Any) -> Any:
        rows = jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(x, i, axis=1, keepdims=False),
            strided,
        )
        part = grad_fn(params, rows, jax.random.fold_in(key, i), lam)
        return jax.tree.map(jnp.add, total, part)

    shapes = jax.eval_shape(
        grad_fn, params, jax.tree.map(lambda x: x[:, 0], strided), key, lam
    )
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total = jax.lax.fori_loop(0, accum_freq, body, zeros)
    return jax.tree.map(lambda x: x / accum_freq, total)


def accumulate_local(
    loss_fn: LossFn,
    params: Any,
    batch: Any,
    key: Key[Array, ""],
    lam: Any,
    *,
    accum_freq: int,
    mesh: Mesh,
    value_and_grad: Callable[[LossFn], GradFn] = jax.value_and_grad,
) -> tuple[Float[Array, ""], Any]:
    """Mean loss and gradients over the global batch; for replicated parameters.

    Each device runs its own rows in `accum_freq` microbatches, then gradients meet in
    one all-reduce. `loss_fn(params, rows, key, lam)` is the mean loss over its rows;
    its key differs for every device and microbatch, `lam` is the same for all.
    """
    axes = mesh.axis_names

    def local(params: Any, batch: Any, key: Any, lam: Any) -> Any:
        key = jax.random.fold_in(key, jax.lax.axis_index(axes))
        grad_fn = value_and_grad(loss_fn)
        total = _microbatches(grad_fn, params, batch, key, lam, accum_freq)
        return jax.lax.pmean(total, axes)

    # Without vma checks the gradient inside is the device's own, and the pmean above
    # is the only reduction; with them JAX would add one for every microbatch.
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), P(axes), P(), P()),
        out_specs=P(),
        check_vma=False,
    )(params, batch, key, lam)


def accumulate_gspmd(
    loss_fn: LossFn,
    params: Any,
    batch: Any,
    key: Key[Array, ""],
    lam: Any,
    *,
    accum_freq: int,
    mesh: Mesh,
    value_and_grad: Callable[[LossFn], GradFn] = jax.value_and_grad,
) -> tuple[Float[Array, ""], Any]:
    """As `accumulate_local`, for parameters that are themselves split (fsdp).

    XLA places the collectives, so there are reductions in every microbatch.
    """
    batch = jax.lax.with_sharding_constraint(batch, batch_sharding(mesh))
    whole = replicated(mesh)
    grad_fn = value_and_grad(loss_fn)

    def reduced(*args: Any) -> Any:
        # Summed over the devices first, split afterwards. Left alone, XLA may compute a
        # split gradient of the patch embedding from images gathered on every device.
        return jax.lax.with_sharding_constraint(grad_fn(*args), whole)

    return _microbatches(reduced, params, batch, key, lam, accum_freq)


def check_batch_size(batch_size: int, mesh: Mesh, accum_freq: int) -> None:
    """Raise ValueError unless every device gets whole microbatches."""
    if accum_freq < 1 or batch_size < 1 or batch_size % (mesh.size * accum_freq):
        raise ValueError(
            f"batch_size {batch_size} is not divisible by {mesh.size} device(s) x "
            f"accum_freq {accum_freq} = {mesh.size * accum_freq}; choose a multiple"
        )


def make_prepare(
    device_pp: Callable[[Features], Features] | None,
) -> Callable[[Any, Any], tuple[Array, Array]]:
    """The function that makes the model's input of a (rows, partner rows) pair.

    `device_pp` maps a feature dict to one with float "image" (b h w c) and "labels"
    (b k); None keeps the features. Without a lambda nothing is mixed.
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
        return features["image"], features["labels"]

    def prepare(rows: Any, lam: Any) -> tuple[Array, Array]:
        own, partner = rows
        if lam is None:
            return finish(own)
        return mixup_lib.mix(finish(own), finish(partner), lam)

    return prepare


def _pair(
    batch: Features, key: Any, mesh: Mesh, mixup: tuple[int | float, str] | None
) -> tuple[tuple[Features, Features | None], Any]:
    """((rows, partner rows), lambda), or ((rows, None), None) without mixup."""
    if mixup is None:
        return (batch, None), None
    p, scope = mixup
    partner = mixup_lib.partners(batch, mesh, scope)
    return (batch, partner), mixup_lib.sample_lambda(key, p)


def step_keys(key: Key[Array, ""], step: Int[Array, ""]) -> Iterator[Any]:
    """The two keys of a step: for mixup's lambda, and for the model's randomness."""
    return iter(jax.random.split(jax.random.fold_in(key, step), 2))


def _unless(finite: Any, new: Any, old: Any) -> Any:
    """`new` if `finite`, else `old`; but schedules go on, as their steps do."""

    def is_schedule(x: Any) -> bool:
        return isinstance(x, optax.ScaleByScheduleState)

    def choose(new: Any, old: Any) -> Any:
        return new if is_schedule(new) else jnp.where(finite, new, old)

    return jax.tree.map(choose, new, old, is_leaf=is_schedule)


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    loss: str,
    mesh: Mesh,
    mixup: Mapping[str, Any] | None = None,
    accum_freq: int = 1,
    device_pp: Callable[[Features], Features] | None = None,
    label_smoothing: int | float = 0.0,
    frozen: Any = None,
    ema: Mapping[str, Any] | None = None,
    state_sharding: Any = None,
) -> Callable[[TrainState, Features, Any], tuple[TrainState, dict[str, Array]]]:
    """The jitted step(state, batch, key) -> (state, metrics); the state is donated.

    Args:
      loss: a name of `vitjax.step.losses.LOSSES`.
      mesh: the batch is split over all its axes.
      mixup: keyword arguments of `vitjax.step.mixup.check`, or None.
      accum_freq: microbatches per device and update.
      device_pp: see `make_prepare`; runs inside the step, once per microbatch.
      label_smoothing: passed to the loss.
      frozen: tree of bools; True leaves count as zero in l2_grads.
      ema: keyword arguments of `vitjax.step.ema.make_update`, or None.
      state_sharding: NamedShardings of the state, as `init_state` gives them; None
        means replicated.

    Metrics: training_loss (of the mixed batch), l2_grads (before clipping), l2_params
    (after the update), l2_updates (signed, with rate and decay): big_vision's. A state
    with a loss_scale adds those of `LossScale.metrics`, and update_skipped (0 or 1).
    """
    loss_of = lookup(LOSSES, loss, "loss")
    mix = mixup_lib.check(**mixup) if mixup else None
    average = ema_lib.make_update(**ema) if ema is not None else None
    prepare = make_prepare(device_pp)
    tx = optax.with_extra_args_support(tx)
    whole = state_sharding is None or is_replicated(state_sharding)
    accumulate = accumulate_local if whole else accumulate_gspmd

    def loss_fn(params: Any, rows: Any, key: Any, lam: Any) -> Float[Array, ""]:
        image, labels = prepare(rows, lam)
        logits, _ = model.apply(
            {"params": params}, image, train=True, rngs={"dropout": key}
        )
        return loss_of(logits=logits, labels=labels, label_smoothing=label_smoothing)

    def train_step(
        state: TrainState, batch: Features, key: Key[Array, ""]
    ) -> tuple[TrainState, dict[str, Array]]:
        mix_key, model_key = step_keys(key, state.step)
        rows, lam = _pair(batch, mix_key, mesh, mix)
        scale = state.loss_scale
        value_and_grad = jax.value_and_grad if scale is None else scale.value_and_grad

        def loss_and_grads(params: Any) -> tuple[Array, Any]:
            value, grads = accumulate(
                loss_fn,
                params,
                rows,
                model_key,
                lam,
                accum_freq=accum_freq,
                mesh=mesh,
                value_and_grad=value_and_grad,
            )
            if frozen is None:
                return value, grads
            zeroed = jax.tree.map(
                lambda f, g: jnp.zeros_like(g) if f else g, frozen, grads
            )
            return value, zeroed

        value, grads = loss_and_grads(state.params)
        updates, opt_state = tx.update(
            grads,
            state.opt_state,
            state.params,
            grad_fn=lambda params, i: loss_and_grads(params)[1],
        )
        metrics = {"training_loss": value, "l2_grads": optax.tree.norm(grads)}
        finite = jnp.array(True)
        if scale is not None:
            finite = loss_scale_lib.all_finite(grads)
            updates = jax.tree.map(lambda u: jnp.where(finite, u, 0), updates)
            opt_state = _unless(finite, opt_state, state.opt_state)
            scale = scale.after(finite)
            metrics |= {"update_skipped": ~finite, **scale.metrics()}
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

    home = replicated(mesh) if state_sharding is None else state_sharding
    return jax.jit(train_step, donate_argnums=0, out_shardings=(home, replicated(mesh)))


def make_preview(
    *,
    mesh: Mesh,
    mixup: Mapping[str, Any] | None = None,
    device_pp: Callable[[Features], Features] | None = None,
    rows: int = 32,
) -> Callable[[Features, Any, Any], tuple[Array, Array]]:
    """The jitted preview(batch, key, step): what the model is fed in that step.

    Returns the first `rows` rows of the (mixed) images and labels.
    """
    mix = mixup_lib.check(**mixup) if mixup else None
    prepare = make_prepare(device_pp)

    def preview(batch: Features, key: Any, step: Any) -> tuple[Array, Array]:
        mix_key, _ = step_keys(key, step)
        pair, lam = _pair(batch, mix_key, mesh, mix)
        # Cut first: a float copy of the whole batch may not fit.
        return prepare(jax.tree.map(lambda x: x[:rows], pair), lam)

    return jax.jit(preview, out_shardings=replicated(mesh))


def make_eval_step(
    model: nn.Module,
) -> Callable[[TrainState, Array], Any]:
    """predict(state, image) -> (logits, out), without dropout; jitted by its caller."""

    def predict(state: TrainState, image: Array) -> Any:
        return model.apply({"params": state.params}, image, train=False)

    return predict
