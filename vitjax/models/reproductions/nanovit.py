"""nanoViT: two LayerNorms in the stem, tokens from N(0, 1), one dropout per block.

Reproduces samitha278/nanoViT. The blocks are pre-LN as in `vit`, but differ in this:
- the stem is LN, a linear layer and LN on patches that do not overlap;
- the class token and the positions (it has one too) are initialised from N(0, 1);
- the only dropout is after the second layer of each MLP;
- LayerNorm's eps is 1e-5, GELU is exact, and all layers are initialised as in torch.

A patch's pixels are ordered (row, column, channel); the original orders them (channel,
row, column). This does not affect LN or the distribution of the initial weights, but
imported weights would have to be permuted.

Shapes: b batch, n tokens with the class token, d width, c classes; images are (b,
height, width, channels). Parameters are float32. `dtype_mm` is the dtype of the matmuls
in stem and blocks; residuals, LayerNorms, softmax and logits are at least float32.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from vitjax.config.arguments import lookup, make_module
from vitjax.models.reproductions import torch_init
from vitjax.models.vit import DTYPES, GELUS, Attention, BlockConfig, patch_grid

# Two-pass variance, as in torch: in a patch of one colour it is far below mean^2.
_layer_norm = partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)


class Block(nn.Module):
    """x + attention(LN(x)), then x + dropout(MLP(LN(x)))."""

    cfg: BlockConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"]
    ) -> tuple[Float[Array, "b n d"], dict[str, Any]]:
        """Return the next residual stream and this block's intermediates."""
        cfg, d, out = self.cfg, x.shape[-1], {}
        attention = Attention(cfg, name="MultiHeadDotProductAttention_0")
        y = _layer_norm(name="LayerNorm_0")(x)
        out["sa"], probs = attention(y, y)
        if cfg.return_attn:
            out["attn"] = probs
        x = out["+sa"] = x + out["sa"].astype(cfg.residual_dtype)
        y = _layer_norm(name="LayerNorm_1")(x)
        hidden = cfg.mlp_dim or 4 * d
        y = torch_init.dense(hidden, d, dtype=cfg.dtype, name="Dense_0")(y)
        y = GELUS[cfg.gelu](y)
        y = torch_init.dense(d, hidden, dtype=cfg.dtype, name="Dense_1")(y)
        out["mlp"] = nn.Dropout(cfg.dropout)(y, deterministic=cfg.deterministic)
        x = out["+mlp"] = x + out["mlp"].astype(cfg.residual_dtype)
        return x, out


class NanoViT(nn.Module):
    """The model. `Model` checks the arguments. Defaults are the document's step 7."""

    num_classes: int
    patch_size: tuple[int, int] = (16, 16)
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int | None = None  # None: 4 * width
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
        cfg = self._block_config(train)
        out: dict[str, Any] = {"encoder": {}}
        x = out["stem"] = self._stem(jnp.asarray(image, cfg.residual_dtype), cfg)
        b, h, w, d = x.shape
        normal = nn.initializers.normal(1.0)
        cls = self.param("cls", normal, (1, 1, d), jnp.float32)
        shape = (1, 1 + h * w, d)
        posemb = self.param("pos_embedding", normal, shape, jnp.float32)
        x = jnp.concatenate([jnp.tile(cls, (b, 1, 1)), x.reshape(b, h * w, d)], axis=1)
        x = out["with_posemb"] = x + posemb
        for i in range(self.depth):
            x, out["encoder"][f"block{i:02d}"] = Block(cfg, name=f"block_{i}")(x)
        x = out["encoded"] = _layer_norm(name="encoder_norm")(x)
        x = out["head_input"] = out["pre_logits"] = x[:, 0]
        x = out["logits"] = torch_init.dense(self.num_classes, d, name="head")(x)
        return x, out

    def _stem(self, image, cfg):
        (ph, pw), (b, _, _, ch) = self.patch_size, image.shape
        (h, w), fan_in = patch_grid(image, self.patch_size), ph * pw * ch
        x = image.reshape(b, h, ph, w, pw, ch).swapaxes(2, 3).reshape(b, h, w, fan_in)
        x = _layer_norm(name="patch_norm")(x)
        x = torch_init.dense(self.width, fan_in, dtype=cfg.dtype, name="embedding")(x)
        return _layer_norm(name="embedding_norm")(x.astype(cfg.residual_dtype))

    def _block_config(self, train: bool) -> BlockConfig:
        mm = lookup(DTYPES, self.dtype_mm, "dtype_mm")
        at_least = np.dtype(jnp.promote_types(mm, np.float32))
        return BlockConfig(
            mlp_dim=self.mlp_dim,
            num_heads=self.num_heads,
            dropout=self.dropout,
            deterministic=not train,
            dtype=mm,
            residual_dtype=at_least,
            softmax_dtype=at_least,
            gelu="exact",
            attn_impl="flax",
            return_attn=self.return_attn,
            qkv_init=torch_init.kernel,
            out_init=torch_init.kernel,
            attn_bias_init=torch_init.bias(self.width),
        )


def Model(num_classes: int, **kw: Any) -> NanoViT:
    """Build a NanoViT; ValueError, in one sentence, for an impossible argument."""
    model = make_module(NanoViT, num_classes, kw)
    lookup(DTYPES, model.dtype_mm, "dtype_mm")
    mlp_dim = 1 if model.mlp_dim is None else model.mlp_dim
    sizes = (*model.patch_size, model.width, model.depth, model.num_heads, mlp_dim)
    if min(sizes) < 1:
        raise ValueError(
            "patch_size, width, depth, num_heads and mlp_dim must be at least 1, got "
            f"{model.patch_size}, {model.width}, {model.depth}, {model.num_heads} and "
            f"{model.mlp_dim}"
        )
    if not 0 <= model.dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {model.dropout}")
    if model.width % model.num_heads:
        raise ValueError(
            f"width must be divisible by num_heads, got {model.width} and "
            f"{model.num_heads}"
        )
    return model
