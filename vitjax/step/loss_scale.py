"""Dynamic loss scaling, so that float16 gradients neither vanish nor overflow."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax.training.dynamic_scale import DynamicScale
from jaxtyping import Array, Bool


@flax.struct.dataclass
class LossScale:
    """The part of the training state that scales the loss; all counts are int32[]."""

    dynamic: DynamicScale
    skipped: Any  # skipped updates since the start of the run
    in_a_row: Any  # skipped updates in a row, up to now
    longest: Any  # most skipped updates in a row since the start

    def value_and_grad(self, loss_fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return jax.value_and_grad(loss_fn), computed with the scaled loss.

        The gradients are float32.
        """
        scaled = self.dynamic.value_and_grad(loss_fn)

        def value_and_grad(*args: Any) -> tuple[Array, Any]:
            result = scaled(*args)
            return result.aux, result.grad

        return value_and_grad

    def after(self, finite: Bool[Array, ""]) -> "LossScale":
        """Return the state after a step whose gradient was `finite` or not."""
        # Apply flax's rule to `finite`, which covers all microbatches and devices.
        probe = jnp.where(finite, 1.0, jnp.nan)
        dynamic = self.dynamic.value_and_grad(lambda x: x * probe)(0.0).dynamic_scale
        in_a_row = jnp.where(finite, 0, self.in_a_row + 1)
        return LossScale(
            dynamic=dynamic,
            skipped=self.skipped + jnp.where(finite, 0, 1),
            in_a_row=in_a_row,
            longest=jnp.maximum(self.longest, in_a_row),
        )

    def metrics(self) -> dict[str, Any]:
        """Return the metrics for a row."""
        return {
            "loss_scale": self.dynamic.scale,
            "skipped_updates": self.skipped,
            "most_skipped_updates_in_a_row": self.longest,
        }


def make(
    *,
    init_scale: int | float = 2.0**16,
    growth_factor: int | float = 2.0,
    backoff_factor: int | float = 0.5,
    growth_interval: int = 2000,
) -> LossScale:
    """Make the initial state from the config section `loss_scale`, for float16 models.

    The loss is multiplied by a scale before it is differentiated, and the gradient is
    divided by the scale directly after: clipping sees true gradients. An
    update whose gradient is not finite is skipped, and the scale is multiplied by
    `backoff_factor`. After `growth_interval` steps without a skipped update, the scale
    is multiplied by `growth_factor`. The defaults are those of flax and torch. Raises
    ValueError for settings that cannot work.
    """
    if not 0 < init_scale < float("inf") or not growth_factor > 1:
        raise ValueError(
            "loss_scale needs init_scale above 0 and growth_factor above 1, got "
            f"{init_scale} and {growth_factor}"
        )
    if not 0 < backoff_factor < 1 or growth_interval < 1:
        raise ValueError(
            "loss_scale needs backoff_factor in (0, 1) and growth_interval of at least 1, "
            f"got {backoff_factor} and {growth_interval}"
        )
    dynamic = DynamicScale(
        growth_factor=growth_factor,
        backoff_factor=backoff_factor,
        growth_interval=growth_interval,
        fin_steps=jnp.zeros((), jnp.int32),  # pyright: ignore[reportArgumentType]
        scale=jnp.asarray(init_scale, jnp.float32),  # pyright: ignore[reportArgumentType]
    )
    # Three separate arrays: a step donates each.
    zeros = (jnp.zeros((), jnp.int32) for _ in range(3))
    return LossScale(dynamic, *zeros)


def all_finite(tree: Any) -> Bool[Array, ""]:
    """Return whether every number in a tree of arrays is finite."""
    finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(finite))
