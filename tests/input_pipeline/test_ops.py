"""The host ops against PIL and numpy, and the op language's promises about chance."""

import io

import numpy as np
import PIL.Image
import pytest
import skimage.data
import sklearn.datasets
import tensorflow as tf

from input_pipeline import geometry, ops


def photographs():
    china, flower = sklearn.datasets.load_sample_images().images
    return {
        "even": skimage.data.astronaut()[:256, :320],
        "odd": skimage.data.chelsea()[:223, :331],
        "tall": np.rot90(skimage.data.coffee())[:333, :215].copy(),
        "china": china[:301, :400],
        "flower": flower[100:351, 100:402],
    }


PHOTOGRAPHS = photographs()


def encode(image, file_format="JPEG", mode="RGB", **options):
    data = io.BytesIO()
    PIL.Image.fromarray(image).convert(mode).save(data, file_format, **options)
    return data.getvalue()


def pil(data, mode="RGB"):
    return np.asarray(PIL.Image.open(io.BytesIO(data)).convert(mode))


def run(spec, image, **features):
    return ops.get_preprocess_fn(spec)({"image": image} | features)["image"].numpy()


def seeds(n):
    rng = np.random.default_rng(7)
    return rng.integers(-(2**31), 2**31, (n, 2)).astype(np.int32)


# --- decoding ---


@pytest.mark.parametrize("name", sorted(PHOTOGRAPHS))
@pytest.mark.parametrize(
    "options",
    [
        {"quality": 95, "subsampling": 0},
        {"quality": 75, "subsampling": 1},
        {"quality": 60, "subsampling": 2, "progressive": True},
        {"mode": "L"},
        {"mode": "CMYK"},
        {"file_format": "PNG"},
    ],
)
def test_precise_decoding_is_pils_bit_for_bit(name, options):
    data = encode(PHOTOGRAPHS[name], **options)
    np.testing.assert_array_equal(run("decode(precise=True)", data), pil(data))


def test_default_decoding_is_close_and_reads_other_formats():
    data = encode(PHOTOGRAPHS["odd"])
    got = run("decode", data)
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - pil(data)).mean() < 2
    for file_format in ("PNG", "BMP"):
        data = encode(PHOTOGRAPHS["odd"], file_format)
        np.testing.assert_array_equal(run("decode", data), PHOTOGRAPHS["odd"])


@pytest.mark.parametrize("precise", [False, True])
def test_decoding_to_grey_and_with_alpha(precise):
    grey = encode(PHOTOGRAPHS["odd"], "PNG", mode="L")
    got = run(f"decode(1, precise={precise})", grey)
    np.testing.assert_array_equal(got, pil(grey, "L")[..., None])
    alpha = encode(PHOTOGRAPHS["odd"], "PNG", mode="RGBA")
    got = run(f"decode(4, {precise})", alpha)
    np.testing.assert_array_equal(got, pil(alpha, "RGBA"))


def box_of(shape, seed, sampler="tf", area=(0.05, 1.0), ratio=(0.75, 1.33), position=0):
    folded = tf.random.fold_in(tf.constant(seed), position)
    box = geometry.CROP_BOXES[sampler](tf.constant(shape), folded, area, ratio)
    return [int(side) for side in box]


@pytest.mark.parametrize("sampler", ["tf", "torchvision"])
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"subsampling": 2, "progressive": True},
        {"mode": "L"},
        {"mode": "CMYK"},
        {"file_format": "PNG"},
    ],
)
def test_fused_decoding_and_cropping_is_pils_image_cropped(options, sampler):
    spec = f"decode_jpeg_and_inception_crop(precise=True, sampler='{sampler}')"
    fn = ops.get_preprocess_fn(spec)
    for name in ("odd", "tall"):
        data = encode(PHOTOGRAPHS[name], **options)
        whole = pil(data)
        for seed in seeds(20):
            y, x, h, w = box_of(whole.shape, seed, sampler)
            got = fn({"image": data, "seed": tf.constant(seed)})["image"]
            np.testing.assert_array_equal(got, whole[y : y + h, x : x + w])


