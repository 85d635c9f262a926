"""SimplEsT-ViT: a vanilla transformer without normalisation and without residuals.

Reproduces richardcepka/SimplEsT-ViT. Unusual details:
- A block is x = attention(x), then x = act(W2 act(W1 x + b1) + b2). The second layer
  has an activation too, and there are no residuals and no norms. There is no class
  token; the positions are sincos2d; dropout applies to the tokens before they are
  averaged.
- Attention is diag(d) softmax(q k^T / sqrt(k) + B) v, with the heads concatenated and
  no output projection. B and d are E-SPA's constants (signal_propagation.py) for one
  number of tokens, equal for all heads. They are not parameters, so the optimizer does
  not change them.
- Query, key and value are one matrix. Queries are initialised to zero, so that
  attention starts as E-SPA's; keys and values from N(0, 1 / d), not orthogonal as in
  E-SPA's paper.
- The activation is a scaled leaky ReLU, with TAT's slope for 2 * depth of them.
- The kernels of MLP and head are initialised orthogonal, scaled by sqrt(out / in) where
  they widen; the stem from N(0, 1 / (patch size^2 * channels)); biases to zero.
- `init_scheme="lecun"` is the control: the same layers with flax's initialisation
  (LeCun normal, zero biases, stem and head too), softmax attention without B and d, and
  the plain ReLU. It ignores gamma, eta and row_norm.
- The keys' bias (`att_bias`) shifts all logits of a row equally, so its gradient is
  always zero; it is kept because the original has it.

Shapes: b batch, n tokens, d width, h heads, k head dim, c classes; images are (b,
height, width, channels). `dtype_mm` is the dtype of the matmuls in stem and blocks; B,
the softmax, the averaging and the head are at least float32.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from vitjax.config.arguments import make_module, unknown
from vitjax.models.reproductions import signal_propagation
from vitjax.models.reproductions.simple_vit import (
    check_sizes,
    embed,
    matmul_dtype,
    split_heads,
)

INITS = ("espa_tat", "lecun")
_lecun = nn.initializers.lecun_normal()


def scaled_orthogonal(key: Any, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    """Draw an (in, out) kernel with orthogonal rows or columns that keeps mean squares.

    The distribution is uniform over such matrices, times sqrt(out / in) if out > in.
    """
    scale = max((shape[1] / shape[0]) ** 0.5, 1.0)
    return nn.initializers.orthogonal(scale)(key, shape, dtype)


def zero_query_init(key: Any, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    """Draw a (d, 3 d) kernel: zero for the query, N(0, 1 / d) for key and value."""
    d = shape[0]
    rest = jax.random.normal(key, (d, shape[1] - d), dtype) * d**-0.5
    return jnp.concatenate([jnp.zeros((d, d), dtype), rest], axis=1)


class Attention(nn.Module):
    """diag(d) softmax(q k^T / sqrt(k) + B) v, without an output projection."""

    num_heads: int
    use_bias: bool
    dtype: np.dtype
    qkv_init: Callable[..., Any]

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        bias: Float[Array | np.ndarray, "n n"] | None,
        scale: Float[Array | np.ndarray, " n"] | None,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b h n m"]]:
        """Return tokens and probabilities; None for B and d gives plain attention."""
        qkv = nn.Dense(
            3 * x.shape[-1],
            use_bias=self.use_bias,
            kernel_init=self.qkv_init,
            dtype=self.dtype,
            name="qkv",
        )
        query, key, value = split_heads(qkv(x), self.num_heads)
        wide = np.dtype(jnp.promote_types(self.dtype, np.float32))
        query = query / jnp.sqrt(query.shape[-1]).astype(query.dtype)
        logits = jnp.einsum("bnhk,bmhk->bhnm", query, key).astype(wide)
        if bias is not None:
            logits = logits + jnp.asarray(bias, wide)[None, None]
        probs = weights = jax.nn.softmax(logits)
        if scale is not None:
            weights = probs * jnp.asarray(scale, wide)[None, None, :, None]
        y = jnp.einsum("bhnm,bmhk->bnhk", weights.astype(self.dtype), value)
        return y.reshape(x.shape), probs


class Block(nn.Module):
    """act(W2 act(W1 attention(x) + b1) + b2); act is factor * leaky ReLU."""

    mlp_dim: int
    slope: float
    factor: float
    kernel_init: Callable[..., Any]
    attention: Attention
    return_attn: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        bias: Float[Array | np.ndarray, "n n"] | None,
        scale: Float[Array | np.ndarray, " n"] | None,
    ) -> tuple[Float[Array, "b n d"], dict[str, Any]]:
        """Return the tokens and the block's intermediates."""
        d, out = x.shape[-1], {}
        x, probs = self.attention(x, bias, scale)
        out["sa"] = x
        if self.return_attn:
            out["attn"] = probs
        for i, size in enumerate((self.mlp_dim, d)):
            x = nn.Dense(
                size,
                kernel_init=self.kernel_init,
                dtype=self.attention.dtype,
                name=f"Dense_{i}",
            )(x)
            x = self.factor * nn.leaky_relu(x, self.slope)
        out["mlp"] = x
        return x, out


