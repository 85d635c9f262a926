"""The plain ViT of "Better plain ViT baselines" (arXiv:2205.01580) on torch.nn.

It takes NHWC images and is initialised as the JAX original is. Shapes in the
docstrings: b batch, h w image, n tokens, d width, f MLP width, c classes.

Torch's own defaults would give another model. Here:
- the GELU is the tanh approximation (torch and torchvision: exact);
- LayerNorm has eps 1e-6 (torch: 1e-5);
- query, key and value matrices are drawn with the fan of a d x d matrix each (torch:
  with the fan of the fused 3d x d matrix, hence smaller by sqrt(2));
- the truncated normal has the requested standard deviation after truncation (torch:
  before);
- the head is zero, and MLP biases are drawn from N(0, 1e-6).
"""

import math

import torch
from torch import nn

# The standard deviation of a unit normal that is truncated at +-2.
TRUNCATED_STD = 0.87962566103423978


def to_nchw(image: torch.Tensor) -> torch.Tensor:
    """Permute (b, h, w, channels) to (b, channels, h, w)."""
    return image.permute(0, 3, 1, 2)


def sincos2d(height: int, width: int, dim: int) -> torch.Tensor:
    """Return MoCo v3's fixed position embedding: (1, height * width, dim), float64.

    Tokens are in row-major order. The quarters of a token's embedding are sin x, cos x,
    sin y, cos y at dim / 4 frequencies, from 1 down to 1 / 10000 in equal ratios.
    """
    omega = 10_000.0 ** -torch.linspace(0, 1, dim // 4, dtype=torch.float64)
    y = torch.arange(height, dtype=torch.float64).repeat_interleave(width)
    x = torch.arange(width, dtype=torch.float64).repeat(height)
    x, y = torch.outer(x, omega), torch.outer(y, omega)
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)[None]


def xavier_uniform_(weight: torch.Tensor, fan_in: int, fan_out: int, generator) -> None:
    """Draw uniformly in +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    bound = math.sqrt(6 / (fan_in + fan_out))
    nn.init.uniform_(weight, -bound, bound, generator=generator)


def lecun_normal_(weight: torch.Tensor, generator) -> None:
    """Draw a normal truncated at two deviations.

    Its variance after truncation is 1 / fan_in.
    """
    std = math.sqrt(1 / weight[0].numel()) / TRUNCATED_STD
    nn.init.trunc_normal_(weight, 0.0, std, -2 * std, 2 * std, generator=generator)


def init_attention_(attention: nn.MultiheadAttention, generator) -> None:
    """Draw query, key, value and output as separate matrices; set biases to 0."""
    width = attention.embed_dim
    for weight in attention.in_proj_weight.chunk(3):
        xavier_uniform_(weight, width, width, generator)
    xavier_uniform_(attention.out_proj.weight, width, width, generator)
    nn.init.zeros_(attention.in_proj_bias)
    nn.init.zeros_(attention.out_proj.bias)


def patch_tokens(x: torch.Tensor, first: int, num_patches: int) -> torch.Tensor:
    """Return the tokens of (b, n, d) that gap and map pool.

    cls comes before them, registers come after them.
    """
    return x[:, first : first + num_patches]


class Mlp(nn.Module):
    """Linear, GELU, Linear on the last dimension; `gelu`: "tanh" or "none" (exact)."""

    def __init__(self, width: int, mlp_dim: int, gelu: str):
        super().__init__()
        self.fc1 = nn.Linear(width, mlp_dim)
        self.act = nn.GELU(approximate=gelu)
        self.fc2 = nn.Linear(mlp_dim, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., d) to (..., d)."""
        return self.fc2(self.act(self.fc1(x)))

    def init_(self, generator) -> None:
        """Draw Xavier uniform weights, and biases from N(0, 1e-6)."""
        for layer in (self.fc1, self.fc2):
            fans = (layer.in_features, layer.out_features)
            xavier_uniform_(layer.weight, *fans, generator)
            nn.init.normal_(layer.bias, std=1e-6, generator=generator)


class EncoderBlock(nn.Module):
    """A pre-LN block: x + attention(LN(x)), then x + MLP(LN(x))."""

    def __init__(self, width: int, mlp_dim: int, num_heads: int, gelu: str, eps: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, mlp_dim, gelu)

    def forward(self, x: torch.Tensor, out: dict, name: str) -> torch.Tensor:
        """Map (b, n, d) to (b, n, d); store both branches and both sums in `out`."""
        y = self.norm1(x.to(self.norm1.weight))
        out[f"{name}/attention"], _ = self.attention(y, y, y, need_weights=False)
        out[f"{name}/+attention"] = x = x + out[f"{name}/attention"]
        out[f"{name}/mlp"] = self.mlp(self.norm2(x.to(self.norm2.weight)))
        out[f"{name}/+mlp"] = x = x + out[f"{name}/mlp"]
        return x


