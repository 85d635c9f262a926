"""randaug on the devices against the host's TensorFlow ops, to the uint8 value."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from input_pipeline import device_ops, device_randaug, ops, randaug, warps
from input_pipeline.device_randaug import ops as device
from input_pipeline.device_randaug import tables
from input_pipeline.layers import NAMES, SIGNED
from input_pipeline.randaug import geometry
from parity.sides import samples
from tests.helpers import products
from tests.helpers.photographs import PHOTOGRAPHS
from tests.helpers.products import added_products

SIZE = 45, 61  # height, width
LEVELS = [0, 3, 5.5, 7, 9, 10, 12.3, 400]
EXCHANGES = r" (all|collective)-[a-z-]+\(| reduce-scatter\("
SIGNS = [(name, negate) for name in NAMES for negate in range(1 + (name in SIGNED))]


def image_of(kind, number, height, width):
    """A photograph, a dull one, a grid, noise or a constant."""
    rng = np.random.default_rng(number)
    if kind in ("photograph", "dull"):
        whole = np.tile(
            list(PHOTOGRAPHS.values())[number % len(PHOTOGRAPHS)], (2, 2, 1)
        )
        room = np.subtract(whole.shape[:2], (height, width))
        y, x = rng.integers(0, room + 1)
        part = whole[y : y + height, x : x + width]
        return part if kind == "photograph" else part // 3 + 60
    if kind == "grid":
        pair = samples.COLOURS if number % 2 else samples.BLACK_WHITE
        return samples.grid(*pair, side=max(height, width))[:height, :width]
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3))
    return np.broadcast_to(rng.integers(0, 256, 3), (height, width, 3))


def images(n, height=SIZE[0], width=SIZE[1]):
    kinds = itertools.cycle(["photograph", "dull", "grid", "noise", "constant"])
    made = [
        image_of(k, i, height, width) for i, k in zip(range(n), kinds, strict=False)
    ]
    return np.stack(made).astype(np.uint8)


def on_host(fn, features):
    """The features of each example after host ops, as a batch; a graph, as in training."""
    data = tf.data.Dataset.from_tensor_slices(features)
    return next(data.map(fn, num_parallel_calls=2).batch(10_000).as_numpy_iterator())


@functools.cache
def by_tables(contrast):
    """The jitted fn(images, plans, tables): one compilation for all levels."""

    def apply(image, plan, arrays):
        t = tables.Tables(*arrays, contrast=contrast)
        return device_randaug.applied(image, plan, t)

    return jax.jit(apply)


def on_device(image, plan, level, contrast="legacy", fill=128):
    t = tables.build(*image.shape[1:3], float(level), contrast, fill)
    return np.asarray(by_tables(contrast)(image, plan, t[:-1]))


def word(name, negate, y=0, x=0):
    """The word of a plan, whose place is in 8,192ths of the sides."""
    return NAMES.index(name) | negate << 4 | y << 5 | x << 18


def by_op(image, name, level, negate, centre, **keywords):
    """The image after the host's single op."""
    arguments = randaug.level_arguments(float(level))[name]
    if negate:
        arguments = (-arguments[0],)
    if name == "Cutout":
        height, width, _ = image.shape
        arguments = *arguments, centre[0] * height >> 13, centre[1] * width >> 13
    return randaug.OPS[name](image, *arguments, **keywords).numpy()


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("contrast", ["legacy", "fixed"])
def test_three_hundred_images_are_those_of_the_host(contrast, devices, mesh):
    """Two layers of all ops, from the seeds; the host draws, and applies or does not."""
    call = f"randaug(2, 10, contrast={contrast!r})"
    n = 304
    rng = np.random.default_rng(5)
    seed = rng.integers(-(2**31), 2**31, (n, 2)).astype(np.int32)
    given = {"image": images(n), "seed": seed}
    want = on_host(
        ops.get_preprocess_fn(f"{call}|keep('image', 'randaug_plan')"), given
    )
    drawn = on_host(
        ops.get_preprocess_fn("randaug_plan(2)|keep('image', 'randaug_plan')"), given
    )
    np.testing.assert_array_equal(drawn["image"], given["image"])
    np.testing.assert_array_equal(drawn["randaug_plan"], want["randaug_plan"])
    seen = {(NAMES[w & 15], w >> 4 & 1) for w in drawn["randaug_plan"].flat}
    assert seen >= set(SIGNS)
    fn, _ = device_ops.in_two(call)
    if devices > 1:
        drawn = jax.device_put(drawn, NamedSharding(mesh, P("data")))
        fn = jax.shard_map(
            fn, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False
        )
    compiled = jax.jit(fn).lower(drawn).compile()
    # No device needs another's rows, so several processes augment as one does.
    assert not re.search(EXCHANGES, compiled.as_text())
    got = compiled(drawn)
    np.testing.assert_array_equal(got["image"], want["image"])
    assert np.asarray(got["image"] != given["image"]).any((1, 2, 3)).mean() > 0.8


