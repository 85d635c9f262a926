"""Compute the gradients of a batch in microbatches, on one or several devices.

Shapes: b rows of the global batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Key

from vitjax.devices.sharding import batch_sharding, replicated

LossFn = Callable[[Any, Any, Any, Any], Float[Array, ""]]
GradFn = Callable[[Any, Any, Any, Any], tuple[Float[Array, ""], Any]]


def _microbatches(
    grad_fn: GradFn, params: Any, batch: Any, key: Any, lam: Any, accum_freq: int
) -> tuple[Float[Array, ""], Any]:
    """Return mean loss and gradients over `accum_freq` microbatches.

    Microbatch i has the rows i, i + accum_freq, ... This strided reshape keeps a split
    batch axis split; contiguous chunks of the global batch would have to be sent to
    every device.
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
    """Return mean loss and gradients over the global batch, for replicated parameters.

    Each device computes its rows in `accum_freq` microbatches; one all-reduce then
    averages the gradients. `loss_fn(params, rows, key, lam)` is the mean loss over its
    rows. Its key differs for every device and microbatch; `lam` is the same for all.
    """
    axes = mesh.axis_names

    def local(params: Any, batch: Any, key: Any, lam: Any) -> Any:
        key = jax.random.fold_in(key, jax.lax.axis_index(axes))
        grad_fn = value_and_grad(loss_fn)
        total = _microbatches(grad_fn, params, batch, key, lam, accum_freq)
        return jax.lax.pmean(total, axes)

    # Without vma checks, each device computes its local gradient and the pmean above is
    # the only reduction; with them, JAX would add one for every microbatch.
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
    """Do the same as `accumulate_local`, for parameters that are split (fsdp).

    XLA places the collectives, so every microbatch has reductions.
    """
    batch = jax.lax.with_sharding_constraint(batch, batch_sharding(mesh))
    whole = replicated(mesh)
    grad_fn = value_and_grad(loss_fn)

    def reduced(*args: Any) -> Any:
        # Sum over the devices first and split afterwards. Without this constraint, XLA
        # may gather all images on every device for the patch embedding's gradient.
        return jax.lax.with_sharding_constraint(grad_fn(*args), whole)

    return _microbatches(reduced, params, batch, key, lam, accum_freq)


def check_batch_size(batch_size: int, mesh: Mesh, accum_freq: int) -> None:
    """Raise ValueError unless every device gets whole microbatches."""
    if accum_freq < 1 or batch_size < 1 or batch_size % (mesh.size * accum_freq):
        raise ValueError(
            f"batch_size {batch_size} is not divisible by {mesh.size} device(s) x "
            f"accum_freq {accum_freq} = {mesh.size * accum_freq}; choose a multiple"
        )
