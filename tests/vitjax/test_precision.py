"""The types of the products in a run's own programs, and the attention it chooses."""

import dataclasses
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from jax.lax import Precision

from configs import vit_s16_i1k
from vitjax import program
from vitjax.config.experiment import from_config
from vitjax.config.files import load
from vitjax.devices import chips
from vitjax.models import vit
from vitjax.step import PRECISIONS

FLAGSHIP = str(Path(__file__).resolve().parents[2] / "configs" / "vit_s16_i1k.py")
F32, BF16 = np.dtype(np.float32), np.dtype(jnp.bfloat16)
H100 = types.SimpleNamespace(compute_capability="9.0")
SPEC = {"image": ((32, 32, 3), np.dtype(np.uint8)), "label": ((), np.dtype(np.int32))}


def built(mesh, arg="", overrides=(), spec=SPEC):
    config = load(f"{FLAGSHIP}:variant=mu/16,{arg}", list(overrides))
    sizes = {"batch_size": 16, "total_steps": 112_603, "data_size": 1_281_167}
    return program.build(
        from_config(config.to_dict()), mesh, element_spec=spec, **sizes
    )


def equations(jaxpr):
    """Every equation, also of the jaxprs inside."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(
            list(eqn.params.values()),
            is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr),
        ):
            if isinstance(value, core.ClosedJaxpr):
                yield from equations(value.jaxpr)
            elif isinstance(value, core.Jaxpr):
                yield from equations(value)


def products(function, *args):
    """(operand type, precision, name of the layer) of each product of a program."""
    found = []
    for eqn in equations(jax.make_jaxpr(function)(*args).jaxpr):
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            [dtype] = {x.aval.dtype for x in eqn.invars}
            found.append(
                (dtype, eqn.params["precision"], str(eqn.source_info.name_stack))
            )
    return found


def step_products(made):
    key = jax.eval_shape(lambda: jax.random.key(0))
    return products(made.train_step, made.shapes, made.batch, key)


def test_the_default_adds_nothing_to_the_program_on_a_cpu(mesh):
    """float32 operands, and no precision: a CPU has no other."""
    found = step_products(built(mesh))
    assert len(found) > 20
    assert {(dtype, precision) for dtype, precision, _ in found} == {(F32, None)}
    text = built(mesh).lower().as_text()
    assert built(mesh, "precision=float32").lower().as_text() == text
    assert built(mesh, "precision=tf32").lower().as_text() != text


def test_float32_is_float32_on_accelerators_too():
    default = from_config(vit_s16_i1k.get_config().to_dict())
    tf32 = from_config(vit_s16_i1k.get_config("precision=tf32").to_dict())
    found = {p: program.matmul_precision(default, p) for p in ("cpu", "gpu", "tpu")}
    assert found == {"cpu": None, "gpu": "highest", "tpu": "highest"}
    assert {program.matmul_precision(tf32, p) for p in found} == {"high"}


def test_xlas_options_are_those_of_the_kind_of_device_and_of_the_config():
    e = from_config(vit_s16_i1k.get_config().to_dict())
    triton = "xla_gpu_enable_triton_gemm"
    kinds = ("NVIDIA H100 80GB HBM3", "TPU v5 lite", "cpu")
    found = [program.compiler_options(e, kind) for kind in kinds]
    assert found == [{triton: False}, {}, {}]
    asked = {triton: True, "xla_dump_to": "folder"}
    e = dataclasses.replace(e, compiler_options=asked)
    assert program.compiler_options(e, kinds[0]) == asked


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_matmul_precision_reaches_every_product_of_the_runs_programs(mesh, precision):
    """Forward and backward, in training and in evaluation; JAX's setting stays."""
    before = jax.config.jax_default_matmul_precision
    made = built(mesh, "", [f"matmul_precision={precision}"])
    expected = {(F32, (Precision[precision.upper()],) * 2)}
    image = jax.ShapeDtypeStruct((16, 32, 32, 3), jnp.float32)
    training = step_products(made)
    for found in (training, products(made.predict, made.shapes, image)):
        assert len(found) > 5
        assert {(dtype, each) for dtype, each, _ in found} == expected
    assert any("transpose" in name for _, _, name in training)
    assert jax.config.jax_default_matmul_precision == before
    assert products(lambda x: x @ x, jnp.ones((2, 2)))[0][1] is None