@pytest.mark.parametrize("contrast", ["legacy", "fixed"])
@pytest.mark.parametrize("level", LEVELS)
def test_each_op_and_sign_is_the_hosts_at_every_level(level, contrast):
    cases = [(*sign, place) for sign in SIGNS for place in ((0, 8191), (4000, 2500))]
    places = [(name, negate, *place) for name, negate, place in cases]
    plan = np.repeat(np.uint32([[word(*place)] for place in places]), 2, 0)
    image = images(len(plan))
    got = on_device(image, plan, level, contrast)
    for i, (name, negate, place) in enumerate(case for case in cases for _ in range(2)):
        how = {"contrast": contrast} if name == "Contrast" else {}
        want = by_op(image[i], name, level, negate, place, **how)
        np.testing.assert_array_equal(got[i], want, err_msg=f"{name} {negate} {i}")


@pytest.mark.parametrize(
    "name", ["Equalize", "AutoContrast", "Contrast", "Color", "Sharpness"]
)
def test_any_number_of_images_may_have_one_op(name):
    """A loop takes those that have no room, here in many rounds, and starts them again."""
    n = 2 * 2 * len(SIGNS)
    image = images(n)
    assert device_randaug._usual(n) < n / 4
    plan = np.uint32([[word("Invert", 0), word(name, 0)]]).repeat(n, 0)
    got = on_device(image, plan, 10, "fixed")
    how = {"contrast": "fixed"} if name == "Contrast" else {}
    for before, after in zip(image, got, strict=True):
        want = by_op(255 - before, name, 10, 0, (0, 0), **how)
        np.testing.assert_array_equal(after, want)
    plan[:-1, 1] = word("Invert", 0)
    alone = on_device(image, plan, 10, "fixed")
    np.testing.assert_array_equal(alone[-1], got[-1])
    np.testing.assert_array_equal(alone[:-1], image[:-1])


def whiles(jaxpr, inside=()):
    """The primitives around each while loop of a program."""
    found = []
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        found += [inside] * (name == "while")
        for one in products.inner(equation):
            found += whiles(one, (*inside, name))
    return found


def test_the_usual_images_pass_no_loop_of_unknown_length():
    """On a GPU the host reads the condition of such a loop: here of one, once a step."""
    policy = device_randaug.randaug(2, 10, contrast="fixed")
    for n, want in ((2, 0), (200, 1)):
        program = jax.make_jaxpr(policy.apply)(images(n), np.zeros((n, 2), np.uint32))
        found = whiles(program.jaxpr)
        assert len(found) == want
        assert not any({"scan", "while"} & set(inside) for inside in found)


def test_usually_there_is_room():
    """Of 20,000 layers of 1,024 images, a few have an op more often."""
    counts = np.random.default_rng(0).multinomial(1024, [1 / 16] * 16, 20_000)
    assert 0.997 < (counts.max(1) <= device_randaug._usual(1024)).mean() < 1
    assert [device_randaug._usual(b) for b in (1, 2)] == [1, 2]


