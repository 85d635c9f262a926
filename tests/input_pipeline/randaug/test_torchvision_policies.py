"""torchvision's ops against PIL, value for value; its policies' tables and laws."""

import math
from fractions import Fraction

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageOps
import pytest
import skimage.data
import tensorflow as tf

from input_pipeline import plans
from input_pipeline.randaug import torchvision_layers as layers
from input_pipeline.randaug import torchvision_ops as ops
from input_pipeline.randaug import torchvision_policies as policies
from vitjax.weights.libraries import import_torchvision

POLICIES = {
    "randaug_tv": policies.randaug_tv,
    "trivial_augment_wide": policies.trivial_augment_wide,
    "autoaugment_cifar10": policies.autoaugment_cifar10,
}


def images():
    """Photographs, not square, noise, and a CIFAR-like and Fashion-MNIST-like one."""
    rng = np.random.default_rng(0)
    cat = skimage.data.chelsea()
    return [
        skimage.data.astronaut()[:150, 120:320],
        (cat[60:197, 80:233] // 3 + 60).astype(np.uint8),
        rng.integers(3, 250, (61, 45, 3)).astype(np.uint8),
        cat[100:132, 150:182],
        cat[100:128, 150:178, :1],
        cat[60:197, 80:233, 1:2],
    ]


IMAGES = images()


def to_pil(image):
    return PIL.Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])


def affine(image, matrix, fill=0, bilinear=False):
    colour = (fill,) * 3 if image.mode == "RGB" else fill
    how = PIL.Image.Resampling.BILINEAR if bilinear else PIL.Image.Resampling.NEAREST
    method = PIL.Image.Transform.AFFINE
    return image.transform(image.size, method, matrix, how, fillcolor=colour)


def rotated(image, degrees, fill=0, bilinear=False):
    colour = (fill,) * 3 if image.mode == "RGB" else fill
    how = PIL.Image.Resampling.BILINEAR if bilinear else PIL.Image.Resampling.NEAREST
    return image.rotate(degrees, how, fillcolor=colour)


def enhanced(which):
    return lambda image, factor: which(image).enhance(factor)


# PIL's functions that torchvision calls, on resolved values. It shears by the tangent of
# an angle that is the arc tangent of the strength.
REFERENCES = {
    "Identity": lambda image: image,
    "ShearX": lambda image, s, **kw: affine(image, (1, s, 0, 0, 1, 0), **kw),
    "ShearY": lambda image, s, **kw: affine(image, (1, 0, 0, s, 1, 0), **kw),
    "TranslateX": lambda image, p, **kw: affine(image, (1, 0, -p, 0, 1, 0), **kw),
    "TranslateY": lambda image, p, **kw: affine(image, (1, 0, 0, 0, 1, -p), **kw),
    "Rotate": rotated,
    "Brightness": enhanced(PIL.ImageEnhance.Brightness),
    "Color": enhanced(PIL.ImageEnhance.Color),
    "Contrast": enhanced(PIL.ImageEnhance.Contrast),
    "Sharpness": enhanced(PIL.ImageEnhance.Sharpness),
    "Posterize": PIL.ImageOps.posterize,
    "Solarize": PIL.ImageOps.solarize,
    "AutoContrast": PIL.ImageOps.autocontrast,
    "Equalize": PIL.ImageOps.equalize,
    "Invert": PIL.ImageOps.invert,
}
OPS = {**layers.PLAIN, **layers.SIGNED, **layers.UNSIGNED}
FACTORS = (0.01, 0.37, 0.97, 1.0, 1.3, 1.66, 1.99)
SHEARS = (0.0, 0.033, 0.3, 0.66, 0.99)
VALUES = {
    "ShearX": SHEARS + tuple(-v for v in SHEARS),
    "ShearY": SHEARS + tuple(-v for v in SHEARS),
    "TranslateX": (0, 1, -1, 15, -15, 32, -32, 100, -100, 250),
    "TranslateY": (0, 1, -1, 15, -15, 32, -32, 100, -100, 250),
    "Rotate": (0, 4.5, -4.5, 10, -30, 45, 90, -90, 121.5, 135, -135, 180),
    "Brightness": FACTORS,
    "Color": FACTORS,
    "Contrast": FACTORS,
    "Sharpness": FACTORS,
    "Posterize": range(1, 9),
    "Solarize": (0, 1, 85, 128, 170, 247, 255),
}


