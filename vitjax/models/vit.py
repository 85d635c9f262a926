"""The plain Vision Transformer, with exactly big_vision's parameter names and shapes.

Shapes: b batch, n tokens, d width, h heads, k head dim, c classes; images are
(b, height, width, channels).

Unusual details, as in big_vision unless noted otherwise:
- Blocks are pre-LN, with LayerNorm eps 1e-6 (`norm_eps`). The last LayerNorm
  (`encoder_norm`) is before the pooling, not after it.
- GELU is the tanh approximation; `gelu="exact"` is PyTorch's default.
- Position embeddings are added before cls is prepended, so cls (and registers) have
  none. sincos2d is a constant, x before y, computed in float64 here and then cast.
- The head is initialised to zero, so the first loss is ln(num_classes).
- `dropout` applies to the embedded tokens, inside the MLP and after both branches, but
  never to the attention probabilities.
- `out` includes pre_logits and logits of every token; jit drops unused outputs.
- Registers (https://arxiv.org/abs/2309.16588) are not in big_vision. They are learned
  tokens from N(0, 1e-6), as in the paper's code, appended last. They are in `encoded`,
  but in no pooling and no *_2d output.
- Four options for models of other libraries are off by default. `layer_scale` is the
  initial value of LayerScale (https://arxiv.org/abs/2103.17239) after both branches.
  `pre_norm` adds a LayerNorm of all tokens before the blocks and removes the bias of
  the embedding, as in CLIP (https://arxiv.org/abs/2103.00020). `norm_after_pool` moves
  the last LayerNorm (`pool_norm`) after the pooling. `distilled` adds a second head for
  the first register, DeiT's distillation token (https://arxiv.org/abs/2012.12877); the
  logits are the mean of both heads', in training too.
- `floor_patches` drops pixels at the right and bottom that do not fill a patch, as
  big_vision does; without it such an image is an error.
- `drop_path` is not in big_vision: each example drops each branch of block i with
  probability drop_path * i / (depth - 1), and the survivors are scaled up (as in timm).
  It draws from the "dropout" key.

Parameters are stored in float32. Three arguments set the dtypes of the computation:
- `dtype_mm`: the matmuls of stem, blocks and MAP head. pre_logits and head use the
  wider dtype of parameters and input, so logits are float32 (or float64).
- `residual_dtype`: the residual stream, position embeddings and cls included.
- `softmax_dtype`: the softmax between the attention's matmuls, which are in dtype_mm.
None for the last two means dtype_mm, but at least float32. big_vision's bfloat16 is
dtype_mm = residual_dtype = softmax_dtype = "bfloat16" (it also stores cls and
pos_embedding in bfloat16; vitjax does not). LayerNorm computes in and returns at least
float32. For a model that is float64 throughout, enable x64, cast the parameters and set
dtype_mm="float64". With float64 parameters alone, LayerNorms and head are float64, but
the matmuls stay in dtype_mm, float32.
"""

import dataclasses
import typing
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from vitjax.config import arguments
from vitjax.models import products
from vitjax.models.products import Initializer

