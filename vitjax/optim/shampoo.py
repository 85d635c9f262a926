"""Shampoo: multiply each axis of a gradient by a root of that axis's second moments.

The method of https://arxiv.org/abs/1802.09568, in the form of distributed PyTorch
Shampoo (https://arxiv.org/abs/2309.06497), for a gradient G of k dims and each axis i:

    L_i <- b2 L_i + (1 - b2) G_(i) G_(i)^T         G_(i): axis i against all others
    X_i  = (L_i / (1 - b2^t)) ^ (-1 / (2 k))       every `every` steps from step `start`
    m   <- b1 m + (1 - b1) G
    P    = m / (1 - b1^t), multiplied along each axis i by X_i

P is then scaled to the norm of Adam's update for the same gradient ("grafting"), so
that learning rates and schedules of Adam apply. Before the first X_i the update is
Adam's.

Shapes: k x k second moments of an axis of length k.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

Matrices = list[tuple[Array, ...]]  # for each block, one matrix per axis


class ShampooState(NamedTuple):
    """Adam's moments, and for each parameter a list of `Matrices`."""

    count: Any
    mu: Any
    nu: Any
    statistics: Any
    roots: Any


def scale_by_shampoo(
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-12,
    every: int = 25,
    start: int = 25,
    block_size: int = 8192,
    graft_eps: float = 1e-8,
    bias_correction: bool = True,
) -> optax.GradientTransformation:
    """Make the transform; its update has the gradient's sign, as optax's scale_by_*.

    Args:
      b1, b2: decay of the first moment, and of all second moments.
      eps: every L starts as eps times the identity; it is also added to eigenvalues.
      every: steps between two computations of the roots, which cost k^3.
      start: no roots are computed before this step; updates up to the first roots are
        Adam's.
      block_size: neighbouring axes are merged up to this length, and a longer axis is
        cut into blocks, each preconditioned and grafted separately. Two axes of length
        n cost 4 n^2 numbers of state.
      graft_eps: Adam's eps.
      bias_correction: divide moments by 1 - b^t, as Adam does.

    Weight decay that is added to the gradients before (`l2`) is coupled: it enters all
    moments. Raises ValueError if `every`, `start` or `block_size` is below 1.
    """
    for name, value in (("every", every), ("start", start), ("block_size", block_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")

    first = -(-start // every) * every  # the step that computes the first roots

    def init(params: Any) -> ShampooState:
        matrices = functools.partial(_identities, params, block_size)
        zeros = jax.tree.map(jnp.zeros_like, params)
        return ShampooState(
            count=jnp.zeros((), jnp.int32),
            mu=zeros,
            nu=jax.tree.map(jnp.zeros_like, params),
            statistics=matrices(eps),
            roots=matrices(1.0),
        )

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        t = state.count + 1
        rest1, rest2 = (1 - b**t if bias_correction else 1.0 for b in (b1, b2))
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        leaves, treedef = jax.tree.flatten(updates)
        statistics = [
            _accumulated(_blocks(g, block_size), old, b2)
            for g, old in zip(
                leaves, treedef.flatten_up_to(state.statistics), strict=True
            )
        ]
        roots = jax.lax.cond(
            (t >= start) & (t % every == 0),
            lambda old: _roots(statistics, old, 1 / rest2, eps),
            lambda old: old,
            treedef.flatten_up_to(state.roots),
        )
        moments = zip(jax.tree.leaves(mu), jax.tree.leaves(nu), roots, strict=True)
        steps = []
        for m, v, own_roots in moments:
            adam = (m / rest1) / (jnp.sqrt(v / rest2) + graft_eps)
            whole = _preconditioned(m / rest1, own_roots, adam, block_size)
            steps.append(jnp.where(t > first, whole, adam).astype(m.dtype))
        new = ShampooState(
            count=t,
            mu=mu,
            nu=nu,
            statistics=treedef.unflatten(statistics),
            roots=treedef.unflatten(roots),
        )
        return treedef.unflatten(steps), new

    return optax.GradientTransformation(init, update)


def _identities(params: Any, block_size: int, scale: float) -> Any:
    """Return `scale` times the identity for each axis of each block."""
    return jax.tree.map(
        lambda p: [
            tuple(scale * jnp.eye(n, dtype=_float(p)) for n in shape)
            for shape in _block_shapes(p.shape, block_size)
        ],
        params,
    )


def _preconditioned(mean: Any, roots: Any, adam: Any, block_size: int) -> Any:
    """Multiply each block of the first moment by its roots; scale it to Adam's norm."""
    grafted = [
        _grafted(block, along, like)
        for block, along, like in zip(
            _blocks(mean, block_size), roots, _blocks(adam, block_size), strict=True
        )
    ]
    return _joined(grafted, mean.shape, block_size)


def _float(x: Any) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)


def merged_shape(shape: Sequence[int], block_size: int) -> tuple[int, ...]:
    """Merge neighbouring axes, from the first on, up to a length of `block_size`."""
    merged: list[int] = []
    for n in shape:
        if merged and merged[-1] * n <= block_size:
            merged[-1] *= n
        else:
            merged.append(n)
    return tuple(merged) or (1,)


def _slices(shape: Sequence[int], block_size: int) -> list[tuple[slice, ...]]:
    """Return the slices of the blocks of an array of a merged shape."""
    axes = [
        [slice(i, min(i + block_size, n)) for i in range(0, n, block_size)]
        for n in shape
    ]
    return list(itertools.product(*axes))


def _block_shapes(shape: Sequence[int], block_size: int) -> list[tuple[int, ...]]:
    cuts = _slices(merged_shape(shape, block_size), block_size)
    return [tuple(s.stop - s.start for s in cut) for cut in cuts]


def _blocks(x: Array, block_size: int) -> list[Array]:
    x = x.astype(_float(x)).reshape(merged_shape(x.shape, block_size))
    return [x[cut] for cut in _slices(x.shape, block_size)]


def _joined(blocks: list[Array], shape: Sequence[int], block_size: int) -> Array:
    merged = merged_shape(shape, block_size)
    whole = jnp.zeros(merged, blocks[0].dtype)
    for cut, block in zip(_slices(merged, block_size), blocks, strict=True):
        whole = whole.at[cut].set(block)
    return whole.reshape(shape)


def _accumulated(blocks: list[Array], old: Matrices, b2: float) -> Matrices:
    """Return the second moments after one more gradient."""
    new = []
    for g, matrices in zip(blocks, old, strict=True):
        others = [[j for j in range(g.ndim) if j != i] for i in range(g.ndim)]
        new.append(
            tuple(
                b2 * L
                + (1 - b2)
                * jnp.tensordot(g, g, (axes, axes), precision=jax.lax.Precision.HIGHEST)
                for L, axes in zip(matrices, others, strict=True)
            )
        )
    return new


def _roots(
    statistics: list[Matrices], old: list[Matrices], scale: Any, eps: float
) -> list[Matrices]:
    """Return (scale * L) ^ (-1 / (2 * axes)) of all L, grouped by size and order."""
    flat, treedef = jax.tree.flatten(statistics)
    axes = [len(ms) for parameter in statistics for ms in parameter for _ in ms]
    kinds = [(x.shape[0], k) for x, k in zip(flat, axes, strict=True)]
    found: list[Any] = [None] * len(flat)
    for kind in sorted(set(kinds)):
        at = [i for i, one in enumerate(kinds) if one == kind]
        stacked = scale * jnp.stack([flat[i] for i in at])
        # One after the other: on the CPU, the parallel decompositions of a batch can
        # deadlock, waiting for threads that they hold.
        one = functools.partial(inverse_root, order=2 * kind[1], eps=eps)
        roots = jax.lax.map(one, stacked)
        for i, root in zip(at, roots, strict=True):
            found[i] = root
    # An overflow makes the eigenvalues NaN; keep the last finite roots.
    kept = [
        jnp.where(jnp.all(jnp.isfinite(new)), new, before).astype(before.dtype)
        for new, before in zip(found, jax.tree.leaves(old), strict=True)
    ]
    return jax.tree.unflatten(treedef, kept)


def inverse_root(
    matrices: Float[Array, "*b k k"], order: int, eps: float
) -> Float[Array, "*b k k"]:
    """Return A ^ (-1 / order) of symmetric matrices, from their eigenvalues.

    Rounding may make eigenvalues negative: if the lowest is, all are shifted to make it
    zero. Then `eps` is added. Newton's iteration, the usual alternative, often does not
    converge.
    """
    values, vectors = jnp.linalg.eigh(matrices)
    values = values - jnp.minimum(values[..., :1], 0) + eps
    scaled = vectors * (values ** (-1 / order))[..., None, :]
    return jnp.matmul(
        scaled, jnp.swapaxes(vectors, -1, -2), precision=jax.lax.Precision.HIGHEST
    )


def _grafted(block: Array, roots: Sequence[Array], like: Array) -> Array:
    """Multiply the block along each axis by its root; give it the norm of `like`."""
    x = block
    for root in roots:  # moves the first axis last: k times restores the order
        x = jnp.tensordot(x, root, ((0,), (0,)), precision=jax.lax.Precision.HIGHEST)
    return x * (jnp.linalg.norm(like) / (jnp.linalg.norm(x) + 1e-16))
