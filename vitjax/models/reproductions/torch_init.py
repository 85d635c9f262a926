"""How PyTorch's own layers begin, for models that come from there.

`torch.nn.Linear` and `Conv2d` draw weights and biases from U(-1/sqrt(fan_in),
1/sqrt(fan_in)); a flax bias does not know its layer's fan_in, so it must be told.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""torch's default weights: the variance of U(-a, a) is a^2 / 3."""


def bias(fan_in: int) -> Callable[..., jax.Array]:
    """torch's default bias of a layer with `fan_in` inputs to each output."""
    bound = fan_in**-0.5

    def init(key: Any, shape: Any, dtype: Any = jax.numpy.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def dense(features: int, fan_in: int, **kw: Any) -> nn.Dense:
    """`torch.nn.Linear(fan_in, features)` as it begins."""
    return nn.Dense(features, kernel_init=kernel, bias_init=bias(fan_in), **kw)