def expected(name, image, *args, **kw):
    out = np.asarray(REFERENCES[name](to_pil(image), *args, **kw))
    return out.reshape(image.shape)


@pytest.mark.parametrize("name", REFERENCES)
def test_each_op_equals_pil_to_the_bit(name):
    """Eagerly, and in graphs, where TensorFlow rewrites arithmetic if it knows sizes."""
    values = list(VALUES.get(name, ()))
    for image in IMAGES:
        for args in [(value,) for value in values] or [()]:
            got = OPS[name](image, *args)
            assert got.dtype == tf.uint8
            message = f"{name}{args} on {image.shape}"
            want = expected(name, image, *args)
            np.testing.assert_array_equal(got, want, err_msg=message)
    kind = tf.int32 if all(isinstance(v, int) for v in values) else tf.float64
    image = IMAGES[0]
    specs = [tf.TensorSpec([], kind)] if values else []
    for shape in (image.shape, (None, None, 3)):
        graph = tf.function(OPS[name], autograph=False).get_concrete_function(
            tf.TensorSpec(shape, tf.uint8), *specs
        )
        for args in [(value,) for value in values[1::3]] or [()]:
            got = graph(
                tf.constant(image), *(tf.constant(value, kind) for value in args)
            )
            np.testing.assert_array_equal(got, expected(name, image, *args))


@pytest.mark.parametrize("name", ["ShearX", "ShearY", "Rotate"])
def test_bilinear_is_pils_but_for_the_last_bits_of_a_cosine(name):
    for image in IMAGES[::2]:
        for value in VALUES[name]:
            got = OPS[name](image, value, 77, "bilinear").numpy().astype(int)
            difference = np.abs(
                got - expected(name, image, value, fill=77, bilinear=True)
            )
            if name == "Rotate":
                assert difference.max() <= 1
                assert (difference > 0).sum() <= 1 + 1e-3 * difference.size
            else:
                assert difference.max() == 0


@pytest.mark.parametrize("name", ["ShearX", "ShearY", "Rotate", *layers.TRANSLATIONS])
def test_fill_is_pils(name):
    for image in IMAGES:
        value = {"Rotate": 30, "TranslateX": 9, "TranslateY": -9}.get(name, 0.3)
        got = OPS[name](image, value, fill=77)
        np.testing.assert_array_equal(got, expected(name, image, value, fill=77))


def test_directions():
    dot = np.zeros((9, 9, 1), np.uint8)
    dot[4, 6] = 255
    where = lambda image: tuple(np.argwhere(image.numpy()[..., 0])[0].tolist())
    assert where(ops.translate_x(dot, 2)) == (4, 8)
    assert where(ops.translate_y(dot, 2)) == (6, 6)
    assert where(ops.rotate(dot, 90)) == (2, 4)  # counter-clockwise
    assert where(ops.shear_x(dot, 1.0)) == (4, 1)  # about the upper left corner
    assert where(ops.shear_y(dot, 0.5)) == (1, 6)


@pytest.mark.parametrize("shape", [(1, 5, 3), (5, 1, 3), (2, 2, 1), (1, 1, 1)])
def test_sharpness_leaves_images_without_an_inside(shape):
    image = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    np.testing.assert_array_equal(ops.sharpness(image, 1.9), image)


# Tables.


def close(value):
    """To float32's precision."""
    return pytest.approx(value, rel=1e-7)


def pixels_of(space, name, bin, shape):
    """How far an op moves: looked up where a white image's fill begins."""
    white = tf.fill((*shape, 1), tf.constant(255, tf.uint8))
    moved = layers.run(
        name, white, layers.Layer(0, bin, 0), space, 0, "nearest"
    ).numpy()
    axis = 1 if name == "TranslateX" else 0
    return int((moved.max(1 - axis) == 0).sum())


def test_randaugment_bin_ten_in_numbers():
    space = layers.randaugment_space(31)
    strength = {name: table[10] for name, table in space.tables.items()}
    assert strength["ShearX"] == strength["ShearY"] == close(0.1)
    assert strength["Rotate"] == 10.0
    for name in layers.ENHANCEMENTS:
        assert strength[name] == close(0.3)
    assert strength["Posterize"] == 7
    assert strength["Solarize"] == 170
    # 150 / 331 / 3 = 0.15106 of the width or height.
    assert pixels_of(space, "TranslateX", 10, (32, 224)) == 33
    assert pixels_of(space, "TranslateY", 10, (32, 224)) == 4
    assert pixels_of(space, "TranslateX", 30, (331, 331)) == 150


