"""RandAugment's ops against an independent implementation, value for value; the policy's law."""

import collections
import functools
import itertools

import jax
import numpy as np
import pytest
import skimage.data
import tensorflow as tf

from input_pipeline import ops, randaug
from parity.reference import augment
from parity.sides import samples
from tests.helpers.photographs import bilinear
from tests.helpers.randaug import by_plan, expected

SIGNED = augment.SIGNED
# Level 5 gives a factor of 1; levels 0 and 15 keep another number of bits, and 15 wraps.
LEVELS = [0, 3, 5, 8.7, 15]


def photographs():
    """Two photographs, not square, one of them without black and white, and noise."""
    rng = np.random.default_rng(0)
    return [
        skimage.data.astronaut()[:110, 120:260],
        (skimage.data.chelsea()[60:197, 80:233] // 3 + 60).astype(np.uint8),
        rng.integers(3, 250, (61, 45, 3)).astype(np.uint8),
    ]


PHOTOGRAPHS = photographs()


def run(name, image, *args, **numerics):
    return randaug.OPS[name](image, *args, **numerics).numpy()


def arguments(name, level):
    """The arguments of a level, with both signs or with places inside and at an edge."""
    args = augment.arguments(level)[name]
    if name == "Cutout":
        return [(*args, 70, 9), (*args, 0, 200)]
    return [args, (-args[0],)] if name in SIGNED else [args]


def test_names_are_the_sixteen():
    assert list(randaug.OPS) == list(augment.OPS)
    assert len(randaug.OPS) == 16


@pytest.mark.parametrize(
    ("name", "numerics"),
    [*((name, {}) for name in augment.OPS), ("Contrast", {"contrast": "fixed"})],
)
def test_each_op_equals_its_reference_at_every_level_and_sign(name, numerics):
    op = functools.partial(randaug.OPS[name], **numerics)
    # In graph too, where TensorFlow rewrites arithmetic, more so if it knows the size.
    graph = tf.function(op, autograph=False)
    known, *unknown = PHOTOGRAPHS
    for args in dict.fromkeys(a for level in LEVELS for a in arguments(name, level)):
        sizes = [tf.TensorSpec(s, tf.uint8) for s in (known.shape, (None, None, 3))]
        first, general = (graph.get_concrete_function(size, *args) for size in sizes)
        for image, traced in [(known, first), *((image, general) for image in unknown)]:
            want = expected(name, image, *args, **numerics)
            for got in (op(image, *args), traced(tf.constant(image))):
                assert got.dtype == tf.uint8
                np.testing.assert_array_equal(got, want, err_msg=f"{name}{args}")


def test_level_ten_in_numbers():
    got = randaug.level_arguments(10.0)
    assert got["Rotate"] == (30.0,)
    assert got["ShearX"] == got["ShearY"] == (0.3,)
    assert got["TranslateX"] == got["TranslateY"] == (100.0,)
    assert got["Posterize"] == (4,)
    assert got["Solarize"] == (256,)
    assert got["SolarizeAdd"] == (110,)
    assert got["Cutout"] == (40,)
    for name in ("Color", "Contrast", "Brightness", "Sharpness"):
        assert np.float32(got[name]) == np.float32([1.9])


def constant(*values):
    """An image whose rows hold the values, in all three channels."""
    return np.asarray(values, np.uint8)[:, None, None].repeat(3, 2)


@pytest.mark.parametrize(
    ("threshold", "want"),
    [
        (0, [248, 155, 0]),
        (256, [248, 155, 0]),
        (512, [248, 155, 0]),
        (128, [7, 100, 0]),
        (384, [7, 100, 0]),
    ],
)
def test_solarize_takes_its_threshold_modulo_256(threshold, want):
    got = run("Solarize", constant(7, 100, 255), threshold)
    np.testing.assert_array_equal(got, constant(*want))


@pytest.mark.parametrize(
    ("bits", "want"),
    [
        (4, [0, 96, 240]),
        (6, [4, 100, 252]),
        (8, [7, 100, 255]),
        (0, [0, 0, 128]),
        (10, [0, 0, 128]),
    ],
)
def test_posterize_keeps_bits_and_falls_to_one_outside_1_to_8(bits, want):
    got = run("Posterize", constant(7, 100, 255), bits)
    np.testing.assert_array_equal(got, constant(*want))
    shift = np.uint8((8 - bits) % 256)
    image = tf.constant([7, 100, 255], tf.uint8)
    shifted = tf.bitwise.left_shift(tf.bitwise.right_shift(image, shift), shift)
    np.testing.assert_array_equal(shifted, want)


def test_autocontrast_rounds_like_float32_for_every_range():
    # One column holds all values; clipping it gives each channel its range.
    values = np.arange(256, dtype=np.uint8)[:, None]
    rng = np.random.default_rng(2)
    for _ in range(40):
        bounds = np.sort(rng.integers(0, 256, (2, 3)), axis=0)
        image = np.clip(values, bounds[0], bounds[1]).astype(np.uint8)[:, None]
        want = expected("AutoContrast", image)
        np.testing.assert_array_equal(run("AutoContrast", image), want)


@pytest.mark.parametrize(
    ("name", "numerics", "want"),
    [
        ("Contrast", {}, ((188, 0, 0), (0, 188, 188))),
        ("Contrast", {"contrast": "legacy"}, ((188, 0, 0), (0, 188, 188))),
        ("Contrast", {"contrast": "fixed"}, ((249, 6, 6), (6, 249, 249))),
        ("Sharpness", {}, ((192, 64, 64), (64, 192, 192))),
        ("Color", {}, ((255, 29, 29), (0, 226, 226))),
    ],
)
def test_the_calibration_grid(name, numerics, want):
    after = run(name, samples.grid(*samples.COLOURS), 1.9, **numerics)
    assert (tuple(after[28, 28].tolist()), tuple(after[28, 84].tolist())) == want


@pytest.mark.parametrize(
    ("side", "grey_value"), [(160, 100), (224, 196), (256, 255), (300, 255)]
)
def test_legacy_contrast_pulls_towards_the_area(side, grey_value):
    image = np.full((side, side, 3), 200, np.uint8)
    got = run("Contrast", image, 0.5)[0, 0, 0]
    assert got == int(grey_value + 0.5 * (200 - grey_value))


def test_flat_channels_stay_under_autocontrast_and_equalize():
    image = np.broadcast_to(np.uint8([0, 77, 255]), (20, 30, 3))
    np.testing.assert_array_equal(run("AutoContrast", image), image)
    np.testing.assert_array_equal(run("Equalize", image), image)


def test_grey_is_tensorflows_on_a_lattice_of_colours():
    axes = np.arange(0, 256, 15, np.uint8), np.arange(256, dtype=np.uint8)
    image = np.stack(np.meshgrid(axes[0], axes[1], axes[1]), -1).reshape(-1, 256, 3)
    want = np.repeat(tf.image.rgb_to_grayscale(image).numpy(), 3, -1)
    # Factor 0 leaves the grey image.
    np.testing.assert_array_equal(run("Color", image, 0.0), want)


@pytest.mark.parametrize("name", SIGNED)
def test_fill_and_interpolation(name):
    image = np.full((40, 50, 3), 200, np.uint8)
    amount = {"Rotate": 45, "ShearX": 0.5, "ShearY": 0.5}.get(name, 7)
    assert set(np.unique(run(name, image, amount))) == {128, 200}
    assert set(np.unique(run(name, image, amount, fill=0))) == {0, 200}
    smooth = run(name, image, amount + 0.25, fill=0, interpolation="bilinear")
    assert len(np.unique(smooth)) > 2


@pytest.mark.parametrize(("sign", "fill"), [(1, 0), (-1, 128)])
@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateX"])
def test_bilinear_warps_mix_the_four_pixels_around(name, sign, fill):
    image = PHOTOGRAPHS[2][:61, :83]
    h, w, _ = image.shape
    amount = sign * {"Rotate": 27.0, "TranslateX": 7.25}.get(name, 0.3)
    if name == "Rotate":
        cos, sin = np.cos(np.radians(amount)), np.sin(np.radians(amount))
        turn = np.array([[cos, -sin], [sin, cos]])
        centre = np.array([(w - 1) / 2, (h - 1) / 2])
        matrix = np.column_stack([turn, centre - turn @ centre])
    else:
        matrix = np.eye(2, 3)
        matrix[{"ShearX": (0, 1), "ShearY": (1, 0), "TranslateX": (0, 2)}[name]] = (
            amount
        )
    y, x = np.mgrid[:h, :w]
    columns, rows = np.einsum("ij,jyx->iyx", matrix, [x, y, np.ones_like(x)])
    want = bilinear(image, rows, columns, fill)
    got = run(name, image, amount, fill=fill, interpolation="bilinear")
    assert got.dtype == np.uint8
    # Rounded, after places that are float32.
    assert np.abs(got - want).max() < 0.55
    assert len(np.unique(want - np.floor(want))) > 3, "something was mixed"


@pytest.mark.parametrize("name", ["TranslateX", "TranslateY"])
def test_translation_by_slices_equals_the_warp(name):
    image = PHOTOGRAPHS[2]
    for pixels in (-100, -61, -1, 0, 3, 45):
        want = expected(name, image, pixels)
        np.testing.assert_array_equal(run(name, image, pixels), want)
        np.testing.assert_array_equal(run(name, image, tf.constant(pixels)), want)
        # A float tensor is warped.
        np.testing.assert_array_equal(run(name, image, tf.constant(1.0 * pixels)), want)
    for pixels in (-0.5, 0.5, 1.5, -2.25):
        want = expected(name, image, pixels)
        np.testing.assert_array_equal(run(name, image, pixels), want)


def plans_of(n, layers=2):
    """n plans, uint32 [n, layers]."""
    return np.random.default_rng(1).integers(0, 2**32, (n, layers), dtype=np.uint32)


def drawn(n, layers=2):
    """The plans of n seeds, by the op language."""
    seed = np.random.default_rng(1).integers(-(2**31), 2**31, (n, 2)).astype(np.int32)
    fn = ops.get_preprocess_fn(f"randaug({layers}, 10)")
    return fn.draw(tf.constant(seed), tf.constant(seed))["randaug_plan"].numpy()


def test_plans_are_uniform_over_ops_signs_and_places():
    n = 4000
    layers = randaug.read_plan(drawn(n).T, np.uint32(1000), np.uint32(777))
    op = np.stack([layer.op for layer in layers], 1).astype(int)
    negate = np.stack([layer.negate for layer in layers], 1).astype(int)
    sides = np.array([1000, 777])
    centre = np.stack([layer.centre for layer in layers]).transpose(2, 0, 1)
    assert (centre.min((0, 1)) == 0).all()
    assert (centre.max((0, 1)) == sides - 1).all()
    # Binomial counts of 8000 draws, within five standard deviations.
    counts = np.bincount(op.ravel(), minlength=16)
    assert len(counts) == 16
    assert np.abs(counts - 2 * n / 16).max() < 5 * np.sqrt(2 * n * 15 / 256)
    assert abs(negate.sum() - n) < 5 * np.sqrt(2 * n / 4)
    middle = (centre / (sides - 1)).mean((0, 1))
    assert np.abs(middle - 0.5).max() < 5 * np.sqrt(1 / 12 / (2 * n))
    # Layers, signs and the two coordinates are independent.
    columns = np.concatenate([op, negate, centre.reshape(n, 4)], axis=1)
    correlation = np.corrcoef(columns.astype(float).T) - np.eye(8)
    assert np.abs(correlation).max() < 5 / np.sqrt(n)


def test_a_plan_is_the_same_bits_in_numpy_tensorflow_and_jax():
    word = plans_of(50, 1)[:, 0]
    want = randaug.read_plan([word], np.uint32(224), np.uint32(300))
    for kind in (tf.constant, jax.numpy.asarray):
        got = randaug.read_plan([kind(word)], *map(kind, np.uint32([224, 300])))
        for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
            np.testing.assert_array_equal(a, np.asarray(b))


@pytest.mark.parametrize(
    ("level", "contrast", "known"), [(10, "fixed", True), (3, "legacy", False)]
)
def test_the_policy_is_the_plan_applied_op_by_op(level, contrast, known):
    image, plans = PHOTOGRAPHS[0], plans_of(60)
    policy = randaug.randaug(2, level, contrast=contrast)
    # A known size: compiled by XLA, warps from tables. Else TensorFlow's own ops.
    shape = image.shape if known else (None, None, 3)
    images = tf.data.Dataset.from_generator(
        lambda: itertools.repeat(image, len(plans)),
        output_signature=tf.TensorSpec(shape, tf.uint8),
    )
    both = tf.data.Dataset.zip((images, tf.data.Dataset.from_tensor_slices(plans)))
    graph = both.map(policy.apply, num_parallel_calls=2)
    seen = collections.Counter()
    for plan, got in zip(plans, graph.as_numpy_iterator(), strict=True):
        want, names = by_plan(image, plan, level, contrast)
        seen.update(names)
        np.testing.assert_array_equal(got, want)
    assert len(seen) == 16


def test_no_layers_leave_the_image():
    policy = randaug.randaug(0, 10)
    assert policy.words == 1, "tf.data crashes on batches of empty tensors"
    got = policy.apply(PHOTOGRAPHS[2], plans_of(1, 1)[0])
    np.testing.assert_array_equal(got, PHOTOGRAPHS[2])
    assert policy.explain(plans_of(1, 1)[0]) == []


def test_explanations_are_what_is_done():
    policy = randaug.randaug(2, 10)
    rotate_left, cutout = 3 + 16, 14 + (4096 << 5) + (2048 << 18)
    assert policy.explain(np.uint32([rotate_left, cutout])) == [
        "Rotate -30",
        "Cutout 40 at 50 % of the height and 25 % of the width",
    ]
    image = PHOTOGRAPHS[0]
    got = policy.apply(image, np.uint32([rotate_left, cutout]))
    h, w = image.shape[:2]
    turned = expected("Rotate", image, -30.0)
    want = expected("Cutout", turned, 40, h // 2, w // 4)
    np.testing.assert_array_equal(got, want)


def test_fill_reaches_the_warps_and_cutout():
    image = np.full((60, 60, 3), 50, np.uint8)
    policy = randaug.randaug(1, 10, fill=9)
    values = set()
    for name in (*SIGNED, "Cutout"):
        for sign in (0, 16):
            plan = np.uint32([list(randaug.OPS).index(name) + sign])
            values |= set(np.unique(policy.apply(image, plan)))
    assert values == {9, 50}


def test_draws_given_in_advance_are_those_of_the_ops():
    fn = ops.get_preprocess_fn(
        "flip_lr|randaug(2, 10)|copy('image', 'a')|randaug(1, 3)|flip_lr"
    )
    seed = tf.constant([[1, 2], [3, 4], [5, 6]])
    drawn = fn.draw(seed, seed)
    shapes = {name: tuple(x.shape) for name, x in drawn.items()}
    assert shapes == {
        "flip_lr_coin": (3,),
        "randaug_plan": (3, 2),
        "randaug_plan_1": (3, 1),
        "flip_lr_coin_1": (3,),
    }
    for i in range(3):
        alone = fn({"image": PHOTOGRAPHS[2], "seed": seed[i]})
        mine = {name: x[i] for name, x in drawn.items()}
        given = fn({"image": PHOTOGRAPHS[2], "seed": seed[i], **mine})
        assert set(alone) == {"image", "seed", "a"}
        np.testing.assert_array_equal(alone["image"], given["image"])
        assert [len(lines) for lines in fn.explain(mine).values()] == [1, 2, 1, 1]
        # Another plan, another image: what is given counts.
        other = {name: x[i - 1] for name, x in drawn.items()}
        other = fn({"image": PHOTOGRAPHS[2], "seed": seed[i], **other})
        assert (other["image"].numpy() != alone["image"].numpy()).any()


def test_a_plan_that_is_kept_makes_the_image_again():
    seed, image = tf.constant([7, 8]), PHOTOGRAPHS[2]
    got = ops.get_preprocess_fn("randaug(2, 10)|keep('image', 'randaug_plan')")(
        {"image": image, "seed": seed}
    )
    assert set(got) == {"image", "randaug_plan"}
    again, _ = by_plan(image, got["randaug_plan"].numpy(), 10)
    np.testing.assert_array_equal(got["image"], again)


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 1), np.uint8)]
)
def test_randaug_refuses_other_images_than_uint8_colour(image):
    fn = ops.get_preprocess_fn("randaug(2, 10)")
    with pytest.raises(ValueError, match="takes one uint8 image"):
        fn({"image": tf.constant(image), "seed": tf.constant([0, 0])})
