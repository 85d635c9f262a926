"""Bytes, products and collectives of small programs, by hand and by running them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from vitjax.estimate import count, hlo


def kernels(function, *shapes):
    """The kernels of a function of float32 arrays, compiled for the CPU."""
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    text = jax.jit(function).lower(*arrays).compile().as_text()
    return count.kernels(hlo.parse(text))


def flops(found):
    return sum(kernel.times * kernel.flops for kernel in found)


def written(text):
    """The kernels of a program that is written down here; (name, bytes) of each."""
    return {k.name: k for k in count.kernels(hlo.parse(text))}


@pytest.mark.parametrize(
    ("equation", "a", "b", "multiplied"),
    [
        ("ij,jk->ik", (8, 16), (16, 4), 8 * 16 * 4),
        ("ji,kj->ik", (16, 8), (4, 16), 8 * 16 * 4),
        ("bij,bjk->bik", (3, 8, 16), (3, 16, 4), 3 * 8 * 16 * 4),
        ("ijk,jkl->il", (5, 6, 7), (6, 7, 2), 5 * 6 * 7 * 2),
    ],
)
def test_a_product(equation, a, b, multiplied):
    found = kernels(lambda x, y: jnp.einsum(equation, x, y), a, b)
    assert flops(found) == 2 * multiplied
    assert {(dtype, p) for k in found for _, dtype, p in k.products} == {
        ("float32", "default")
    }


def test_a_product_moves_its_operands_and_result_once():
    [kernel] = kernels(jnp.matmul, (8, 16), (16, 4))
    assert kernel.bytes == 4 * (8 * 16 + 16 * 4 + 8 * 4)


CONVOLUTIONS = [
    ({"window_strides": (16, 16), "padding": "VALID"}, (2, 32, 48, 3), (16, 16, 3, 5)),
    (
        {"window_strides": (2, 1), "padding": [(1, 1), (2, 3)]},
        (2, 9, 8, 3),
        (3, 3, 3, 5),
    ),
    (
        {"window_strides": (1, 2), "padding": [(0, 2), (3, 0)], "rhs_dilation": (2, 3)},
        (1, 9, 11, 4),
        (3, 2, 4, 6),
    ),
    (
        {"window_strides": (1, 1), "padding": [(2, 2), (1, 2)], "lhs_dilation": (2, 3)},
        (2, 5, 6, 3),
        (3, 4, 3, 2),
    ),
    (
        {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 3},
        (2, 7, 7, 6),
        (3, 3, 2, 9),
    ),
]


@pytest.mark.parametrize(("options", "image", "kernel"), CONVOLUTIONS)
def test_a_convolution(options, image, kernel):
    """With ones everywhere, the sum of the results is the number of products."""

    def convolve(x, k):
        return jax.lax.conv_general_dilated(
            x, k, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
        )

    products = convolve(np.ones(image, np.float32), np.ones(kernel, np.float32)).sum()
    assert flops(kernels(convolve, image, kernel)) == 2 * products


def test_the_gradient_of_a_patch_embedding():
    """As many products as forward, though it is a convolution with dilation."""
    images, patches = (2, 32, 32, 3), (16, 16, 3, 5)

    def embed(x, k):
        return jax.lax.conv_general_dilated(
            x, k, (16, 16), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    gradient = jax.grad(lambda k, x: (embed(x, k) ** 2).sum())
    forward = flops(kernels(embed, images, patches))
    assert forward == 2 * 2 * 4 * 16 * 16 * 3 * 5
    assert flops(kernels(gradient, patches, images)) == 2 * forward


@pytest.mark.parametrize("trips", [1, 5])
def test_a_loop_counts_as_often_as_it_runs(trips):
    def loop(x, k):
        return jax.lax.scan(lambda c, _: (jnp.sin(c @ k), None), x, length=trips)[0]

    assert flops(kernels(loop, (8, 16), (16, 16))) == trips * 2 * 8 * 16 * 16


# XLA for a TPU notes no number of trips, and its loops count up to a constant.
LOOP = """HloModule m
%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[4]{0} get-tuple-element(%p), index=1
  %y = f32[4]{0} negate(%x)
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %y)
}
%condition (p.1: (s32[], f32[4])) -> pred[] {
  %p.1 = (s32[], f32[4]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %n = s32[] constant(7)
  ROOT %less = pred[] compare(%i.1, %n), direction=LT
}
ENTRY %main (a: (s32[], f32[4])) -> (s32[], f32[4]) {
  %a = (s32[], f32[4]{0}) parameter(0)
  ROOT %w = (s32[], f32[4]{0}) while(%a), condition=%condition, body=%body
}
"""


def test_a_loop_with_a_bound_but_without_a_noted_number():
    assert written(LOOP)["y"].times == 7
    assert written(LOOP)["y"].bytes == 4 * (4 + 4)


SLICES = """HloModule m
%fused (q: f32[100,8], j: s32[], u: f32[8]) -> (f32[8], f32[100,8]) {
  %q = f32[100,8]{1,0} parameter(0)
  %j = s32[] parameter(1)
  %u = f32[8]{0} parameter(2)
  %zero = s32[] constant(0)
  %row = f32[1,8]{1,0} dynamic-slice(%q, %j, %zero), dynamic_slice_sizes={1,8}
  %flat = f32[8]{0} bitcast(%row)
  %sum = f32[8]{0} add(%flat, %u)
  %one = f32[1,8]{1,0} bitcast(%sum)
  %new = f32[100,8]{1,0} dynamic-update-slice(%q, %one, %j, %zero)
  ROOT %t = (f32[8]{0}, f32[100,8]{1,0}) tuple(%sum, %new)
}
ENTRY %main (a: f32[100,8], i: s32[], b: f32[8]) -> (f32[8], f32[100,8]) {
  %a = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[8]{0} parameter(2)
  %part = f32[50,8]{1,0} slice(%a), slice={[0:50], [0:8]}
  ROOT %f = (f32[8]{0}, f32[100,8]{1,0}) fusion(%a, %i, %b), kind=kLoop, calls=%fused
}
"""


def test_a_slice_counts_as_its_size_and_an_update_in_place():
    """Of 100 rows the fusion reads one and writes one, beside `b`, its sum and `i`."""
    found = written(SLICES)
    assert found["part"].bytes == 2 * 4 * 50 * 8
    assert found["f"].bytes == 4 * (8 + 8) + 4 * 8 + 4 + 4 * 8


PADDED = """HloModule m
ENTRY %main (a: f32[3,100]) -> f32[3,100] {
  %a = f32[3,100]{1,0:T(8,128)} parameter(0)
  %b = f32[3,100]{1,0:T(8,128)S(1)} negate(%a)
  ROOT %c = f32[3,100]{1,0:T(8,128)} negate(%b)
}
"""


def test_tiles_are_whole_and_memory_on_the_chip_is_free():
    found = written(PADDED)
    assert found["b"].bytes == found["c"].bytes == 4 * 8 * 128


def _in_groups(mesh, function, out):
    return jax.shard_map(
        function, mesh=mesh, in_specs=P("data"), out_specs=out, check_vma=False
    )


@pytest.mark.parametrize(
    ("kind", "function", "out"),
    [
        ("all-reduce", lambda x: jax.lax.psum(x, "data"), P()),
        ("all-gather", lambda x: jax.lax.all_gather(x, "data"), P()),
        (
            "reduce-scatter",
            lambda x: jax.lax.psum_scatter(x, "data", tiled=True),
            P("data"),
        ),
        (
            "all-to-all",
            lambda x: jax.lax.all_to_all(x, "data", 0, 0, tiled=True),
            P("data"),
        ),
        (
            "collective-permute",
            lambda x: jax.lax.ppermute(x, "data", [(i, (i + 1) % 8) for i in range(8)]),
            P("data"),
        ),
    ],
)
def test_a_collective_counts_what_a_device_gives(mesh, kind, function, out):
    found = kernels(_in_groups(mesh, function, out), (64, 16))
    [one] = [c for kernel in found for c in kernel.collectives]
    assert one.kind == kind
    assert one.bytes == 4 * 8 * 16  # an eighth of the array
    assert one.group in (0, 8)


def test_a_collective_over_one_axis_has_its_devices():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    add = jax.shard_map(
        lambda x: jax.lax.psum(x, "b"),
        mesh=mesh,
        in_specs=P("a", "b"),
        out_specs=P("a"),
    )
    [one] = [c for kernel in kernels(add, (64, 16)) for c in kernel.collectives]
    assert (one.kind, one.bytes, one.group) == ("all-reduce", 4 * 32 * 4, 4)


# A collective in pieces, as a TPU hides it behind other kernels.
PIECES = """HloModule m
%first (s: f32[4]) -> f32[32] {
  %s = f32[4]{0} parameter(0)
  ROOT %g = f32[32]{0} all-gather(%s), GROUPS, dimensions={0}, frontend_attributes={chain_id="0"}
}
%second (s.1: f32[4], h: f32[8]) -> (f32[32], f32[8]) {
  %s.1 = f32[4]{0} parameter(0)
  %h = f32[8]{0} parameter(1)
  %g.1 = f32[32]{0} all-gather(%s.1), GROUPS, dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %t = (f32[32]{0}, f32[8]{0}) tuple(%g.1, %h)
}
ENTRY %main (a: f32[4], b: f32[8]) -> (f32[32], f32[8]) {
  %a = f32[4]{0} parameter(0)
  %b = f32[8]{0} parameter(1)
  %one = f32[32]{0} fusion(%a), kind=kCustom, calls=%first
  ROOT %two = (f32[32]{0}, f32[8]{0}) fusion(%a, %b), kind=kCustom, calls=%second
}
"""


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1},{2,3}}", 2),
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups=mesh['x'=2,'y'=8] {'y'}", 8),
    ],
)
def test_the_pieces_of_a_collective_are_one(groups, size):
    found = written(PIECES.replace("GROUPS", groups))
    [one] = [c for kernel in found.values() for c in kernel.collectives]
    assert (one.kind, one.bytes, one.group) == ("all-gather", 16, size)
    # A fusion moves no bytes of an array that it passes through unchanged.
    assert found["two"].bytes == 4 * 4 + 4 * 32
