"""The roofline of programs by hand, and the flagship's step for absent chips."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import program, synthetic, trees
from vitjax.devices import chips, sharding
from vitjax.estimate import compiled, count, hlo

H100, V5E = chips.CHIPS["h100"], chips.CHIPS["v5e"]

# A copy of 400 MB, and a product of 4096^3 in bfloat16 that is short of bytes.
TWO = """HloModule m
ENTRY %main (a: f32[50000000], b: bf16[4096,4096]) -> (f32[50000000], bf16[4096,4096]) {
  %a = f32[50000000]{0} parameter(0)
  %b = bf16[4096,4096]{1,0} parameter(1)
  %c = f32[50000000]{0} copy(%a)
  %d = bf16[4096,4096]{1,0} dot(%b, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (f32[50000000]{0}, bf16[4096,4096]{1,0}) tuple(%c, %d)
}
"""


@pytest.mark.parametrize("chip", [H100, V5E], ids=lambda chip: chip.name)
def test_a_kernel_takes_the_longer_of_bytes_and_products(chip):
    copy, product = count.kernels(hlo.parse(TWO))
    launch = 0.0 if chip.tpu else 3e-6
    assert compiled.seconds(copy, chip, 1) == pytest.approx(
        2 * 4 * 50e6 / (0.85 * chip.bandwidth) + launch
    )
    assert compiled.seconds(product, chip, 1) == pytest.approx(
        2 * 4096**3 / (0.75 * chip.bfloat16) + launch
    )


@pytest.mark.parametrize(
    ("kind", "group", "passed"),
    [
        ("all-reduce", 0, 2 * 7 / 8),
        ("all-reduce", 4, 2 * 3 / 4),
        ("reduce-scatter", 0, 7 / 8),
        ("all-to-all", 0, 7 / 8),
        ("all-gather", 0, 7),  # of its own eighth
        ("collective-permute", 0, 1),
    ],
)
def test_a_collective_takes_the_time_of_a_ring(kind, group, passed):
    exchange = count.Collective(kind, 3e9, group, "x")
    kernel = count.Kernel("x", "", kind, 0.0, (), collectives=(exchange,))
    seconds = compiled.seconds(kernel, V5E, 8)
    assert seconds == pytest.approx(passed * 3e9 / V5E.link)


BLOCK = "jit(f)/jvp(ViT)/Transformer/encoderblock_3/MlpBlock_0"


@pytest.mark.parametrize(
    ("op_name", "place"),
    [
        (f"{BLOCK}/Dense_0/dot_general", ("Transformer/encoderblock/MlpBlock_0/Dense_0",
                                          "forward")),
        (f"{BLOCK}/MlpBlock_0._gelu/mul", ("Transformer/encoderblock/MlpBlock_0",
                                           "forward")),
        ("jit(f)/transpose(jvp(ViT))/head/dot_general", ("head", "backward")),
        ("jit(f)/while/body/transpose(jvp(ViT))/rematted_computation/head/dot",
         ("head", "recomputed")),
        ("jit(f)/while/body/eval_jaxpr/jvp(ViT)/ViT._stem/embedding/dot_general",
         ("embedding", "forward")),
        ("jit(f)/shard_map/ppermute", ("step", "other")),
        ("jit(f)/transpose(jvp(ViT))/Transformer/encoderblock_3/Transformer/"
         "encoderblock_3/add_any", ("Transformer/encoderblock", "backward")),
        ("", ("copies", "other")),
    ],
)  # fmt: skip
def test_the_place_of_an_operation(op_name, place):
    assert compiled.place(op_name) == place


@pytest.mark.parametrize(
    ("text", "gib"),
    [
        ("Ran out of memory in memory space hbm. Used 31.40G of 15.75G hbm.", 31.4),
        ("Used 512.0M of 15.75G hbm", 0.5),
        ("no figure", None),
    ],
)
def test_a_program_that_is_refused_says_its_memory(text, gib):
    found = compiled.TooLarge(text).memory
    assert found == (gib if gib is None else pytest.approx(gib * 2**30))


def test_the_parts_add_up(mesh):
    """On any device: of bytes, products and kernels, none is lost or counted twice."""
    run = synthetic.build(
        synthetic.flagship("mu/16"), mesh, batch_size=16, image_size=32
    )
    with compiled.uncached():  # a cached program may have an older source's names
        program = run.lower().compile()
    kernels = count.kernels(hlo.parse(program.as_text()))
    found = compiled.estimate(program, V5E, 8)
    assert found.kernels == sum(k.times for k in kernels)
    assert found.traffic == sum(p.bytes for p in found.parts)
    assert found.traffic == pytest.approx(sum(k.times * k.bytes for k in kernels))
    assert found.flops == pytest.approx(sum(k.times * k.flops for k in kernels))
    by_hand = [k.times * compiled.seconds(k, V5E, 8) for k in kernels]
    assert found.seconds == pytest.approx(sum(by_hand))
    assert {"forward", "backward", "recomputed", "other"} == {
        p.phase for p in found.parts
    }
    # The products of every layer are found under its name.
    layers = {p.layer for p in found.parts if p.flops}
    block = "Transformer/encoderblock"
    attention = f"{block}/MultiHeadDotProductAttention_0"
    assert layers >= {
        *("embedding", "head", "pre_logits", attention),
        *(f"{attention}/{name}" for name in ("qkv", "out")),
        *(f"{block}/MlpBlock_0/{name}" for name in ("Dense_0", "Dense_1")),
    }
    assert not [p for p in found.parts if p.layer == "step" and p.flops]


def test_jax_keeps_no_program_of_an_absent_chip(mesh, absent, tmp_path, monkeypatch):
    """Its cache on disk cannot read them again; other programs are kept as before."""
    monkeypatch.setattr(chips, "compiler_options", lambda target: {})
    lowered = jax.jit(lambda x: x @ x.T + 3.21).lower(jnp.ones((600, 600)))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    try:
        compiled.compile_for(lowered, chips.parse("h100"))
        assert not list(tmp_path.iterdir())
        jax.jit(lambda x: x @ x.T + 3.22).lower(jnp.ones((600, 600))).compile()
        assert list(tmp_path.iterdir())
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.config.update("jax_compilation_cache_dir", before)
        compiled.compilation_cache.reset_cache()


FSDP = "fsdp(axis='data', min_size_to_shard_mb=0)"
MODEL = ("dtype_mm", "attn_impl", "residual_dtype", "mlp_impl")


@functools.cache
def step(target, devices, variant, batch_size, image_size, **flags):
    """The flagship's step for absent chips: (its program, its estimate, its parameters)."""
    kw = dict(flags)
    model = {k: kw.pop(k) for k in MODEL if k in kw}
    if "sharding_strategy" in kw:
        kw["sharding_strategy"] = ((".*", kw["sharding_strategy"]),)
    e = synthetic.flagship(variant, model=model, **kw)
    mesh = sharding.make_mesh(devices=devices)
    run = synthetic.build(e, mesh, batch_size=batch_size, image_size=image_size)
    program = compiled.compile_for(run.lower(), target)
    found = compiled.estimate(program, target.chip, target.count)
    return program, found, trees.count(run.shapes.params)


def opened(absent, name):
    target, devices = absent(name)
    return target, tuple(devices)


@pytest.mark.aot
@pytest.mark.slow
@pytest.mark.parametrize("accum_freq", [1, 8])
@pytest.mark.parametrize(("name", "most"), [("v5e:2x4", 1), ("h100x8", 3)])
def test_a_step_adds_gradients_once_and_gathers_no_images(
    absent, name, most, accum_freq
):
    where = opened(absent, name)
    _, found, params = step(*where, "mu/16", 64, 32, accum_freq=accum_freq)
    assert found.collectives.keys() == {"all-reduce", "collective-permute"}
    number, given = found.collectives["all-reduce"]
    assert 1 <= number <= most
    # Gradients in float32, and a few metrics.
    assert 4 * params <= given < 4 * params + 100
    # Mixup rolls the batch: a device gives one image and its label to the next.
    assert found.collectives["collective-permute"][1] == 32 * 32 * 3 + 4


@pytest.mark.aot
@pytest.mark.slow
@pytest.mark.parametrize("name", ["v5e:2x4", "h100x8"])
def test_randaug_in_the_step_exchanges_nothing_and_adds_no_product(absent, name):
    """The only image that moves is mixup's, with its label and without its plan."""
    target, devices = opened(absent, name)
    e = synthetic.flagship("mu/16")
    e = dataclasses.replace(e, device_pp=f"randaug(2, 10)|{e.device_pp}")
    spec = {
        "image": ((32, 32, 3), np.dtype(np.uint8)),
        "label": ((), np.dtype(np.int32)),
        "randaug_plan": ((2,), np.dtype(np.uint32)),
    }
    run = program.build(
        e, sharding.make_mesh(devices=devices), element_spec=spec,
        batch_size=64, total_steps=112_603, data_size=1_281_167,
    )  # fmt: skip
    built = compiled.compile_for(run.lower(), target)
    found = compiled.estimate(built, target.chip, target.count)
    assert found.collectives.keys() == {"all-reduce", "collective-permute"}
    assert found.collectives["collective-permute"][1] == 32 * 32 * 3 + 4
    assert sum(p.kernels for p in found.parts if p.layer == "randaug") > 20
    module = hlo.parse(built.as_text())
    sums = [
        (body, one)
        for body in module.computations.values()
        for one in body.values()
        if one.opcode in ("add", "subtract")
        and one.shapes[0].dtype == "f32"
        and "/randaug/" in one.op_name
    ]
    assert sums, "Sharpness adds floats"
    for body, one in sums:
        made = [body[name].opcode for name in one.operands if name in body]
        assert "multiply" not in made


@pytest.mark.aot
@pytest.mark.slow
@pytest.mark.parametrize("name", ["v5e:2x4", "h100x8"])
def test_fsdp_gathers_parameters(absent, name):
    where = opened(absent, name)
    _, split, params = step(*where, "mu/16", 64, 32, sharding_strategy=FSDP)
    assert "all-gather" in split.collectives
    # Less than all parameters and activations; one image a device has 3,072 bytes.
    assert split.collectives["all-gather"][1] < 4 * params
    _, whole, _ = step(*where, "mu/16", 64, 32, accum_freq=1)
    assert split.memory < whole.memory


@pytest.mark.aot
@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["replicate", FSDP])
def test_the_kernel_of_the_mlp_adds_no_collective(absent, strategy):
    """XLA gathers the operands of a kernel that it cannot split."""
    where, found = opened(absent, "h100x8"), {}
    for impl in ("xla", "pallas"):
        given = {"dtype_mm": "bfloat16", "attn_impl": "flax", "mlp_impl": impl}
        program, estimate, _ = step(
            *where, "mu/16", 64, 32, sharding_strategy=strategy, **given
        )
        assert ("xla.gpu.triton" in program.as_text()) == (impl == "pallas")
        found[impl] = estimate.collectives
    assert found["pallas"].keys() == found["xla"].keys()
    for kind, (_, given) in found["xla"].items():
        # The kernel sums a bias's gradient, of 128 numbers, in float32.
        assert found["pallas"][kind][1] == pytest.approx(given, abs=4 * 128)


