"""PyTorch's default initialisation, for models that were written in PyTorch.

`torch.nn.Linear` and `Conv2d` draw weights and biases from U(-1/sqrt(fan_in),
1/sqrt(fan_in)). A flax bias initializer does not get the layer's fan_in, so the caller
passes it.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""torch's default weights; the variance of U(-a, a) is a^2 / 3."""


def bias(fan_in: int) -> Callable[..., jax.Array]:
    """Return torch's default bias initializer for `fan_in` inputs per output."""
    bound = fan_in**-0.5

    def init(key: Any, shape: Any, dtype: Any = jax.numpy.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def dense(features: int, fan_in: int, **kw: Any) -> nn.Dense:
    """Make a Dense initialised like `torch.nn.Linear(fan_in, features)`."""
    return nn.Dense(features, kernel_init=kernel, bias_init=bias(fan_in), **kw)
