"""The ViT's interface: sizes, parameter paths, outputs, errors."""

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

KEY = jax.random.key(0, impl="rbg")  # compiles faster than the default
IMAGE_224 = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
TINY = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2, "patch_size": (4, 2)}
IMAGE = jax.ShapeDtypeStruct((3, 8, 6, 3), jnp.float32)  # a grid of 2 x 3


def param_shapes(model, image=IMAGE):
    params = jax.eval_shape(model.init, KEY, image)["params"]
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    return {"/".join(k.key for k in path): leaf.shape for path, leaf in flat}


def size_of(model):
    return sum(np.prod(shape) for shape in param_shapes(model, IMAGE_224).values())


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
    config = {"variant": "S/16", "pool_type": "gap", "posemb": "sincos2d"}
    model = MODELS["vit"](num_classes=1000, rep_size=True, **config)
    assert param_shapes(model, IMAGE_224) == expected
    assert size_of(model) == 22_122_472
    assert size_of(Model(1000, **config)) == 21_974_632


def test_map_head_cls_posemb_and_registers():
    base = param_shapes(Model(5, posemb="none", **TINY))
    shapes = param_shapes(Model(5, pool_type="map", registers=4, rep_size=7, **TINY))
    expected = block_shapes("MAPHead_0", 16, 24, 2)
    expected = {k: v for k, v in expected.items() if "LayerNorm_1" not in k}
    expected |= {"MAPHead_0/probe": (1, 1, 16), "registers": (1, 4, 16)}
    expected |= {"pos_embedding": (1, 6, 16)}
    expected |= {"pre_logits/kernel": (16, 7), "pre_logits/bias": (7,)}
    assert {k: v for k, v in shapes.items() if k not in base} == expected
    tok = param_shapes(Model(5, pool_type="tok", drop_path=0.1, **TINY))
    expected = {"cls": (1, 1, 16), "pos_embedding": (1, 6, 16)}
    assert {k: v for k, v in tok.items() if k not in base} == expected


def test_scan_has_one_block_with_a_leading_depth_axis():
    loop = param_shapes(Model(5, **TINY))
    expected = {k: v for k, v in loop.items() if "encoderblock" not in k}
    for name, shape in block_shapes("Transformer/encoderblock", 16, 24, 2).items():
        expected[name] = (2, *shape)
    assert param_shapes(Model(5, scan=True, **TINY)) == expected


# Millions of parameters of the headless models, as published: Scaling Vision
# Transformers table 2 (Ti to G), "400M" in the name of So400m.
PUBLISHED = {"Ti/16": 5.5, "B/16": 86, "L/16": 303, "So400m/14": 413, "H/14": 632}
PUBLISHED |= {"g/14": 1011, "G/14": 1843}


def test_every_variant():
    for variant, millions in PUBLISHED.items():
        count = size_of(Model(0, variant, posemb="none", scan=True)) / 1e6
        assert abs(count / millions - 1) < 0.015, variant
    assert " ".join(VARIANTS) == "mu Ti S M B L So400m H g g-opt G G-opt e"
    for name in VARIANTS:
        model = Model(10, f"{name}/14")
        assert model.patch_size == (14, 14)
        assert model.width % model.num_heads == model.width % 4 == 0
    # Those without published parameter counts.
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


# `python -m parity` compares the law of every parameter with a reference.
def test_scanned_blocks_draw_their_own_kernels_and_the_heads_bias_is_given():
    kw = {"width": 32, "pool_type": "map", "scan": True, "init_head_bias": -6.9}
    model = Model(10, **{**TINY, **kw})
    params = jax.jit(model.init)(KEY, jnp.zeros(IMAGE.shape))["params"]
    np.testing.assert_array_equal(params["head"]["bias"], np.float32(-6.9))
    block = params["Transformer"]["encoderblock"]
    bound = np.sqrt(6 / 64)  # Glorot's, of one block
    for name in ("query", "key", "value", "out"):
        kernel = block["MultiHeadDotProductAttention_0"][name]["kernel"]
        assert 0.98 * bound < np.abs(kernel).max() <= bound
        assert abs(np.corrcoef(kernel[0].ravel(), kernel[1].ravel())[0, 1]) < 0.15


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
    for width in (4, 18):
        with pytest.raises(ValueError, match="divisible by 4, at least 8; got"):
            posemb_sincos_2d(2, 3, width)


