"""Each reproduction's forward pass in numpy, float64, at random parameters."""

import jax
import numpy as np
import pytest
from scipy.special import erf

from vitjax.models import MODELS
from vitjax.models.reproductions import signal_propagation
from vitjax.trees import flatten_with_names

IMAGE = np.random.default_rng(0).random((2, 16, 24, 3), np.float32)
PATCH = {"patch_size": (8, 8)}  # a grid of 2 x 3


class Layers:
    """The layers of a model by the names of its parameters."""

    def __init__(self, params):
        self.p = {k: np.asarray(v, np.float64) for k, v in flatten_with_names(params)}

    def dense(self, x, name):
        return x @ self.p[f"{name}/kernel"] + self.p.get(f"{name}/bias", 0.0)

    def norm(self, x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * self.p[f"{name}/scale"] + self.p[f"{name}/bias"]

    def embedding(self, x):
        kernel = self.p["embedding/kernel"]
        return x @ kernel.reshape(x.shape[-1], -1) + self.p["embedding/bias"]

    def multi_head(self, x, name):
        """flax's attention, and its probabilities."""
        q, k, v = (
            np.einsum("bnd,dhk->bhnk", x, self.p[f"{name}/{n}/kernel"])
            + self.p[f"{name}/{n}/bias"][:, None]
            for n in ("query", "key", "value")
        )
        probs = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))
        out = np.einsum("bhnk,hkd->bnd", probs @ v, self.p[f"{name}/out/kernel"])
        return out + self.p[f"{name}/out/bias"], probs


def softmax(x):
    e = np.exp(x)
    return e / e.sum(-1, keepdims=True)


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def patches():
    cut = IMAGE.reshape(2, 2, 8, 3, 8, 3).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(2, 6, 192).astype(np.float64)


