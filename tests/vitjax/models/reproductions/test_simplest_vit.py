"""SimplEsT-ViT: counts, its kernel through attention alone, its formulas in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import step
from vitjax.models import MODELS
from vitjax.models.reproductions import signal_propagation, simplest_vit
from vitjax.trees import count, flatten_with_names

IMAGE = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
TINY = dict(width=16, depth=4, num_heads=2, patch_size=(8, 8), eta=0.7)


def make(num_classes=5, **kw):
    return MODELS["simplest_vit"](num_classes=num_classes, **{**TINY, **kw})


def variables(model, seed=0):
    return jax.jit(model.init)(jax.random.key(seed), IMAGE)


@pytest.mark.parametrize(
    ("num_classes", "size", "kw", "expected"),
    [
        (10, 32, {}, 19_523_722),
        (100, 32, {}, 19_558_372),
        (200, 64, {"patch_size": (8, 8)}, 19_652_168),
        (1000, 224, {"patch_size": (16, 16)}, 20_181_352),
        (10, 32, {"att_bias": False}, 19_523_722 - 13_824),
        (10, 32, {"depth": 64}, 104_028_298),
    ],
)
def test_parameters_are_as_many_as_in_the_original(num_classes, size, kw, expected):
    model = MODELS["simplest_vit"](num_classes=num_classes, **kw)
    assert count(step.param_shapes(model, (size, size, 3))) == expected


def test_bias_and_scale_are_no_parameters():
    tree = variables(make())
    assert set(tree) == {"params"}
    names = {
        *("embedding/kernel", "embedding/bias", "head/kernel", "head/bias"),
        *(
            f"block_{i}/{layer}/{part}"
            for i in range(4)
            for layer in ("attention/qkv", "Dense_0", "Dense_1")
            for part in ("kernel", "bias")
        ),
    }
    assert {name for name, _ in flatten_with_names(tree["params"])} == names


def attention_stack(x, num_heads, values, row_norm="correct"):
    """`x` through the module's attention, a layer for each orthogonal matrix of values."""
    d, n = x.shape[-1], x.shape[1]
    attention = simplest_vit.Attention(
        num_heads, False, np.dtype(np.float32), simplest_vit.zero_query_init
    )
    rng = np.random.default_rng(3)
    constants = signal_propagation.espa(n, len(values), row_norm=row_norm)
    apply = jax.jit(lambda k, x, b, s: attention.apply({"params": k}, x, b, s)[0])
    kernels = []
    with jax.default_matmul_precision("highest"):
        for value, bias, scale in zip(values, *constants, strict=True):
            # Whatever the keys are, queries of zero do not see them.
            key = rng.standard_normal((d, d))
            kernel = np.concatenate([np.zeros((d, d)), key, value], axis=1)
            params = {"qkv": {"kernel": jnp.asarray(kernel, jnp.float32)}}
            x = apply(params, x, np.float32(bias), np.float32(scale))
            kernels.append(np.asarray(x[0], np.float64) @ np.asarray(x[0]).T / d)
    return kernels


def orthogonal(rng, d):
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return q * np.sign(np.diag(r))


@pytest.mark.parametrize(("num_tokens", "depth"), [(16, 4), (64, 12)])
def test_attention_alone_takes_orthogonal_tokens_to_the_kernel(num_tokens, depth):
    """Cosines of every layer are exp(-g_l |i - j|) to 1e-4."""
    rng, d = np.random.default_rng(0), 96
    x = np.sqrt(d) * np.eye(num_tokens, d) @ orthogonal(rng, d)
    values = [orthogonal(rng, d) for _ in range(depth)]
    kernels = attention_stack(jnp.asarray(x, jnp.float32)[None], 4, values)
    i = np.arange(num_tokens)
    gammas = signal_propagation.espa_gammas(depth)
    for gram, gamma in zip(kernels, gammas, strict=True):
        norms = np.sqrt(np.diag(gram))
        target = np.exp(-gamma * np.abs(i[:, None] - i))
        np.testing.assert_allclose(gram / np.outer(norms, norms), target, atol=1e-4)
        np.testing.assert_allclose(norms, 1, atol=1e-4)


def test_the_original_row_norm_bends_the_kernel_by_what_was_measured():
    rng, d = np.random.default_rng(0), 96
    x = np.sqrt(d) * np.eye(64, d) @ orthogonal(rng, d)
    values = [orthogonal(rng, d) for _ in range(12)]
    x = jnp.asarray(x, jnp.float32)[None]
    kernels = attention_stack(x, 4, values, row_norm="original")
    errors, i = [], np.arange(64)
    for gram, gamma in zip(kernels, signal_propagation.espa_gammas(12), strict=True):
        errors.append(np.abs(gram - np.exp(-gamma * np.abs(i[:, None] - i))).max())
    assert errors[-1] == pytest.approx(0.018, abs=1e-3)
    assert max(errors) == pytest.approx(0.107, abs=2e-3)