@pytest.mark.parametrize(
    "arguments",
    ["", ", method='area'", ", antialias=True", ", sampler='torchvision'", ", 20, 50"],
)
def test_the_fused_op_is_decode_then_inception_crop(arguments):
    data = encode(PHOTOGRAPHS["even"])
    # The same position in the spec, so that both draw the same box.
    split = ops.get_preprocess_fn(f"drop('x')|inception_crop((40, 56){arguments})")
    fused = ops.get_preprocess_fn(
        f"drop('x')|decode_jpeg_and_inception_crop((40, 56){arguments}, precise=True)"
    )
    for seed in map(tf.constant, seeds(6)):
        want = split({"image": pil(data), "seed": seed})["image"]
        got = fused({"image": data, "seed": seed})["image"]
        assert got.shape == (40, 56, 3)
        assert got.dtype == tf.uint8
        np.testing.assert_array_equal(got, want)


# --- the laws of the crops ---


def crop_boxes(shape, n, sampler, area=(0.05, 1.0), ratio=(0.75, 1.33)):
    boxes = tf.data.Dataset.from_tensor_slices(seeds(n)).map(
        lambda seed: tf.stack(
            geometry.CROP_BOXES[sampler](tf.constant(shape), seed, area, ratio)
        ),
        num_parallel_calls=2,
    )
    return next(boxes.batch(n).as_numpy_iterator())


@pytest.mark.parametrize(
    ("shape", "tf_mean", "torchvision_mean"),
    [
        ((375, 500, 3), 0.342, 0.416),
        ((500, 500, 3), 0.376, 0.467),
        ((256, 512, 3), 0.245, 0.289),
    ],
)
def test_mean_crop_areas(shape, tf_mean, torchvision_mean):
    n = 4000  # the standard error is 0.004
    for sampler, want in (("tf", tf_mean), ("torchvision", torchvision_mean)):
        y, x, h, w = crop_boxes(shape, n, sampler).T
        assert (h * w / (shape[0] * shape[1])).mean() == pytest.approx(want, abs=0.014)
        assert min(y.min(), x.min()) >= 0
        assert (y + h).max() <= shape[0]
        assert (x + w).max() <= shape[1]