@pytest.mark.parametrize(("height", "width"), [(264, 256), (2, 9)])
def test_large_and_narrow_images(height, width):
    """From 65,536 pixels on the maps need more than 16 bits; two pixels have no inside."""
    plan = np.uint32([[word(*sign, 4096, 4096)] for sign in SIGNS])
    image = images(len(plan), height, width)
    got = jax.jit(device_randaug.randaug(1, 10, fill=7).apply)(image, plan)
    for before, after, (name, negate) in zip(image, got, SIGNS, strict=True):
        how = {"fill": 7} if name in (*SIGNED, "Cutout") else {}
        want = by_op(before, name, 10, negate, (4096, 4096), **how)
        np.testing.assert_array_equal(after, want, err_msg=name)


def test_no_layers_leave_the_images():
    image, plan = images(3), np.zeros((3, 1), np.uint32)
    policy = device_randaug.randaug(0)
    np.testing.assert_array_equal(jax.jit(policy.apply)(image, plan), image)
    assert policy.explain(plan[0]) == []


def test_angles_are_tensorflows_to_the_bit():
    image = tf.zeros((45, 61, 3), tf.uint8)
    for degrees in np.random.default_rng(0).uniform(-120, 120, 300).tolist():
        want = [float(value) for value in geometry._rotation(image, degrees)]
        assert warps.rotation(45, 61, degrees) == want


FACTORS = [0.1, 0.64, 1.0, 1.09, 1.18, 1.36, 1.72, 1.9, 3.7, 72.1]


def contracted(base, factor, value):
    """base + factor * (value - base) with one rounding; exact products in float64."""
    wide = np.float64(np.float32(factor)) * (value - base) + base
    return np.clip(wide.astype(np.float32), 0, 255).astype(np.uint8)


def test_the_blend_is_the_hosts_for_all_pairs_and_a_contraction_would_be_noticed():
    base, value = np.indices((256, 256))
    noticed = 0
    for factor in FACTORS:
        pair = base.astype(np.uint8), value.astype(np.uint8)
        want = np.asarray(randaug.ops._blend(*pair, factor, None))
        np.testing.assert_array_equal(tables.blend(factor), want)
        noticed += (contracted(base, factor, value) != want).sum()
    assert noticed > 100