def positions(d):
    """sin x, cos x, sin y, cos y of raster positions."""
    y, x = np.mgrid[:2, :3].reshape(2, -1, 1)
    omega = 10_000.0 ** -(np.arange(d // 4) / (d // 4 - 1))
    parts = (np.sin(x * omega), np.cos(x * omega), np.sin(y * omega), np.cos(y * omega))
    return np.concatenate(parts, axis=1)


def fused_heads(qkv):
    """Query, key and value of two heads."""
    b, n, _ = qkv.shape
    return (x.reshape(b, n, 2, -1).swapaxes(1, 2) for x in np.split(qkv, 3, -1))


def simple_vit(m, out_proj=True):
    x, attn = m.embedding(patches()) + positions(16), []
    for i in range(2):
        block = f"block_{i}"
        q, k, v = fused_heads(
            m.dense(m.norm(x, f"{block}/LayerNorm_0"), f"{block}/qkv")
        )
        attn.append(softmax(q @ k.swapaxes(-1, -2) / np.sqrt(8)))
        y = (attn[-1] @ v).swapaxes(1, 2).reshape(x.shape)
        x = x + (m.dense(y, f"{block}/out") if out_proj else y)
        y = gelu(m.dense(m.norm(x, f"{block}/LayerNorm_1"), f"{block}/Dense_0"))
        x = x + m.dense(y, f"{block}/Dense_1")
    return m.dense(m.norm(x.mean(1), "head_norm"), "head"), attn


def simplest_vit(m, causal=False, row_norm="correct", att_bias=True):
    x, attn = m.embedding(patches()) + positions(16), []
    biases, scales = signal_propagation.espa(6, 4, 0.005, causal, row_norm)
    slope = 0.21166491  # of 8 activations and eta 0.7
    assert ("block_0/attention/qkv/bias" in m.p) == att_bias
    for i, (bias, scale) in enumerate(zip(biases, scales, strict=True)):
        q, k, v = fused_heads(m.dense(x, f"block_{i}/attention/qkv"))
        attn.append(softmax(q @ k.swapaxes(-1, -2) / np.sqrt(8) + bias))
        x = (scale[:, None] * (attn[-1] @ v)).swapaxes(1, 2).reshape(x.shape)
        for j in range(2):
            x = m.dense(x, f"block_{i}/Dense_{j}")
            x = np.sqrt(2 / (1 + slope**2)) * np.where(x > 0, x, slope * x)
    return m.dense(x.mean(1), "head"), attn


def control(m):
    """SimplEsT-ViT without its initialisation: plain softmax attention and ReLU."""
    x, attn = m.embedding(patches()) + positions(16), []
    for i in range(4):
        q, k, v = fused_heads(m.dense(x, f"block_{i}/attention/qkv"))
        attn.append(softmax(q @ k.swapaxes(-1, -2) / np.sqrt(8)))
        x = (attn[-1] @ v).swapaxes(1, 2).reshape(x.shape)
        for j in range(2):
            x = np.maximum(m.dense(x, f"block_{i}/Dense_{j}"), 0)
    return m.dense(x.mean(1), "head"), attn


def nanovit(m):
    x, attn = m.embedding(m.norm(patches(), "patch_norm")), []
    cls = np.broadcast_to(m.p["cls"], (2, 1, 16))
    x = np.concatenate([cls, m.norm(x, "embedding_norm")], axis=1)
    x = x + m.p["pos_embedding"]
    for i in range(2):
        block = f"block_{i}"
        y = m.norm(x, f"{block}/LayerNorm_0")
        y, probs = m.multi_head(y, f"{block}/MultiHeadDotProductAttention_0")
        attn.append(probs)
        x = x + y
        y = m.dense(m.norm(x, f"{block}/LayerNorm_1"), f"{block}/Dense_0")
        assert y.shape[-1] == 64
        x = x + m.dense(gelu(y), f"{block}/Dense_1")
    return m.dense(m.norm(x, "encoder_norm")[:, 0], "head"), attn


def tower(m, widths, head_act="gelu", posemb="none", **_):
    x = np.concatenate([np.tile(m.p["cls"], (2, 1, 1)), m.embedding(patches())], axis=1)
    x, attn = x + (m.p["pos_embedding"] if posemb == "learn" else 0), []
    for i, width in enumerate(widths):
        block = f"block_{i}"
        if width != x.shape[-1]:
            x = m.dense(x, f"widen_{i}")
        y, probs = m.multi_head(x, f"{block}/MultiHeadDotProductAttention_0")
        attn.append(probs)
        x = m.norm(x + y, f"{block}/LayerNorm_0")
        y = m.dense(gelu(m.dense(x, f"{block}/Dense_0")), f"{block}/Dense_1")
        x = m.norm(x + y, f"{block}/LayerNorm_1")
    x = m.dense(m.norm(x, "encoder_norm")[:, 0], "pre_logits")
    x = gelu(x) if head_act == "gelu" else np.maximum(x, 0)
    return m.dense(x, "head"), attn


SIZES = {**PATCH, "width": 16, "num_heads": 2}
TOWER = {**PATCH, "num_heads": (2, 2), "mlp_dims": (12, 20)}


@pytest.mark.parametrize(
    ("name", "by_hand", "sizes", "kw"),
    [
        ("simple_vit", simple_vit, {**SIZES, "depth": 2}, {}),
        ("simple_vit", simple_vit, {**SIZES, "depth": 2}, {"out_proj": False}),
        *(
            ("simplest_vit", simplest_vit, {**SIZES, "depth": 4, "eta": 0.7}, kw)
            for kw in ({}, {"causal": True}, {"row_norm": "original", "att_bias": False})
        ),
        ("simplest_vit", control, {**SIZES, "depth": 4, "init_scheme": "lecun"}, {}),
        ("nanovit", nanovit, {**SIZES, "depth": 2}, {}),
        ("tower", tower, TOWER, {"widths": (8, 8), "posemb": "learn"}),
        ("tower", tower, TOWER, {"widths": (8, 16), "posemb": "none", "head_act": "relu"}),
    ],
)  # fmt: skip
def test_forward_pass(name, by_hand, sizes, kw, random_params):
    model = MODELS[name](num_classes=5, return_attn=True, **sizes, **kw)
    params = random_params(model, IMAGE)
    logits, out = jax.jit(model.apply)({"params": params}, IMAGE)
    expected, attn = by_hand(Layers(params), **kw)
    np.testing.assert_allclose(logits, expected, rtol=2e-5, atol=2e-5)
    for i, probs in enumerate(attn):
        found = out["encoder"][f"block{i:02d}"]["attn"]
        np.testing.assert_allclose(found, probs, atol=1e-5)