def numpy_torchvision(shape, n, area, ratio):
    """RandomResizedCrop's law as a loop: ten attempts, then the central crop."""
    rng = np.random.default_rng(3)
    height, width = shape[:2]
    boxes = []
    for _ in range(n):
        for _ in range(10):
            target = rng.uniform(*area) * height * width
            aspect = np.exp(rng.uniform(*np.log(ratio)))
            w, h = round((target * aspect) ** 0.5), round((target / aspect) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
                break
        else:
            w, h = width, height
            if width / height < min(ratio):
                h = round(width / min(ratio))
            elif width / height > max(ratio):
                w = round(height * max(ratio))
            y, x = (height - h) // 2, (width - w) // 2
        boxes.append((y, x, h, w))
    return np.asarray(boxes)


@pytest.mark.parametrize("shape", [(100, 300), (300, 100), (120, 140)])
def test_torchvision_sampler_has_torchvisions_law(shape):
    n, area, ratio = 3000, (0.3, 1.0), (0.75, 1.33)
    got = crop_boxes((*shape, 3), n, "torchvision", area, ratio)
    want = numpy_torchvision(shape, n, area, ratio)
    for g, w in zip(got.T, want.T, strict=True):
        # The two-sample Kolmogorov-Smirnov distance, far in its tail (p < 1e-5).
        values = np.union1d(g, w)
        cdf = [np.searchsorted(np.sort(v), values, "right") / n for v in (g, w)]
        assert np.abs(cdf[0] - cdf[1]).max() < 2.5 * np.sqrt(2 / n)


def test_fallbacks_when_no_crop_fits():
    shape, area, ratio = (100, 400, 3), (0.95, 1.0), (0.75, 1.33)
    np.testing.assert_array_equal(
        np.unique(crop_boxes(shape, 20, "tf", area, ratio), axis=0), [[0, 0, 100, 400]]
    )
    for shape, want in (((100, 400, 3), (0, 133, 100, 133)), ((400, 90, 3), None)):
        want = want or ((400 - 120) // 2, 0, 120, 90)
        boxes = crop_boxes(shape, 20, "torchvision", area, ratio)
        np.testing.assert_array_equal(np.unique(boxes, axis=0), [want])


# --- resizing and cropping ---


@pytest.mark.parametrize(("goal", "factor"), [(64, 4), (32, 8)])
def test_resize_small_by_area_is_pils_box_on_exact_factors(goal, factor):
    image = PHOTOGRAPHS["even"]  # 256 x 320
    got = run(f"resize_small({goal})", image)
    size = (320 // factor, 256 // factor)
    # PIL rounds where TensorFlow truncates: the exact mean decides both.
    boxes = image.reshape(size[1], factor, size[0], factor, 3).astype(np.int64)
    np.testing.assert_array_equal(got, boxes.sum((1, 3)) // factor**2)
    box = PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.BOX)
    difference = np.asarray(box).astype(int) - got
    assert set(np.unique(difference)) <= {0, 1}


@pytest.mark.parametrize(
    ("shape", "want"),
    [((301, 400), (256, 340)), ((375, 500), (256, 341)), ((500, 333), (384, 256))],
)
def test_resize_small_rounds_both_sides(shape, want):
    image = np.zeros((*shape, 3), np.uint8)
    assert run("resize_small(256)", image).shape == (*want, 3)


def test_resize_small_rounds_halves_to_even():
    # 100 x 105 by one half: 52.5; 100 x 107: 53.5.
    assert run("resize_small(50)", np.zeros((100, 105, 3), np.uint8)).shape[1] == 52
    assert run("resize_small(50)", np.zeros((107, 100, 3), np.uint8)).shape[0] == 54


def test_resize_long_scales_the_longer_side():
    assert run("resize_long(100)", np.zeros((50, 200, 3), np.uint8)).shape == (
        25,
        100,
        3,
    )


def bilinear(image, h, w):
    """Half-pixel centres, no antialiasing, edges repeated; float64."""
    ys = np.clip((np.arange(h) + 0.5) * image.shape[0] / h - 0.5, 0, None)
    xs = np.clip((np.arange(w) + 0.5) * image.shape[1] / w - 0.5, 0, None)
    y0, x0 = ys.astype(int), xs.astype(int)
    y1 = np.minimum(y0 + 1, image.shape[0] - 1)
    x1 = np.minimum(x0 + 1, image.shape[1] - 1)
    fy, fx = (ys - y0)[:, None, None], (xs - x0)[None, :, None]
    image = image.astype(np.float64)
    top = image[y0][:, x0] * (1 - fx) + image[y0][:, x1] * fx
    bottom = image[y1][:, x0] * (1 - fx) + image[y1][:, x1] * fx
    return top * (1 - fy) + bottom * fy


def test_resize_is_bilinear_without_antialiasing_and_truncates():
    image = PHOTOGRAPHS["odd"]
    want = bilinear(image, 101, 150)
    got = run("resize((101, 150))", image)
    assert got.dtype == np.uint8
    away_from_integers = np.abs(want - np.round(want)) > 1e-2
    np.testing.assert_array_equal(
        got[away_from_integers], np.floor(want[away_from_integers])
    )
    as_float = run("resize((101, 150))", image.astype(np.float32))
    assert as_float.dtype == np.float32
    # Positions are float32: about 1e-5 of a pixel, times steps of up to 255.
    np.testing.assert_allclose(as_float, want, rtol=0, atol=1e-2)


def test_antialiased_bilinear_is_pils_to_a_level():
    image = PHOTOGRAPHS["odd"]
    got = run("resize(64, antialias=True)", image).astype(int)
    resized = PIL.Image.fromarray(image).resize((64, 64), PIL.Image.Resampling.BILINEAR)
    assert np.abs(got - np.asarray(resized)).max() <= 2
    without = run("resize(64)", image).astype(int)
    assert np.abs(without - np.asarray(resized)).max() > 20


def test_resizing_clips_what_overshoots():
    # Bicubic rings: 0, 0, 143.4, 251.3 and -9.7, -7.8, -20.2 here. So few values, since
    # TensorFlow's cast wraps them around, but saturates most of a larger image.
    image = np.uint8([0, 0, 255, 0]).reshape(1, 4, 1)
    got = run("resize((1, 7), method='bicubic')", image)
    assert got.ravel().tolist() == [0, 0, 0, 143, 251, 86, 0]
    got = run("resize((1, 7), method='bicubic')", 255 - image)
    assert got.min() >= 3
    assert got.ravel()[[2, 6]].tolist() == [255, 255]


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [("", (0, 251), (25, 276)), ("(100, 51)", (75, 175), (125, 176))],
)
def test_central_crop_rounds_offsets_down(size, rows, columns):
    image = PHOTOGRAPHS["flower"]  # 251 x 302
    got = run(f"central_crop({size})", image)
    np.testing.assert_array_equal(got, image[slice(*rows), slice(*columns)])


def test_random_crop_is_a_uniform_window():
    image = np.arange(7 * 9, dtype=np.uint8).reshape(7, 9, 1)
    fn = ops.get_preprocess_fn("random_crop((5, 8))")
    places = set()
    for seed in map(tf.constant, seeds(80)):
        got = fn({"image": image, "seed": seed})["image"].numpy()
        y, x = divmod(int(got[0, 0, 0]), 9)
        np.testing.assert_array_equal(got, image[y : y + 5, x : x + 8])
        places.add((y, x))
    assert places == {(y, x) for y in range(3) for x in range(2)}


def test_flip_lr_mirrors_half_of_the_images():
    image = PHOTOGRAPHS["odd"][:5, :7]
    fn = ops.get_preprocess_fn("flip_lr")
    flipped = 0
    for seed in map(tf.constant, seeds(200)):
        got = fn({"image": image, "seed": seed})["image"].numpy()
        if not np.array_equal(got, image):
            np.testing.assert_array_equal(got, image[:, ::-1])
            flipped += 1
    assert abs(flipped - 100) < 5 * np.sqrt(50)


# --- random_affine ---


def test_random_affine_without_range_changes_nothing():
    for image in (PHOTOGRAPHS["odd"], np.float32(PHOTOGRAPHS["odd"][..., :1])):
        got = run("random_affine", image, seed=tf.constant([1, 2]))
        assert got.dtype == image.dtype
        np.testing.assert_allclose(got, image, atol=1e-3)


def affine_of(image, degrees, scale, dx, dy):
    """Each output pixel's source by the definition, bilinear, zeros outside."""
    h, w = image.shape[:2]
    cy, cx = (h - 1) / 2, (w - 1) / 2
    a = np.deg2rad(degrees)
    out = np.zeros(image.shape)
    padded = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)))
    for y in range(h):
        for x in range(w):
            u, v = x - cx - dx, y - cy - dy
            # Counter-clockwise on a screen, where y points down.
            sx = (np.cos(a) * u - np.sin(a) * v) / scale + cx
            sy = (np.sin(a) * u + np.cos(a) * v) / scale + cy
            if -1 < sx < w and -1 < sy < h:
                x0, y0 = int(np.floor(sx)), int(np.floor(sy))
                fx, fy = sx - x0, sy - y0
                square = padded[y0 + 1 : y0 + 3, x0 + 1 : x0 + 3]
                out[y, x] = np.einsum("ijc,i,j->c", square, [1 - fy, fy], [1 - fx, fx])
    return out


