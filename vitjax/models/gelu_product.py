"""Compute GELU and the product after it, with GELU's way back in one kernel on NVIDIA.

The gradient before GELU is dz = (dy W^T) slope(z). XLA writes dy W^T, and reads it
again to multiply it. The kernel, in Pallas for Triton, multiplies what it has not
written yet, and sums the columns of dz for the bias before GELU.

Shapes: r rows, h hidden channels, d outputs.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.custom_partitioning import custom_partitioning
from jax.experimental.pallas import triton
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

ROWS, COLUMNS = 128, 128  # the part of dz that one block of threads computes
DEPTH = 64  # at most so many of the d channels at a time
LEAST_DEPTH = 16  # a tensor core's; it must divide d
# Two blocks of threads fit on a unit of an H100, so that one loads while one computes.
WARPS, STAGES = 8, 3

Kept = tuple[Array, Array, Array]


def slope(gelu: str, z: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Return the derivative at z of a GELU by its name in `vitjax.models.vit.GELUS`."""
    if gelu == "exact":
        density = jnp.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return 0.5 * (1 + jax.lax.erf(z / math.sqrt(2))) + z * density
    # Both are z sigmoid(k (z + c z^3)), and an exponential is faster than a tanh.
    k, c = {"tanh": (math.sqrt(8 / math.pi), 0.044715), "quick": (1.702, 0.0)}[gelu]
    s = 1 / (1 + jnp.exp(-k * (z + c * z * z * z)))
    return s + z * s * (1 - s) * k * (1 + 3 * c * z * z)


def _kernel(
    dy: Any,
    kernel: Any,
    z: Any,
    dz: Any,
    sums: Any,
    *,
    gelu: str,
    rows: int,
    hidden: int,
) -> None:
    """Compute one part of dz and the sums of its columns, from references to parts."""
    d = dy.shape[1]
    depth = math.gcd(d, DEPTH)
    across = pl.cdiv(hidden, COLUMNS)
    row, column = pl.program_id(0) // across, pl.program_id(0) % across
    # The last parts reach beyond the arrays.
    down = (row * ROWS + jnp.arange(ROWS) < rows)[:, None]
    along = column * COLUMNS + jnp.arange(COLUMNS) < hidden

    def add(i: Any, total: Array) -> Array:
        at = pl.ds(i * depth, depth)
        left = triton.load(dy.at[:, at], mask=down, other=0.0)
        right = triton.load(kernel.at[:, at], mask=along[:, None], other=0.0)
        return total + triton.dot(left, right, trans_b=True)

    zeros = jnp.zeros((ROWS, COLUMNS), jnp.float32)
    product = jax.lax.fori_loop(0, d // depth, add, zeros)
    inside = down & along[None]
    before = triton.load(z.at[:, :], mask=inside, other=0.0).astype(jnp.float32)
    found = product * slope(gelu, before)
    triton.store(dz.at[:, :], found.astype(dz.dtype), mask=inside)
    triton.store(sums.at[:], found.sum(0), mask=along)


def _on_one_device(
    dy: Array, kernel: Array, z: Array, gelu: str, interpret: bool
) -> tuple[Array, Array]:
    (rows, d), (hidden, _) = dy.shape, kernel.shape
    down, across = pl.cdiv(rows, ROWS), pl.cdiv(hidden, COLUMNS)
    # Parts of the same rows follow one another, so that dy is read from the cache.
    part = pl.BlockSpec((ROWS, COLUMNS), lambda i: (i // across, i % across))
    dz, sums = pl.pallas_call(
        functools.partial(_kernel, gelu=gelu, rows=rows, hidden=hidden),
        grid=(down * across,),
        in_specs=[
            pl.BlockSpec((ROWS, d), lambda i: (i // across, 0)),
            pl.BlockSpec((COLUMNS, d), lambda i: (i % across, 0)),
            part,
        ],
        out_specs=[
            part,
            pl.BlockSpec((None, COLUMNS), lambda i: (i // across, i % across)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct(z.shape, z.dtype),
            jax.ShapeDtypeStruct((down, hidden), jnp.float32),
        ],
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=STAGES),
        interpret=interpret,
        name="gelu_product",
    )(dy, kernel, z)
    return dz, sums.sum(0)


def _partition(
    gelu: str, interpret: bool, mesh: Any, operands: Any, _: Any
) -> tuple[Any, Callable[..., Any], Any, Any]:
    """Return the computation of one device's rows, and where its arrays are."""
    rows = operands[2].sharding.spec[0]
    split, whole = NamedSharding(mesh, P(rows)), NamedSharding(mesh, P())

    def local(dy: Array, kernel: Array, z: Array) -> tuple[Array, Array]:
        dz, sums = _on_one_device(dy, kernel, z, gelu, interpret)
        return dz, sums if rows is None else jax.lax.psum(sums, rows)

    return mesh, local, (split, whole), (split, whole, split)


def _fused() -> Callable[..., tuple[Array, Array]]:
    """Return `_on_one_device` for rows on many: XLA would gather a kernel's operands."""
    found = custom_partitioning(_on_one_device, static_argnums=(3, 4))
    rule = "r d, h d, r h -> r h, h"
    whole = ("d", "h")
    found.def_partition(_partition, sharding_rule=rule, need_replication_factors=whole)
    return found


def _apart(dy: Array, kernel: Array, z: Array, gelu: str) -> tuple[Array, Array]:
    """Compute what the kernel does, in operations of XLA."""
    wide = jnp.promote_types(z.dtype, jnp.float32)
    dz = (dy @ kernel.T).astype(wide) * slope(gelu, z.astype(wide))
    return dz.astype(z.dtype), dz.sum(0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def gelu_product(
    x: Float[Array, "r h"],
    bias: Float[Array, "h"],
    kernel: Float[Array, "h d"],
    gelu: str,
    function: Callable[[Array], Array],
    interpret: bool = False,
) -> Float[Array, "r d"]:
    """Return function(x + bias) W, where `gelu` is the name of the function.

    Elsewhere than on NVIDIA, XLA computes what the kernel does. `interpret` runs the
    kernel on any device, slowly.
    """
    return _forward(x, bias, kernel, gelu, function, interpret)[0]


def _forward(
    x: Array, bias: Array, kernel: Array, gelu: str, function: Any, interpret: bool
) -> tuple[Array, Kept]:
    z = x + bias[None]  # a row: cuBLASLt adds it, and computes GELU, within the product
    y = function(z)
    return y @ kernel, (z, y, kernel)


def _backward(
    gelu: str, function: Any, interpret: bool, kept: Kept, dy: Array
) -> tuple[Array, Array, Array]:
    z, y, kernel = kept
    fused = lambda dy, kernel, z: _fused()(dy, kernel, z, gelu, interpret)
    apart = functools.partial(_apart, gelu=gelu)
    if interpret:
        dz, sums = fused(dy, kernel, z)
    else:
        dz, sums = jax.lax.platform_dependent(dy, kernel, z, cuda=fused, default=apart)
    return dz, sums.astype(z.dtype), y.T @ dy


gelu_product.defvjp(_forward, _backward)