# The outputs.


@pytest.mark.parametrize(
    ("pool_type", "registers", "scan", "tokens"),
    [
        ("gap", 0, False, 6),
        ("map", 2, True, 8),
        ("tok", 2, False, 9),
        (0, 0, False, 6),
        ("none", 2, True, 8),
    ],
)
def test_out_has_every_intermediate(pool_type, registers, scan, tokens):
    kw = {"pool_type": pool_type, "registers": registers, "rep_size": 7, "scan": scan}
    model = Model(5, **kw, **TINY)
    (x, out), _ = jax.eval_shape(model.init_with_output, KEY, IMAGE)
    logits = (3, 6, 5) if pool_type == "none" else (3, 5)
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
    if pool_type != "none":
        expected["head_input"] = (3, 16)
    if not scan:
        expected["encoder"]["pre_ln"] = (3, tokens, 16)
    assert jax.tree.map(lambda leaf: leaf.shape, out) == expected
    assert x.shape == logits


def test_converters_are_exact_inverses_and_keep_the_order_of_many_blocks():
    blocks = {f"encoderblock_{i}": {"x": np.full(2, i)} for i in range(11)}
    params = {"Transformer": {**blocks, "encoder_norm": {"y": np.ones(3)}}, "z": 1}
    scanned = loop_to_scan(params)
    stacked = scanned["Transformer"]["encoderblock"]["x"]
    assert isinstance(stacked, np.ndarray)
    np.testing.assert_array_equal(stacked[:, 0], np.arange(11))
    back = scan_to_loop(scanned)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    jax.tree.map(np.testing.assert_array_equal, loop_to_scan(back), scanned)
    assert "encoderblock_0" in params["Transformer"]  # the argument is left alone
    with pytest.raises(ValueError, match="got a loop's"):
        scan_to_loop(params)
    with pytest.raises(ValueError, match="got a scan's"):
        loop_to_scan(scanned)


# Errors.


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"variant": "X/16"}, "unknown variant 'X'.*known: B, "),
        ({"variant": "S"}, "as in 'S/16'; got 'S'"),
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
        ({"attn_impl": "xla", "return_attn": True}, "does not return the attention pr"),
        ({"attn_impl": "cudnn", "dtype_mm": "bfloat16", "softmax_dtype": "bfloat16"},
         "'cudnn' computes its softmax in float32; softmax_dtype 'bfloat16' needs"),
        ({"attn_impl": "xla", "dtype_mm": "float64"},
         "softmax_dtype 'float64' needs attn_impl='flax'"),
        ({"attn_impl": "cudnn"}, "needs dtype_mm 'bfloat16' or 'float16', got 'float32'"),
        ({"mlp_impl": "triton"}, "unknown mlp_impl 'triton'"),
        ({"mlp_impl": "pallas"}, "'pallas' needs dtype_mm 'bfloat16' or 'float16', got"),
        ({"mlp_impl": "pallas", "dtype_mm": "bfloat16", "dropout": 0.1},
         "'pallas' needs dropout 0, got 0.1; or choose mlp_impl='xla'"),
        ({"mlp_impl": "pallas", "dtype_mm": "bfloat16", "width": 72, "num_heads": 9},
         "'pallas' needs a width that is a multiple of 16, got 72"),
    ],
)  # fmt: skip
def test_arguments_that_are_refused(kw, message):
    with pytest.raises(ValueError, match=message):
        Model(10, **kw)


def test_images_that_do_not_divide_into_patches():
    for height, width in ((2, 6), (9, 6), (8, 7), (0, 6)):
        image = jax.ShapeDtypeStruct((3, height, width, 3), jnp.float32)
        with pytest.raises(ValueError, match=f"{height}x{width} pixels.*of 4x2"):
            jax.eval_shape(Model(5, **TINY).init, KEY, image)


def test_float64_needs_x64():
    with pytest.raises(ValueError, match="jax_enable_x64"):
        jax.eval_shape(Model(5, dtype_mm="float64", **TINY).init, KEY, IMAGE)