# big_vision models/vit.py:389-408, after https://arxiv.org/abs/2106.04560 (Ti to G),
# https://arxiv.org/abs/2209.06794 (e) and https://arxiv.org/abs/2305.13035 (So400m).
VARIANTS = {
    "mu": {"width": 32, "depth": 1, "mlp_dim": 128, "num_heads": 2},
    "Ti": {"width": 192, "depth": 12, "mlp_dim": 768, "num_heads": 3},
    "S": {"width": 384, "depth": 12, "mlp_dim": 1536, "num_heads": 6},
    "M": {"width": 512, "depth": 12, "mlp_dim": 2048, "num_heads": 8},
    "B": {"width": 768, "depth": 12, "mlp_dim": 3072, "num_heads": 12},
    "L": {"width": 1024, "depth": 24, "mlp_dim": 4096, "num_heads": 16},
    "So400m": {"width": 1152, "depth": 27, "mlp_dim": 4304, "num_heads": 16},
    "H": {"width": 1280, "depth": 32, "mlp_dim": 5120, "num_heads": 16},
    "g": {"width": 1408, "depth": 40, "mlp_dim": 6144, "num_heads": 16},
    "g-opt": {"width": 1536, "depth": 40, "mlp_dim": 6144, "num_heads": 16},
    "G": {"width": 1664, "depth": 48, "mlp_dim": 8192, "num_heads": 16},
    "G-opt": {"width": 1536, "depth": 48, "mlp_dim": 8192, "num_heads": 16},
    "e": {"width": 1792, "depth": 56, "mlp_dim": 15360, "num_heads": 16},
}
POSEMBS = ("learn", "sincos2d", "none")
POOL_TYPES = ("gap", "map", "tok", "0", "none")
ATTN_IMPLS = ("auto", "flax", "xla", "cudnn")
MLP_IMPLS = ("xla", "pallas")
GELUS = {
    "tanh": partial(nn.gelu, approximate=True),
    "exact": partial(nn.gelu, approximate=False),
    "quick": lambda x: x * nn.sigmoid(1.702 * x),  # OpenAI's CLIP
}
DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(jnp.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
_POLICIES = jax.checkpoint_policies
REMAT_POLICIES = {
    "none": None,  # no remat at all
    "nothing_saveable": _POLICIES.nothing_saveable,
    "everything_saveable": _POLICIES.everything_saveable,
    "dots_saveable": _POLICIES.dots_saveable,
    "dots_with_no_batch_dims_saveable": _POLICIES.dots_with_no_batch_dims_saveable,
}

_xavier = nn.initializers.xavier_uniform()


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """The model's arguments that all blocks share, with dtypes resolved."""

    mlp_dim: int | None
    num_heads: int
    dropout: float | int
    deterministic: bool
    dtype: np.dtype  # the matmuls'
    residual_dtype: np.dtype
    softmax_dtype: np.dtype
    gelu: str
    attn_impl: str
    return_attn: bool
    qkv_init: Initializer = _xavier
    out_init: Initializer = _xavier
    attn_bias_init: Initializer = nn.initializers.zeros
    norm_eps: float | int = 1e-6
    layer_scale: float | int | None = None
    norm_after_pool: bool = False
    mlp_impl: str = "xla"

    def norm(self, name: str) -> nn.LayerNorm:
        """Make a LayerNorm; call this in a module's compact method."""
        return nn.LayerNorm(epsilon=self.norm_eps, name=name)


def patch_grid(
    image: Num[Array | np.ndarray, "b y x ch"],
    patch_size: tuple[int, int],
    floor_patches: bool | None = None,
) -> tuple[int, int]:
    """Return the numbers of rows and columns of patches of an image.

    Raises ValueError if patches do not divide the image, unless `floor_patches`, which
    is None for models without that argument.
    """
    (ph, pw), (_, height, width, _) = patch_size, image.shape
    rest = (height % ph, width % pw)
    if min(height // ph, width // pw) < 1 or (any(rest) and not floor_patches):
        hint = "resize the image, or choose another patch_size"
        if floor_patches is not None:
            hint = (
                "resize the image, choose another patch_size, or set floor_patches=True "
                f"to drop {rest[0]} rows and {rest[1]} columns, as big_vision does"
            )
        raise ValueError(
            f"an image of {height}x{width} pixels does not divide into patches of "
            f"{ph}x{pw}; {hint}"
        )
    return height // ph, width // pw


def posemb_sincos_2d(height: int, width: int, dim: int) -> Float[np.ndarray, "1 n d"]:
    """Return the fixed embedding [sin x, cos x, sin y, cos y] of a grid, in float64.

    Positions are row by row. The frequencies decrease geometrically from 1 to 1/10000
    (https://arxiv.org/abs/2205.01580).
    """
    if dim % 4 or dim < 8:
        raise ValueError(
            f"posemb 'sincos2d' needs a width divisible by 4, at least 8; got {dim}"
        )
    y, x = np.mgrid[:height, :width].reshape(2, -1, 1)
    omega = 10_000.0 ** -(np.arange(dim // 4) / (dim // 4 - 1))
    y, x = y * omega, x * omega
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)[None]


def einsum_attention(
    query: Float[Array, "b n h k"],
    key: Float[Array, "b m h k"],
    value: Float[Array, "b m h k"],
    softmax_dtype: np.dtype,
) -> tuple[Float[Array, "b n h k"], Float[Array, "b h n m"]]:
    """Return attention and its probabilities, by flax's operations in flax's order."""
    dtype = query.dtype
    query = query / jnp.sqrt(query.shape[-1]).astype(dtype)
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key)
    probs = jax.nn.softmax(logits.astype(softmax_dtype)).astype(dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", probs, value), probs


class Attention(nn.Module):
    """Multi-head attention; parameters as in flax's MultiHeadDotProductAttention.

    With the scale and bias of a LayerNorm, `norm`, the inputs are standardised only.
    """

    cfg: BlockConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        y: Float[Array, "b m d"],
        norm: products.Affine | None = None,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b h n m"] | None]:
        """Attend from `x` to `y`; only attn_impl="flax" returns the probabilities."""
        cfg, d = self.cfg, x.shape[-1]
        split = (cfg.num_heads, d // cfg.num_heads)
        inits = (cfg.qkv_init, cfg.attn_bias_init)
        matrices = [
            products.Linear((d,), split, *inits, name=name)()
            for name in ("query", "key", "value")
        ]
        if norm is not None:
            matrices = [norm.folded(into) for into in matrices]
        with jax.named_scope("qkv"):
            if x is y:
                apart = cfg.attn_impl == "cudnn"
                three = products.apply_three(x, matrices, cfg.dtype, apart=apart)
            else:
                three = [
                    products.apply(of, matrix, cfg.dtype)
                    for of, matrix in zip((x, y, y), matrices, strict=True)
                ]
        query, key, value = (z.reshape(*z.shape[:-1], *split) for z in three)
        if cfg.attn_impl == "flax":
            x, probs = einsum_attention(query, key, value, cfg.softmax_dtype)
        else:
            impl: Any = cfg.attn_impl
            x = jax.nn.dot_product_attention(query, key, value, implementation=impl)
            probs = None
        inits = (cfg.out_init, cfg.attn_bias_init)
        out = products.Linear(split, (d,), *inits, name="out")()
        x = x.reshape(*x.shape[:-2], d)
        with jax.named_scope("out"):
            return products.apply(x, out, cfg.dtype), probs


class MlpBlock(nn.Module):
    """Two Dense layers with a GELU between them; `norm` is as in `Attention`."""

    cfg: BlockConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], norm: products.Affine | None = None
    ) -> Float[Array, "b n d"]:
        """Apply both layers, with dropout between them."""
        cfg, d = self.cfg, x.shape[-1]
        hidden = cfg.mlp_dim or 4 * d
        inits = (_xavier, nn.initializers.normal(1e-6))
        first = products.Linear((d,), (hidden,), *inits, name="Dense_0")()
        if norm is not None:
            first = norm.folded(first)
        second = products.Linear((hidden,), (d,), *inits, name="Dense_1")
        gelu = arguments.lookup(GELUS, cfg.gelu, "gelu")
        if cfg.mlp_impl == "pallas":
            return self._fused(x, first, second(), gelu)
        with jax.named_scope("Dense_0"):
            x = products.apply(x, first, cfg.dtype)
        x = products.recomputed(gelu)(x)
        x = nn.Dropout(cfg.dropout)(x, cfg.deterministic)
        with jax.named_scope("Dense_1"):
            return products.apply(x, second(), cfg.dtype)

    def _fused(self, x, first, second, gelu):
        """Apply both layers without dropout, GELU's way back in one kernel."""
        from vitjax.models import gelu_product  # Pallas is slow to import

        (w0, b0), (w1, b1) = jax.tree.map(
            lambda p: p.astype(self.cfg.dtype), (first, second)
        )
        rows = x.astype(self.cfg.dtype).reshape(-1, x.shape[-1])
        with jax.named_scope("Dense_0"):
            rows = rows @ w0
        with jax.named_scope("Dense_1"):
            rows = gelu_product.gelu_product(rows, b0, w1, self.cfg.gelu, gelu)
            return (rows + b1[None]).reshape(x.shape)


class LayerScale(nn.Module):
    """A learned factor for each channel of a branch, in the residual stream's dtype."""

    cfg: BlockConfig
    initial: float | int

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Return the scaled branch."""
        dtype = self.cfg.residual_dtype
        constant = nn.initializers.constant(self.initial)
        gamma = self.param("gamma", constant, (x.shape[-1],), jnp.float32)
        return x.astype(dtype) * gamma.astype(dtype)[None, None]


class EncoderBlock(nn.Module):
    """x + sa(LN(x)), then x + mlp(LN(x))."""

    cfg: BlockConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], drop_path: Float[Array, ""] | None
    ) -> tuple[Float[Array, "b n d"], dict[str, Array]]:
        """Return the next residual stream and this block's intermediates."""
        out = {}
        attention = Attention(self.cfg, name="MultiHeadDotProductAttention_0")
        y, norm = products.Norm(self.cfg.norm_eps, name="LayerNorm_0")(x)
        out["sa"], probs = attention(y, y, norm)
        if self.cfg.return_attn and probs is not None:
            out["attn"] = probs
        y = self._branch(out["sa"], drop_path, "LayerScale_0")
        x = out["+sa"] = products.added(x, y)
        y, norm = products.Norm(self.cfg.norm_eps, name="LayerNorm_1")(x)
        out["mlp"] = MlpBlock(self.cfg, name="MlpBlock_0")(y, norm)
        y = self._branch(out["mlp"], drop_path, "LayerScale_1")
        x = out["+mlp"] = products.added(x, y)
        return x, out

    def _branch(self, y, drop_path, scale_name):
        """Apply LayerScale, dropout and stochastic depth to a branch's output.

        The result has the residual stream's dtype.
        """
        if self.cfg.layer_scale is not None:
            y = LayerScale(self.cfg, self.cfg.layer_scale, name=scale_name)(y)
        y = nn.Dropout(self.cfg.dropout)(y, self.cfg.deterministic)
        if drop_path is not None:
            shape = (y.shape[0], 1, 1)
            keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - drop_path, shape)
            y = jnp.where(keep, y / (1 - drop_path), 0)
        return y.astype(self.cfg.residual_dtype)


class Encoder(nn.Module):
    """`depth` blocks, as a loop or one scanned block, and the last LayerNorm.

    With `norm_after_pool` the LayerNorm is left out, because it follows the pooling.
    """

    cfg: BlockConfig
    depth: int
    drop_path: float | int
    scan: bool
    remat_policy: str | None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"]
    ) -> tuple[Float[Array, "b n d"], dict[str, Any]]:
        """Return the encoded tokens and the intermediates by block."""
        out = {}
        rates = None
        if self.drop_path and not self.cfg.deterministic:
            rates = jnp.linspace(0, self.drop_path, self.depth, dtype=jnp.float32)
        block = self._block()
        if self.scan:
            stack = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                length=self.depth,
            )(self.cfg, name="encoderblock")
            x, outs = stack(x, rates)
            for i in range(self.depth):
                out[f"block{i:02d}"] = jax.tree.map(lambda o, i=i: o[i], outs)
        else:
            for i in range(self.depth):
                layer = block(self.cfg, name=f"encoderblock_{i}")
                rate = None if rates is None else rates[i]
                x, out[f"block{i:02d}"] = layer(x, rate)
            out["pre_ln"] = x
        if self.cfg.norm_after_pool:
            return x, out
        return self.cfg.norm("encoder_norm")(x), out

    def _block(self):
        """Return EncoderBlock, by default with remat only under scan, as big_vision."""
        policy = self.remat_policy or ("nothing_saveable" if self.scan else "none")
        saveable = arguments.lookup(REMAT_POLICIES, policy, "remat_policy")
        if saveable is None:
            return EncoderBlock
        # The loop of a scan already prevents CSE from undoing the remat.
        return nn.remat(EncoderBlock, prevent_cse=not self.scan, policy=saveable)


