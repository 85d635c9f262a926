"""The kernel of vitjax.models.gelu_product, on a CPU by Pallas' interpreter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vitjax.devices import sharding
from vitjax.estimate import compiled
from vitjax.models import products, vit
from vitjax.models.gelu_product import gelu_product, slope

# The last parts reach beyond rows and hidden channels; three steps along d.
ROWS, HIDDEN, D = 300, 144, 48
BOUNDS = {"float32": 1e-5, "bfloat16": 1e-2}


def arrays(rows, dtype=np.float32):
    """Return x, bias, kernel and the gradient of the product."""
    rng = np.random.default_rng(0)
    shapes = ((rows, HIDDEN), (HIDDEN,), (HIDDEN, D), (rows, D))
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def kernel(gelu, x, bias, w, dy, interpret=True):
    """Return the product and its gradients, by the module."""
    f = lambda *given: gelu_product(*given, gelu, vit.GELUS[gelu], interpret)
    y, back = jax.vjp(f, x, bias, w)
    return y, *back(dy)


def plain(gelu, x, bias, w, dy):
    """Return the product and its gradients, by JAX's own derivatives."""
    y, back = jax.vjp(lambda x, b, w: vit.GELUS[gelu](x + b[None]) @ w, x, bias, w)
    return y, *back(dy)


def close(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("gelu", vit.GELUS)
def test_the_slope_is_the_derivative(gelu):
    z = np.concatenate([np.linspace(-12, 12, 999), [-1e4, -60.0, 0.0, 60.0, 1e4]])
    with jax.enable_x64(True):
        expected = jax.vmap(jax.grad(vit.GELUS[gelu]))(jnp.asarray(z))
        np.testing.assert_allclose(slope(gelu, jnp.asarray(z)), expected, atol=1e-12)
    narrow = slope(gelu, jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(narrow, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("gelu", ["tanh", "exact"])
@pytest.mark.parametrize("interpret", [True, False], ids=["kernel", "elsewhere"])
def test_values_and_gradients_are_those_of_autodiff(gelu, dtype, interpret):
    """In half precision too, the reference computes in float32 with the same numbers."""
    given = arrays(ROWS, dtype)
    found = jax.jit(functools.partial(kernel, gelu, interpret=interpret))(*given)
    assert {a.dtype for a in found} == {jnp.dtype(dtype)}
    wide = [a.astype(jnp.float32) for a in given]
    close(found, jax.jit(functools.partial(plain, gelu))(*wide), BOUNDS[dtype])


@pytest.mark.parametrize("rows", [8 * 37, 8 * 128])
def test_each_device_computes_its_own_rows(mesh, rows):
    """Without and with a shard_map around it; nothing but sums crosses devices."""
    given = arrays(rows)
    alone = kernel("tanh", *given)
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    homes = (split, whole, whole, split)
    placed = [jax.device_put(a, home) for a, home in zip(given, homes, strict=True)]
    program = jax.jit(functools.partial(kernel, "tanh"), in_shardings=homes)
    program = program.lower(*placed).compile()
    found = program(*placed)
    close(found, alone, 1e-5)
    assert found[1].sharding.is_equivalent_to(split, 2)
    text = program.as_text()
    assert "all-reduce" in text
    assert not any(kind in text for kind in ("all-gather", "all-to-all", "permute"))

    def local(x, bias, w, dy):
        y, dx, *rest = kernel("tanh", x, bias, w, dy)
        return y, dx, *jax.lax.psum(rest, "data")

    rows_only, none = P("data"), P()
    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(rows_only, none, none, rows_only),
        out_specs=(rows_only, rows_only, none, none),
        check_vma=False,
    )
    close(jax.jit(mapped)(*placed), alone, 1e-5)


def test_the_model_computes_the_same():
    """As far as bfloat16 allows, in a scan too; on a CPU, without the kernel."""
    sizes = {"width": 32, "depth": 1, "num_heads": 2, "patch_size": (4, 4)}
    given = {"dtype_mm": "bfloat16", "head_zeroinit": False, "gelu": "exact", **sizes}
    image = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype("f4")
    found = []
    for more in ({}, {"mlp_impl": "pallas"}, {"mlp_impl": "pallas", "scan": True}):
        model = vit.Model(5, **given, **more)
        params = vit.Model(5, **given).init(jax.random.key(0), image)["params"]
        if "scan" in more:
            params = vit.loop_to_scan(params)

        def loss(params, model=model):
            logits = model.apply({"params": params}, image)[0]
            return (logits**2).sum(), logits

        (_, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        if "scan" in more:
            grads = vit.scan_to_loop(grads)
        # Side by side, because the gradient of a key's bias is rounding noise.
        flat = jnp.concatenate([g.ravel() for g in jax.tree.leaves(grads)])
        found.append((logits, flat))
    for other in found[1:]:
        close(other, found[0], 1e-2)


def lowered(devices, form, rows):
    """Return the gradients of an MLP of S/16, by a form of it, for absent devices."""
    mesh = sharding.make_mesh(devices=devices)
    shapes = ((rows, 384), (384, 1536), (1536,), (1536, 384), (384,), (rows, 384))
    homes = [P("data"), P(), P(), P(), P(), P("data")]
    given = [
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, home))
        for shape, home in zip(shapes, homes, strict=True)
    ]

    def xla(x, w0, b0, w1, b1):
        z = products.apply(x, products.Matrix(w0, b0), x.dtype)
        y = products.recomputed(vit.GELUS["tanh"])(z)
        return products.apply(y, products.Matrix(w1, b1), x.dtype)

    def pallas(x, w0, b0, w1, b1):
        return gelu_product(x @ w0, b0, w1, "tanh", vit.GELUS["tanh"]) + b1[None]

    f = {"xla": xla, "pallas": pallas}[form]
    return jax.jit(lambda *given: jax.vjp(f, *given[:-1])[1](given[-1])).lower(*given)


@pytest.mark.aot
@pytest.mark.parametrize("name", ["h100", "h100x8"])
def test_a_gpu_writes_one_array_less(absent, name):
    target, devices = absent(name)
    rows, found, text = 50_000 * target.count, {}, {}
    for form in ("xla", "pallas"):
        low = lowered(devices, form, rows)
        # As the training step does: program.compiler_options.
        options = {"xla_gpu_enable_triton_gemm": False}
        program = low.compile(compiler_options=options)
        found[form] = compiled.estimate(program, target.chip, target.count)
        text[form] = program.as_text()
    wide = 2 * 50_000 * 1536
    saved = found["xla"].traffic - found["pallas"].traffic
    assert saved == pytest.approx(2 * wide, rel=0.1)
    assert found["pallas"].flops == found["xla"].flops == 5 * 2 * 50_000 * 1536 * 384
    # The way forward stays cuBLASLt's: bias and GELU within the product.
    assert all('"epilogue":"BIAS_GELU_AUX"' in t for t in text.values())
    assert "xla.gpu.triton" in text["pallas"]
    assert set(found["pallas"].collectives) == set(found["xla"].collectives)
    kinds = {"all-reduce"} if target.count > 1 else set()
    assert set(found["pallas"].collectives) == kinds
