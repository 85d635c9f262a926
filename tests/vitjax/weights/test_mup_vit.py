"""mup-vit's model, written after its files: our logits equal its own."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import weights_cases as cases
from tests.helpers.torch_models import assert_logits, drawn
from vitjax import weights
from vitjax.models.vit import posemb_sincos_2d
from vitjax.tools.convert import convert
from vitjax.weights import files

GRID = cases.SQUARE


class Block(nn.Module):
    def __init__(self, width, heads, mlp_dim):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        layers = [nn.Linear(width, mlp_dim), nn.GELU(), nn.Dropout(0)]
        self.mlp = nn.Sequential(*layers, nn.Linear(mlp_dim, width), nn.Dropout(0))

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.self_attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Vit(nn.Module):
    """`reg` holds the class token of pool_type "tok", and then the registers."""

    def __init__(self, posemb, pool_type="gap", registers=0, rep_size=0):
        super().__init__()
        width, n = cases.WIDTH, GRID[0] * GRID[1]
        self.conv_proj = nn.Conv2d(3, width, 4, 4)
        if posemb == "learn":
            self.pos_embedding = nn.Parameter(torch.zeros(1, n, width))
        elif posemb == "sincos2d":
            table = torch.tensor(posemb_sincos_2d(*GRID, width)[0])
            self.register_buffer("pos_embedding", table)
        else:
            self.pos_embedding = None
        self.num_reg = registers + (pool_type == "tok")
        if self.num_reg == 1:
            self.register_buffer("reg", torch.zeros(1, 1, width))
        elif self.num_reg:
            reg = torch.randn(1, self.num_reg, width) / width**0.5
            self.reg = nn.Parameter(reg)
        self.pool_type = pool_type
        self.encoder = nn.Module()
        self.encoder.layers = nn.Sequential()
        for i in range(2):
            block = Block(width, cases.HEADS, 40)
            self.encoder.layers.add_module(f"encoder_layer_{i}", block)
        self.encoder.ln = nn.LayerNorm(width, eps=1e-6)
        self.heads = nn.Sequential()
        if rep_size:
            self.heads.add_module("pre_logits", nn.Linear(width, rep_size))
            self.heads.add_module("act", nn.Tanh())
        self.heads.add_module("head", nn.Linear(rep_size or width, cases.CLASSES))

    def forward(self, image):
        x = self.conv_proj(image).flatten(2).transpose(1, 2)
        if self.pos_embedding is not None:
            x = x + self.pos_embedding
        if self.num_reg:
            x = torch.cat([self.reg.expand(len(x), -1, -1), x], dim=1)
        x = self.encoder.ln(self.encoder.layers(x))
        patches = x[:, self.num_reg :]
        return self.heads(x[:, 0] if self.pool_type == "tok" else patches.mean(1))


MUP_VIT = [row[1:3] for row in cases.EXPRESSIBLE if row[0] == "mup_vit"]


@pytest.mark.parametrize(("kw", "say"), MUP_VIT, ids=cases.label)
def test_our_keys_and_its_weights(kw, say):
    """Our state dict fits its class; its weights give our logits."""
    model = Vit(**kw).double()
    state = cases.write(cases.params(dtype=np.float64, **kw), "mup_vit", say)
    model.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=True)
    # Constant positions, and the zeros of a single token.
    drawn(model, keep=[name for name, _ in model.named_buffers()])
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    params = cases.read(state, "mup_vit", cases.pool(say))
    assert ("pos_embedding" in params) == (kw["posemb"] == "learn")
    assert_logits(model, cases.logits(params, cases.image(), gelu="exact", **kw))


def test_its_checkpoints_do_not_show_which_token_is_the_class_token(tmp_path):
    model = Vit("learn", "tok", registers=1)
    kept = {"step": 3, "state_dict": model.state_dict(), "best_acc1": 0.5}
    torch.save({**kept, "optimizer": {}, "scheduler": {}}, tmp_path / "x.pth")
    path = tmp_path / "x.pth"
    with pytest.raises(
        ValueError, match=r"reg .* holds 2 tokens.*give pool_type='tok'"
    ):
        weights.load(path, num_heads=cases.HEADS)
    reg = model.reg.detach().numpy()
    got, _ = weights.load(path, num_heads=cases.HEADS, pool_type="tok")
    np.testing.assert_array_equal(got["cls"], reg[:, :1])
    np.testing.assert_array_equal(got["registers"], reg[:, 1:])
    got, _ = weights.load(path, num_heads=cases.HEADS, pool_type="gap")
    np.testing.assert_array_equal(got["registers"], reg)
    # A file of ours remembers it.
    out = tmp_path / "y.safetensors"
    convert(path, out, to="mup_vit", num_heads=cases.HEADS, pool_type="tok")
    np.testing.assert_array_equal(weights.load(out)[0]["cls"], reg[:, :1])
    assert files.read(out)[0].keys() == model.state_dict().keys()