class MAPHead(nn.Module):
    """Multi-head attention pooling: one learned query over all patch tokens."""

    cfg: BlockConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        """Return the pooled token."""
        b, _, d = x.shape
        attention = Attention(self.cfg, name="MultiHeadDotProductAttention_0")
        probe = self.param("probe", _xavier, (1, 1, d), jnp.float32)
        x, _ = attention(jnp.broadcast_to(probe, (b, 1, d)), x)
        x = x.astype(self.cfg.residual_dtype)
        y, norm = products.Norm(self.cfg.norm_eps, name="LayerNorm_0")(x)
        y = MlpBlock(self.cfg, name="MlpBlock_0")(y, norm)
        return (x + y.astype(self.cfg.residual_dtype))[:, 0]


class ViT(nn.Module):
    """The model. `Model` builds it from a variant name and checks the arguments."""

    num_classes: int | None = None
    patch_size: tuple[int, int] = (16, 16)
    width: int = 768
    depth: int = 12
    mlp_dim: int | None = None  # None: 4 * width
    num_heads: int = 12
    posemb: str = "learn"
    rep_size: int | bool = False  # width of the tanh layer before the head; True: width
    dropout: float | int = 0.0
    pool_type: str = "gap"
    head_zeroinit: bool = True
    init_head_bias: float | int = 0.0  # -6.9 starts sigmoid_xent at 1/1000 per class
    scan: bool = False
    remat_policy: str | None = None  # None: "nothing_saveable" under scan, else "none"
    dtype_mm: str = "float32"
    residual_dtype: str | None = None
    softmax_dtype: str | None = None
    gelu: str = "tanh"
    attn_impl: str = "flax"
    mlp_impl: str = "xla"
    return_attn: bool = False
    registers: int = 0
    drop_path: float | int = 0.0
    layer_scale: float | int | None = None  # initial value; None: no LayerScale
    pre_norm: bool = False
    norm_after_pool: bool = False
    norm_eps: float | int = 1e-6
    distilled: bool = False
    floor_patches: bool = False

    @nn.compact
    def __call__(
        self, image: Num[Array | np.ndarray, "b y x ch"], *, train: bool = False
    ) -> tuple[Float[Array, "b ..."], dict[str, Any]]:
        """Return logits (or pre_logits without a head) and big_vision's intermediates.

        `train=True` needs rngs={"dropout": key} if dropout or drop_path is above 0.
        """
        cfg = _block_config(self, image.shape[1:], deterministic=not train)
        out = {}
        x = out["stem"] = self._stem(jnp.asarray(image, cfg.dtype))
        b, h, w, d = x.shape
        x = jnp.reshape(x, (b, h * w, d)).astype(cfg.residual_dtype)
        x = out["with_posemb"] = self._add_posemb(x, h, w)
        x = nn.Dropout(self.dropout)(self._add_tokens(x), not train)
        if self.pre_norm:
            x = cfg.norm("pre_norm")(x).astype(cfg.residual_dtype)
        encoder = Encoder(
            cfg,
            self.depth,
            self.drop_path,
            self.scan,
            self.remat_policy,
            name="Transformer",
        )
        x, out["encoder"] = encoder(x)
        out["encoded"] = x
        first = int(self.pool_type == "tok")
        patches = x[:, first : first + h * w]
        distilled = x[:, first + h * w] if self.distilled else None
        x = self._pool(x, patches, cfg)
        if self.norm_after_pool:
            norm = cfg.norm("pool_norm")
            x, patches = norm(x), norm(patches)
            distilled = norm(distilled) if self.distilled else None
        if self.pool_type != "none":
            out["head_input"] = x
        return self._head(x, jnp.reshape(patches, (b, h, w, d)), distilled, out)

    def _stem(self, image):
        rows, columns = patch_grid(image, self.patch_size, self.floor_patches)
        bias_init = None if self.pre_norm else nn.initializers.zeros
        embedding = products.Linear(
            (*self.patch_size, image.shape[-1]),
            (self.width,),
            nn.initializers.lecun_normal(),
            bias_init,
            name="embedding",
        )()
        with jax.named_scope("embedding"):
            x = products.patches(image, self.patch_size)
            x = products.apply(x, embedding, image.dtype)
        return x.reshape(image.shape[0], rows, columns, self.width)

    def _add_posemb(self, x, h, w):
        if self.posemb == "none":
            return x
        if self.posemb == "sincos2d":
            posemb = posemb_sincos_2d(h, w, self.width)
        else:
            normal = nn.initializers.normal(self.width**-0.5)
            shape = (1, h * w, self.width)
            posemb = self.param("pos_embedding", normal, shape, jnp.float32)
        return x + jnp.asarray(posemb, x.dtype)

    def _add_tokens(self, x):
        """Concatenate [cls, patches, registers]; cls and registers are optional."""
        b, _, d = x.shape
        zeros, normal = nn.initializers.zeros, nn.initializers.normal(1e-6)
        parts = [x]
        if self.pool_type == "tok":
            parts = [self.param("cls", zeros, (1, 1, d), jnp.float32), *parts]
        if self.registers:
            shape = (1, self.registers, d)
            parts = [*parts, self.param("registers", normal, shape, jnp.float32)]
        parts = [jnp.broadcast_to(p, (b, *p.shape[1:])).astype(x.dtype) for p in parts]
        return jnp.concatenate(parts, axis=1)

    def _pool(self, x, patches, cfg):
        if self.pool_type == "gap":
            return jnp.mean(patches, axis=1)
        if self.pool_type == "map":
            cfg = dataclasses.replace(cfg, dropout=0.0)
            return MAPHead(cfg, name="MAPHead_0")(patches)
        return patches if self.pool_type == "none" else x[:, 0]

    def _head(self, x, x_2d, distilled, out):
        if self.rep_size:
            size = self.width if self.rep_size is True else self.rep_size
            pre_logits = nn.Dense(size, name="pre_logits")
            x, x_2d = nn.tanh(pre_logits(x)), nn.tanh(pre_logits(x_2d))
        out["pre_logits_2d"], out["pre_logits"] = x_2d, x
        if self.num_classes:
            zeros, lecun = nn.initializers.zeros, nn.initializers.lecun_normal()
            dense = partial(
                nn.Dense,
                self.num_classes,
                kernel_init=zeros if self.head_zeroinit else lecun,
                bias_init=nn.initializers.constant(self.init_head_bias),
            )
            head = dense(name="head")
            out["logits_2d"] = head(x_2d)
            x = head(x)
            if self.distilled:
                x = (x + dense(name="head_dist")(distilled)) / 2
            out["logits"] = x
        return x, out