def test_wide_strengths_in_numbers():
    tables = layers.wide_space(31).tables
    assert tables["ShearX"][30] == tables["ShearY"][30] == close(0.99)
    assert tables["Rotate"][[0, 10, 20, 30]].tolist() == [0, 45, 90, 135]
    for name in layers.ENHANCEMENTS:
        assert tables[name][30] == close(0.99)
        assert tables[name][10] == close(0.33)
    # i / 5 rounds up at 3, 8, 13, 18, 23 and 28.
    want = [8] * 3 + [7] * 5 + [6] * 5 + [5] * 5 + [4] * 5 + [3] * 5 + [2] * 3
    assert tables["Posterize"].tolist() == want
    # 255 - 8.5 i, rounded half up.
    assert tables["Solarize"][:4].tolist() == [255, 247, 238, 230]
    assert tables["Solarize"][30] == 0
    # 16 i / 15, except that float32 falls short of 16.
    want = [16 * i // 15 for i in range(31)]
    want[15] = 15
    assert tables["TranslateX"].tolist() == tables["TranslateY"].tolist() == want


def test_autoaugment_strengths_in_numbers():
    tables = layers.randaugment_space(10).tables
    assert tables["Posterize"].tolist() == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]
    solarize = tables["Solarize"][[0, 2, 3, 5, 8, 9]]
    assert solarize.tolist() == [255, 199, 170, 114, 29, 0]
    # Tenths, but float32's.
    np.testing.assert_allclose(tables["Color"], np.arange(10) / 10, rtol=1e-7)
    np.testing.assert_allclose(tables["Rotate"], np.arange(10) * 10 / 3, rtol=1e-7)
    np.testing.assert_allclose(tables["ShearY"], np.arange(10) / 30, rtol=1e-7)