@pytest.mark.aot
@pytest.mark.slow
def test_products_are_those_that_xla_counts_on_a_tpu(absent):
    """On a small program without loops; XLA adds the sums of the products."""
    target, devices = absent("v5e:1x1")

    def f(x, k, w):
        y = jax.lax.conv_general_dilated(
            x, k, (16, 16), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.einsum("bhwc,cd->bhwd", y, w)

    home = sharding.replicated(sharding.make_mesh(devices=devices))
    shapes = [(8, 224, 224, 3), (16, 16, 3, 384), (384, 1536)]
    given = [jax.ShapeDtypeStruct(s, np.float32, sharding=home) for s in shapes]
    program = compiled.compile_for(jax.jit(f).lower(*given), target)
    found = compiled.estimate(program, target.chip, 1)
    assert found.flops == 2 * 8 * 14 * 14 * (16 * 16 * 3 * 384 + 384 * 1536)
    assert found.flops == pytest.approx(program.cost_analysis()["flops"], rel=0.01)


def least_traffic(b, n, d, depth, half=2, full=4):
    """Bytes of the blocks of a step that fuses all it can, by hand.

    Every product, LayerNorm and attention reads and writes its operands once; `half` are
    the bytes of a product's operand, `full` those of the residual stream. The backward
    pass moves twice what the forward pass does; parameters are small beside this.
    """
    norms = 2 * (full + half) * d
    qkv = 3 * 2 * half * d
    attention = (3 + 1) * half * d
    out = half * d + 2 * full * d  # adds to the residual stream
    mlp_in = (1 + 4) * half * d  # with bias and GELU
    mlp_out = 4 * half * d + 2 * full * d
    token = norms + qkv + attention + out + mlp_in + mlp_out
    return 3 * b * n * depth * token


@pytest.mark.aot
@pytest.mark.soak  # four minutes of compilation; `make aot` runs it
def test_the_flagship_on_eight_v5e(absent):
    where = opened(absent, "v5e:2x4")
    program, found, params = step(*where, "S/16", 1024, 224, dtype_mm="bfloat16")
    assert found.memory < 16 * 2**30
    # Three copies of the parameters, and an eighth of the batch.
    arguments = (4 + 2 + 4) * params + 128 * 224 * 224 * 3
    assert found.memory - found.temporaries > 0.9 * arguments
    assert found.collectives["all-reduce"][0] == 1
    assert "all-gather" not in found.collectives
    cost = program.cost_analysis()
    # XLA also counts additions, exponentials and the like.
    assert 0.9 < found.flops / cost["flops"] <= 1.0
    assert found.xla_bytes == cost["bytes accessed"]
    assert 0.8 < found.traffic / least_traffic(128, 196, 384, 12) < 1.3
    assert found.traffic < found.xla_bytes


@pytest.mark.aot
@pytest.mark.slow
def test_the_flagship_on_an_h100(absent):
    where = opened(absent, "h100")
    given = {"dtype_mm": "bfloat16", "attn_impl": "cudnn"}
    program, found, _ = step(*where, "S/16", 1024, 224, **given)
    assert "cudnn" in program.as_text()
    assert found.fits(H100)
    assert not found.collectives
    # 1.5 before the forms of vitjax/models/products.py.
    assert 0.9 < found.traffic / least_traffic(1024, 196, 384, 12) < 1.25
    # Forward and backward, and attention's scores once more in the backward pass.
    n, d = 196, 384
    block = 24 * n * d * d + 4 * n * n * d
    again = 2 * n * n * d
    embedding = 2 * n * 768 * d
    flops = 1024 * (12 * (3 * block + again) + 2 * embedding)
    assert found.flops == pytest.approx(flops, rel=0.01)
    # The roofline is between each of its sides and their sum.
    moved = found.traffic / (0.85 * H100.bandwidth)
    multiplied = found.flops / (0.75 * H100.bfloat16)
    launched = 3e-6 * found.kernels
    assert max(moved, multiplied) < found.seconds < moved + multiplied + launched


@pytest.mark.aot
@pytest.mark.slow
@pytest.mark.parametrize("accum_freq", [1, 8])
def test_the_flagship_on_eight_h100s(absent, accum_freq):
    """XLA combines the gradients of 88 MB into three all-reduces."""
    where = opened(absent, "h100x8")
    given = {"dtype_mm": "bfloat16", "attn_impl": "cudnn", "residual_dtype": "bfloat16"}
    _, found, params = step(*where, "S/16", 1024, 224, accum_freq=accum_freq, **given)
    number, given = found.collectives["all-reduce"]
    assert number == 3
    assert 4 * params <= given < 4 * params + 100
    assert found.collectives.keys() == {"all-reduce", "collective-permute"}
    if accum_freq == 1:
        by_hand = least_traffic(128, 196, 384, 12, full=2)
        assert 0.9 < found.traffic / by_hand < 1.45