def Model(num_classes: int | None = None, variant: str | None = None, **kw: Any) -> ViT:
    """Build a ViT of `num_classes` (None or 0: no head) from a variant ("S/16").

    Every field of `ViT` is an argument and overrides the variant's value. Raises
    ValueError, in one sentence, for an unknown name or an impossible size.
    """
    fields = {f.name for f in dataclasses.fields(ViT)} - {"parent", "name"}
    for name in kw:
        if name not in fields:
            raise arguments.unknown(name, {*fields, "variant"}, "model argument")
    if variant is not None:
        kw = {**_variant_sizes(variant, "patch_size" in kw), **kw}
    if "patch_size" in kw:
        kw["patch_size"] = _patch_size(kw["patch_size"])
    if "pool_type" in kw:
        kw["pool_type"] = str(kw["pool_type"])  # 0 on a command line is an int
    arguments.check_types("model", typing.get_type_hints(ViT), kw)
    model = ViT(num_classes, **kw)
    _check(model)
    return model


def cudnn_lacks(model: ViT, image_shape: Sequence[int]) -> str | None:
    """Return what JAX's cuDNN attention misses to train on images (h w ch), or None."""
    channels = model.width // model.num_heads
    rows, columns = (
        n // p for n, p in zip(image_shape[:2], model.patch_size, strict=True)
    )
    tokens = rows * columns + (model.pool_type == "tok") + model.registers
    if model.dtype_mm not in ("bfloat16", "float16"):
        return f"dtype_mm 'bfloat16' or 'float16', got {model.dtype_mm!r}"
    if channels % 8:
        return f"heads of a multiple of 8 channels, got {channels}"
    if model.pool_type == "map":
        return "another pool_type than 'map', whose only query is an odd number"
    if tokens % 2:
        return f"an even number of tokens, got {tokens} (registers=1 adds one)"
    return None