@pytest.mark.parametrize(
    "kw", [{}, {"causal": True}, {"row_norm": "original"}, {"att_bias": False}]
)
def test_a_forward_pass_by_hand(kw):
    """Every formula in numpy, float64, at parameters that are not the first ones."""
    model = make(return_attn=True, **kw)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32),
        variables(model)["params"],
    )
    logits, out = jax.jit(model.apply)({"params": params}, IMAGE)
    p = {k: np.asarray(v, np.float64) for k, v in flatten_with_names(params)}
    patches = IMAGE.reshape(2, 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5)
    x = patches.reshape(2, 16, 192) @ p["embedding/kernel"].reshape(192, 16)
    x = x + p["embedding/bias"] + positions(4, 16)
    bias, scale = signal_propagation.espa(
        16, 4, 0.005, kw.get("causal", False), kw.get("row_norm", "correct")
    )
    slope = 0.21166491  # of 8 activations and eta 0.7
    for i in range(4):
        qkv = x @ p[f"block_{i}/attention/qkv/kernel"]
        qkv = qkv + p.get(f"block_{i}/attention/qkv/bias", 0.0)
        q, k, v = (
            qkv[..., 16 * j : 16 * (j + 1)].reshape(2, 16, 2, 8).swapaxes(1, 2)
            for j in range(3)
        )
        e = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(8) + bias[i])
        probs = e / e.sum(-1, keepdims=True)
        np.testing.assert_allclose(
            out["encoder"][f"block{i:02d}"]["attn"], probs, atol=1e-5
        )
        x = (scale[i][:, None] * (probs @ v)).swapaxes(1, 2).reshape(2, 16, 16)
        for j in range(2):
            x = x @ p[f"block_{i}/Dense_{j}/kernel"] + p[f"block_{i}/Dense_{j}/bias"]
            x = np.sqrt(2 / (1 + slope**2)) * np.where(x > 0, x, slope * x)
    expected = x.mean(1) @ p["head/kernel"] + p["head/bias"]
    np.testing.assert_allclose(logits, expected, rtol=2e-5, atol=2e-5)


