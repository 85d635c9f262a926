"""Post-norm ViTs whose width may change from block to block, including TowerViT.

Reproduces Notgard/Visual_Transformers (tp.py). Each block is x = LN(x + attention(x)),
then x = LN(x + MLP(x)), with torch's eps 1e-5. A linear layer precedes a block of
another width. All layers are initialised as in torch; class token and positions are
initialised from N(0, 1).

TowerViT has equal widths and learned positions. The original's other ViT has a table of
65,537 positions, 4.2 of its 5.1 million parameters, but the line that would add it is
commented out. The model that ran is `posemb="none"`, without patch positions.

Shapes: b batch, n tokens with the class token, d width, c classes; images are (b,
height, width, channels).
"""

import dataclasses
import typing
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from vitjax.config import arguments
from vitjax.models.reproductions import torch_init
from vitjax.models.vit import Attention, BlockConfig

POSEMBS = ("learn", "none")
ACTIVATIONS = {"gelu": partial(nn.gelu, approximate=False), "relu": nn.relu}
VARIANTS = {
    "tower": {
        "widths": (64, 64, 64),
        "num_heads": (4, 4, 4),
        "mlp_dims": (128, 128, 128),
        "posemb": "learn",
        "head_act": "gelu",
    },
    "vit": {
        "widths": (64, 128, 256),
        "num_heads": (4, 8, 16),
        "mlp_dims": (128, 256, 512),
        "posemb": "none",
        "head_act": "relu",
    },
}
_layer_norm = partial(nn.LayerNorm, epsilon=1e-5)


class Block(nn.Module):
    """LN(x + attention(x)), then LN(x + MLP(x))."""

    num_heads: int
    mlp_dim: int
    return_attn: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"]
    ) -> tuple[Float[Array, "b n d"], dict[str, Any]]:
        """Return the tokens and the intermediates."""
        d, out = x.shape[-1], {}
        float32 = np.dtype(np.float32)
        cfg = BlockConfig(
            mlp_dim=self.mlp_dim,
            num_heads=self.num_heads,
            dropout=0.0,
            deterministic=True,
            dtype=float32,
            residual_dtype=float32,
            softmax_dtype=float32,
            gelu="exact",
            attn_impl="flax",
            return_attn=self.return_attn,
            qkv_init=torch_init.kernel,
            out_init=torch_init.kernel,
            attn_bias_init=torch_init.bias(d),
        )
        attention = Attention(cfg, name="MultiHeadDotProductAttention_0")
        out["sa"], probs = attention(x, x)
        if self.return_attn:
            out["attn"] = probs
        x = out["+sa"] = _layer_norm(name="LayerNorm_0")(x + out["sa"])
        y = torch_init.dense(self.mlp_dim, d, name="Dense_0")(x)
        y = ACTIVATIONS["gelu"](y)
        out["mlp"] = torch_init.dense(d, self.mlp_dim, name="Dense_1")(y)
        x = out["+mlp"] = _layer_norm(name="LayerNorm_1")(x + out["mlp"])
        return x, out


class Tower(nn.Module):
    """The model. `Model` builds it from a variant and checks the arguments."""

    num_classes: int
    widths: Sequence[int]
    num_heads: Sequence[int]
    mlp_dims: Sequence[int]
    patch_size: tuple[int, int] = (4, 4)
    posemb: str = "learn"
    head_act: str = "gelu"
    return_attn: bool = False

    @nn.compact
    def __call__(
        self, image: Num[Array | np.ndarray, "b y x ch"], *, train: bool = False
    ) -> tuple[Float[Array, "b c"], dict[str, Any]]:
        """Return logits and the intermediates; `train` has no effect."""
        del train
        out: dict[str, Any] = {}
        x = jnp.asarray(image, jnp.float32)
        fan_in = self.patch_size[0] * self.patch_size[1] * x.shape[-1]
        x = out["stem"] = nn.Conv(
            self.widths[0],
            self.patch_size,
            strides=self.patch_size,
            padding="VALID",
            kernel_init=torch_init.kernel,
            bias_init=torch_init.bias(fan_in),
            name="embedding",
        )(x)
        b, h, w, d = x.shape
        normal = nn.initializers.normal(1.0)
        cls = self.param("cls", normal, (1, 1, d), jnp.float32)
        x = jnp.concatenate([jnp.tile(cls, (b, 1, 1)), x.reshape(b, h * w, d)], axis=1)
        if self.posemb == "learn":
            shape = (1, 1 + h * w, d)
            x = x + self.param("pos_embedding", normal, shape, jnp.float32)
        out["with_posemb"], out["encoder"] = x, {}
        blocks = zip(self.widths, self.num_heads, self.mlp_dims, strict=True)
        for i, (width, num_heads, mlp_dim) in enumerate(blocks):
            if width != x.shape[-1]:
                x = torch_init.dense(width, x.shape[-1], name=f"widen_{i}")(x)
            block = Block(num_heads, mlp_dim, self.return_attn, name=f"block_{i}")
            x, out["encoder"][f"block{i:02d}"] = block(x)
        x = out["encoded"] = _layer_norm(name="encoder_norm")(x)
        d = x.shape[-1]
        x = torch_init.dense(2 * d, d, name="pre_logits")(x[:, 0])
        x = out["pre_logits"] = arguments.lookup(
            ACTIVATIONS, self.head_act, "head_act"
        )(x)
        x = torch_init.dense(self.num_classes, 2 * d, name="head")(x)
        out["logits"] = x
        return x, out


def Model(num_classes: int, variant: str = "tower", **kw: Any) -> Tower:
    """Build a Tower from a variant ("tower", "vit"); other arguments override it.

    Raises ValueError, in one sentence, for an unknown name or an impossible size.
    """
    fields = {f.name for f in dataclasses.fields(Tower)} - {"parent", "name"}
    for name in kw:
        if name not in fields:
            raise arguments.unknown(name, {*fields, "variant"}, "model argument")
    kw = {**arguments.lookup(VARIANTS, variant, "variant"), **kw}
    arguments.check_types("model", typing.get_type_hints(Tower), kw)
    model = Tower(num_classes, **kw)
    if model.posemb not in POSEMBS:
        raise arguments.unknown(model.posemb, POSEMBS, "posemb")
    arguments.lookup(ACTIVATIONS, model.head_act, "head_act")
    sizes = (model.widths, model.num_heads, model.mlp_dims)
    if not len({len(s) for s in sizes}) == 1 or not model.widths:
        raise ValueError(
            "widths, num_heads and mlp_dims need a number for each block, got "
            f"{list(map(list, sizes))}"
        )
    for width, num_heads in zip(model.widths, model.num_heads, strict=True):
        if width % num_heads:
            raise ValueError(
                f"each width must be divisible by its num_heads, got {width} and "
                f"{num_heads}"
            )
    return model