def fastest_attention(model: ViT, device: Any, image_shape: Sequence[int]) -> str:
    """Return what attn_impl="auto" is for images (h w ch) on a device.

    The device may be absent. The answer is "cudnn" on an NVIDIA GPU where cuDNN can do
    the model's attention, else "flax".
    """
    # NVIDIA's are numbers, such as "9.0"; flash attention begins with Ampere, 8.0.
    capability = str(getattr(device, "compute_capability", ""))
    if not capability.replace(".", "", 1).isdecimal() or float(capability) < 8:
        return "flax"
    served = (
        cudnn_lacks(model, image_shape) is None
        and model.width // model.num_heads <= 128  # Hopper's 256 is not everyone's
        and model.softmax_dtype in (None, "float32")
        and not model.return_attn
    )
    return "cudnn" if served else "flax"


def with_attention(model: ViT, device: Any, image_shape: Sequence[int]) -> ViT:
    """Return a model to train on a device, with "auto" replaced by what it is there.

    Raises ValueError for a model whose attention cuDNN is told to do, and cannot.
    """
    if model.attn_impl == "auto":
        return model.clone(attn_impl=fastest_attention(model, device, image_shape))
    lacks = cudnn_lacks(model, image_shape) if model.attn_impl == "cudnn" else None
    if lacks is not None:
        raise ValueError(f"attn_impl 'cudnn' needs {lacks}; or choose attn_impl='auto'")
    return model