@pytest.mark.parametrize(
    ("degrees", "scale", "dx", "dy"),
    [(30, 1, 0, 0), (0, 1.5, 0, 0), (0, 1, 1.5, -2), (-20, 0.8, 2.25, 1)],
)
def test_affine_matrix_against_the_definition(degrees, scale, dx, dy):
    image = PHOTOGRAPHS["odd"][100:111, 100:114]
    numbers = (tf.constant(float(v)) for v in (degrees, scale, dx, dy))
    matrix = geometry.affine(tf.constant(image), *numbers)
    smooth = tf.constant(image, tf.float32)
    got = geometry.project(smooth, matrix, 0, "bilinear")
    want = affine_of(image, degrees, scale, dx, dy)
    np.testing.assert_allclose(got, want, atol=1e-2)
    as_uint8 = geometry.project(tf.constant(image), matrix, 0, "bilinear")
    np.testing.assert_array_equal(as_uint8, np.round(got))


def test_random_affine_stays_in_its_ranges():
    image = np.zeros((41, 61, 1), np.float32)
    image[20, 30] = 1  # the centre moves by the shift alone
    fn = ops.get_preprocess_fn("random_affine(0, translate=(0.1, 0.2))")
    shifts = []
    for seed in map(tf.constant, seeds(150)):
        moved = fn({"image": image, "seed": seed})["image"].numpy()[..., 0]
        y, x = np.mgrid[:41, :61]
        assert moved.sum() == pytest.approx(1, abs=1e-3)
        shifts.append([(moved * x).sum() - 30, (moved * y).sum() - 20])
    largest = np.abs(shifts).max(0)
    np.testing.assert_array_less(largest, [6.1 + 1e-2, 8.2 + 1e-2])
    np.testing.assert_array_less([5.5, 7.5], largest)
    assert np.abs(np.mean(shifts, 0)).max() < 1

    # Scale alone: a square's area grows with the factor squared.
    square = np.zeros((61, 61, 1), np.float32)
    square[20:41, 20:41] = 1
    fn = ops.get_preprocess_fn("random_affine(scale=(0.5, 1.5))")
    factors = [
        float(tf.reduce_sum(fn({"image": square, "seed": tf.constant(s)})["image"]))
        ** 0.5
        / 21
        for s in seeds(60)
    ]
    assert 0.48 < min(factors) < 0.6
    assert 1.4 < max(factors) < 1.52


