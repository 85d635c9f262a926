"""torchvision's VisionTransformer with a linear code layer, and a small CNN.

Reproduces defgsus/nn-experiments (docs/logs/2023-11-27-transformers.md), which trains
torchvision.models.VisionTransformer with `num_classes=code_size` and one more Linear on
Fashion-MNIST. The blocks are `vit`'s. Differences from its pool_type="tok":
- the position embeddings, N(0, 0.02), are added after the class token is prepended, so
  it has one too;
- GELU is exact;
- query, key and value are initialised as one Xavier matrix, so each is smaller by
  sqrt(2); patches, attention output and last layer are initialised as in torch;
- the code, one linear layer without activation, is initialised to zero, so the first
  logits are the last layer's bias for every image.

Shapes: b batch, c classes; images are (b, height, width, channels). Parameter names are
`vit`'s where the layers are the same.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from vitjax.config.arguments import make_module
from vitjax.models.reproductions import torch_init
from vitjax.models.vit import BlockConfig, Encoder

_zeros, _normal = nn.initializers.zeros, nn.initializers.normal
# Xavier for the whole (3 width, width) matrix: U(-a, a) with a^2 = 6 / (4 width).
_fused_xavier = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")


class TorchvisionViT(nn.Module):
    """The model. `Model` checks the arguments. Defaults are the document's best ViT."""

    num_classes: int
    patch_size: tuple[int, int] = (7, 7)
    width: int = 256
    depth: int = 4
    num_heads: int = 16
    mlp_dim: int = 512
    code_size: int = 128
    dropout: float | int = 0.0
    return_attn: bool = False

    @nn.compact
    def __call__(
        self, image: Num[Array | np.ndarray, "b y x ch"], *, train: bool = False
    ) -> tuple[Float[Array, "b c"], dict[str, Any]]:
        """Return logits and intermediates; probes use `out["code"]` (b, code_size).

        `train=True` needs rngs={"dropout": key} if dropout is above 0.
        """
        out: dict[str, Any] = {}
        x = jnp.asarray(image, jnp.float32)
        fan_in = self.patch_size[0] * self.patch_size[1] * x.shape[-1]
        x = out["stem"] = nn.Conv(
            self.width,
            self.patch_size,
            strides=self.patch_size,
            padding="VALID",
            # torch truncates this normal at -2 and 2 absolute, which no draw reaches.
            kernel_init=_normal(fan_in**-0.5),
            name="embedding",
        )(x)
        b, h, w, d = x.shape
        cls = self.param("cls", _zeros, (1, 1, d), jnp.float32)
        shape = (1, 1 + h * w, d)
        posemb = self.param("pos_embedding", _normal(0.02), shape, jnp.float32)
        x = jnp.concatenate([jnp.tile(cls, (b, 1, 1)), x.reshape(b, h * w, d)], axis=1)
        x = out["with_posemb"] = x + posemb
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        encoder = Encoder(
            self._block_config(train), self.depth, 0.0, False, None, name="Transformer"
        )
        x, out["encoder"] = encoder(x)
        x = out["head_input"] = x[:, 0]
        code = nn.Dense(self.code_size, kernel_init=_zeros, name="code")
        x = out["code"] = out["pre_logits"] = code(x)
        head = torch_init.dense(self.num_classes, self.code_size, name="head")
        x = out["logits"] = head(x)
        return x, out

    def _block_config(self, train: bool) -> BlockConfig:
        float32 = np.dtype(np.float32)
        return BlockConfig(
            mlp_dim=self.mlp_dim,
            num_heads=self.num_heads,
            dropout=self.dropout,
            deterministic=not train,
            dtype=float32,
            residual_dtype=float32,
            softmax_dtype=float32,
            gelu="exact",
            attn_impl="flax",
            return_attn=self.return_attn,
            qkv_init=_fused_xavier,
            out_init=torch_init.kernel,
        )


class SmallCnn(nn.Module):
    """The document's small CNN: three 3 x 3 convolutions, the code, the classes.

    It has 2,002,698 parameters for 1-channel images of 28 x 28 pixels.
    """

    num_classes: int
    width: int = 32
    code_size: int = 128

    @nn.compact
    def __call__(
        self, image: Num[Array | np.ndarray, "b y x ch"], *, train: bool = False
    ) -> tuple[Float[Array, "b c"], dict[str, Any]]:
        """Return logits and `out["code"]`; `train` has no effect."""
        del train
        height, width = image.shape[1:3]
        if min(height, width) < 7:
            raise ValueError(
                "three 3 x 3 convolutions need an image of at least 7 x 7 pixels, got "
                f"{height} x {width}; resize it"
            )
        x, out = jnp.asarray(image, jnp.float32), {}
        for i in range(3):
            bias = torch_init.bias(9 * x.shape[-1])
            x = nn.Conv(
                self.width,
                (3, 3),
                padding="VALID",
                kernel_init=torch_init.kernel,
                bias_init=bias,
                name=f"conv_{i}",
            )(x)
            x = nn.relu(x)
        x = x.reshape(x.shape[0], -1)
        x = torch_init.dense(self.code_size, x.shape[-1], name="code")(x)
        out["code"] = out["pre_logits"] = x
        x = torch_init.dense(self.num_classes, self.code_size, name="head")(x)
        out["logits"] = x
        return x, out


def Model(num_classes: int, **kw: Any) -> TorchvisionViT:
    """Build a TorchvisionViT; ValueError, in one sentence, for a bad argument."""
    model = make_module(TorchvisionViT, num_classes, kw)
    if model.width % model.num_heads:
        raise ValueError(
            f"width must be divisible by num_heads, got {model.width} and "
            f"{model.num_heads}"
        )
    return model


def Cnn(num_classes: int, **kw: Any) -> SmallCnn:
    """Build a SmallCnn; ValueError, in one sentence, for an impossible argument."""
    return make_module(SmallCnn, num_classes, kw)