def scan_to_loop(params: Mapping[str, Any]) -> dict[str, Any]:
    """Convert parameters of a model with scan=True to those with scan=False."""
    encoder = dict(params["Transformer"])
    if "encoderblock" not in encoder:
        raise ValueError("expected parameters of a model with scan=True, got a loop's")
    stacked = encoder.pop("encoderblock")
    for i in range(len(jax.tree.leaves(stacked)[0])):
        encoder[f"encoderblock_{i}"] = jax.tree.map(lambda x, i=i: x[i], stacked)
    return {**params, "Transformer": encoder}


def loop_to_scan(params: Mapping[str, Any]) -> dict[str, Any]:
    """Invert `scan_to_loop`; numpy leaves stay numpy."""
    encoder = dict(params["Transformer"])
    if "encoderblock_0" not in encoder:
        raise ValueError("expected parameters of a model with scan=False, got a scan's")
    depth = sum(name.startswith("encoderblock_") for name in encoder)
    blocks = [encoder.pop(f"encoderblock_{i}") for i in range(depth)]

    def stack(*leaves):
        xp = np if isinstance(leaves[0], np.ndarray) else jnp
        return xp.stack(leaves)

    encoder["encoderblock"] = jax.tree.map(stack, *blocks)
    return {**params, "Transformer": encoder}


