"""The training state: its shapes, its places on the devices, its first values."""

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
