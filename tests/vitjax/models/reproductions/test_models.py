"""The reproductions' parameters: their number and first values; dropout, dtypes, errors."""

import jax
import numpy as np
import pytest

from vitjax import step
from vitjax.models import MODELS
from vitjax.models.reproductions import signal_propagation
from vitjax.trees import count, flatten_with_names

IMAGE = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
SMALL = {"width": 16, "depth": 2, "num_heads": 2, "patch_size": (8, 8)}


def make(name, **kw):
    small = {} if name == "tower" else SMALL
    small = {**small, "depth": 4, "eta": 0.7} if name == "simplest_vit" else small
    return MODELS[name](num_classes=5, **{**small, **kw})


def init(model):
    return jax.jit(model.init)(jax.random.key(0), IMAGE)["params"]


def nano(depth, width, patch, num_heads=4):
    patch_size = (patch, patch)
    return dict(depth=depth, width=width, num_heads=num_heads, patch_size=patch_size)


@pytest.mark.parametrize(
    ("name", "kw", "image_shape", "classes", "expected"),
    [
        ("simple_vit", {}, (32, 32, 3), 10, 21_298_570),
        ("simple_vit", {"out_proj": False}, (32, 32, 3), 10, 21_298_570 - 12 * 384**2),
        ("simplest_vit", {}, (32, 32, 3), 10, 19_523_722),
        ("simplest_vit", {"patch_size": (8, 8)}, (64, 64, 3), 200, 19_652_168),
        ("simplest_vit", {"patch_size": (16, 16)}, (224, 224, 3), 1000, 20_181_352),
        ("simplest_vit", {"att_bias": False}, (32, 32, 3), 10, 19_523_722 - 13_824),
        ("nanovit", nano(8, 1024, 8, 8), (32, 32, 3), 10, 101_000_586),
        ("nanovit", nano(4, 512, 4), (32, 32, 3), 10, 12_675_690),
        ("nanovit", nano(4, 768, 4), (28, 28, 1), 10, 28_414_506),
        ("nanovit", nano(4, 768, 8), (32, 32, 3), 10, 28_524_682),
        ("nanovit", {}, (224, 224, 3), 100, 85_878_628),
        ("tower", {"variant": "tower"}, (32, 32, 3), 10, 117_514),
        ("tower", {"variant": "vit"}, (32, 32, 3), 10, 874_826),
        ("tower", {"variant": "vit", "posemb": "learn"}, (32, 32, 3), 10, 878_986),
    ],
)  # fmt: skip
def test_parameters_are_as_many_as_in_the_original(
    name, kw, image_shape, classes, expected
):
    model = MODELS[name](num_classes=classes, **kw)
    assert count(step.param_shapes(model, image_shape)) == expected