def _variant_sizes(variant: str, has_patch_size: bool) -> dict[str, Any]:
    name, _, patch = variant.partition("/")
    sizes: dict[str, Any] = dict(arguments.lookup(VARIANTS, name, "variant"))
    if patch.isdecimal() and int(patch):
        sizes["patch_size"] = (int(patch), int(patch))
    elif "/" in variant or not has_patch_size:
        raise ValueError(
            f"variant must end in a patch size in pixels, as in '{name}/16'; "
            f"got {variant!r}"
        )
    return sizes


def _patch_size(patch_size: Any) -> tuple[int, int]:
    if not isinstance(patch_size, tuple | list) or not (
        len(patch_size) == 2 and all(isinstance(p, int) and p > 0 for p in patch_size)
    ):
        raise ValueError(
            f"patch_size must be (height, width) in pixels, as in (16, 16); "
            f"got {patch_size!r}"
        )
    return patch_size[0], patch_size[1]


def _check(model: ViT) -> None:
    """Raise ValueError unless every argument is known and they agree."""
    tables: dict[str, Collection[str]] = {
        "posemb": POSEMBS,
        "pool_type": POOL_TYPES,
        "gelu": GELUS,
        "attn_impl": ATTN_IMPLS,
        "mlp_impl": MLP_IMPLS,
        "remat_policy": REMAT_POLICIES,
        "dtype_mm": DTYPES,
        "residual_dtype": DTYPES,
        "softmax_dtype": DTYPES,
    }
    optional = ("remat_policy", "residual_dtype", "softmax_dtype")
    for name, known in tables.items():
        value = getattr(model, name)
        if value not in known and not (value is None and name in optional):
            raise arguments.unknown(str(value), known, name)
    for name in ("width", "depth", "num_heads"):
        if getattr(model, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(model, name)}")
    if model.mlp_dim is not None and model.mlp_dim < 1:
        raise ValueError(f"mlp_dim must be at least 1, got {model.mlp_dim}")
    for name in ("dropout", "drop_path"):
        if not 0 <= getattr(model, name) < 1:
            raise ValueError(f"{name} must be in [0, 1), got {getattr(model, name)}")
    if model.norm_eps <= 0:
        raise ValueError(f"norm_eps must be above 0, got {model.norm_eps}")
    if model.distilled and (
        model.pool_type != "tok"
        or model.registers < 1
        or model.rep_size
        or not model.num_classes
    ):
        raise ValueError(
            "distilled needs a head, pool_type='tok', registers of at least 1 (the first "
            "is the distillation token) and no rep_size"
        )
    if model.width % model.num_heads:
        raise ValueError(
            f"width must be divisible by num_heads, got {model.width} and "
            f"{model.num_heads}"
        )
    if model.attn_impl not in ("auto", "flax"):
        _check_fused(model)
    if model.mlp_impl == "pallas":
        _check_pallas(model)