def test_autocontrast_is_the_hosts_for_all_ranges_and_a_contraction_would_be_noticed():
    low, high = np.triu_indices(256)
    values = np.arange(256, dtype=np.float32)
    t = tables.build(8, 8, 10.0, "legacy", 128)
    pixels = jnp.asarray(np.stack([low, high], 1) * 0x010101, jnp.uint32)
    got = np.asarray(jax.jit(lambda p: device.autocontrast(p, t))(pixels))[:, 0]
    # The host's formula; a channel of two values has any range.
    some = np.random.default_rng(0).integers(0, len(low), 60)
    column = np.arange(256, dtype=np.uint8)[:, None]
    for i in some:
        image = np.clip(column, low[i], high[i])[:, None].repeat(3, 2)
        after = randaug.OPS["AutoContrast"](image).numpy()[:, 0, 0]
        np.testing.assert_array_equal(after, got[i][image[:, 0, 0]])
    wide = high > low
    scale = np.float32(255) / (high - low)[wide].astype(np.float32)[:, None]
    first = low[wide].astype(np.float32)[:, None]
    want = np.clip(values * scale - first * scale, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(got[wide], want)
    np.testing.assert_array_equal(got[~wide], np.broadcast_to(values, (256, 256)))
    fused = (values.astype(np.float64) * scale - first * scale).astype(np.float32)
    assert (np.clip(fused, 0, 255).astype(np.uint8) != want).sum() > 1000


def test_a_contraction_in_sharpness_and_grey_would_be_noticed():
    """On the noise that the tests above compare, one rounding fewer changes values."""
    image = image_of("noise", 3, 80, 80).astype(np.uint8)
    wide, total = image.astype(np.float64), np.float32(0)
    for y, x in np.ndindex(3, 3):
        weight = np.float32(5 if y == x == 1 else 1) / np.float32(13)
        total = np.float32(total + wide[y : y + 78, x : x + 78] * np.float64(weight))
    fused = np.clip(total, 0, 255).astype(np.uint8)
    smooth = randaug.OPS["Sharpness"](image, 0.0).numpy()[1:-1, 1:-1]
    assert (fused != smooth).any()
    r, g, b = np.indices((256, 256, 256), dtype=np.float32) * np.float32(1 / 255)
    weights = np.float64(np.float32([0.2989, 0.587, 0.114]))
    luma = np.float32(r * weights[0].astype(np.float32) + g * weights[1])
    luma = np.float32(luma + b * weights[2])
    fused = np.minimum(luma * np.float32(255.5), 255).astype(np.uint8)
    summed = tables.grey()[0][:, None, None] + tables.grey()[1][:, None]
    summed = summed + tables.grey()[2]
    exact = np.minimum(summed * np.float32(255.5), 255).astype(np.uint8)
    assert (fused != exact).any()
    colours = np.random.default_rng(1).integers(0, 256, (500, 500, 3)).astype(np.uint8)
    want = randaug.ops._grey(colours, None).numpy()[..., 0]
    np.testing.assert_array_equal(exact[tuple(np.moveaxis(colours, -1, 0))], want)


def grey_by_products(pixels, t):
    """What the host computes, and a compiler contracts."""
    del t
    r, g, b = (device.channel(pixels, c).astype(jnp.float32) / 255 for c in range(3))
    luma = r * np.float32(0.2989) + g * np.float32(0.587) + b * np.float32(0.114)
    return jnp.minimum(luma * 255.5, 255).astype(jnp.int32)


def test_no_product_of_floats_is_added_to_anything(monkeypatch):
    """So no compiler can contract the two; a product that is planted is noticed."""
    image, plan = images(4), np.zeros((4, 2), np.uint32)
    for contrast in ("legacy", "fixed"):
        fn = device_randaug.randaug(2, 7, contrast).apply
        assert added_products(jax.make_jaxpr(fn)(image, plan)) == []

    monkeypatch.setattr(device, "grey", grey_by_products)
    fn = device_randaug.randaug(2, 7).apply
    assert added_products(jax.make_jaxpr(fn)(image, plan))
    # In the body of a loop, and one round later.
    for planted in (lambda v: v * 1.9 - 0.9, lambda v: (v - 0.9) * 1.9):
        loop = lambda x, planted=planted: jax.lax.fori_loop(
            0, 3, lambda i, v: planted(v), x.astype(jnp.float32)
        )
        assert added_products(jax.make_jaxpr(loop)(np.arange(3)))
        whole = lambda x, loop=loop: loop(x).astype(jnp.int32) + 1
        assert added_products(jax.make_jaxpr(whole)(np.arange(3)))
    harmless = lambda x: (x.astype(jnp.float32) * 1.9).astype(jnp.int32) + 1
    assert not added_products(jax.make_jaxpr(harmless)(np.arange(3)))


def test_both_histograms_count():
    values = np.random.default_rng(0).integers(0, 256, (3, 3, 997)) // 2 * 2
    values[0, 1] = 255
    want = [[np.bincount(channel, minlength=256) for channel in row] for row in values]
    values = jnp.asarray(values, jnp.int32)
    for count in (device._scattered, device._multiplied, device.histograms):
        np.testing.assert_array_equal(jax.jit(count)(values), want)


PLAN = np.zeros((2, 2), np.uint32)
PIXELS = np.zeros((2, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("spec", "image", "plan", "message"),
    [
        ("randaug(2, 10)", np.float32(PIXELS), PLAN, r"uint8 images \[b, h, w, 3\], got "
         r"float32 \[2, 8, 8, 3\]: put it before value_range"),
        ("randaug(2, 10)", PIXELS[..., :1], PLAN, r"got uint8 \[2, 8, 8, 1\]"),
        ("randaug(2, 10)", PIXELS[0], PLAN, r"got uint8 \[8, 8, 3\]"),
        ("randaug(2, 10)", PIXELS, None, "needs the feature 'randaug_plan', which the "
         r"host draws: end pp with randaug_plan\(2\)\|keep\('image', 'label', "
         r"'randaug_plan'\)"),
        ("randaug(3, 10)", PIXELS, PLAN, r"as uint32 \[b, 3\], got uint32 \[2, 2\]: end "
         r"pp with randaug_plan\(3\)"),
        ("randaug", PIXELS, np.int32(PLAN), r"as uint32 \[b, 2\], got int32"),
        ("randaug|randaug(1)", PIXELS, PLAN, r"needs the feature 'randaug_plan_1'"),
        ("randaug", np.zeros((1, 2048, 1024, 3), np.uint8), PLAN[:1],
         "images of 1 to 1,048,576 pixels, got 2048 x 1024: put it into pp"),
    ],
)  # fmt: skip
def test_batches_that_it_cannot_take_are_refused_in_one_sentence(
    spec, image, plan, message
):
    features = {"image": image} | ({} if plan is None else {"randaug_plan": plan})
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(device_ops.get_preprocess_fn(spec), features)
    assert str(error.value).count("\n") == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "randaug(2, 10, interpolation='bilinear')",
            "must be 'nearest', got 'bilinear'",
        ),
        ("randaug(2, 10, contrast='other')", "contrast cannot be 'other'"),
        ("randaug(2, -1)", "must be >= 0"),
        ("randaug(2, fill=256)", "fill must be 0 to 255"),
        ("randaug_tv(2, 10)", "runs on the host: put it into pp, not into device_pp"),
        ("trivial_augment_wide(per_batch=True)", "runs on the host: put it into pp"),
        ("autoaugment_cifar10", "runs on the host"),
        ("randaug_plan(2)", "runs on the host"),
    ],
)
def test_other_arguments_and_policies_are_refused_before_anything_runs(spec, message):
    with pytest.raises(ValueError, match=message):
        device_ops.get_preprocess_fn(spec)


