"""The transforms of gradients that optax lacks, and optimizers by their usual names.

A config's `optax_name` selects one, and `optax` is its keyword arguments.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import jax.numpy as jnp
import optax as ox

from vitjax.optim.shampoo import scale_by_shampoo

Make = Callable[..., ox.GradientTransformation]


def scale_by_adafactor(
    *,
    min_dim_size_to_factor: int = 32,
    decay_rate: float = 0.8,
    decay_offset: int = 0,
    beta2_cap: float = 0.999,
    clipping_threshold: float | None = None,
    momentum: float | None = 0.9,
    dtype_momentum: Any = "bfloat16",
    eps: float = 1e-30,
) -> ox.GradientTransformation:
    """Make big_vision's Adafactor (arXiv 2106.04560, section 3.4; optax.py:187-214).

    Second moments are factored over the two largest dims if both have at least
    `min_dim_size_to_factor`; their decay at step t = 1, 2, ... is
    min(beta2_cap, 1 - t ** -decay_rate). A lower cap (0.95) cures instabilities.
    Momentum is an average without bias correction. If the root mean square of a
    parameter's update is above `clipping_threshold`, the update is scaled down to it.
    """

    def decay(count: Any, exponent: Any) -> Any:
        t = jnp.asarray(count + 1, jnp.float32)
        return jnp.minimum(beta2_cap, 1.0 - t**-exponent)

    chain = [
        ox.scale_by_factored_rms(
            decay_rate=decay_rate,
            step_offset=decay_offset,
            min_dim_size_to_factor=min_dim_size_to_factor,
            epsilon=eps,
            decay_rate_fn=decay,
        )
    ]
    if clipping_threshold:
        chain.append(ox.clip_by_block_rms(clipping_threshold))
    if momentum:
        chain.append(ox.ema(momentum, debias=False, accumulator_dtype=dtype_momentum))
    return ox.chain(*chain)


def momentum_hp(
    *, momentum: float = 0.9, dtype: Any = "bfloat16", nesterov: bool = False
) -> ox.GradientTransformation:
    """Make SGD momentum with an accumulator in half precision."""
    return ox.trace(decay=momentum, nesterov=nesterov, accumulator_dtype=dtype)


def sgd(
    *,
    momentum: float | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
) -> ox.GradientTransformation:
    """Make the gradient itself, or with `momentum` the sum of decayed gradients."""
    if momentum is None:
        return ox.identity()
    return ox.trace(
        decay=momentum, nesterov=nesterov, accumulator_dtype=accumulator_dtype
    )


def lamb(
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    eps_root: float = 0.0,
    mu_dtype: Any = None,
) -> ox.GradientTransformation:
    """Make LAMB's Adam (arXiv 1904.00962); the chain adds the decay and the ratio."""
    return ox.scale_by_adam(b1=b1, b2=b2, eps=eps, eps_root=eps_root, mu_dtype=mu_dtype)


BIG_VISION: Final[Mapping[str, Make]] = {
    "big_vision.momentum_hp": momentum_hp,
    "big_vision.scale_by_adafactor": scale_by_adafactor,
}
NAMED: Final[Mapping[str, Make]] = {
    "adafactor": scale_by_adafactor,
    "adam": ox.scale_by_adam,
    "adamw": ox.scale_by_adam,
    "lamb": lamb,
    "lion": ox.scale_by_lion,
    "sgd": sgd,
    "shampoo": scale_by_shampoo,
}
OURS: Final[Mapping[str, Make]] = {
    **NAMED,
    **BIG_VISION,
    "vitjax.scale_by_shampoo": scale_by_shampoo,
}
