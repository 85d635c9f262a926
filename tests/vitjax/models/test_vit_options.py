"""Parts for models of other libraries, off by default: LayerScale, CLIP's and DeiT's.

tests/vitjax/weights shows that each gives the logits of the other library's class, and
test_vit_numerics.py that scan and remat compute the same with them.
"""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.vitjax.models.test_vit import IMAGE, KEY, TINY, param_shapes
from vitjax.models.vit import Model

OPTIONS = {
    "layer_scale": 0.1,
    "pre_norm": True,
    "norm_after_pool": True,
    "distilled": True,
    "floor_patches": True,
}
TOK = {"pool_type": "tok", "registers": 2}


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


def operations(**kw):
    """The number of each operation in the program of the logits."""
    model = Model(5, **kw, **TOK, **TINY)
    params = jax.eval_shape(model.init, KEY, IMAGE)["params"]
    jaxpr = jax.make_jaxpr(lambda p, x: model.apply({"params": p}, x)[0])(params, IMAGE)
    text = str(jaxpr)
    names = ("conv_general_dilated", "dot_general", "rsqrt", "tanh", "logistic", "erf")
    return Counter({n: text.count(f" {n}[") + text.count(f" {n} ") for n in names})


def test_without_them_the_program_has_none_of_their_operations():
    """Counted by hand: stem, two blocks of 2 + 2 + 2 products, the head twice; 5 norms.

    q, k and v are one product. The blocks share one GELU, printed once.
    """
    plain = {"dot_general": 15, "rsqrt": 5, "tanh": 1}
    off = {"layer_scale": None} | dict.fromkeys(OPTIONS.keys() - {"layer_scale"}, False)
    for kw, more in (
        ({}, {}),
        (off, {}),
        ({"pre_norm": True}, {"rsqrt": 1}),
        ({"distilled": True}, {"dot_general": 1}),
    ):
        assert operations(**kw) == Counter(plain) + Counter(more)


def test_floor_patches_is_a_valid_convolution(random_params):
    """torch's, which ignores the remaining pixels at the right and at the bottom."""
    model = Model(5, floor_patches=True, **TINY)
    params = random_params(model, IMAGE)  # 2 x 3 patches of 4 x 2
    x = np.random.default_rng(1).standard_normal((3, 11, 7, 3)).astype(np.float32)
    apply = jax.jit(lambda x: model.apply({"params": params}, x))
    logits, out = apply(x)
    theirs = torch.nn.functional.conv2d(
        torch.tensor(x).permute(0, 3, 1, 2),
        torch.tensor(params["embedding"]["kernel"]).permute(3, 2, 0, 1),
        torch.tensor(params["embedding"]["bias"]),
        stride=(4, 2),
    )
    np.testing.assert_allclose(out["stem"], theirs.permute(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_array_equal(logits, apply(x[:, :8, :6])[0])
    # So400m/14 at 384 pixels, as big_vision trained it.
    so400m = Model(0, "So400m/14", floor_patches=True, scan=True)
    x = jax.ShapeDtypeStruct((1, 384, 384, 3), jnp.float32)
    assert param_shapes(so400m, x)["pos_embedding"] == (1, 27 * 27, 1152)
    with pytest.raises(ValueError, match="drop 6 rows and 6 columns"):
        param_shapes(so400m.clone(floor_patches=False), x)
    with pytest.raises(ValueError, match="3x6 pixels does not divide"):
        param_shapes(model, jax.ShapeDtypeStruct((3, 3, 6, 3), jnp.float32))


@pytest.mark.parametrize(
    ("kw", "words"),
    [
        ({"registers": 1}, "distilled needs a head, pool_type='tok'"),
        ({"pool_type": "tok"}, "distilled needs a head, pool_type='tok'"),
        ({**TOK, "rep_size": 7}, "distilled needs a head, pool_type='tok'"),
        ({"norm_eps": 0}, "norm_eps must be above 0"),
        ({"layer_scale": True}, "layer_scale must be a number or None"),
    ],
)
def test_arguments_that_are_refused(kw, words):
    with pytest.raises(ValueError, match=words):
        Model(5, distilled="distilled" in words, **kw, **TINY)
