"""mixup (Zhang et al. 2017, arXiv:1710.09412) as big_vision does it.

Each step has one lambda, folded to at least 0.5, and row r is mixed with row r - 1.

Shapes: b rows.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Key

from vitjax.config.arguments import unknown

SCOPES = ("global", "device")


def check(*, p: int | float, scope: str = "global") -> tuple[float, str]:
    """Check the config section `mixup`, and return (p, scope).

    Args:
      p: lambda is drawn from the symmetric Beta(p, p); p > 0.
      scope: "global" rolls the global batch by one row, for any number of devices;
        "device" rolls the rows of each device, as big_vision does.

    Raises ValueError if p is not positive or the scope is unknown.
    """
    if not p > 0:
        raise ValueError(
            f"mixup.p must be positive, got {p}; set mixup=None to turn mixup off"
        )
    if scope not in SCOPES:
        raise unknown(scope, SCOPES, "mixup.scope")
    return float(p), scope


def sample_lambda(key: Key[Array, ""], p: int | float) -> Float[Array, ""]:
    """Sample max(x, 1 - x) with x ~ Beta(p, p): the weight of a row's own image."""
    x = jax.random.beta(key, p, p)
    return jnp.maximum(x, 1 - x)


def partners(batch: Any, mesh: Mesh, scope: str = "global") -> Any:
    """Return the rows that each row is mixed with: every leaf rolled by +1 along b.

    Leaves are split over all axes of `mesh`. With the scope "global", each device sends
    only its last row to the next device (a collective permute of a single row).
    """
    axes = mesh.axis_names
    count = mesh.size

    def roll(x: Array) -> Array:
        if scope == "device" or count == 1:
            return jnp.roll(x, 1, axis=0)
        ring = [(i, (i + 1) % count) for i in range(count)]
        first = jax.lax.ppermute(x[-1:], axes, ring)
        return jnp.concatenate([first, x[:-1]])

    return jax.shard_map(
        lambda tree: jax.tree.map(roll, tree),
        mesh=mesh,
        in_specs=P(axes),
        out_specs=P(axes),
        check_vma=False,
    )(batch)


def mix(own: Any, partner: Any, lam: Float[Array, ""]) -> Any:
    """Return lam * own + (1 - lam) * partner for every leaf (floats)."""
    return jax.tree.map(lambda a, b: lam * a + (1 - lam) * b, own, partner)
