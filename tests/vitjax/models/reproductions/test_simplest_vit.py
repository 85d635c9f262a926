"""SimplEsT-ViT: its parameters, their first values, and causality."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.models import MODELS
from vitjax.models.reproductions import simplest_vit
from vitjax.trees import flatten_with_names

IMAGE = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
TINY = dict(width=16, depth=4, num_heads=2, patch_size=(8, 8), eta=0.7)


def make(num_classes=5, **kw):
    return MODELS["simplest_vit"](num_classes=num_classes, **{**TINY, **kw})


def variables(model, seed=0):
    return jax.jit(model.init)(jax.random.key(seed), IMAGE)


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
    """LeCun kernels; the parameters' shapes are the same."""
    model = make(init_scheme="lecun", width=96)
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
