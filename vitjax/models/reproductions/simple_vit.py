"""SimpleViT, the pre-norm baseline of SimplEsT-ViT, and functions that both share.

Reproduces the class of that name in richardcepka/SimplEsT-ViT (roughly
https://arxiv.org/abs/2205.01580): no class token, sincos2d positions, LayerNorms with
torch's eps 1e-5, query, key and value as one matrix without biases, exact GELU, dropout
on the tokens before they are averaged, and a head of one LayerNorm and one linear
layer. All layers are initialised as in torch.

The original creates the attention's output projection, but for a long time did not
apply it. All of its published numbers are for `out_proj=False`; here that does not even
create it.

Shapes: b batch, n tokens, d width, h heads, k head dim, c classes; images are (b,
height, width, channels). `dtype_mm` is the dtype of the matmuls in stem and blocks;
softmax, residual stream and head are at least float32.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from vitjax.config.arguments import lookup, make_module
from vitjax.models.reproductions import torch_init
from vitjax.models.vit import DTYPES, einsum_attention, patch_grid, posemb_sincos_2d

_layer_norm = partial(nn.LayerNorm, epsilon=1e-5)


class Block(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x))."""

    num_heads: int
    mlp_dim: int
    out_proj: bool
    dtype: np.dtype
    return_attn: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"]
    ) -> tuple[Float[Array, "b n d"], dict[str, Any]]:
        """Return the residual stream and the block's intermediates."""
        d, out = x.shape[-1], {}
        wide = np.dtype(jnp.promote_types(self.dtype, np.float32))
        dense = partial(torch_init.dense, dtype=self.dtype)
        y = _layer_norm(name="LayerNorm_0")(x)
        y = dense(3 * d, d, use_bias=False, name="qkv")(y)
        y, probs = einsum_attention(*split_heads(y, self.num_heads), wide)
        y = y.reshape(x.shape)
        if self.out_proj:
            y = dense(d, d, use_bias=False, name="out")(y)
        if self.return_attn:
            out["attn"] = probs
        out["sa"] = y
        x = out["+sa"] = x + y.astype(wide)
        y = _layer_norm(name="LayerNorm_1")(x)
        y = dense(self.mlp_dim, d, name="Dense_0")(y)
        y = nn.gelu(y, approximate=False)
        out["mlp"] = dense(d, self.mlp_dim, name="Dense_1")(y)
        x = out["+mlp"] = x + out["mlp"].astype(wide)
        return x, out


class SimpleViT(nn.Module):
    """The model. `Model` checks the arguments. Defaults are S/4, for small images."""

    num_classes: int
    patch_size: tuple[int, int] = (4, 4)
    width: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_dim: int | None = None  # None: 4 * width
    dropout: float | int = 0.0
    out_proj: bool = True
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
        mlp_dim = self.mlp_dim or 4 * self.width
        fan_in = self.patch_size[0] * self.patch_size[1] * image.shape[-1]
        x, out = embed(
            image,
            partial(
                nn.Conv,
                self.width,
                kernel_init=torch_init.kernel,
                bias_init=torch_init.bias(fan_in),
            ),
            self.patch_size,
            dtype,
        )
        out["encoder"] = {}
        for i in range(self.depth):
            block = Block(
                self.num_heads,
                mlp_dim,
                self.out_proj,
                dtype,
                self.return_attn,
                name=f"block_{i}",
            )
            x, out["encoder"][f"block{i:02d}"] = block(x)
        out["encoded"] = x
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        x = out["head_input"] = jnp.mean(x, axis=1)
        x = out["pre_logits"] = _layer_norm(name="head_norm")(x)
        x = torch_init.dense(self.num_classes, self.width, name="head")(x)
        out["logits"] = x
        return x, out


def Model(num_classes: int, **kw: Any) -> SimpleViT:
    """Build a SimpleViT; ValueError, in one sentence, for an impossible argument."""
    model = make_module(SimpleViT, num_classes, kw)
    check_sizes(model)
    return model


def embed(
    image: Num[Array | np.ndarray, "b y x ch"],
    conv: Any,
    patch_size: tuple[int, int],
    dtype: np.dtype,
) -> tuple[Float[Array, "b n d"], dict[str, Any]]:
    """Embed patches by `conv`, a partial nn.Conv, and add sincos2d positions.

    Returns the tokens and the first intermediates. Call this in a compact method; the
    parameters are named "embedding".
    """
    patch_grid(image, patch_size)
    conv = conv(
        patch_size,
        strides=patch_size,
        padding="VALID",
        dtype=dtype,
        name="embedding",
    )
    out: dict[str, Any] = {}
    x = out["stem"] = conv(jnp.asarray(image, dtype))
    b, h, w, d = x.shape
    x = x.reshape(b, h * w, d).astype(jnp.promote_types(dtype, np.float32))
    out["with_posemb"] = x = x + jnp.asarray(posemb_sincos_2d(h, w, d), x.dtype)
    return x, out


def split_heads(
    qkv: Float[Array, "b n d3"], num_heads: int
) -> tuple[Float[Array, "b n h k"], Float[Array, "b n h k"], Float[Array, "b n h k"]]:
    """Split columns into query, key and value, and each of these into heads."""
    b, n, _ = qkv.shape
    query, key, value = (
        x.reshape(b, n, num_heads, -1) for x in jnp.split(qkv, 3, axis=-1)
    )
    return query, key, value


def matmul_dtype(name: str) -> np.dtype:
    """Return the dtype of a name; ValueError for float64 without jax_enable_x64."""
    if name == "float64" and jnp.result_type(float) != np.float64:
        raise ValueError(
            "a float64 model needs jax.config.update('jax_enable_x64', True)"
        )
    return lookup(DTYPES, name, "dtype_mm")


def check_sizes(model: Any) -> None:
    """Raise ValueError for sizes that are impossible or do not agree."""
    for name in ("width", "depth", "num_heads", "mlp_dim"):
        value = getattr(model, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if min(model.patch_size) < 1:
        raise ValueError(
            f"patch_size must be (height, width) in pixels, got {model.patch_size}"
        )
    if not 0 <= model.dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {model.dropout}")
    if model.width % model.num_heads:
        raise ValueError(
            f"width must be divisible by num_heads, got {model.width} and "
            f"{model.num_heads}"
        )
    lookup(DTYPES, model.dtype_mm, "dtype_mm")