# --- values and labels ---


def test_value_ranges_in_numbers():
    image = np.uint8([[[0, 51, 255]]])
    got = run("value_range(-1, 1)", image)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [[[-1, -0.6, 1]]], atol=1e-7)
    np.testing.assert_allclose(run("value_range(0, 1)", image), image / 255, rtol=1e-6)
    got = run("value_range(0, 1, 51, 102, clip_values=True)", image)
    np.testing.assert_array_equal(got, [[[0, 0, 1]]])
    got = run("value_range(0, 1, 51, 102)", image)
    np.testing.assert_allclose(got, [[[-1, 0, 4]]])
    got = run("vgg_value_range", image)
    want = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    got = run("clip_value_range(10, 60)", image)
    np.testing.assert_array_equal(got, [[[10, 51, 60]]])


@pytest.mark.parametrize(
    ("arguments", "labels", "want"),
    [
        ("4", 2, [0, 0, 1, 0]),
        ("4", [2, 0, 2], [1, 0, 1, 0]),
        ("4", [], [0, 0, 0, 0]),
        ("4", [-1, 4], [0, 0, 0, 0]),
        ("4, on=0.9, off=0.1", 1, [0.1, 0.9, 0.1, 0.1]),
        ("3, multi=False", [2, 0], [[0, 0, 1], [1, 0, 0]]),
    ],
)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_onehot(arguments, labels, want, dtype):
    fn = ops.get_preprocess_fn(f"onehot({arguments})")
    got = fn({"labels": np.asarray(labels, dtype)})["labels"]
    assert got.dtype == tf.float32
    np.testing.assert_array_equal(got, np.float32(want))


def test_onehot_writes_where_it_is_told():
    fn = ops.get_preprocess_fn("onehot(2, key='label', key_result='labels')")
    got = fn({"label": np.int64(1)})
    np.testing.assert_array_equal(got["labels"], [0, 1])
    assert int(got["label"]) == 1


def test_keep_drop_copy_reshape_and_pad():
    features = {"a": np.arange(6), "b": np.zeros(2), "seed": np.int32([0, 0])}
    assert set(ops.get_preprocess_fn("keep('a', 'c')")(features)) == {"a"}
    assert set(ops.get_preprocess_fn("drop('a')")(features)) == {"b", "seed"}
    got = ops.get_preprocess_fn(
        "copy('a', 'c')|reshape((2, -1), key='c')"
        "|pad_to_shape((None, 5), -1, inkey='c', outkey='after')"
        "|pad_to_shape((None, 5), where='before', inkey='c', outkey='before')"
        "|pad_to_shape((3, 6), where='both', inkey='c', outkey='both')"
    )(features)
    c = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(got["a"], np.arange(6))
    np.testing.assert_array_equal(got["c"], c)
    np.testing.assert_array_equal(
        got["after"], np.pad(c, ((0, 0), (0, 2)), constant_values=-1)
    )
    np.testing.assert_array_equal(got["before"], np.pad(c, ((0, 0), (2, 0))))
    np.testing.assert_array_equal(got["both"], np.pad(c, ((0, 1), (1, 2))))
    assert set(features) == {"a", "b", "seed"}


# --- the language's promises ---

FLAGSHIP = (
    "decode_jpeg_and_inception_crop(112)|flip_lr|randaug(2, 10)"
    "|onehot(5, key='label', key_result='labels')|keep('image', 'labels')"
)
EVERY_RANDOM_OP = (
    "decode|inception_crop(120)|random_crop(112)|flip_lr"
    "|random_affine(10, (0.1, 0.1), (0.9, 1.1))|randaug(1, 7)|value_range"
)


