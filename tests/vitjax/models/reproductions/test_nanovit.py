"""nanoViT: counts, its layers by hand, its one dropout, half precision."""

import jax
import numpy as np
import pytest
from scipy.special import erf

from vitjax import step
from vitjax.models import MODELS
from vitjax.trees import count, flatten_with_names

pytestmark = pytest.mark.slow

IMAGE = np.random.default_rng(0).random((2, 8, 12, 3), np.float32)
SMALL = {"patch_size": (4, 4), "width": 8, "depth": 2, "num_heads": 2}


def make(**kw):
    return MODELS["nanovit"](num_classes=5, **{**SMALL, **kw})


def by_depth(depth, width, patch, heads=4):
    patch_size = (patch, patch)
    return dict(depth=depth, width=width, num_heads=heads, patch_size=patch_size)


@pytest.mark.parametrize(
    ("kw", "image_shape", "classes", "expected"),
    [
        (by_depth(8, 1024, 8, heads=8), (32, 32, 3), 10, 101_000_586),
        (by_depth(4, 512, 4), (32, 32, 3), 10, 12_675_690),
        (by_depth(4, 768, 4), (28, 28, 1), 10, 28_414_506),
        (by_depth(4, 768, 8), (32, 32, 3), 10, 28_524_682),
        ({}, (224, 224, 3), 100, 85_878_628),
    ],
)
def test_parameters_are_as_many_as_in_the_document(kw, image_shape, classes, expected):
    model = MODELS["nanovit"](num_classes=classes, **kw)
    assert count(step.param_shapes(model, image_shape)) == expected


def test_the_whole_model_by_hand(random_params):
    """Stem, tokens, two blocks and the head in numpy, float64."""
    model = make(return_attn=True)
    params = random_params(model, IMAGE)
    logits, out = model.apply({"params": params}, IMAGE)
    p = {k: np.asarray(v, np.float64) for k, v in flatten_with_names(params)}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * p[f"{name}/scale"] + p[f"{name}/bias"]

    def dense(x, name):
        return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]

    patches = [
        IMAGE[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].reshape(2, -1)
        for i in range(2)
        for j in range(3)
    ]
    x = np.stack(patches, axis=1).astype(np.float64)
    x = norm(dense(norm(x, "patch_norm"), "embedding"), "embedding_norm")
    cls = np.broadcast_to(p["cls"], (2, 1, 8))
    x = np.concatenate([cls, x], axis=1) + p["pos_embedding"]
    for i in range(2):
        a = f"block_{i}/MultiHeadDotProductAttention_0"
        y = norm(x, f"block_{i}/LayerNorm_0")
        q, k, v = (
            np.einsum("bnd,dhk->bhnk", y, p[f"{a}/{n}/kernel"])
            + p[f"{a}/{n}/bias"][:, None]
            for n in ("query", "key", "value")
        )
        weights = np.exp(q @ k.swapaxes(-1, -2) / 2.0)
        weights /= weights.sum(-1, keepdims=True)
        found = out["encoder"][f"block{i:02d}"]["attn"]
        np.testing.assert_allclose(found, weights, atol=1e-5)
        sa = np.einsum("bhnk,hkd->bnd", weights @ v, p[f"{a}/out/kernel"])
        x = x + sa + p[f"{a}/out/bias"]
        y = dense(norm(x, f"block_{i}/LayerNorm_1"), f"block_{i}/Dense_0")
        assert y.shape[-1] == 32
        x = x + dense(0.5 * y * (1 + erf(y / 2**0.5)), f"block_{i}/Dense_1")
    expected = dense(norm(x, "encoder_norm")[:, 0], "head")
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_a_patch_of_one_colour_is_as_good_as_any(random_params):
    """Its LayerNorm sees the small noise on a large value as numpy's two passes do."""
    model = make()
    params = random_params(model, IMAGE)
    image = (200 + 0.01 * IMAGE).astype(np.float32)
    _, out = model.apply({"params": params}, image)
    patch = image[0, :4, :4].reshape(-1).astype(np.float64)
    p = {k: np.asarray(v, np.float64) for k, v in flatten_with_names(params)}
    for name in ("patch_norm", "embedding_norm"):
        patch = (patch - patch.mean()) / np.sqrt(patch.var() + 1e-5)
        patch = patch * p[f"{name}/scale"] + p[f"{name}/bias"]
        if name == "patch_norm":
            patch = patch @ p["embedding/kernel"] + p["embedding/bias"]
    np.testing.assert_allclose(out["stem"][0, 0, 0], patch, atol=0.02)


