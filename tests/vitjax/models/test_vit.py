"""The ViT's interface: sizes, parameter paths, initialisers, outputs, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.models import MODELS
from vitjax.models.vit import (
    VARIANTS,
    Model,
    loop_to_scan,
    posemb_sincos_2d,
    scan_to_loop,
)
from vitjax.step.losses import LOSSES

KEY = jax.random.key(0, impl="rbg")  # compiles faster than the default
IMAGE_224 = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
TINY = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2, "patch_size": (4, 2)}
IMAGE = jax.ShapeDtypeStruct((3, 8, 6, 3), jnp.float32)  # a grid of 2 x 3


def param_shapes(model, image=IMAGE):
    params = jax.eval_shape(model.init, KEY, image)["params"]
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    return {"/".join(k.key for k in path): leaf.shape for path, leaf in flat}


def block_shapes(prefix, d, f, h):
    shapes = {"LayerNorm_0/scale": (d,), "LayerNorm_0/bias": (d,)}
    shapes |= {"LayerNorm_1/scale": (d,), "LayerNorm_1/bias": (d,)}
    for name in ("query", "key", "value"):
        shapes[f"MultiHeadDotProductAttention_0/{name}/kernel"] = (d, h, d // h)
        shapes[f"MultiHeadDotProductAttention_0/{name}/bias"] = (h, d // h)
    shapes["MultiHeadDotProductAttention_0/out/kernel"] = (h, d // h, d)
    shapes["MultiHeadDotProductAttention_0/out/bias"] = (d,)
    shapes |= {"MlpBlock_0/Dense_0/kernel": (d, f), "MlpBlock_0/Dense_0/bias": (f,)}
    shapes |= {"MlpBlock_0/Dense_1/kernel": (f, d), "MlpBlock_0/Dense_1/bias": (d,)}
    return {f"{prefix}/{name}": shape for name, shape in shapes.items()}


# Parameter paths, shapes and counts.


def test_s16_parameters_are_big_visions():
    expected = {
        "embedding/kernel": (16, 16, 3, 384),
        "embedding/bias": (384,),
        "Transformer/encoder_norm/scale": (384,),
        "Transformer/encoder_norm/bias": (384,),
        "pre_logits/kernel": (384, 384),
        "pre_logits/bias": (384,),
        "head/kernel": (384, 1000),
        "head/bias": (1000,),
    }
    for i in range(12):
        expected |= block_shapes(f"Transformer/encoderblock_{i}", 384, 1536, 6)
    # As a config hands them over.
    config = {"variant": "S/16", "rep_size": True, "pool_type": "gap"}
    model = MODELS["vit"](num_classes=1000, posemb="sincos2d", **config)
    shapes = param_shapes(model, IMAGE_224)
    assert shapes == expected
    assert sum(np.prod(s) for s in shapes.values()) == 22_122_472
    decayed = [np.prod(s) for name, s in shapes.items() if name.endswith("/kernel")]
    assert (len(decayed), sum(decayed)) == (75, 22_060_032)


def test_s16_linear_head_count():
    shapes = param_shapes(Model(1000, "S/16", posemb="sincos2d"), IMAGE_224)
    assert sum(np.prod(s) for s in shapes.values()) == 21_974_632


def test_map_head_cls_posemb_and_registers():
    base = param_shapes(Model(5, posemb="none", **TINY))
    shapes = param_shapes(Model(5, pool_type="map", registers=4, rep_size=7, **TINY))
    extra = {name: s for name, s in shapes.items() if name not in base}
    expected = block_shapes("MAPHead_0", 16, 24, 2)
    expected = {k: v for k, v in expected.items() if "LayerNorm_1" not in k}
    expected |= {"MAPHead_0/probe": (1, 1, 16), "registers": (1, 4, 16)}
    expected |= {"pos_embedding": (1, 6, 16)}
    expected |= {"pre_logits/kernel": (16, 7), "pre_logits/bias": (7,)}
    assert extra == expected
    tok = param_shapes(Model(5, pool_type="tok", drop_path=0.1, **TINY))
    added = {k: v for k, v in tok.items() if k not in base}
    assert added == {"cls": (1, 1, 16), "pos_embedding": (1, 6, 16)}


def test_scan_has_one_block_with_a_leading_depth_axis():
    loop, scan = (
        param_shapes(Model(5, **TINY)),
        param_shapes(Model(5, scan=True, **TINY)),
    )
    expected = {k: v for k, v in loop.items() if "encoderblock" not in k}
    for name, shape in block_shapes("Transformer/encoderblock", 16, 24, 2).items():
        expected[name] = (2, *shape)
    assert scan == expected


# Millions of parameters of the headless models, as published: Scaling Vision
# Transformers table 2 (Ti to G), "400M" in the name of So400m.
@pytest.mark.parametrize(
    ("variant", "millions"),
    [
        ("Ti/16", 5.5),
        ("B/16", 86),
        ("L/16", 303),
        ("So400m/14", 413),
        ("H/14", 632),
        ("g/14", 1011),
        ("G/14", 1843),
    ],
)
def test_published_sizes(variant, millions):
    shapes = param_shapes(Model(0, variant, posemb="none", scan=True), IMAGE_224)
    count = sum(np.prod(s) for s in shapes.values()) / 1e6
    assert abs(count / millions - 1) < 0.015


def test_every_variant_divides_into_heads_and_sincos():
    names = [
        "mu",
        "Ti",
        "S",
        "M",
        "B",
        "L",
        "So400m",
        "H",
        "g",
        "g-opt",
        "G",
        "G-opt",
        "e",
    ]
    assert list(VARIANTS) == names
    for name in names:
        model = Model(10, f"{name}/14")
        assert model.patch_size == (14, 14)
        assert model.width % model.num_heads == 0
        assert model.width % 4 == 0
    # Those whose parameter counts nobody published.
    sizes = {n: tuple(VARIANTS[n].values()) for n in ("mu", "M", "g-opt", "G-opt", "e")}
    assert sizes == {
        "mu": (32, 1, 128, 2),
        "M": (512, 12, 2048, 8),
        "g-opt": (1536, 40, 6144, 16),
        "G-opt": (1536, 48, 8192, 16),
        "e": (1792, 56, 15360, 16),
    }


def test_a_keyword_wins_over_the_variant():
    model = Model(10, "B/16", depth=3, patch_size=[8, 16])
    assert (model.width, model.depth, model.patch_size) == (768, 3, (8, 16))
    assert Model(10, "mu", patch_size=(2, 4)).patch_size == (2, 4)


def test_no_head():
    for none in (None, 0):
        model = Model(none, **TINY)
        assert not any(name.startswith("head") for name in param_shapes(model))
        (x, out), _ = jax.eval_shape(model.init_with_output, KEY, IMAGE)
        assert x.shape == (3, 16)
        assert not {"logits", "logits_2d"} & set(out)


# Initialisers, each against its law.


@pytest.fixture(scope="module")
def initial():
    model = Model(
        10,
        width=128,
        depth=2,
        mlp_dim=512,
        num_heads=4,
        patch_size=(16, 16),
        pool_type="map",
        rep_size=256,
        registers=64,
        init_head_bias=-6.9,
        scan=True,
    )
    return jax.jit(model.init)(KEY, jnp.zeros((1, 64, 64, 3)))["params"]


def assert_uniform(x, fan_in, fan_out):
    bound = np.sqrt(6 / (fan_in + fan_out))
    assert 0.99 * bound < np.abs(x).max() <= bound
    np.testing.assert_allclose(np.std(x), bound / np.sqrt(3), rtol=0.03)


def assert_lecun(x, fan_in):
    # Truncated at two sigma of a normal whose sigma makes up for the truncation.
    np.testing.assert_allclose(np.std(x), fan_in**-0.5, rtol=0.03)
    cut = 2 * fan_in**-0.5 / 0.87962566
    assert 0.95 * cut < np.abs(x).max() <= cut


def test_xavier_of_the_flattened_kernels(initial):
    block = initial["Transformer"]["encoderblock"]
    for part in [jax.tree.map(lambda x, i=i: x[i], block) for i in range(2)] + [
        initial["MAPHead_0"]
    ]:
        attention = part["MultiHeadDotProductAttention_0"]
        for name in ("query", "key", "value", "out"):
            assert_uniform(attention[name]["kernel"], 128, 128)
            assert not attention[name]["bias"].any()
        for dense in part["MlpBlock_0"].values():
            assert_uniform(dense["kernel"], 128, 512)
            np.testing.assert_allclose(np.std(dense["bias"]), 1e-6, rtol=0.25)
    # Every scanned layer draws its own.
    query = block["MultiHeadDotProductAttention_0"]["query"]["kernel"]
    assert abs(np.corrcoef(query[0].ravel(), query[1].ravel())[0, 1]) < 0.05


def test_other_initialisers(initial):
    assert_lecun(initial["embedding"]["kernel"], 16 * 16 * 3)
    assert_lecun(initial["pre_logits"]["kernel"], 128)
    for name in ("embedding", "pre_logits"):
        assert not initial[name]["bias"].any()
    assert not initial["head"]["kernel"].any()
    np.testing.assert_array_equal(initial["head"]["bias"], np.float32(-6.9))
    posemb = initial["pos_embedding"]
    np.testing.assert_allclose(np.std(posemb), 128**-0.5, rtol=0.05)
    np.testing.assert_allclose(np.std(initial["registers"]), 1e-6, rtol=0.05)
    probe = np.abs(initial["MAPHead_0"]["probe"])
    assert 0.9 * np.sqrt(6 / 129) < probe.max() <= np.sqrt(6 / 129)
    norm = initial["Transformer"]["encoder_norm"]
    assert (norm["scale"] == 1).all()
    assert (norm["bias"] == 0).all()


def test_head_zeroinit_off_and_zero_cls():
    model = Model(512, "mu/16", pool_type="tok", head_zeroinit=False)
    params = jax.jit(model.init)(KEY, jnp.zeros((1, 16, 16, 3)))["params"]
    assert_lecun(params["head"]["kernel"], 32)
    assert params["cls"].shape == (1, 1, 32)
    assert not params["cls"].any()


@pytest.mark.parametrize("classes", [10, 1000])
def test_the_first_loss_is_ln_of_the_classes(classes):
    model = Model(classes, "mu/16")
    image = jax.random.normal(KEY, (4, 16, 16, 3))
    (logits, _), _ = jax.jit(model.init_with_output)(KEY, image)
    loss = LOSSES["softmax_xent"](logits=logits, labels=jnp.eye(4, classes))
    np.testing.assert_allclose(loss, np.log(classes), rtol=3e-7)


# sincos2d.


def test_sincos2d_by_hand():
    table = posemb_sincos_2d(2, 3, 8)
    assert table.shape == (1, 6, 8)
    assert table.dtype == np.float64
    s, c, t = np.sin(1), np.cos(1), 1e-4
    np.testing.assert_allclose(table[0, 0], [0, 0, 1, 1, 0, 0, 1, 1])
    expected = [s, np.sin(t), c, np.cos(t), 0, 0, 1, 1]  # x first: token 1 is x=1, y=0
    np.testing.assert_allclose(table[0, 1], expected, rtol=1e-12)
    expected = [0, 0, 1, 1, s, np.sin(t), c, np.cos(t)]
    np.testing.assert_allclose(table[0, 3], expected, rtol=1e-12)
    np.testing.assert_allclose(table[0, 1, :4], [0.841, 0, 0.54, 1], atol=5e-4)


@pytest.mark.parametrize("width", [4, 18])
def test_sincos2d_refuses_a_width_it_cannot_fill(width):
    with pytest.raises(ValueError, match="divisible by 4, at least 8; got"):
        posemb_sincos_2d(2, 3, width)


# What comes out.


@pytest.mark.parametrize(
    ("pool_type", "registers", "tokens", "head_input", "logits"),
    [
        ("gap", 0, 6, (3, 16), (3, 5)),
        ("map", 2, 8, (3, 16), (3, 5)),
        ("tok", 2, 9, (3, 16), (3, 5)),
        ("0", 0, 6, (3, 16), (3, 5)),
        (0, 0, 6, (3, 16), (3, 5)),
        ("none", 2, 8, None, (3, 6, 5)),
    ],
)
@pytest.mark.parametrize("scan", [False, True])
def test_out_has_every_intermediate(
    scan, pool_type, registers, tokens, head_input, logits
):
    model = Model(
        5, pool_type=pool_type, registers=registers, rep_size=7, scan=scan, **TINY
    )
    (x, out), _ = jax.eval_shape(model.init_with_output, KEY, IMAGE)
    shapes = jax.tree.map(lambda leaf: leaf.shape, out)
    block = dict.fromkeys(["sa", "+sa", "mlp", "+mlp"], (3, tokens, 16))
    expected = {
        "stem": (3, 2, 3, 16),
        "with_posemb": (3, 6, 16),
        "encoder": {"block00": block, "block01": block},
        "encoded": (3, tokens, 16),
        "pre_logits_2d": (3, 2, 3, 7),
        "pre_logits": (*logits[:-1], 7),
        "logits_2d": (3, 2, 3, 5),
        "logits": logits,
    }
    if head_input:
        expected["head_input"] = head_input
    if not scan:
        expected["encoder"]["pre_ln"] = (3, tokens, 16)
    assert shapes == expected
    assert x.shape == logits


def test_converters_are_exact_inverses(random_params):
    params = random_params(Model(5, **TINY), IMAGE)
    scanned = loop_to_scan(params)
    kernel = scanned["Transformer"]["encoderblock"]["MlpBlock_0"]["Dense_0"]["kernel"]
    assert isinstance(kernel, np.ndarray)
    assert kernel.shape == (2, 16, 24)
    back = scan_to_loop(scanned)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    jax.tree.map(np.testing.assert_array_equal, loop_to_scan(back), scanned)
    assert "encoderblock_0" in params["Transformer"]  # the argument is left alone
    with pytest.raises(ValueError, match="got a loop's"):
        scan_to_loop(params)
    with pytest.raises(ValueError, match="got a scan's"):
        loop_to_scan(scanned)


def test_converter_keeps_the_order_of_many_blocks():
    blocks = {f"encoderblock_{i}": {"x": np.full(2, i)} for i in range(11)}
    scanned = loop_to_scan({"Transformer": {**blocks, "encoder_norm": {}}})
    stacked = scanned["Transformer"]["encoderblock"]["x"]
    np.testing.assert_array_equal(stacked[:, 0], np.arange(11))


# Errors.


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"variant": "X/16"}, "unknown variant 'X'.*known: B, "),
        ({"variant": "S"}, "as in 'S/16'; got 'S'"),
        ({"variant": "S/"}, "as in 'S/16'; got 'S/'"),
        ({"variant": "S/0"}, "as in 'S/16'; got 'S/0'"),
        ({"variant": "S/16.5"}, "as in 'S/16'; got 'S/16.5'"),
        ({"patch_size": 16}, r"patch_size must be \(height, width\).*got 16"),
        ({"patch_size": (16, 0)}, r"patch_size must be"),
        ({"widht": 3}, "unknown model argument 'widht'; did you mean 'width'"),
        ({"posemb": "sincos"}, "unknown posemb 'sincos'; did you mean 'sincos2d'"),
        ({"pool_type": "cls"}, "unknown pool_type 'cls'"),
        ({"gelu": "erf"}, "unknown gelu 'erf'"),
        ({"attn_impl": "flash"}, "unknown attn_impl 'flash'"),
        ({"dtype_mm": "bf16"}, "unknown dtype_mm 'bf16'"),
        ({"residual_dtype": "half"}, "unknown residual_dtype 'half'"),
        ({"softmax_dtype": "f32"}, "unknown softmax_dtype 'f32'"),
        ({"remat_policy": "full"}, "unknown remat_policy 'full'"),
        ({"num_heads": 5}, "width must be divisible by num_heads, got 768 and 5"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"mlp_dim": 0}, "mlp_dim must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"drop_path": -0.1}, r"drop_path must be in \[0, 1\), got -0.1"),
        ({"attn_impl": "xla", "return_attn": True}, "does not give the attention prob"),
        (
            {"attn_impl": "cudnn", "dtype_mm": "bfloat16", "softmax_dtype": "bfloat16"},
            "'cudnn' computes its softmax in float32; softmax_dtype 'bfloat16' needs",
        ),
        (
            {"attn_impl": "xla", "dtype_mm": "float64"},
            "softmax_dtype 'float64' needs attn_impl='flax'",
        ),
        (
            {"attn_impl": "cudnn"},
            "needs dtype_mm 'bfloat16' or 'float16', got 'float32'",
        ),
    ],
)
def test_arguments_that_are_refused(kw, message):
    with pytest.raises(ValueError, match=message):
        Model(10, **kw)


@pytest.mark.parametrize(
    "shape", [(3, 2, 6, 3), (3, 9, 6, 3), (3, 8, 7, 3), (3, 0, 6, 3)]
)
def test_images_that_do_not_divide_into_patches(shape):
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    height, width = shape[1:3]
    with pytest.raises(ValueError, match=f"{height}x{width} pixels.*patches of 4x2"):
        jax.eval_shape(Model(5, **TINY).init, KEY, image)


def test_float64_needs_x64():
    with pytest.raises(ValueError, match="jax_enable_x64"):
        jax.eval_shape(Model(5, dtype_mm="float64", **TINY).init, KEY, IMAGE)
