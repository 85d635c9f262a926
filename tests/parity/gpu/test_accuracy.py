"""vitjax against float64, in each precision: on the CPU here, on a GPU by `make gpu`."""

import jax
import numpy as np
import pytest
import torch

from parity.gpu import accuracy
from parity.sides import ours, rounded, theirs

PRECISIONS = tuple(accuracy.PRECISIONS)


def check(lines, record_property):
    found = list(lines)
    for line in found:
        record_property(line.name, f"{line.measured:.3g} <= {line.bound:.3g}")
    assert [line for line in found if not line.passed] == []


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "what",
    ["forward", "loss", "gradients", pytest.param("training", marks=pytest.mark.slow)],
)
def test_vitjax_is_as_close_to_float64_as_the_reference(
    platform, what, precision, record_property
):
    check(getattr(accuracy, what)(precision), record_property)


@pytest.mark.parametrize("impl", ["xla", "cudnn"])
@pytest.mark.parametrize("what", ["forward", "gradients"])
def test_each_attention_is_as_close_to_float64(platform, what, impl, record_property):
    """flax is the case above."""
    if (platform, impl) == ("cpu", "cudnn"):
        pytest.skip("cuDNN needs an NVIDIA GPU")
    case = accuracy.CASE.but(attn_impl=impl)
    check(getattr(accuracy, what)("bfloat16", case), record_property)


def test_the_kernel_of_the_mlp_is_as_close_to_float64(platform, record_property):
    """On a CPU, XLA computes what the kernel does."""
    case = accuracy.CASE.but(mlp_impl="pallas")
    check(accuracy.gradients("bfloat16", case), record_property)


@pytest.mark.slow
def test_eight_microbatches_are_as_close_to_float64_as_one(platform, record_property):
    for accum_freq in (1, 8):
        lines = accuracy.training("float32", num_steps=5, accum_freq=accum_freq)
        check(lines, lambda name, value, n=accum_freq: record_property(
            f"{name}, {n} microbatches", value
        ))  # fmt: skip


def test_another_precision_exceeds_the_bound():
    """bfloat16 fails where TF32 is expected, and TF32 where float32 is."""
    case = accuracy.CASE.but(precision="float32")
    exact = accuracy._float64(case, theirs.gradients)
    floor = accuracy._gradient_floor(exact)
    with rounded.rounded_products(rounded.to_nearest):
        tf32 = theirs.gradients(case, None)
    bfloat16 = ours.gradients(case.but(precision="bfloat16"))
    for precision, worse in (("float32", tf32), ("tf32", bfloat16)):
        controls = accuracy._controls(case, precision, theirs.gradients)
        errors = accuracy.compared("float32", worse, exact, controls, floor)
        assert not errors.line("all").passed


def test_products_are_rounded_forward_and_backward():
    rng = np.random.default_rng(0)
    x, w, y = (torch.tensor(rng.standard_normal((5, 5))) for _ in range(3))
    x.requires_grad_()
    for rounding in (rounded.to_nearest, rounded.to_zero):
        x.grad = None
        with rounded.rounded_products(rounding):
            out = torch.nn.functional.linear(x, w, y[0])
            (out * y).sum().backward()
        r = rounding
        torch.testing.assert_close(
            out, r(x.detach()) @ r(w).T + y[0], rtol=0, atol=1e-14
        )
        torch.testing.assert_close(x.grad, r(y) @ r(w), rtol=0, atol=1e-14)
        assert not torch.equal(out, torch.nn.functional.linear(x, w, y[0]))


def test_attention_and_convolutions_are_rounded():
    """With operands that TF32 holds, but products of products that it does not."""
    case = accuracy.CASE.but(precision="float64")
    plain = theirs.forward(case, None)
    with rounded.rounded_products(lambda x: x):
        same = theirs.forward(case, None)
    with rounded.rounded_products(rounded.to_nearest):
        other = theirs.forward(case, None)
    for stage in ("stem", "block00/attention", "block00/mlp", "logits"):
        scale = np.abs(plain[stage]).max()
        assert np.abs(same[stage] - plain[stage]).max() < 1e-12 * scale
        assert 1e-5 < np.abs(other[stage] - plain[stage]).max() / scale < 1e-2


def test_tf32_keeps_ten_bits():
    """Against the bits of float32: TF32 drops the last 13."""
    x = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    x = np.concatenate([x, [0.0, 1.0, -(1 + 2**-11), 1 + 3 * 2**-11]]).astype("f4")
    bits = x.view(np.uint32)
    cut = (bits & 0xFFFFE000).view(np.float32)
    even = bits + 0xFFF + ((bits >> 13) & 1)
    near = (even & 0xFFFFE000).astype(np.uint32).view(np.float32)
    np.testing.assert_array_equal(rounded.to_zero(torch.tensor(x)), cut)
    np.testing.assert_array_equal(rounded.to_nearest(torch.tensor(x)), near)


def test_the_reference_is_on_the_cpu(platform):
    """And JAX computes on the platform that is tested."""
    assert jax.devices()[0].platform == platform
    assert jax.devices("cpu")