@pytest.mark.parametrize(
    ("name", "kw"),
    [
        ("simple_vit", {"width": 64, "dtype_mm": "bfloat16"}),
        ("nanovit", {"width": 64, "num_heads": 4}),
        ("tower", {"variant": "vit", "posemb": "learn"}),
    ],
)
def test_everything_begins_as_torchs_layers_do(name, kw):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)); tokens from N(0, 1); LayerNorms at 1 and 0."""
    leaves = dict(flatten_with_names(init(make(name, **kw))))
    for leaf_name, x in leaves.items():
        assert x.dtype == np.float32
        layer, _, leaf = leaf_name.rpartition("/")
        if "norm" in layer.lower():
            assert (x == (leaf == "scale")).all(), leaf_name
        elif leaf in ("cls", "pos_embedding"):
            assert abs(x.std() - 1) < 0.3
            assert abs(x.mean()) < 0.4
        else:
            kernel = leaves[f"{layer}/kernel"].shape
            split = layer.endswith(
                ("/query", "/key", "/value")
            )  # (d, heads, d / heads)
            bound = np.prod(kernel[:1] if split else kernel[:-1]) ** -0.5
            assert np.abs(x).max() <= bound * 1.0001, leaf_name
            if x.size > 50:
                assert np.abs(x).max() > 0.8 * bound, leaf_name
                assert abs(x.std() / (bound / 3**0.5) - 1) < 0.25, leaf_name


@pytest.mark.parametrize("name", ["simple_vit", "simplest_vit"])
def test_dropout_acts_on_the_tokens_before_they_are_averaged(name):
    model = make(name, dropout=0.5)
    tree = {"params": init(model)}
    run = jax.jit(lambda **kw: model.apply(tree, IMAGE, **kw), static_argnames="train")
    _, out = run()
    _, dropped = run(train=True, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_array_equal(out["encoded"], dropped["encoded"])
    # Each channel of the average lacks its own tokens, and no two the same.
    ratio = np.asarray(dropped["head_input"]) / np.asarray(out["head_input"])
    assert len(np.unique(ratio.round(4))) > 10


def test_nanovits_dropout_follows_the_mlps_second_layer_only(random_params):
    kw = {"width": 64, "depth": 1}
    model = make("nanovit", dropout=0.25, **kw)
    params = {"params": random_params(model, IMAGE)}
    plain, without = model.apply(params, IMAGE)
    same, _ = make("nanovit", **kw).apply(params, IMAGE, train=True)
    np.testing.assert_array_equal(plain, same)
    rngs = {"dropout": jax.random.key(1)}
    _, out = model.apply(params, IMAGE, train=True, rngs=rngs)
    assert (np.asarray(out["with_posemb"]) != 0).all()
    a, b = (np.asarray(o["encoder"]["block00"]["mlp"]) for o in (out, without))
    assert 0.18 < (a == 0).mean() < 0.32
    np.testing.assert_allclose(a[a != 0] * 0.75, b[a != 0], rtol=1e-4, atol=1e-5)
    block = out["encoder"]["block00"]
    np.testing.assert_array_equal(block["sa"], without["encoder"]["block00"]["sa"])
    np.testing.assert_array_equal(block["+mlp"], block["+sa"] + a)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("simple_vit", "bfloat16"),
        ("simplest_vit", "bfloat16"),
        ("nanovit", "bfloat16"),
        ("nanovit", "float16"),
    ],
)
def test_half_precision_is_the_matmuls_only(name, dtype, random_params):
    params = {"params": random_params(make(name), IMAGE)}
    expected, _ = make(name).apply(params, IMAGE)
    model = make(name, dtype_mm=dtype, return_attn=True)
    logits, out = jax.jit(model.apply)(params, IMAGE)
    block = out["encoder"]["block01"]
    assert block["sa"].dtype == block["mlp"].dtype == dtype
    wide = ("attn",) if name == "simplest_vit" else ("+sa", "+mlp")
    for x in (logits, *(block[key] for key in wide)):
        assert x.dtype == np.float32
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(init(model)))
    difference = float(np.abs(logits - expected).max() / np.abs(expected).max())
    assert 1e-6 < difference < 0.1
    if name == "simplest_vit":
        # B is not rounded to 8 bits: probabilities of queries of zero are E-SPA's.
        _, out = model.apply({"params": init(model)}, IMAGE)
        bias, _ = signal_propagation.espa(16, 4)
        e = np.exp(bias[3])
        probs = np.broadcast_to(e / e.sum(-1, keepdims=True), (2, 2, 16, 16))
        found = out["encoder"]["block03"]["attn"]
        np.testing.assert_allclose(found, probs, atol=1e-6)


def test_nanovits_layer_norm_of_a_patch_of_one_colour(random_params):
    """The small noise on a large value is what numpy's two passes see."""
    model = make("nanovit")
    params = random_params(model, IMAGE)
    image = (200 + 0.01 * IMAGE).astype(np.float32)
    _, out = model.apply({"params": params}, image)
    patch = image[0, :8, :8].reshape(-1).astype(np.float64)
    p = {k: np.asarray(v, np.float64) for k, v in flatten_with_names(params)}
    for name in ("patch_norm", "embedding_norm"):
        patch = (patch - patch.mean()) / np.sqrt(patch.var() + 1e-5)
        patch = patch * p[f"{name}/scale"] + p[f"{name}/bias"]
        if name == "patch_norm":
            patch = patch @ p["embedding/kernel"] + p["embedding/bias"]
    np.testing.assert_allclose(out["stem"][0, 0, 0], patch, atol=0.02)


@pytest.mark.parametrize(
    ("name", "kw", "words"),
    [
        *(
            (name, kw, words)
            for name in ("simple_vit", "simplest_vit", "nanovit")
            for kw, words in (
                ({"num_heads": 3}, "width must be divisible by num_heads, got 16 and 3"),
                ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
                ({"dtype_mm": "bf16"}, "unknown dtype_mm 'bf16'"),
                ({"widht": 8}, "unknown model argument 'widht'; did you mean 'width'"),
                ({"depth": 0}, "must be at least 1"),
                ({"patch_size": (0, 4)}, "patch_size.* must be"),
                ({"patch_size": 4}, "model.patch_size must be"),
            )
        ),
        ("simplest_vit", {"depth": 3, "eta": 0.9},
         "6 leaky ReLUs .3 blocks. cannot reach eta=0.9"),
        ("simplest_vit", {"row_norm": "orignal"}, "did you mean 'original'"),
        ("simplest_vit", {"init_scheme": "lecunn"}, "did you mean 'lecun'"),
        ("simplest_vit", {"gamma": 0}, "gamma must be above 0, got 0"),
        ("tower", {"variant": "towr"}, "did you mean 'tower'"),
        ("tower", {"widths": (64, 64)}, "a number for each block"),
        ("tower", {"num_heads": (3, 4, 4)}, "divisible by its num_heads, got 64 and 3"),
        ("tower", {"posemb": "sincos2d"}, "posemb 'sincos2d'"),
        ("tower", {"width": 3}, "did you mean 'widths'"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_sentence(name, kw, words):
    with pytest.raises(ValueError, match=words):
        make(name, **kw)


@pytest.mark.parametrize("name", ["simple_vit", "simplest_vit", "nanovit"])
def test_an_image_that_does_not_divide_into_patches_is_refused(name):
    with pytest.raises(ValueError, match=r"8x12 pixels does not divide .* of 5x4"):
        step.param_shapes(make(name, patch_size=(5, 4)), (8, 12, 3))