@pytest.mark.parametrize("bins", [2, 10, 31])
def test_linspace_rounds_once_from_the_nearer_end(bins):
    f = np.float32
    for start, stop in [(0.0, 0.3), (0.0, 0.99), (0.0, 32.0), (255.0, 0.0)]:
        got = layers.linspace(start, stop, bins)
        spacing = f((f(stop) - f(start)) / f(bins - 1))
        for i in range(bins):
            # In fractions; the conversion to float rounds, then again to float32,
            # which for products of two float32 is the same as once.
            up = Fraction(float(spacing)) * i + Fraction(start)
            down = Fraction(float(f(stop))) - Fraction(float(spacing)) * (bins - 1 - i)
            assert got[i] == f(float(up if i < bins // 2 else down))


def test_the_fourteen_and_the_cifar_ops():
    assert len(set(layers.FOURTEEN)) == 14
    assert {*layers.FOURTEEN, "Invert"} == set(REFERENCES)
    assert set(policies.CIFAR10_OPS) == set(REFERENCES) - {"ShearX"}
    assert policies.CIFAR10_OPS[0] == "Identity"
    assert len(policies.CIFAR10) == 25


# Laws.


def words(n, count):
    """`n` plans of `count` words, [count, n], as an op at place 3 would draw them."""
    rng = np.random.default_rng(5)
    seeds = rng.integers(0, 2**32, (2, n), dtype=np.uint32)
    return plans.draw((seeds[0], seeds[1]), 3, count)


def assert_law(counts, probabilities):
    """Chi-square within five standard deviations of its mean."""
    counts, p = np.asarray(counts, float), np.asarray(probabilities, float)
    assert (counts[p == 0] == 0).all()
    counts, p = counts[p > 0], p[p > 0]
    n, df = counts.sum(), len(p) - 1
    chi_square = ((counts - n * p) ** 2 / (n * p)).sum()
    assert chi_square < df + 5 * math.sqrt(2 * df)


def table(*columns):
    """Counts of combinations of columns (values, how many there are)."""
    flat, size = 0, 1
    for values, many in columns:
        assert values.min() >= 0
        assert values.max() < many
        flat, size = flat * many + values.astype(np.int64), size * many
    return np.bincount(flat, minlength=size)


def test_randaug_tv_draws_ops_and_signs_uniformly_and_independently():
    drawn = policies.randaug_tv_layers(words(50_000, 2), 9)
    assert [layer.bin for layer in drawn] == [9, 9]
    columns = [(s.op, 14) for s in drawn] + [(s.negative, 2) for s in drawn]
    assert_law(table(*columns), np.full(784, 1 / 784))


def test_trivial_augment_draws_ops_bins_and_signs_uniformly_and_independently():
    (layer,) = policies.trivial_augment_wide_layers(words(50_000, 2), 31)
    counts = table((layer.op, 14), (layer.bin, 31), (layer.negative, 2))
    assert_law(counts, np.full(868, 1 / 868))


def test_autoaugment_draws_sub_policies_with_their_own_probabilities():
    n = 200_000
    drawn = policies.autoaugment_layers(words(n, 2))
    names, bins = policies.CIFAR10_OPS, 10
    counts = table(
        *[(layer.op, 14) for layer in drawn], *[(layer.bin, bins) for layer in drawn]
    )
    want = np.zeros((14, 14, bins, bins))
    for (first, p, i), (second, q, j) in policies.CIFAR10:
        a, b, p, q = names.index(first), names.index(second), p / 10, q / 10
        want[a, b, i, j] += p * q / 25
        want[a, 0, i, j] += p * (1 - q) / 25
        want[0, b, i, j] += (1 - p) * q / 25
        want[0, 0, i, j] += (1 - p) * (1 - q) / 25
    assert_law(counts, want.ravel())
    first, second = (layer.negative for layer in drawn)
    assert_law(table((first, 2), (second, 2)), np.full(4, 1 / 4))
    # Signs are independent of the ops.
    assert_law(
        table((drawn[0].op, 14), (first, 2)),
        np.repeat(want.sum((1, 2, 3)), 2) / 2,
    )


def test_the_cifar_table_is_torchvisions():
    transforms = import_torchvision().transforms
    theirs = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10).policies
    ours = [
        tuple(
            (name, tenths / 10, None if name in layers.PLAIN else bin)
            for name, tenths, bin in pair
        )
        for pair in policies.CIFAR10
    ]
    assert ours == theirs


# Policies.


def shown(policy, image, plan):
    """The policy in tf.data, as a pipeline runs it."""
    data = tf.data.Dataset.from_tensors((image, plan)).map(policy.apply)
    return next(iter(data)).numpy()


@pytest.mark.parametrize("name", POLICIES)
def test_apply_is_its_steps_one_by_one_in_pil(name):
    policy, image = POLICIES[name](), IMAGES[3]
    cifar = layers.randaugment_space(10, policies.CIFAR10_OPS)
    space, read, *numbers = {
        "randaug_tv": (layers.randaugment_space(31), policies.randaug_tv_layers, 9),
        "trivial_augment_wide": (
            layers.wide_space(31), policies.trivial_augment_wide_layers, 31,
        ),
        "autoaugment_cifar10": (cifar, policies.autoaugment_layers),
    }[name]  # fmt: skip
    graph = tf.function(policy.apply, autograph=False)
    for i, plan in enumerate(np.stack(words(60, policy.words), axis=1)):
        want = image
        for layer in read(plan, *numbers):
            op = space.names[int(layer.op)]
            strength, sign = int(layer.bin), -1 if layer.negative else 1
            if op in layers.PLAIN:
                args = ()
            elif op in layers.TRANSLATIONS and op not in space.tables:
                share = Fraction(150, 331) * strength / (space.bins - 1)
                args = (sign * int(share * 32),)
            else:
                value = space.tables[op][strength].item()
                value = value * sign if op in layers.SIGNED else value
                args = (1 + value if op in layers.ENHANCEMENTS else value,)
            want = expected(op, want, *args)
        np.testing.assert_array_equal(graph(image, plan), want)
        if i < 10:
            np.testing.assert_array_equal(policy.apply(image, plan), want)


def test_explanations():
    wide = policies.trivial_augment_wide()
    op = {name: i for i, name in enumerate(layers.FOURTEEN)}

    def says(name, bin, negative=0):
        # The smallest word that reads as the op, with its sign, and as the bin.
        word = -(-op[name] * 2**16 // 14) + (negative << 16)
        return wide.explain(np.uint32([word, -(-bin * 2**16 // 31)]))

    assert says("Identity", 4, 1) == ["Identity"]
    assert says("Rotate", 30, 1) == ["Rotate -135.0 degrees"]
    assert says("Rotate", 10) == ["Rotate +45.0 degrees"]
    assert says("ShearX", 10, 1) == ["ShearX -0.330"]
    assert says("TranslateY", 30) == ["TranslateY +32 pixels"]
    assert says("Color", 10) == ["Color times 1.33"]
    assert says("Color", 10, 1) == ["Color times 0.67"]
    assert says("Posterize", 30, 1) == ["Posterize to 2 bits"]
    assert says("Solarize", 10) == ["Solarize from 170"]
    assert says("Equalize", 10) == ["Equalize"]
    moved = policies.randaug_tv(1, 10).explain(np.uint32([-(-3 * 2**16 // 14)]))
    assert moved == ["TranslateX +15.1 % of the width"]
    # Sub-policy 0 is Invert at 1 in 10, then Contrast, bin 6, at 2 in 10.
    auto = policies.autoaugment_cifar10()
    assert auto.explain(np.uint32([0, 0])) == ["Invert", "Contrast times 1.60"]
    never = 2**32 - 1
    assert auto.explain(np.uint32([0, never])) == ["Identity", "Identity"]


def test_per_batch_is_a_mark_for_the_pipeline():
    assert not policies.trivial_augment_wide().per_batch
    policy = policies.trivial_augment_wide(per_batch=True)
    assert policy.per_batch
    # One plan, given to two images, does the same to both.
    plan = np.uint32([-(-5 * 2**16 // 14), 2**15])
    assert policy.explain(plan) == ["Rotate +67.5 degrees"]
    for image in IMAGES[3:5]:
        want = expected("Rotate", image, 67.5)
        np.testing.assert_array_equal(shown(policy, image, plan), want)
    assert not policies.randaug_tv().per_batch
    assert not policies.autoaugment_cifar10().per_batch


def test_fill_and_interpolation_reach_the_warps():
    image = np.full((20, 20, 3), 200, np.uint8)
    rotate, shift = (np.uint32([-(-i * 2**16 // 14), 2**15]) for i in (5, 3))
    for fill, colour in ((None, 0), (0, 0), (9, 9), (255, 255)):
        policy = policies.trivial_augment_wide(fill=fill)
        for plan in (rotate, shift):
            assert set(np.unique(policy.apply(image, plan))) == {colour, 200}
    photograph = IMAGES[0]
    smooth = policies.trivial_augment_wide(interpolation="bilinear")
    got = smooth.apply(photograph, rotate).numpy().astype(int)
    want = expected("Rotate", photograph, 67.5, bilinear=True)
    assert np.abs(got - want).max() <= 1


def test_words_of_a_plan():
    assert policies.randaug_tv(5).words == 5
    assert policies.trivial_augment_wide().words == 2
    assert policies.autoaugment_cifar10().words == 2
    nothing = policies.randaug_tv(0)
    assert nothing.words == 1, "tf.data crashes on batches of empty tensors"
    plan = np.zeros(1, np.uint32)
    assert nothing.explain(plan) == []
    np.testing.assert_array_equal(nothing.apply(IMAGES[3], plan), IMAGES[3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: policies.randaug_tv(-1), "num_ops"),
        (lambda: policies.randaug_tv(2, 31), "got 2, 31, 31"),
        (lambda: policies.randaug_tv(2, -1), "magnitude"),
        (lambda: policies.randaug_tv(2, 0, 1), "num_magnitude_bins"),
        (lambda: policies.trivial_augment_wide(1), "num_magnitude_bins must be >= 2"),
        (lambda: policies.trivial_augment_wide(fill=256), "fill must be 0 to 255"),
        (lambda: policies.autoaugment_cifar10(fill=-1), "fill must be 0 to 255"),
    ],
)
def test_arguments_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", POLICIES)
def test_images_of_another_kind_are_refused(name):
    policy = POLICIES[name]()
    plan = np.zeros(policy.words, np.uint32)
    for shape, dtype in (
        ((8, 8, 3), np.float32),
        ((2, 8, 8, 3), np.uint8),
        ((8, 8, 4), np.uint8),
        ((8, 8), np.uint8),
    ):
        with pytest.raises(ValueError, match=f"{name} takes one uint8 image.*got"):
            policy.apply(np.zeros(shape, dtype), plan)