class SimplEsTViT(nn.Module):
    """The model. `Model` checks the arguments. Defaults are S/4, for small images."""

    num_classes: int
    patch_size: tuple[int, int] = (4, 4)
    width: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_dim: int | None = None  # None: 4 * width
    att_bias: bool = True
    causal: bool = False
    gamma: float | int = 0.005  # E-SPA: decay rate of the last token kernel
    eta: float | int = 0.9  # TAT: the output cosine of orthogonal inputs
    row_norm: str = "correct"  # see signal_propagation.espa
    init_scheme: str = "espa_tat"
    dropout: float | int = 0.0
    dtype_mm: str = "float32"
    return_attn: bool = False

    @nn.compact
    def __call__(
        self, image: Num[Array | np.ndarray, "b y x ch"], *, train: bool = False
    ) -> tuple[Float[Array, "b c"], dict[str, Any]]:
        """Return logits and the intermediates.

        `train=True` needs rngs={"dropout": key} if dropout is above 0.
        """
        dtype = matmul_dtype(self.dtype_mm)
        lecun = self.init_scheme == "lecun"
        fan_in = self.patch_size[0] * self.patch_size[1] * image.shape[-1]
        stem_init = _lecun if lecun else nn.initializers.normal(fan_in**-0.5)
        kernel_init = _lecun if lecun else scaled_orthogonal
        stem = partial(nn.Conv, self.width, kernel_init=stem_init)
        x, out = embed(image, stem, self.patch_size, dtype)

        slope, factor = _activation(self)
        out["encoder"] = {}
        for i, (bias, scale) in enumerate(_attention_constants(self, x.shape[1])):
            block = Block(
                mlp_dim=self.mlp_dim or 4 * self.width,
                slope=slope,
                factor=factor,
                kernel_init=kernel_init,
                attention=Attention(
                    self.num_heads,
                    self.att_bias,
                    dtype,
                    _lecun if lecun else zero_query_init,
                    parent=None,
                ),
                return_attn=self.return_attn,
                name=f"block_{i}",
            )
            x, out["encoder"][f"block{i:02d}"] = block(x, bias, scale)

        x = out["encoded"] = x.astype(jnp.promote_types(dtype, np.float32))
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        x = out["head_input"] = out["pre_logits"] = jnp.mean(x, axis=1)
        head = nn.Dense(self.num_classes, kernel_init=kernel_init, name="head")
        x = out["logits"] = head(x)
        return x, out


def Model(num_classes: int, **kw: Any) -> SimplEsTViT:
    """Build a SimplEsTViT; ValueError, in one sentence, for an impossible argument.

    An eta that TAT cannot reach at this depth is one of these.
    """
    model = make_module(SimplEsTViT, num_classes, kw)
    check_sizes(model)
    if model.init_scheme not in INITS:
        raise unknown(model.init_scheme, INITS, "init_scheme")
    if model.row_norm not in signal_propagation.ROW_NORMS:
        raise unknown(model.row_norm, signal_propagation.ROW_NORMS, "row_norm")
    signal_propagation.espa_gammas(model.depth, model.gamma)
    _activation(model)
    return model


def _activation(model: SimplEsTViT) -> tuple[float, float]:
    """Return the slope of the leaky ReLUs and their factor."""
    if model.init_scheme == "lecun":
        return 0.0, 1.0
    slope = signal_propagation.tat_slope(2 * model.depth, model.eta)
    return slope, signal_propagation.tat_scale(slope)


def _attention_constants(
    model: SimplEsTViT, num_tokens: int
) -> list[tuple[np.ndarray | None, np.ndarray | None]]:
    """Return B and d of each layer."""
    if model.init_scheme == "lecun":
        masked = np.triu(np.full((num_tokens, num_tokens), -np.inf), 1)
        return [(masked if model.causal else None, None)] * model.depth
    biases, scales = signal_propagation.espa(
        num_tokens, model.depth, model.gamma, model.causal, model.row_norm
    )
    return list(zip(biases, scales, strict=True))
