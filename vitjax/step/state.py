"""The training state: its shapes, its shardings and its initial values."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Key

from vitjax.devices.sharding import infer_sharding
from vitjax.step import loss_scale as loss_scale_lib
from vitjax.step.precision import at_precision


@flax.struct.dataclass
class TrainState:
    """The arrays that a step changes. `step` counts completed updates, int32[].

    `ema` is the average of `params` or None; `loss_scale` is a
    `vitjax.step.loss_scale.LossScale` or None. An instance may also hold the shapes or
    shardings of the arrays.
    """

    step: Any
    params: Any
    opt_state: Any
    ema: Any = None
    loss_scale: Any = None


def param_shapes(model: nn.Module, image_shape: tuple[int, int, int]) -> Any:
    """Return the ShapeDtypeStructs of the model's parameters for images (h w c)."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(
        lambda key, x: model.init(key, x, train=False), jax.random.key(0), image
    )["params"]


def copied(params: Any) -> Any:
    """Copy every array of a tree, since a step cannot donate one buffer twice."""
    return jax.tree.map(jnp.copy, params)


def init_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    *,
    mesh: Mesh,
    sharding_strategy: Any = ((".*", "replicate"),),
    ema: bool = False,
    loss_scale: Mapping[str, Any] | None = None,
    matmul_precision: str | None = None,
) -> tuple[Callable[[Key[Array, ""]], TrainState], Any, Any]:
    """Return (init, shapes, shardings) of the state, without allocating it.

    `init(key)` makes the state directly on the devices, as `shardings` places it. `shapes`
    is the state as ShapeDtypeStructs. With `ema`, the state has an average of the
    parameters, which has their sharding and starts as a copy of them. `loss_scale` is
    the keyword arguments of `vitjax.step.loss_scale.make`, or None. `matmul_precision`:
    see `at_precision`.
    """

    def create(key: Key[Array, ""]) -> TrainState:
        image = jnp.zeros((1, *image_shape), jnp.float32)
        params = model.init(key, image, train=False)["params"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=tx.init(params),
            ema=copied(params) if ema else None,
            loss_scale=(
                None if loss_scale is None else loss_scale_lib.make(**loss_scale)
            ),
        )

    create = at_precision(matmul_precision, create)
    shapes = jax.eval_shape(lambda: create(jax.random.key(0)))
    shardings = infer_sharding(shapes, mesh, sharding_strategy)
    if ema:
        shardings = dataclasses.replace(shardings, ema=shardings.params)
    return jax.jit(create, out_shardings=shardings), shapes, shardings