class MapHead(nn.Module):
    """Attention pooling (Lee et al., 2019): a learned probe attends to all tokens.

    `stream`: the dtype of its residual stream; None is the parameters'.
    """

    stream: torch.dtype | None = None

    def __init__(self, width: int, mlp_dim: int, num_heads: int, gelu: str, eps: float):
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, mlp_dim, gelu)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (b, n, d) to (b, d)."""
        probe = self.probe.expand(len(x), -1, -1)
        x, _ = self.attention(probe, x, x, need_weights=False)
        x = x.to(self.stream or self.probe.dtype)
        return (x + self.mlp(self.norm(x.to(self.probe.dtype))))[:, 0]


class ViT(nn.Module):
    """The classifier: image (b, h, w, 3) to logits (b, c) and the intermediates.

    Args:
      posemb: "sincos2d", "learn" or "none".
      pool_type: "gap", "tok" or "map".
      rep_size: the width of the tanh layer before the head; 0 is a linear head.
      registers: the number of learned tokens without position, which no pooling reads.
        They are drawn from N(0, 1e-6), as in the code of "Vision Transformers Need
        Registers" (arXiv:2309.16588).
      gelu: "tanh" or "exact".
      bfloat16: apply torch's autocast to all but pre_logits and head. Between the
        blocks, the residual stream keeps the parameters' dtype.
      bfloat16_stream: the residual stream is in bfloat16 too; LayerNorms stay in the
        parameters' dtype.
      seed: draws the weights.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        image_size: tuple[int, int],
        patch_size: tuple[int, int],
        width: int,
        depth: int,
        mlp_dim: int,
        num_heads: int,
        posemb: str = "sincos2d",
        pool_type: str = "gap",
        rep_size: int = 0,
        registers: int = 0,
        gelu: str = "tanh",
        eps: float = 1e-6,
        head_zeroinit: bool = True,
        bfloat16: bool = False,
        bfloat16_stream: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        block = (
            width,
            mlp_dim,
            num_heads,
            {"tanh": "tanh", "exact": "none"}[gelu],
            eps,
        )
        rows, columns = (s // p for s, p in zip(image_size, patch_size, strict=True))
        self.embedding = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.posemb, self.pool_type = posemb, pool_type
        self.head_zeroinit, self.autocast = head_zeroinit, bfloat16
        self.stream = torch.bfloat16 if bfloat16_stream else None
        if posemb == "learn":
            shape = (1, rows * columns, width)
            self.pos_embedding = nn.Parameter(torch.zeros(shape))
        elif posemb == "sincos2d":
            table = sincos2d(rows, columns, width)
            self.register_buffer("pos_embedding", table, persistent=False)
        if pool_type == "tok":
            self.cls = nn.Parameter(torch.zeros(1, 1, width))
        if registers:
            self.registers = nn.Parameter(torch.zeros(1, registers, width))
        self.num_registers = registers
        self.blocks = nn.ModuleList(EncoderBlock(*block) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=eps)
        if pool_type == "map":
            self.map_head = MapHead(*block)
            self.map_head.stream = self.stream
        if rep_size:
            self.pre_logits = nn.Linear(width, rep_size)
        self.head = nn.Linear(rep_size or width, num_classes)
        self.init_(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def init_(self, generator: torch.Generator) -> None:
        """Draw every parameter, as the JAX original does."""
        lecun_normal_(self.embedding.weight, generator)
        assert self.embedding.bias is not None
        nn.init.zeros_(self.embedding.bias)
        width = self.embedding.out_channels
        if self.posemb == "learn":
            std = 1 / math.sqrt(width)
            nn.init.normal_(self.pos_embedding, std=std, generator=generator)
        if self.num_registers:
            nn.init.normal_(self.registers, std=1e-6, generator=generator)
        for block in self.blocks:
            assert isinstance(block, EncoderBlock)
            init_attention_(block.attention, generator)
            block.mlp.init_(generator)
        if self.pool_type == "map":
            xavier_uniform_(self.map_head.probe, 1, width, generator)
            init_attention_(self.map_head.attention, generator)
            self.map_head.mlp.init_(generator)
        if hasattr(self, "pre_logits"):
            lecun_normal_(self.pre_logits.weight, generator)
            nn.init.zeros_(self.pre_logits.bias)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if not self.head_zeroinit:
            lecun_normal_(self.head.weight, generator)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """Return the logits, and every intermediate by name.

        The order of tokens is cls, patches, registers.
        """
        out = {}
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self.autocast):
            x = self.pooled(self.tokens(image, out), out)
        if hasattr(self, "pre_logits"):
            x = torch.tanh(self.pre_logits(x.to(self.pre_logits.weight)))
        out["pre_logits"] = x = x.to(self.head.weight)
        out["logits"] = x = self.head(x)
        return x, out

    def tokens(self, image: torch.Tensor, out: dict) -> torch.Tensor:
        """Return the embedded tokens (b, n, d) that enter the first block."""
        x = self.embedding(to_nchw(image)).flatten(2).transpose(1, 2)
        out["stem"] = x
        x = x.to(self.stream or image.dtype)
        if self.posemb != "none":
            x = x + self.pos_embedding.to(x)
        out["with_posemb"] = x
        if self.pool_type == "tok":
            x = torch.cat([self.cls.expand(len(x), -1, -1).to(x), x], dim=1)
        if self.num_registers:
            x = torch.cat([x, self.registers.expand(len(x), -1, -1).to(x)], dim=1)
        return x

    def pooled(self, x: torch.Tensor, out: dict) -> torch.Tensor:
        """Apply the blocks, the last norm and the pooling: (b, n, d) to (b, d)."""
        for i, block in enumerate(self.blocks):
            x = block(x, out, f"block{i:02d}")
        out["encoded"] = x = self.norm(x.to(self.norm.weight))
        num_patches = out["with_posemb"].shape[1]
        patches = patch_tokens(x, int(self.pool_type == "tok"), num_patches)
        if self.pool_type == "gap":
            x = patches.mean(dim=1)
        elif self.pool_type == "tok":
            x = x[:, 0]
        else:
            x = self.map_head(patches)
        out["head_input"] = x
        return x
