"""What models of other libraries need, off by default: LayerScale, CLIP's and DeiT's parts.

That each gives the logits of the other library's class, tests/vitjax/weights shows.
"""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.vitjax.models.test_vit import IMAGE, KEY, TINY, param_shapes
from vitjax.models.vit import GELUS, Model, loop_to_scan

OPTIONS = {
    "layer_scale": 0.1,
    "pre_norm": True,
    "norm_after_pool": True,
    "distilled": True,
    "floor_patches": True,
}
TOK = {"pool_type": "tok", "registers": 2}


def apply(model, params, image):
    with jax.enable_x64(True):
        made = model.clone(dtype_mm="float64")
        out = jax.jit(lambda p, x: made.apply({"params": p}, x))(params, image)
    return jax.tree.map(np.asarray, out)


def image(height=8, width=6):
    return np.random.default_rng(1).standard_normal((3, height, width, 3))


def test_parameters_of_each_option():
    base = param_shapes(Model(5, **TOK, **TINY))
    blocks = [f"Transformer/encoderblock_{i}" for i in range(2)]
    scales = {f"{b}/LayerScale_{i}/gamma": (16,) for b in blocks for i in range(2)}
    expected = {
        "layer_scale": base | scales,
        "pre_norm": base | {"pre_norm/scale": (16,), "pre_norm/bias": (16,)},
        "norm_after_pool": base | {"pool_norm/scale": (16,), "pool_norm/bias": (16,)},
        "distilled": base | {"head_dist/kernel": (16, 5), "head_dist/bias": (5,)},
        "floor_patches": base,
    }
    del expected["pre_norm"]["embedding/bias"]
    del expected["norm_after_pool"]["Transformer/encoder_norm/scale"]
    del expected["norm_after_pool"]["Transformer/encoder_norm/bias"]
    for name, value in OPTIONS.items():
        found = param_shapes(Model(5, **TOK, **TINY, **{name: value}))
        assert found == expected[name], name
    scanned = param_shapes(Model(5, scan=True, layer_scale=0.1, **TINY))
    assert scanned["Transformer/encoderblock/LayerScale_1/gamma"] == (2, 16)
    initial = Model(5, layer_scale=0.25, **TINY).init(KEY, jnp.zeros(IMAGE.shape))
    gamma = initial["params"]["Transformer"]["encoderblock_0"]["LayerScale_1"]["gamma"]
    np.testing.assert_array_equal(gamma, np.full(16, 0.25, np.float32))


def operations(model):
    """How many of each there are in the program of the logits."""
    params = jax.eval_shape(model.init, KEY, IMAGE)["params"]
    jaxpr = jax.make_jaxpr(lambda p, x: model.apply({"params": p}, x)[0])(params, IMAGE)
    text = str(jaxpr)
    names = ("conv_general_dilated", "dot_general", "rsqrt", "tanh", "logistic", "erf")
    return Counter({n: text.count(f" {n}[") + text.count(f" {n} ") for n in names})


def test_without_them_the_program_has_nothing_of_theirs():
    """Counted by hand: two blocks of 4 + 2 + 2 products, the head twice; 5 norms."""
    plain = {"conv_general_dilated": 1, "dot_general": 18, "rsqrt": 5, "tanh": 2}
    assert operations(Model(5, **TOK, **TINY)) == Counter(plain)
    off = {"layer_scale": None} | dict.fromkeys(OPTIONS.keys() - {"layer_scale"}, False)
    assert operations(Model(5, **TOK, **TINY, **off)) == Counter(plain)
    more = {"rsqrt": 1}
    assert operations(Model(5, pre_norm=True, **TOK, **TINY)) == Counter(
        plain
    ) + Counter(more)
    more = {"dot_general": 1}
    found = operations(Model(5, distilled=True, **TOK, **TINY))
    assert found == Counter(plain) + Counter(more)


def test_layer_scale_scales_both_branches(random_params):
    """By hand from the intermediates; zero leaves the stream as it is."""
    model = Model(5, layer_scale=0.1, **TINY)
    params = random_params(model, IMAGE)
    _, out = apply(model, params, image())
    block = params["Transformer"]["encoderblock_1"]
    before, after = (out["encoder"][f"block{i:02d}"] for i in (0, 1))
    gammas = [block[f"LayerScale_{i}"]["gamma"] for i in (0, 1)]
    middle = before["+mlp"] + after["sa"] * gammas[0]
    np.testing.assert_allclose(after["+sa"], middle, rtol=1e-12)
    end = middle + after["mlp"] * gammas[1]
    np.testing.assert_allclose(after["+mlp"], end, rtol=1e-12)
    assert np.abs(end - middle).max() > 0.01


