"""Average the parameters over the steps; the average often generalises better."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from vitjax.config import durations


def make_update(
    *, decay: int | float = 0.9999, every: int = 1
) -> Callable[[Any, Any, Int[Array, ""]], Any]:
    """Return update(average, params, step) -> average, for the config section `ema`.

    It returns decay * average + (1 - decay) * params, in the dtype of the parameters,
    if `step` is a multiple of `every`, and otherwise the unchanged average.

    Raises ValueError if `decay` is outside [0, 1), or if `every` is below 1 or longer
    than the longest run.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"ema.decay must be at least 0 and below 1, got {decay}")
    if not 1 <= every <= durations.MOST:
        limit = "at least 1 step" if every < 1 else f"at most {durations.MOST:,} steps"
        raise ValueError(f"ema.every must be {limit}, got {every}")

    def update(average: Any, params: Any, step: Int[Array, ""]) -> Any:
        # Python scalars are weakly typed, so the parameters' dtype stays.
        new = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
        if every == 1:
            return new
        due = step % every == 0
        return jax.tree.map(lambda n, a: jnp.where(due, n, a), new, average)

    return update
