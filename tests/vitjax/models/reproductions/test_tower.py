"""TowerViT and its sibling: counts, post-norm, and whether they see positions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import towervit
from vitjax import step
from vitjax.models import MODELS
from vitjax.optim import make_optimizer
from vitjax.trees import count, flatten_with_names

IMAGE = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)


def params_of(model, seed=0):
    return jax.jit(model.init)(jax.random.key(seed), IMAGE)["params"]


@pytest.mark.parametrize(
    ("kw", "expected"),
    [
        ({"variant": "tower"}, 117_514),
        ({"variant": "vit"}, 874_826),
        ({"variant": "vit", "posemb": "learn"}, 874_826 + 65 * 64),
    ],
)
def test_parameters_are_as_many_as_in_the_document(kw, expected):
    model = MODELS["tower"](num_classes=10, **kw)
    assert count(step.param_shapes(model, (32, 32, 3))) == expected


@pytest.mark.parametrize("variant", ["tower", "vit"])
def test_only_positions_tell_patches_apart(variant):
    """The 64 patches in another order: the same logits to 1e-5, or others."""
    model = MODELS["tower"](num_classes=10, variant=variant)
    params = params_of(model)
    order = np.random.default_rng(1).permutation(64)
    patches = IMAGE.reshape(2, 8, 4, 8, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    shuffled = patches.reshape(2, 64, 4, 4, 3)[:, order].reshape(patches.shape)
    other = shuffled.transpose(0, 1, 3, 2, 4, 5).reshape(IMAGE.shape)
    run = jax.jit(lambda x: model.apply({"params": params}, x)[0])
    difference = float(jnp.abs(run(IMAGE) - run(other)).max())
    assert difference < 1e-5 if variant == "vit" else difference > 1e-3


def test_each_block_ends_normalised():
    model = MODELS["tower"](num_classes=10, variant="vit")
    _, out = model.apply({"params": params_of(model)}, IMAGE)
    for block in out["encoder"].values():
        for name in ("+sa", "+mlp"):
            np.testing.assert_allclose(block[name].mean(-1), 0, atol=1e-5)
            np.testing.assert_allclose(block[name].var(-1), 1, atol=2e-3)


def test_one_block_by_hand():
    """LN(x + attention(x)), LN(x + MLP(x)) in numpy, float64."""
    model = MODELS["tower"](
        num_classes=3, widths=(8,), num_heads=(2,), mlp_dims=(12,), patch_size=(16, 16)
    )
    params = params_of(model)
    logits, out = model.apply({"params": params}, IMAGE)
    p = {k: np.asarray(v, np.float64) for k, v in flatten_with_names(params)}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * p[f"{name}/scale"] + p[f"{name}/bias"]

    def erf_gelu(x):
        from scipy.special import erf

        return 0.5 * x * (1 + erf(x / np.sqrt(2)))

    x = np.asarray(out["with_posemb"], np.float64)
    a = "block_0/MultiHeadDotProductAttention_0"
    q, k, v = (
        np.einsum("bnd,dhk->bhnk", x, p[f"{a}/{n}/kernel"])
        + p[f"{a}/{n}/bias"][:, None]
        for n in ("query", "key", "value")
    )
    weights = np.exp(q @ k.swapaxes(-1, -2) / 2.0)
    weights /= weights.sum(-1, keepdims=True)
    sa = np.einsum("bhnk,hkd->bnd", weights @ v, p[f"{a}/out/kernel"])
    x = norm(x + sa + p[f"{a}/out/bias"], "block_0/LayerNorm_0")
    y = erf_gelu(x @ p["block_0/Dense_0/kernel"] + p["block_0/Dense_0/bias"])
    y = y @ p["block_0/Dense_1/kernel"] + p["block_0/Dense_1/bias"]
    x = norm(norm(x + y, "block_0/LayerNorm_1"), "encoder_norm")[:, 0]
    x = erf_gelu(x @ p["pre_logits/kernel"] + p["pre_logits/bias"])
    expected = x @ p["head/kernel"] + p["head/bias"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_everything_begins_as_torchs_layers_do():
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)) in weights and biases; tokens from N(0, 1)."""
    model = MODELS["tower"](num_classes=10, variant="vit", posemb="learn")
    for name, x in flatten_with_names(params_of(model)):
        x = np.asarray(x)
        if (name.split("/")[-2:-1] and "Norm" in name) or "norm" in name:
            assert np.ptp(x) == 0
        elif name in ("cls", "pos_embedding"):
            assert abs(x.std() - 1) < 0.3
        else:
            fan_in = {"embedding": 48, "head": 512, "pre_logits": 256}.get(
                name.split("/")[0]
            )
            if fan_in is None and name.startswith("widen"):
                fan_in = {"widen_1": 64, "widen_2": 128}[name.split("/")[0]]
            if fan_in is None:
                width = (64, 128, 256)[int(name[6])]
                fan_in = 2 * width if "Dense_1" in name else width
            bound = fan_in**-0.5
            assert np.abs(x).max() <= bound * 1.0001
            if x.size > 100:
                assert np.abs(x).max() > 0.8 * bound, name
                assert abs(x.std() / (bound / 3**0.5) - 1) < 0.25, name


def test_with_equal_widths_both_variants_are_one_model():
    """The same parameters, and so the same logits, but for the head's activation."""
    equal = dict(widths=(16, 16), num_heads=(2, 2), mlp_dims=(32, 32), posemb="learn")
    towers = [
        MODELS["tower"](num_classes=10, variant=v, head_act="relu", **equal)
        for v in ("tower", "vit")
    ]
    params = params_of(towers[0])
    logits = [m.apply({"params": params}, IMAGE)[0] for m in towers]
    np.testing.assert_array_equal(*logits)


def test_two_steps_of_momentum_by_hand():
    """torch's SGD(momentum=0.9): v = 0.9 v + g, p = p - lr v, at a constant rate."""
    config = towervit.get_config()
    params = {"kernel": jnp.array([1.0, -2.0])}
    tx, _ = make_optimizer(
        params,
        total_steps=100,
        batch_size=128,
        data_size=50_000,
        lr=config.lr,
        optax_name=config.optax_name,
        optax=config.optax,
    )
    grads = np.array([[0.5, 1.0], [-0.25, 2.0]])
    p, v, state = np.array([1.0, -2.0]), 0.0, tx.init(params)
    for g in grads:
        update, state = tx.update({"kernel": jnp.asarray(g)}, state, params)
        params = optax.apply_updates(params, update)
        v = 0.9 * v + g
        p = p - 3e-4 * v
        np.testing.assert_allclose(params["kernel"], p, rtol=1e-6)


@pytest.mark.parametrize(
    ("kw", "words"),
    [
        ({"variant": "towr"}, "did you mean 'tower'"),
        ({"widths": (64, 64)}, "a number for each block"),
        ({"num_heads": (3, 4, 4)}, "divisible by its num_heads, got 64 and 3"),
        ({"posemb": "sincos2d"}, "posemb 'sincos2d'"),
        ({"width": 3}, "did you mean 'widths'"),
    ],
)
def test_what_cannot_be_is_one_sentence(kw, words):
    with pytest.raises(ValueError, match=words):
        MODELS["tower"](num_classes=10, **kw)