def test_randaug_in_both_specs_is_refused():
    device_ops.check_once("randaug_plan(2)|flip_lr", "randaug(2, 10)")
    device_ops.check_once("randaug(2, 10)", "value_range(-1, 1)")
    with pytest.raises(ValueError, match=r"write randaug_plan in place of randaug\(2"):
        device_ops.check_once("decode|randaug(2, 10)", "flip_lr|randaug(2, 10)")
    device_ops.check_once("randaug_plan(2)", "mine.ops.randaug(2)")
    with pytest.raises(ValueError, match="begin device_pp with randaug"):
        device_ops.check_once("decode|randaug_plan(2)", "value_range(-1, 1)")


def test_the_spec_in_two_parts_is_the_whole():
    """With a flip before and after randaug, whose coins differ, and a seed dropped."""
    spec = (
        "flip_lr|keep('image', 'randaug_plan')|randaug(2, 10)|flip_lr|value_range(0, 1)"
    )
    rng = np.random.default_rng(0)
    given = {
        "image": images(12),
        "seed": rng.integers(-99, 99, (12, 2)).astype(np.int32),
        "randaug_plan": rng.integers(0, 2**32, (12, 2), dtype=np.uint32),
    }
    want = jax.jit(device_ops.get_preprocess_fn(spec))(given)
    augment, rest = device_ops.in_two(spec)
    augmented = jax.jit(augment)(given)
    assert augmented["image"].dtype == jnp.uint8
    np.testing.assert_array_equal(rest(augmented)["image"], want["image"])
    nothing, rest = device_ops.in_two("value_range(0, 1)")
    assert nothing is None
    assert jax.jit(rest)(given)["image"].dtype == jnp.float32


def test_a_plan_that_is_only_drawn_is_explained_and_counted():
    fn = ops.get_preprocess_fn("randaug_plan(1)|randaug(1, 3)|randaug_plan(2)")
    seed = tf.constant([7, 8])
    drawn = fn.draw(seed, seed)
    names = ["randaug_plan", "randaug_plan_1", "randaug_plan_2"]
    assert list(drawn) == names
    got = fn({"image": images(1)[0], "seed": seed})
    assert set(got) == {"image", "seed", "randaug_plan", "randaug_plan_2"}
    drawn["randaug_plan"] = [word("Rotate", 1)]
    drawn["randaug_plan_2"] = [word("Cutout", 1, 4096, 2048), word("Invert", 1)]
    lines = fn.explain(drawn)
    assert lines["randaug_plan"] == ["Rotate negative"]
    assert lines["randaug_plan_2"] == [
        "Cutout at 50 % of the height and 25 % of the width",
        "Invert",
    ]