def test_everything_begins_as_torchs_layers_do():
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)) in weights and biases; tokens from N(0, 1)."""
    model = make(width=64, num_heads=4)
    params = jax.jit(model.init)(jax.random.key(0), IMAGE)["params"]
    for name, x in flatten_with_names(params):
        x, layer = np.asarray(x), name.split("/")[-2:-1]
        if layer and "orm" in layer[0]:
            assert np.ptp(x) == 0
        elif name in ("cls", "pos_embedding"):
            assert abs(x.std() - 1) < 0.3
            assert abs(x.mean()) < 0.4
        else:
            fan_in = {"embedding": 48, "Dense_1": 256}.get(layer[0], 64)
            bound = fan_in**-0.5
            assert np.abs(x).max() <= bound * 1.0001, name
            if x.size < 40:
                continue
            assert np.abs(x).max() > 0.8 * bound, name
            assert abs(x.std() / (bound / 3**0.5) - 1) < 0.25, name


def test_dropout_follows_the_mlps_second_layer_and_nothing_else(random_params):
    model = make(dropout=0.25, width=64, depth=2)
    params = random_params(model, IMAGE)
    plain, without = model.apply({"params": params}, IMAGE)
    same, _ = make(width=64, depth=2).apply({"params": params}, IMAGE, train=True)
    np.testing.assert_array_equal(plain, same)
    rngs = {"dropout": jax.random.key(1)}
    logits, out = model.apply({"params": params}, IMAGE, train=True, rngs=rngs)
    assert np.abs(logits - plain).max() > 1e-3
    for block in out["encoder"].values():
        dropped = (np.asarray(block["mlp"]) == 0).mean()
        assert 0.18 < dropped < 0.32
        assert (np.asarray(block["sa"]) != 0).all()
    assert (np.asarray(out["with_posemb"]) != 0).all()
    # The first block: what is kept is what it was, scaled up.
    a, b = (np.asarray(o["encoder"]["block00"]["mlp"]) for o in (out, without))
    np.testing.assert_allclose(a[a != 0] * 0.75, b[a != 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "near"), [("bfloat16", 0.03), ("float16", 0.004)]
)  # fmt: skip
def test_half_precision_is_of_the_matmuls_only(dtype, near, random_params):
    params = random_params(make(), IMAGE)
    expected, _ = make().apply({"params": params}, IMAGE)
    logits, out = make(dtype_mm=dtype).apply({"params": params}, IMAGE)
    assert out["encoder"]["block00"]["sa"].dtype == dtype
    for x in (logits, out["encoder"]["block01"]["+mlp"], out["stem"]):
        assert x.dtype == np.float32
    difference = float(np.abs(logits - expected).max() / np.abs(expected).max())
    assert 1e-6 < difference < near


@pytest.mark.parametrize(
    ("kw", "words"),
    [
        ({"widht": 8}, "did you mean 'width'"),
        ({"num_heads": 3}, "divisible by num_heads, got 8 and 3"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"dtype_mm": "float8"}, "unknown dtype_mm 'float8'"),
        ({"depth": 0}, "must be at least 1"),
        ({"patch_size": (0, 4)}, "must be at least 1"),
        ({"patch_size": 4}, "model.patch_size must be"),
    ],
)
def test_what_cannot_be_is_one_sentence(kw, words):
    with pytest.raises(ValueError, match=words):
        make(**kw)


def test_an_image_that_does_not_divide_is_one_sentence():
    with pytest.raises(ValueError, match=r"8x12 pixels does not divide .* of 5x4"):
        step.param_shapes(make(patch_size=(5, 4)), IMAGE.shape[1:])
