"""RandAugment's ops against numpy and PIL, value for value; the policy's law.

The numpy functions below are written from the ops' definitions, in float32 where the
ops compute in float32, so that "equal" means equal.
"""

import collections
import io
import itertools

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import skimage.data
import tensorflow as tf

from input_pipeline import ops, randaug

F = np.float32
LEVELS = [0, 1, 3, 5, 8.7, 10, 15, 20]
SIGNED = ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"]


def photographs():
    """Two photographs, not square, one of them without black and white, and noise."""
    rng = np.random.default_rng(0)
    return [
        skimage.data.astronaut()[:150, 120:320],
        (skimage.data.chelsea()[60:197, 80:233] // 3 + 60).astype(np.uint8),
        rng.integers(3, 250, (61, 45, 3)).astype(np.uint8),
    ]


PHOTOGRAPHS = photographs()


def clip8(values):
    return np.clip(values, 0, 255).astype(np.uint8)


def blend(base, image, factor):
    if factor == 0:
        return base
    if factor == 1:
        return image
    base, image = base.astype(F), image.astype(F)
    return clip8(base + F(factor) * (image - base))


def grey(image):
    r, g, b = np.moveaxis(image.astype(F) * F(1 / 255), -1, 0)
    luma = r * F(0.2989) + g * F(0.5870) + b * F(0.1140)
    return np.minimum(luma * F(255.5), 255).astype(np.uint8)[..., None]


def np_autocontrast(image):
    out = image.copy()
    for c in range(3):
        low, high = F(image[..., c].min()), F(image[..., c].max())
        if high > low:
            scale = F(255) / (high - low)
            out[..., c] = clip8(image[..., c].astype(F) * scale + -low * scale)
    return out


def np_contrast(image, factor, value=None):
    h, w, _ = image.shape
    value = min(h * w / 256, 255) if value is None else value
    return blend(np.full_like(image, int(value)), image, factor)


def np_sharpness(image, factor):
    h, w, _ = image.shape
    smooth = image.copy()
    for y in range(1, h - 1):
        rows = image[y - 1 : y + 2].astype(F)
        total = np.zeros((w - 2, 3), F)
        for dy in range(3):
            for dx in range(3):
                weight = F(5 if dy == dx == 1 else 1) / F(13)
                total = total + rows[dy, dx : w - 2 + dx] * weight
        smooth[y, 1:-1] = clip8(total)
    return blend(smooth, image, factor)


def warp(image, a, b, c, d, e, f, fill=128):
    """Nearest neighbour, rounding half away from zero, in float32."""
    h, w, _ = image.shape
    y, x = np.mgrid[:h, :w].astype(F)
    values = [F(v) for v in (a, b, c, d, e, f)]
    xs = values[0] * x + values[1] * y + values[2]
    ys = values[3] * x + values[4] * y + values[5]

    def away(v):
        return (np.sign(v) * np.floor(np.abs(v.astype(np.float64)) + 0.5)).astype(int)

    xs, ys = away(xs), away(ys)
    inside = (xs >= 0) & (xs < w) & (ys >= 0) & (ys < h)
    out = image[np.clip(ys, 0, h - 1), np.clip(xs, 0, w - 1)]
    return np.where(inside[..., None], out, np.uint8(fill))


def np_rotate(image, degrees):
    radians = F(degrees) * F(np.pi / 180)
    cos, sin = np.cos(radians), np.sin(radians)
    h, w = F(image.shape[0] - 1), F(image.shape[1] - 1)
    dx = (w - (cos * w - sin * h)) / F(2)
    dy = (h - (sin * w + cos * h)) / F(2)
    return warp(image, cos, -sin, dx, sin, cos, dy)


def np_cutout(image, half, y, x):
    out = image.copy()
    out[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 128
    return out


def pil(function):
    return lambda image, *args: np.asarray(
        function(PIL.Image.fromarray(image), *args), np.uint8
    )


REFERENCES = {
    "AutoContrast": np_autocontrast,
    "Equalize": pil(PIL.ImageOps.equalize),
    "Invert": pil(PIL.ImageOps.invert),
    "Rotate": np_rotate,
    "Posterize": lambda image, bits: image & (256 - 2 ** (8 - bits or 0)),
    "Solarize": lambda image, t: np.where(image < t % 256, image, 255 - image),
    "SolarizeAdd": lambda image, n: np.where(
        image < 128, clip8(image + 1.0 * n), image
    ),
    "Color": lambda image, f: blend(np.repeat(grey(image), 3, -1), image, f),
    "Contrast": np_contrast,
    "Brightness": lambda image, f: blend(np.zeros_like(image), image, f),
    "Sharpness": np_sharpness,
    "ShearX": lambda image, s: warp(image, 1, s, 0, 0, 1, 0),
    "ShearY": lambda image, s: warp(image, 1, 0, 0, s, 1, 0),
    "TranslateX": lambda image, p: warp(image, 1, 0, p, 0, 1, 0),
    "TranslateY": lambda image, p: warp(image, 1, 0, 0, 0, 1, p),
    "Cutout": np_cutout,
}


def at_level(name, level):
    """The arguments at a level, from the definitions, both signs where there are two.

    Posterize: 0 bits act like 1 (the shift saturates at 7).
    """
    share = level / 10
    enhance = share * 1.8 + 0.1
    value = {
        "Rotate": share * 30.0,
        "Posterize": max(int(share * 4), 1),
        "Solarize": int(share * 256),
        "SolarizeAdd": int(share * 110),
        "Color": enhance,
        "Contrast": enhance,
        "Brightness": enhance,
        "Sharpness": enhance,
        "ShearX": share * 0.3,
        "ShearY": share * 0.3,
        "TranslateX": share * 100,
        "TranslateY": share * 100,
    }
    if name == "Cutout":
        return [(int(share * 40), 70, 9), (int(share * 40), 0, 200)]
    if name in SIGNED:
        return [(value[name],), (-value[name],)]
    return [(value[name],)] if name in value else [()]


def test_names_are_the_sixteen():
    assert sorted(randaug.OPS) == sorted(REFERENCES)
    assert len(randaug.OPS) == 16


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_each_op_equals_its_reference_at_every_level_and_sign(name):
    op = randaug.OPS[name]
    # In graph too, where TensorFlow rewrites arithmetic, more so if it knows the size.
    graph = tf.function(op, autograph=False)
    known, *unknown = PHOTOGRAPHS
    for args in dict.fromkeys(a for level in LEVELS for a in at_level(name, level)):
        sizes = [tf.TensorSpec(s, tf.uint8) for s in (known.shape, (None, None, 3))]
        first, general = (graph.get_concrete_function(size, *args) for size in sizes)
        for image, traced in [(known, first), *((image, general) for image in unknown)]:
            want = REFERENCES[name](image, *args)
            for got in (op(image, *args), traced(tf.constant(image))):
                assert got.dtype == tf.uint8
                np.testing.assert_array_equal(got, want, err_msg=f"{name}{args}")


@pytest.mark.parametrize("level", LEVELS)
def test_levels_give_the_arguments_that_big_vision_computes(level):
    got = randaug.level_arguments(float(level))
    for name in REFERENCES:
        want = at_level(name, level)[0]
        if name == "Cutout":
            want = want[:1]
        if name == "Posterize" and int(level / 10 * 4) == 0:
            want = (0,)
        assert got[name] == want, name


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


def run(name, image, *args, **numerics):
    return randaug.OPS[name](image, *args, **numerics).numpy()


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


def test_where_pil_defines_the_same_op_the_bits_are_the_same():
    for image in PHOTOGRAPHS:
        opened = PIL.Image.fromarray(image)
        for bits in range(1, 9):
            want = np.asarray(PIL.ImageOps.posterize(opened, bits))
            np.testing.assert_array_equal(run("Posterize", image, bits), want)
        for threshold in (0, 1, 128, 255):
            want = np.asarray(PIL.ImageOps.solarize(opened, threshold))
            np.testing.assert_array_equal(run("Solarize", image, threshold), want)


def test_autocontrast_is_pils_but_for_one_level_of_truncation():
    # PIL computes its table in float64, big_vision in float32; both truncate.
    for image in PHOTOGRAPHS:
        want = np.asarray(PIL.ImageOps.autocontrast(PIL.Image.fromarray(image)))
        got = run("AutoContrast", image)
        assert np.abs(got.astype(int) - want).max() <= 1
        assert (got == want).mean() > 0.95


def test_autocontrast_rounds_like_float32_for_every_range():
    # One column holds all values; clipping it gives each channel its range.
    values = np.arange(256, dtype=np.uint8)[:, None]
    rng = np.random.default_rng(2)
    for _ in range(80):
        bounds = np.sort(rng.integers(0, 256, (2, 3)), axis=0)
        image = np.clip(values, bounds[0], bounds[1]).astype(np.uint8)[:, None]
        np.testing.assert_array_equal(
            run("AutoContrast", image), np_autocontrast(image)
        )


def grid():
    """224 x 224, squares of 56 pixels, (192, 64, 64) and (64, 192, 192) in turn."""
    squares = (np.indices((224, 224)) // 56).sum(0) % 2
    return np.where(squares[..., None], [64, 192, 192], [192, 64, 64]).astype(np.uint8)


def colours(image):
    """Of the middle of the first and of the second square."""
    return tuple(image[28, 28].tolist()), tuple(image[28, 84].tolist())


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
    assert colours(run(name, grid(), 1.9, **numerics)) == want


def test_solarize_add_on_black_and_white():
    got = run("SolarizeAdd", constant(0, 255), 110)
    np.testing.assert_array_equal(got, constant(110, 255))


@pytest.mark.parametrize(
    ("side", "grey_value"), [(160, 100), (224, 196), (256, 255), (300, 255)]
)
def test_legacy_contrast_pulls_towards_the_area(side, grey_value):
    image = np.full((side, side, 3), 200, np.uint8)
    got = run("Contrast", image, 0.5)[0, 0, 0]
    assert got == int(grey_value + 0.5 * (200 - grey_value))


def test_fixed_contrast_pulls_towards_the_mean():
    for image in PHOTOGRAPHS:
        mean = int(grey(image).astype(np.int64).sum() // grey(image).size)
        for factor in (0.28, 1.9):
            got = run("Contrast", image, factor, contrast="fixed")
            np.testing.assert_array_equal(got, np_contrast(image, factor, mean))


def test_flat_channels_stay_under_autocontrast_and_equalize():
    image = np.broadcast_to(np.uint8([0, 77, 255]), (20, 30, 3))
    np.testing.assert_array_equal(run("AutoContrast", image), image)
    np.testing.assert_array_equal(run("Equalize", image), image)


def test_grey_is_tensorflows_on_a_lattice_of_colours():
    axes = np.arange(0, 256, 3, np.uint8), np.arange(256, dtype=np.uint8)
    image = np.stack(np.meshgrid(axes[0], axes[1], axes[1]), -1).reshape(-1, 256, 3)
    want = np.repeat(tf.image.rgb_to_grayscale(image).numpy(), 3, -1)
    np.testing.assert_array_equal(np.repeat(grey(image), 3, -1), want)
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


def between_pixels(image, matrix, fill):
    """The mean of the four pixels around each place, by distance, float64 [h, w, c]."""
    h, w, _ = image.shape
    y, x = np.mgrid[:h, :w].astype(np.float64)
    (a, b, c), (d, e, f) = matrix
    columns, rows = a * x + b * y + c, d * x + e * y + f
    left, top = np.floor(columns).astype(int), np.floor(rows).astype(int)
    total = np.zeros(image.shape)
    for i in (0, 1):
        for j in (0, 1):
            row, column = top + i, left + j
            inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
            pixel = image[row.clip(0, h - 1), column.clip(0, w - 1)]
            weight = (1 - abs(rows - row)) * (1 - abs(columns - column))
            total += np.where(inside[..., None], pixel, fill) * weight[..., None]
    return total


@pytest.mark.parametrize("fill", [0, 128])
@pytest.mark.parametrize("sign", [1, -1])
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
    want = between_pixels(image, matrix, fill)
    got = run(name, image, amount, fill=fill, interpolation="bilinear")
    assert got.dtype == np.uint8
    # Rounded, after places that are float32.
    assert np.abs(got - want).max() < 0.55
    assert len(np.unique(want - np.floor(want))) > 3, "something was mixed"


@pytest.mark.parametrize("name", ["TranslateX", "TranslateY"])
def test_translation_by_slices_equals_the_warp(name):
    image = PHOTOGRAPHS[2]
    for pixels in (-100, -61, -44, -1, 0, 3, 45, 60, 100):
        want = REFERENCES[name](image, pixels)
        np.testing.assert_array_equal(run(name, image, pixels), want)
        np.testing.assert_array_equal(run(name, image, tf.constant(pixels)), want)
        # A float tensor is warped.
        np.testing.assert_array_equal(run(name, image, tf.constant(1.0 * pixels)), want)
    for pixels in (-0.5, 0.5, 1.5, -2.25):
        want = REFERENCES[name](image, pixels)
        np.testing.assert_array_equal(run(name, image, pixels), want)


def test_rotation_is_counter_clockwise_and_positive_translation_goes_left_and_up():
    image = np.zeros((9, 9, 3), np.uint8)
    image[4, 8] = 255
    assert run("Rotate", image, 90)[0, 4, 0] == 255
    assert run("TranslateX", image, 3)[4, 5, 0] == 255
    assert run("TranslateY", image, 3)[1, 8, 0] == 255


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
    import jax.numpy as jnp

    word = plans_of(50, 1)[:, 0]
    want = randaug.read_plan([word], np.uint32(224), np.uint32(300))
    for kind in (tf.constant, jnp.asarray):
        got = randaug.read_plan([kind(word)], *map(kind, np.uint32([224, 300])))
        for a, b in zip(jax_leaves(want), jax_leaves(got), strict=True):
            np.testing.assert_array_equal(a, np.asarray(b))


def jax_leaves(layers):
    return [x for op, negate, centre in layers for x in (op, negate, *centre)]


def numpy_policy(image, plan, level, contrast="legacy"):
    """(result, names of the ops) by the numpy references, from the plan's bits."""
    names = []
    for word in map(int, plan):
        name = list(randaug.OPS)[word & 15]
        names.append(name)
        args = at_level(name, level)[0]
        if name == "Cutout":
            h, w = image.shape[:2]
            args = (
                args[0],
                (word >> 5 & 8191) * h >> 13,
                (word >> 18 & 8191) * w >> 13,
            )
        if name in SIGNED and word >> 4 & 1:
            args = (-args[0],)
        if name == "Contrast" and contrast == "fixed":
            args = (*args, int(grey(image).astype(np.int64).sum() // grey(image).size))
        image = REFERENCES[name](image, *args)
    return image, names


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("level", "contrast"), [(10, "legacy"), (10, "fixed"), (3, "legacy"), (0, "legacy")]
)
def test_the_policy_is_the_plan_applied_op_by_op(level, contrast, known):
    image, plans = PHOTOGRAPHS[0], plans_of(60)
    policy = randaug.randaug(2, level, contrast=contrast)
    # Of known size: compiled by XLA, warps from tables. Of unknown: TensorFlow's ops.
    shape = image.shape if known else (None, None, 3)
    images = tf.data.Dataset.from_generator(
        lambda: itertools.repeat(image, len(plans)),
        output_signature=tf.TensorSpec(shape, tf.uint8),
    )
    both = tf.data.Dataset.zip((images, tf.data.Dataset.from_tensor_slices(plans)))
    graph = both.map(policy.apply, num_parallel_calls=2)
    seen = collections.Counter()
    for plan, got in zip(plans, graph.as_numpy_iterator(), strict=True):
        want, names = numpy_policy(image, plan, level, contrast)
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
    want = np_cutout(np_rotate(image, -30.0), 40, h // 2, w // 4)
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


def test_what_is_drawn_is_what_the_ops_would_draw_for_themselves():
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
    again, _ = numpy_policy(image, got["randaug_plan"].numpy(), 10)
    np.testing.assert_array_equal(got["image"], again)


def test_randaug_through_the_op_language():
    data = io.BytesIO()
    PIL.Image.fromarray(PHOTOGRAPHS[0]).save(data, "PNG")
    features = {"image": data.getvalue(), "seed": tf.constant([1, 2])}
    got = ops.get_preprocess_fn("decode|randaug(2, 10, contrast='fixed')")(features)
    assert got["image"].shape == PHOTOGRAPHS[0].shape
    with pytest.raises(ValueError, match="contrast cannot be 'broken'"):
        ops.get_preprocess_fn("randaug(2, 10, contrast='broken')")
    with pytest.raises(ValueError, match="fill is 0 to 255"):
        ops.get_preprocess_fn("randaug(2, 10, fill=300)")


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 1), np.uint8)]
)
def test_randaug_refuses_what_is_not_a_uint8_colour_image(image):
    fn = ops.get_preprocess_fn("randaug(2, 10)")
    with pytest.raises(ValueError, match="takes one uint8 image"):
        fn({"image": tf.constant(image), "seed": tf.constant([0, 0])})