def test_scan_and_remat_are_the_same_function(random_params):
    kw = {k: v for k, v in OPTIONS.items() if k != "floor_patches"}
    model = Model(5, **TOK, **TINY, **kw)
    params = random_params(model, IMAGE)
    expected, _ = apply(model, params, image())
    assert np.abs(expected).max() > 0.1
    scanned = loop_to_scan(params)
    for other, tree in (
        (model.clone(scan=True), scanned),
        (model.clone(remat_policy="nothing_saveable"), params),
    ):
        got, _ = apply(other, tree, image())
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
    # In bfloat16 the stream keeps its dtype, and every parameter a gradient.
    low = Model(5, dtype_mm="bfloat16", residual_dtype="bfloat16", scan=True,
                drop_path=0.1, **TOK, **TINY, **kw)  # fmt: skip

    def loss(p):
        x = jnp.asarray(image(), jnp.float32)
        rngs = {"dropout": KEY}
        return low.apply({"params": p}, x, train=True, rngs=rngs)[0].sum()

    grads = jax.jit(jax.grad(loss))(scanned)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_distilled_logits_are_the_mean_of_both_heads(random_params):
    model = Model(5, distilled=True, **TOK, **TINY)
    params = random_params(model, IMAGE)
    logits, out = apply(model, params, image())
    token = out["encoded"][:, 1 + 6]  # after the class token and 2 x 3 patches
    own = [
        x @ params[name]["kernel"] + params[name]["bias"]
        for x, name in ((out["encoded"][:, 0], "head"), (token, "head_dist"))
    ]
    np.testing.assert_allclose(logits, sum(own) / 2, rtol=1e-10)
    np.testing.assert_array_equal(logits, out["logits"])


def test_quick_gelu():
    x = np.linspace(-5, 5, 101)
    with jax.enable_x64(True):
        got = GELUS["quick"](jnp.asarray(x))
    np.testing.assert_allclose(got, x / (1 + np.exp(-1.702 * x)), rtol=1e-12)


def test_floor_patches_is_a_valid_convolution(random_params):
    """torch's, whose rest at the right and at the bottom counts for nothing."""
    model = Model(5, floor_patches=True, **TINY)
    params = random_params(model, IMAGE)  # 2 x 3 patches of 4 x 2
    x = image(11, 7)
    logits, out = apply(model, params, x)
    kernel = torch.tensor(params["embedding"]["kernel"], dtype=torch.float64)
    theirs = torch.nn.functional.conv2d(
        torch.tensor(x).permute(0, 3, 1, 2),
        kernel.permute(3, 2, 0, 1),
        torch.tensor(params["embedding"]["bias"], dtype=torch.float64),
        stride=(4, 2),
    )
    np.testing.assert_allclose(out["stem"], theirs.permute(0, 2, 3, 1), rtol=1e-9)
    np.testing.assert_array_equal(logits, apply(model, params, x[:, :8, :6])[0])
    # So400m/14 at 384 pixels, as big_vision trained it.
    so400m = Model(0, "So400m/14", floor_patches=True, scan=True)
    x = jax.ShapeDtypeStruct((1, 384, 384, 3), jnp.float32)
    assert param_shapes(so400m, x)["pos_embedding"] == (1, 27 * 27, 1152)
    with pytest.raises(ValueError, match="leave 6 rows and 6 columns out"):
        param_shapes(so400m.clone(floor_patches=False), x)
    with pytest.raises(ValueError, match="3x6 pixels does not divide"):
        apply(model, params, image(3, 6))


@pytest.mark.parametrize(
    "kw",
    [
        {"registers": 1},
        {"pool_type": "tok"},
        {"pool_type": "tok", "registers": 1, "rep_size": 7},
    ],
)
def test_what_a_distilled_model_needs(kw):
    with pytest.raises(ValueError, match="distilled needs a head, pool_type='tok'"):
        Model(5, distilled=True, **kw, **TINY)


def test_other_arguments_that_are_refused():
    with pytest.raises(ValueError, match="norm_eps must be above 0"):
        Model(5, norm_eps=0, **TINY)
    with pytest.raises(ValueError, match="layer_scale must be a number or None"):
        Model(5, layer_scale=True, **TINY)