@pytest.mark.parametrize(
    ("arg", "stream"), [("bfloat16", F32), ("bfloat16_all", BF16)], ids=str
)
def test_bfloat16_is_for_products_and_all_is_for_the_stream_too(mesh, arg, stream):
    made = built(mesh, f"precision={arg}")
    head = ("/head/", "/pre_logits/")
    for dtype, precision, name in step_products(made):
        in_head = any(part in f"{name}/".replace(")", "/") for part in head)
        assert (dtype, precision) == (F32 if in_head else BF16, None), name
    image = jax.ShapeDtypeStruct((16, 32, 32, 3), jnp.float32)
    logits, out = jax.eval_shape(made.predict, made.shapes, image)
    block = out["encoder"]["block00"]
    found = {name: block[name].dtype for name in ("sa", "+sa", "mlp", "+mlp")}
    assert found == {"sa": BF16, "+sa": stream, "mlp": BF16, "+mlp": stream}
    assert logits.dtype == F32
    state = made.shapes
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {F32}
    softmax = [
        eqn.invars[0].aval.dtype
        for eqn in equations(jax.make_jaxpr(made.predict)(made.shapes, image).jaxpr)
        if eqn.primitive.name == "exp"
    ]
    assert set(softmax) == {F32}


def test_a_wrong_precision_is_one_sentence(mesh):
    with pytest.raises(ValueError, match=r"unknown matmul_precision 'hihg'.*'high'"):
        built(mesh, "", ["matmul_precision=hihg"])
    with pytest.raises(ValueError, match="precision='fp8' is not one of float32, tf32"):
        vit_s16_i1k.get_config("precision=fp8")


# attn_impl="auto".

SERVED = {"width": 64, "num_heads": 1, "dtype_mm": "bfloat16", "attn_impl": "auto"}


@pytest.mark.parametrize(
    ("kw", "device", "chosen"),
    [
        ({}, H100, "cudnn"),
        ({"dtype_mm": "float16"}, H100, "cudnn"),
        ({"softmax_dtype": "float32"}, H100, "cudnn"),
        ({"residual_dtype": "bfloat16"}, H100, "cudnn"),
        ({"pool_type": "tok", "registers": 1}, H100, "cudnn"),
        ({}, types.SimpleNamespace(compute_capability="12.0"), "cudnn"),
        ({}, types.SimpleNamespace(compute_capability="8.0"), "cudnn"),
        ({}, types.SimpleNamespace(compute_capability="7.5"), "flax"),
        ({}, types.SimpleNamespace(compute_capability="gfx942"), "flax"),  # AMD
        ({}, types.SimpleNamespace(platform="tpu"), "flax"),
        ({"dtype_mm": "float32"}, H100, "flax"),
        ({"softmax_dtype": "bfloat16"}, H100, "flax"),
        ({"return_attn": True}, H100, "flax"),
        ({"pool_type": "map"}, H100, "flax"),
        ({"pool_type": "tok"}, H100, "flax"),  # 5 tokens
        ({"width": 60}, H100, "flax"),
        ({"width": 136}, H100, "flax"),
    ],
)
def test_auto_is_cudnn_only_where_cudnn_can_do_it(kw, device, chosen):
    model = vit.Model(5, patch_size=(16, 16), **(SERVED | kw))
    assert vit.fastest_attention(model, device, (32, 32, 3)) == chosen
    assert vit.with_attention(model, device, (32, 32, 3)).attn_impl == chosen


def test_auto_is_chosen_for_the_programs_devices_and_alone_for_jaxs(mesh):
    made = built(mesh, "precision=bfloat16")
    assert made.model.attn_impl == "flax"
    image = np.ones((2, 32, 32, 3), np.float32)
    auto = vit.Model(5, patch_size=(16, 16), depth=1, **SERVED)
    params = auto.init(jax.random.key(0), image)["params"]
    logits = [
        jax.jit(model.apply)({"params": params}, image)[1]["encoded"]
        for model in (auto, auto.clone(attn_impl="flax"))
    ]
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"pool_type": "tok"}, "needs an even number of tokens, got 5"),
        ({"pool_type": "map"}, "needs another pool_type than 'map'"),
        ({"width": 60}, "needs heads of a multiple of 8 channels, got 60"),
    ],
)
def test_what_cudnn_cannot_train_is_refused(kw, message):
    kw = {**SERVED, **kw, "attn_impl": "cudnn"}
    model = vit.Model(5, patch_size=(16, 16), **kw)
    with pytest.raises(ValueError, match=f"attn_impl 'cudnn' {message}.*'auto'"):
        vit.with_attention(model, H100, (32, 32, 3))


TARGET = chips.parse("h100")


@pytest.mark.skipif(chips.missing(TARGET) is not None, reason="needs extra aot_cuda")
def test_a_program_for_an_absent_h100(monkeypatch):
    """What is chosen is for the chip, not for this process's CPU."""
    devices = np.array(chips.devices(TARGET))
    mesh = jax.sharding.Mesh(devices, ("data",))
    precise = {p for _, p, _ in step_products(built(mesh))}
    assert precise == {(Precision.HIGHEST,) * 2}
    made = built(mesh, "precision=bfloat16")
    assert made.model.attn_impl == "cudnn"
    assert "cudnn" in made.lower().as_text()