@pytest.mark.parametrize("spec", [FLAGSHIP, EVERY_RANDOM_OP])
def test_equal_seeds_give_equal_images_eagerly_and_in_any_map(spec):
    data = encode(PHOTOGRAPHS["china"])
    fn = ops.get_preprocess_fn(spec)

    def example(seed):
        return fn({"image": tf.constant(data), "label": tf.constant(3), "seed": seed})

    n = 24
    eager = [example(tf.constant(seed))["image"].numpy() for seed in seeds(n)]
    assert len({image.tobytes() for image in eager}) == n
    dataset = tf.data.Dataset.from_tensor_slices(seeds(n))
    for parallel in (None, 1, 8):
        mapped = dataset.map(example, num_parallel_calls=parallel)
        for got, want in zip(mapped.as_numpy_iterator(), eager, strict=True):
            np.testing.assert_array_equal(got["image"], want)
        # The shape is known to whoever batches; the flagship's bytes stay small.
        assert mapped.element_spec["image"].shape == (112, 112, 3)
        if spec == FLAGSHIP:
            assert mapped.element_spec["image"].dtype == tf.uint8
            assert set(mapped.element_spec) == {"image", "labels"}


def test_chance_depends_on_seed_and_position():
    image = PHOTOGRAPHS["odd"]
    once = ops.get_preprocess_fn("random_crop(40)")
    later = ops.get_preprocess_fn("drop('x')|random_crop(40)")
    same = differ = 0
    for seed in map(tf.constant, seeds(20)):
        features = {"image": image, "seed": seed}
        first, second = once(features)["image"], later(features)["image"]
        np.testing.assert_array_equal(once(features)["image"], first)
        same += np.array_equal(first, second)
        other = once({"image": image, "seed": seed + 1})["image"]
        differ += not np.array_equal(first, other)
    assert same == 0
    assert differ == 20


def test_two_equal_random_ops_draw_apart():
    fn = ops.get_preprocess_fn("flip_lr(key='a')|flip_lr(key='b')")
    a = np.arange(2, dtype=np.uint8).reshape(1, 2, 1)
    flips = {
        tuple(int(got[key][0, 0, 0]) for key in ("a", "b"))
        for got in (fn({"a": a, "b": a, "seed": tf.constant(s)}) for s in seeds(40))
    }
    assert flips == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_random_ops_work_after_the_seed_was_dropped():
    fn = ops.get_preprocess_fn("keep('image')|flip_lr")
    got = fn({"image": PHOTOGRAPHS["odd"], "seed": tf.constant([1, 2])})
    assert set(got) == {"image"}


def test_an_empty_spec_changes_nothing():
    features = {"image": PHOTOGRAPHS["odd"]}
    assert ops.get_preprocess_fn("")(features) == features


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("decode|flip_rl", "unknown host op 'flip_rl' in .*did you mean 'flip_lr'"),
        ("decode|resize", "'resize': missing .*'size'; it is called as resize\\(size"),
        ("resize(224, sise=3)", "sise.*it is called as resize\\(size, method='bilin"),
        ("resize('224')", "size cannot be '224'"),
        ("resize(0)", "sizes are positive"),
        ("resize_small(-1)", "sizes are positive"),
        ("resize_small(256, method='aera')", "method cannot be 'aera'"),
        ("decode(2)", "channels is 1, 3 or 4"),
        ("inception_crop(9, area_min=0)", "0 < area_min <= area_max"),
        ("inception_crop(9, 50, 5)", "0 < area_min <= area_max"),
        ("inception_crop(9, ratio_min=2)", "ratio_min <= ratio_max"),
        ("decode_jpeg_and_inception_crop(9, sampler='pil')", "sampler cannot be"),
        ("decode_jpeg_and_inception_crop(9, precise=1)", "precise cannot be 1"),
        ("value_range(0, 1, 5, 5)", "differ"),
        ("vgg_value_range((0, 0, 0), (0, 1, 1))", "std holds no 0"),
        ("random_affine(scale=(2, 1))", "low <= high"),
        ("onehot(0)", "depth is positive"),
        ("randaug(2, 10, 'broken')", "contrast cannot be 'broken'"),
        ("keep(1)", "keys cannot be"),
        ("flip_lr(5)", "it is called as flip_lr\\(\\), besides inkey='image'"),
    ],
)
def test_mistakes_are_told_when_the_function_is_built(spec, message):
    with pytest.raises(ValueError, match=message):
        ops.get_preprocess_fn(spec)


def test_a_random_op_without_seed_and_a_missing_feature_are_named():
    fn = ops.get_preprocess_fn("flip_lr")
    with pytest.raises(ValueError, match=r"'flip_lr' is random and needs .*'seed'"):
        fn({"image": PHOTOGRAPHS["odd"]})
    fn = ops.get_preprocess_fn("resize(8, inkey='x')")
    with pytest.raises(ValueError, match=r"reads feature 'x', .* among 'image'"):
        fn({"image": PHOTOGRAPHS["odd"]})