def positions(side, d):
    """sin x, cos x, sin y, cos y of raster positions."""
    y, x = np.mgrid[:side, :side].reshape(2, -1, 1)
    omega = 10_000.0 ** -(np.arange(d // 4) / (d // 4 - 1))
    parts = (np.sin(x * omega), np.cos(x * omega), np.sin(y * omega), np.cos(y * omega))
    return np.concatenate(parts, axis=1)


def test_everything_begins_as_in_the_original():
    """Queries zero, keys and values N(0, 1/d), stem N(0, 1/fan_in), the rest orthogonal."""
    model = make(width=96, num_classes=10)
    for name, x in flatten_with_names(variables(model)["params"]):
        x = np.asarray(x, np.float64)
        if name.endswith("bias"):
            assert not x.any()
        elif "qkv" in name:
            assert not x[:, :96].any()
            for part in (x[:, 96:192], x[:, 192:]):
                assert part.std() == pytest.approx(96**-0.5, rel=0.05)
                # Normal, not orthogonal: a Wishart matrix is far from the identity.
                assert np.abs(part.T @ part - np.eye(96)).max() > 0.1
        elif "embedding" in name:
            assert x.std() == pytest.approx((3 * 64) ** -0.5, rel=0.05)
            assert np.abs(x).max() > 2.5 * x.std(), "not cut at two deviations"
        else:
            n_in, n_out = x.shape
            if n_out > n_in:
                gram, square = x @ x.T, n_out / n_in
            else:
                gram, square = x.T @ x, 1.0
            np.testing.assert_allclose(gram, square * np.eye(len(gram)), atol=1e-5)


def test_orthogonal_kernels_keep_the_mean_square():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((256, 96))
    for n_in, n_out in ((96, 384), (384, 96), (96, 96)):
        key = jax.random.key(n_out)
        kernel = np.asarray(simplest_vit.scaled_orthogonal(key, (n_in, n_out)))
        y = x @ kernel
        assert np.mean(y**2) == pytest.approx(np.mean(x**2), rel=0.05)
        x = y


def test_the_control_is_the_same_network_as_flax_begins_it():
    """LeCun kernels, softmax attention, the plain ReLU; the parameters' shapes the same."""
    model = make(init_scheme="lecun", width=96, return_attn=True)
    params = variables(model)["params"]
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes == jax.tree.map(jnp.shape, variables(make(width=96))["params"])
    for name, x in flatten_with_names(params):
        x = np.asarray(x)
        fan_in = np.prod(x.shape[:-1])
        if name.endswith("bias"):
            assert not x.any()
        else:
            assert x.std() == pytest.approx(fan_in**-0.5, rel=0.1), name
    _, out = jax.jit(model.apply)({"params": params}, IMAGE)
    block = out["encoder"]["block00"]
    x = np.asarray(out["with_posemb"], np.float64)
    qkv = x @ np.asarray(params["block_0"]["attention"]["qkv"]["kernel"], np.float64)
    q, k, v = (y.reshape(2, 16, 2, 48).swapaxes(1, 2) for y in np.split(qkv, 3, -1))
    e = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(48))
    probs = e / e.sum(-1, keepdims=True)
    np.testing.assert_allclose(block["attn"], probs, atol=1e-5)
    x = (probs @ v).swapaxes(1, 2).reshape(2, 16, 96)
    np.testing.assert_allclose(block["sa"], x, atol=1e-5)
    for i in range(2):
        x = np.maximum(x @ np.asarray(params["block_0"][f"Dense_{i}"]["kernel"]), 0)
    np.testing.assert_allclose(block["mlp"], x, atol=1e-5)


@pytest.mark.parametrize("init_scheme", ["espa_tat", "lecun"])
def test_a_causal_model_does_not_see_ahead(init_scheme):
    model = make(causal=True, init_scheme=init_scheme)
    params = variables(model)["params"]
    changed = IMAGE.copy()
    changed[:, 16:] = 0  # the last 8 of 16 patches

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(params, image):
        logits, out = model.apply({"params": params}, image)
        return logits.sum(), out["encoded"]

    ((_, a), grads), ((_, b), _) = run(params, IMAGE), run(params, changed)
    np.testing.assert_array_equal(a[:, :8], b[:, :8])
    assert np.abs(a[:, 8:] - b[:, 8:]).max() > 1e-4
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


def test_bfloat16_computes_but_probabilities_and_logits_are_float32():
    model = make(dtype_mm="bfloat16", return_attn=True)
    tree = variables(model)
    assert {x.dtype for x in jax.tree.leaves(tree)} == {np.dtype(np.float32)}
    logits, out = jax.jit(model.apply)(tree, IMAGE)
    block = out["encoder"]["block03"]
    assert block["sa"].dtype == block["mlp"].dtype == jnp.bfloat16
    assert logits.dtype == block["attn"].dtype == np.float32
    # B is not rounded to bfloat16's 8 bits: the first probabilities are E-SPA's.
    bias, _ = signal_propagation.espa(16, 4)
    e = np.exp(bias[3])
    expected = np.broadcast_to(e / e.sum(-1, keepdims=True), (2, 2, 16, 16))
    np.testing.assert_allclose(block["attn"], expected, atol=1e-6)


def test_dropout_acts_on_the_tokens_before_they_are_averaged():
    model = make(dropout=0.5)
    tree = variables(model)
    run = jax.jit(lambda **kw: model.apply(tree, IMAGE, **kw), static_argnames="train")
    calm, out = run()
    noisy, dropped = run(train=True, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_array_equal(out["encoded"], dropped["encoded"])
    assert np.abs(noisy - calm).max() > 1e-3
    # Each channel of the average lacks its own tokens: half of 16, and no two alike.
    ratio = np.asarray(dropped["head_input"]) / np.asarray(out["head_input"])
    assert len(np.unique(ratio.round(4))) > 10


@pytest.mark.parametrize(
    ("kw", "words"),
    [
        ({"depth": 3, "eta": 0.9}, "6 leaky ReLUs .3 blocks. cannot reach eta=0.9"),
        ({"num_heads": 3}, "width must be divisible by num_heads, got 16 and 3"),
        ({"row_norm": "orignal"}, "did you mean 'original'"),
        ({"init_scheme": "lecunn"}, "did you mean 'lecun'"),
        ({"gamma": 0}, "gamma must be above 0, got 0"),
        ({"dtype_mm": "bf16"}, "unknown dtype_mm 'bf16'"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"patch_size": (0, 4)}, r"patch_size must be .height, width. in pixels"),
        ({"qkv_bias": True}, "unknown model argument 'qkv_bias'"),
    ],
)
def test_what_cannot_be_is_one_sentence(kw, words):
    with pytest.raises(ValueError, match=words):
        make(**kw)


def test_an_image_that_does_not_divide_into_patches_is_refused():
    with pytest.raises(ValueError, match="32x32 pixels does not divide into patches"):
        variables(make(patch_size=(5, 5)))
