"""SimpleViT: counts, a forward pass in numpy, and how it begins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from vitjax import step
from vitjax.models import MODELS
from vitjax.trees import count, flatten_with_names

IMAGE = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
TINY = dict(width=16, depth=2, num_heads=2, patch_size=(8, 8))


def make(**kw):
    return MODELS["simple_vit"](num_classes=5, **{**TINY, **kw})


@pytest.mark.parametrize(
    ("kw", "expected"),
    [
        ({}, 21_298_570),
        ({"out_proj": False}, 21_298_570 - 12 * 384 * 384),
    ],
)
def test_parameters_are_as_many_as_in_the_original(kw, expected):
    model = MODELS["simple_vit"](num_classes=10, **kw)
    shapes = step.param_shapes(model, (32, 32, 3))
    assert count(shapes) == expected
    outs = [name for name, _ in flatten_with_names(shapes) if "/out/" in name]
    assert len(outs) == (12 if kw == {} else 0)


def positions(side, d):
    y, x = np.mgrid[:side, :side].reshape(2, -1, 1)
    omega = 10_000.0 ** -(np.arange(d // 4) / (d // 4 - 1))
    parts = (np.sin(x * omega), np.cos(x * omega), np.sin(y * omega), np.cos(y * omega))
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("out_proj", [True, False])
def test_a_forward_pass_by_hand(out_proj):
    """Every formula in numpy, float64, at parameters that are not the first ones."""
    model = make(out_proj=out_proj, return_attn=True)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32),
        jax.jit(model.init)(jax.random.key(0), IMAGE)["params"],
    )
    logits, out = jax.jit(model.apply)({"params": params}, IMAGE)
    p = {k: np.asarray(v, np.float64) for k, v in flatten_with_names(params)}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * p[f"{name}/scale"] + p[f"{name}/bias"]

    patches = IMAGE.reshape(2, 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5)
    x = patches.reshape(2, 16, 192) @ p["embedding/kernel"].reshape(192, 16)
    x = x + p["embedding/bias"] + positions(4, 16)
    for i in range(2):
        qkv = norm(x, f"block_{i}/LayerNorm_0") @ p[f"block_{i}/qkv/kernel"]
        q, k, v = (y.reshape(2, 16, 2, 8).swapaxes(1, 2) for y in np.split(qkv, 3, -1))
        e = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(8))
        probs = e / e.sum(-1, keepdims=True)
        attn = out["encoder"][f"block{i:02d}"]["attn"]
        np.testing.assert_allclose(attn, probs, atol=1e-5)
        y = (probs @ v).swapaxes(1, 2).reshape(2, 16, 16)
        x = x + (y @ p[f"block_{i}/out/kernel"] if out_proj else y)
        y = norm(x, f"block_{i}/LayerNorm_1")
        y = y @ p[f"block_{i}/Dense_0/kernel"] + p[f"block_{i}/Dense_0/bias"]
        y = 0.5 * y * (1 + erf(y / np.sqrt(2)))
        x = x + y @ p[f"block_{i}/Dense_1/kernel"] + p[f"block_{i}/Dense_1/bias"]
    x = norm(x.mean(1), "head_norm")
    expected = x @ p["head/kernel"] + p["head/bias"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_everything_begins_as_torchs_layers_do():
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)) in kernels and biases; LayerNorms at 1 and 0."""
    model = make(width=64, dtype_mm="bfloat16")
    params = jax.jit(model.init)(jax.random.key(0), IMAGE)["params"]
    fan_in = {"embedding": 192, "head": 64, "qkv": 64, "out": 64}
    fan_in |= {"Dense_0": 64, "Dense_1": 256}
    for name, x in flatten_with_names(params):
        layer, x = name.split("/")[-2], np.asarray(x)
        assert x.dtype == np.float32
        if "norm" in layer.lower():
            assert (x == (1 if name.endswith("scale") else 0)).all()
            continue
        bound = fan_in[layer] ** -0.5
        assert np.abs(x).max() <= bound * 1.0001, name
        if x.size > 50:
            assert np.abs(x).max() > 0.9 * bound, name
            assert x.std() == pytest.approx(bound / 3**0.5, rel=0.2), name


def test_dropout_acts_on_the_tokens_before_they_are_averaged():
    model = make(dropout=0.5)
    tree = jax.jit(model.init)(jax.random.key(0), IMAGE)
    run = jax.jit(lambda **kw: model.apply(tree, IMAGE, **kw), static_argnames="train")
    _, out = run()
    _, dropped = run(train=True, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_array_equal(out["encoded"], dropped["encoded"])
    ratio = np.asarray(dropped["head_input"]) / np.asarray(out["head_input"])
    assert len(np.unique(ratio.round(4))) > 10


def test_bfloat16_computes_between_a_float32_stream_and_head():
    model = make(dtype_mm="bfloat16")
    logits, out = jax.jit(model.init_with_output)(jax.random.key(0), IMAGE)[0]
    block = out["encoder"]["block01"]
    assert block["sa"].dtype == block["mlp"].dtype == jnp.bfloat16
    assert logits.dtype == block["+sa"].dtype == block["+mlp"].dtype == np.float32


@pytest.mark.parametrize(
    ("kw", "words"),
    [
        ({"num_heads": 3}, "width must be divisible by num_heads, got 16 and 3"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"out_project": True}, "did you mean 'out_proj'"),
        ({"dtype_mm": "float31"}, "did you mean 'float3"),
    ],
)
def test_what_cannot_be_is_one_sentence(kw, words):
    with pytest.raises(ValueError, match=words):
        make(**kw)