def _check_fused(model: ViT) -> None:
    """Raise ValueError for what jax.nn.dot_product_attention cannot do."""
    what = f"attn_impl {model.attn_impl!r}"
    if model.return_attn:
        raise ValueError(
            f"{what} does not return the attention probabilities; "
            "return_attn needs attn_impl='flax'"
        )
    softmax = model.softmax_dtype
    if softmax is None and model.dtype_mm == "float64":
        softmax = "float64"
    if softmax not in (None, "float32"):
        raise ValueError(
            f"{what} computes its softmax in float32; "
            f"softmax_dtype {softmax!r} needs attn_impl='flax'"
        )
    if model.attn_impl == "cudnn" and model.dtype_mm not in ("bfloat16", "float16"):
        raise ValueError(
            f"{what} needs dtype_mm 'bfloat16' or 'float16', got {model.dtype_mm!r}"
        )


def _check_pallas(model: ViT) -> None:
    """Raise ValueError for what the kernel of `gelu_product` cannot do."""
    from vitjax.models import gelu_product  # Pallas is slow to import

    least = gelu_product.LEAST_DEPTH
    lacks = None
    if model.dtype_mm not in ("bfloat16", "float16"):
        lacks = f"dtype_mm 'bfloat16' or 'float16', got {model.dtype_mm!r}"
    elif model.dropout:
        lacks = f"dropout 0, got {model.dropout}"
    elif model.width % least:
        lacks = f"a width that is a multiple of {least}, got {model.width}"
    if lacks is not None:
        raise ValueError(f"mlp_impl 'pallas' needs {lacks}; or choose mlp_impl='xla'")


def _block_config(
    model: ViT, image_shape: Sequence[int], deterministic: bool
) -> BlockConfig:
    """Return the arguments that the blocks share, with None dtypes resolved."""
    names = (model.dtype_mm, model.residual_dtype, model.softmax_dtype)
    if "float64" in names and jnp.result_type(float) != np.float64:
        raise ValueError(
            "a float64 model needs jax.config.update('jax_enable_x64', True)"
        )
    mm = arguments.lookup(DTYPES, model.dtype_mm, "dtype_mm")
    default = np.dtype(jnp.promote_types(mm, np.float32))
    residual, softmax = (
        default if name is None else arguments.lookup(DTYPES, name, "dtype")
        for name in names[1:]
    )
    attn_impl = model.attn_impl
    if attn_impl == "auto":  # a program replaces it, for its own devices
        attn_impl = fastest_attention(model, jax.devices()[0], image_shape)
    return BlockConfig(
        mlp_dim=model.mlp_dim,
        num_heads=model.num_heads,
        dropout=model.dropout,
        deterministic=deterministic,
        dtype=mm,
        residual_dtype=residual,
        softmax_dtype=softmax,
        gelu=model.gelu,
        attn_impl=attn_impl,
        return_attn=model.return_attn,
        norm_eps=model.norm_eps,
        layer_scale=model.layer_scale,
        norm_after_pool=model.norm_after_pool,
        mlp_impl=model.mlp_impl,
    )
