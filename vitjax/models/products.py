"""The products and norms of a block, in forms that XLA turns into few passes.

Each is the plain operation by another order of exact algebra, equal to rounding.
docs/performance.md has the bytes that each saves.

Shapes: r rows, d inputs, f outputs.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

Initializer = Callable[..., Array]  # takes a key, a shape and a dtype


class Matrix(NamedTuple):
    """The parameters of a product: kernel and bias, if it has one."""

    kernel: Float[Array, "d f"]
    bias: Float[Array, "f"] | None


class Affine(NamedTuple):
    """The parameters of the last step of a LayerNorm."""

    scale: Float[Array, "d"]
    bias: Float[Array, "d"]

    def folded(self, into: Matrix) -> Matrix:
        """Return the product that takes standardised inputs: (x s + c) W + b.

        The LayerNorm's gradients then come from the kernel's, and need no pass over the
        rows: (x s + c) W + b = x (s W) + (c W + b).
        """
        kernel, bias = into
        # No product: one row of operations is not worth its rounding.
        shift = (self.bias[:, None] * kernel).sum(0)
        shift = shift if bias is None else shift + bias
        return Matrix(self.scale[:, None] * kernel, shift)


class Linear(nn.Module):
    """The parameters of a flax DenseGeneral or Conv, seen as a matrix.

    The kernel's shape is (*inputs, *features) and the bias's `features`; without a
    `bias_init` there is none. Both are initialised in the matrix's shape, as
    DenseGeneral does.
    """

    inputs: Sequence[int]
    features: Sequence[int]
    kernel_init: Initializer
    bias_init: Initializer | None

    @nn.compact
    def __call__(self) -> Matrix:
        """Return the parameters."""
        d, f = int(np.prod(self.inputs)), int(np.prod(self.features))

        def flat(init: Initializer, *shape: int) -> Initializer:
            return lambda key, own, dtype: init(key, shape, dtype).reshape(own)

        shape = (*self.inputs, *self.features)
        kernel = self.param("kernel", flat(self.kernel_init, d, f), shape, jnp.float32)
        matrix = kernel.reshape(d, f)
        if self.bias_init is None:
            return Matrix(matrix, None)
        features = tuple(self.features)
        bias = self.param("bias", flat(self.bias_init, f), features, jnp.float32)
        return Matrix(matrix, bias.reshape(f))


class Norm(nn.Module):
    """A LayerNorm whose last step is left to the products that follow it."""

    eps: float | int

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> tuple[Float[Array, "*b d"], Affine]:
        """Return the standardised x, in float32 at least, and the scale and bias.

        The variance takes the centred x: a GPU then reads each row once.
        """
        d = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (d,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (d,), jnp.float32)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + self.eps)
        return x, Affine(scale, bias)


def apply(x: Num[Array, "*b d"], matrix: Matrix, dtype: Any) -> Float[Array, "*b f"]:
    """Return x W + b in `dtype`. The bias is a row: a GPU adds it within the product."""
    kernel, bias = matrix
    y = x.astype(dtype) @ kernel.astype(dtype)
    if bias is None:
        return y
    return y + jnp.reshape(bias.astype(dtype), (1,) * (y.ndim - 1) + (-1,))


def apply_three(
    x: Num[Array, "*b d"], matrices: Sequence[Matrix], dtype: Any, *, apart: bool
) -> list[Array]:
    """Return three products of one x in `dtype`, computed as one.

    If the results must be arrays of their own, `apart`, only the way back is one
    product: cutting one result in three would take longer than three products do.
    """
    if not apart:
        kernels, biases = zip(*matrices, strict=True)
        joined = Matrix(jnp.concatenate(kernels, axis=1), jnp.concatenate(biases))
        return jnp.split(apply(x, joined, dtype), len(matrices), axis=-1)
    kernels, biases = jax.tree.map(
        lambda p: p.astype(dtype), tuple(zip(*matrices, strict=True))
    )
    rows = x.astype(dtype).reshape(-1, x.shape[-1])
    return [y.reshape(*x.shape[:-1], -1) for y in _three(rows, kernels, biases)]


@jax.custom_vjp
def _three(x: Any, kernels: Any, biases: Any) -> Any:
    return tuple(
        x @ kernel + bias[None] for kernel, bias in zip(kernels, biases, strict=True)
    )


def _three_forward(x: Any, kernels: Any, biases: Any) -> Any:
    return _three(x, kernels, biases), (x, kernels)


def _three_backward(kept: Any, grads: Any) -> Any:
    x, kernels = kept
    f = grads[0].shape[-1]
    # Side by side. XLA adds the bias's gradient to the pass of a sum, not of a
    # concatenation.
    last = len(grads) - 1
    padded = (
        jnp.pad(g, ((0, 0), (i * f, (last - i) * f))) for i, g in enumerate(grads)
    )
    grad: Array = functools.reduce(jnp.add, padded)
    wide = jnp.promote_types(grad.dtype, jnp.float32)
    of_bias = grad.astype(wide).sum(0).astype(grad.dtype)
    of_kernel = x.T @ grad
    return (
        grad @ jnp.concatenate(kernels, axis=1).T,
        tuple(jnp.split(of_kernel, len(grads), axis=1)),
        tuple(jnp.split(of_bias, len(grads))),
    )


_three.defvjp(_three_forward, _three_backward)


def recomputed(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Return an elementwise function that keeps only its input for the backward pass.

    Without it, XLA keeps an intermediate result as well, and cannot compute the
    function within the product before it (cuBLASLt's epilogue for GELU).
    """
    return jax.checkpoint(function)


def added(x: Float[Array, "*b d"], y: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Return x + y, added as matrices of rows.

    Where `y` comes from a product, a GPU adds x within it. In another shape, XLA writes
    the sum over x, and copies x first.
    """
    d = x.shape[-1]
    return (x.reshape(-1, d) + y.reshape(-1, d)).reshape(x.shape)


def patches(
    image: Num[Array, "b y x ch"], size: tuple[int, int]
) -> Num[Array, "b n d"]:
    """Return the pixels of each patch as a row, in the order of a convolution's kernel.

    Rows and columns that fill no patch are dropped.
    """
    (b, height, width, channels), (h, w) = image.shape, size
    rows, columns = height // h, width // w
    image = image[:, : rows * h, : columns * w]
    split = image.reshape(b, rows, h, columns, w, channels)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * columns, -1)
