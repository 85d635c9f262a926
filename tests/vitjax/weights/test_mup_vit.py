"""mup-vit's model, written from what is known of its files: logits in both directions."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import weights_cases
from vitjax import weights
from vitjax.models.vit import posemb_sincos_2d
from vitjax.weights import files

GRID = weights_cases.SQUARE


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
    """`register` tokens beside the class token of pool_type "tok", all in `reg`."""

    def __init__(self, posemb="sincos2d", pool_type="gap", register=0, mlp_head=0):
        super().__init__()
        width, n = weights_cases.WIDTH, GRID[0] * GRID[1]
        self.conv_proj = nn.Conv2d(3, width, 4, 4)
        if posemb == "learn":
            self.pos_embedding = nn.Parameter(torch.zeros(1, n, width))
        elif posemb == "sincos2d":
            table = torch.tensor(posemb_sincos_2d(*GRID, width)[0])
            self.register_buffer("pos_embedding", table.float())
        else:
            self.pos_embedding = None
        self.num_reg = register + (pool_type == "tok")
        if self.num_reg == 1:
            self.register_buffer("reg", torch.zeros(1, 1, width))
        elif self.num_reg:
            reg = torch.randn(1, self.num_reg, width) / width**0.5
            self.reg = nn.Parameter(reg)
        self.pool_type = pool_type
        self.encoder = nn.Module()
        self.encoder.layers = nn.Sequential()
        for i in range(2):
            block = Block(width, weights_cases.HEADS, 40)
            self.encoder.layers.add_module(f"encoder_layer_{i}", block)
        self.encoder.ln = nn.LayerNorm(width, eps=1e-6)
        self.heads = nn.Sequential()
        if mlp_head:
            self.heads.add_module("pre_logits", nn.Linear(width, mlp_head))
            self.heads.add_module("act", nn.Tanh())
        self.heads.add_module(
            "head", nn.Linear(mlp_head or width, weights_cases.CLASSES)
        )

    def forward(self, image):
        x = self.conv_proj(image).flatten(2).transpose(1, 2)
        if self.pos_embedding is not None:
            x = x + self.pos_embedding
        if self.num_reg:
            x = torch.cat([self.reg.expand(len(x), -1, -1), x], dim=1)
        x = self.encoder.ln(self.encoder.layers(x))
        patches = x[:, self.num_reg :]
        return self.heads(x[:, 0] if self.pool_type == "tok" else patches.mean(1))


@torch.no_grad()
def logits(model):
    image = torch.tensor(weights_cases.image(GRID)).permute(0, 3, 1, 2)
    return model.double().eval()(image).numpy()


def arrays(model):
    return {k: v.numpy() for k, v in model.double().state_dict().items()}


CASES = [
    {"posemb": "sincos2d"},
    {"posemb": "learn", "mlp_head": 7},
    {"posemb": "none", "register": 1},
    {"posemb": "sincos2d", "register": 3, "mlp_head": 7},
    {"posemb": "learn", "pool_type": "tok"},
    {"posemb": "sincos2d", "pool_type": "tok", "register": 2},
]


@pytest.mark.parametrize("kw", CASES, ids=weights_cases.label)
@torch.no_grad()
def test_logits_are_its_own_in_both_directions(kw):
    ours = {"posemb": kw["posemb"], "pool_type": kw.get("pool_type", "gap")}
    ours |= {"registers": kw.get("register", 0), "rep_size": kw.get("mlp_head", False)}
    # Its weights here.
    model = Vit(**kw)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.double().state_dict().items():
        constant = name == "pos_embedding" and kw["posemb"] == "sincos2d"
        if not constant and not (name == "reg" and tensor.shape[1] == 1):
            tensor.normal_(std=0.3, generator=generator)
    say = {"pool_type": ours["pool_type"]}
    params = weights_cases.read(arrays(model), "mup_vit", say)
    assert ("pos_embedding" in params) == (kw["posemb"] == "learn")
    got = weights_cases.logits(params, weights_cases.image(GRID), gelu="exact", **ours)
    # Its table of sincos2d is of float32.
    bound = 1e-6 if kw["posemb"] == "sincos2d" else 1e-9
    np.testing.assert_allclose(logits(model), got, rtol=0, atol=bound)
    # Ours there: every key, no other, of the same shapes.
    params = weights_cases.params(GRID, dtype=np.float64, **ours)
    told = {"posemb": kw["posemb"], "grid": GRID}
    state = weights.to_state_dict(params, format="mup_vit", **told)
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape for k, v in arrays(model).items()
    }
    model.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=True)
    got = weights_cases.logits(params, weights_cases.image(GRID), gelu="exact", **ours)
    np.testing.assert_allclose(logits(model), got, rtol=0, atol=1e-9)
    assert np.abs(got).max() > 0.1


def test_its_checkpoints_and_what_they_do_not_say(tmp_path):
    model = Vit("learn", "tok", register=1)
    kept = {"step": 3, "state_dict": model.state_dict(), "best_acc1": 0.5}
    torch.save({**kept, "optimizer": {}, "scheduler": {}}, tmp_path / "x.pth")
    path = tmp_path / "x.pth"
    with pytest.raises(ValueError, match=r"reg .* holds 2 tokens.*say pool_type='tok'"):
        weights.load(path, num_heads=weights_cases.HEADS)
    reg = model.reg.detach().numpy()
    got, _ = weights.load(path, num_heads=weights_cases.HEADS, pool_type="tok")
    np.testing.assert_array_equal(got["cls"], reg[:, :1])
    np.testing.assert_array_equal(got["registers"], reg[:, 1:])
    got, _ = weights.load(path, num_heads=weights_cases.HEADS, pool_type="gap")
    np.testing.assert_array_equal(got["registers"], reg)
    # A file of ours remembers it.
    from vitjax.tools.convert import convert

    out = tmp_path / "y.safetensors"
    convert(path, out, to="mup_vit", num_heads=weights_cases.HEADS, pool_type="tok")
    np.testing.assert_array_equal(weights.load(out)[0]["cls"], reg[:, :1])
    assert files.read(out)[0].keys() == model.state_dict().keys()
