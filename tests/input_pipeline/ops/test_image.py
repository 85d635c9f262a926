"""Decoding, resizing, moving and scaling against PIL and numpy."""

import io

import jax
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import torch

from input_pipeline import ops
from input_pipeline.ops import image as image_ops
from input_pipeline.randaug import geometry
from parity.reference import resize
from tests.helpers.photographs import PHOTOGRAPHS, bilinear, encode, pil, run, seeds

# --- decoding ---


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 95, "subsampling": 0},
        {"quality": 75, "subsampling": 1},
        {"quality": 60, "subsampling": 2},
        {"subsampling": "4:4:0"},
        {"subsampling": "4:1:1"},
        {"subsampling": 0, "progressive": True},
        {"subsampling": 1, "progressive": True},
        {"subsampling": 2, "progressive": True},
        {"mode": "L"},
        {"mode": "L", "progressive": True},
        {"mode": "CMYK"},
        {"mode": "CMYK", "progressive": True},
        {"subsampling": 2, "restart_marker_blocks": 3},
    ],
)
def test_precise_decoding_is_pils_bit_for_bit(options):
    for name in ("odd", "flower"):
        data = encode(PHOTOGRAPHS[name], **options)
        np.testing.assert_array_equal(run("decode(precise=True)", data), pil(data))


def test_default_decoding_of_jpeg_is_close():
    for options in ({}, {"mode": "L"}, {"mode": "CMYK"}, {"progressive": True}):
        data = encode(PHOTOGRAPHS["odd"], **options)
        got = run("decode", data)
        assert got.dtype == np.uint8
        assert np.abs(got.astype(int) - pil(data)).mean() < 2


@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.parametrize(
    ("file_format", "mode", "options"),
    [
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "L", {}),
        ("PNG", "LA", {}),
        ("PNG", "P", {}),
        ("PNG", "1", {}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("BMP", "L", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGB", {"quality": 70}),
        ("WEBP", "RGBA", {}),
    ],
)
def test_other_formats_are_read_as_pil_does(precise, file_format, mode, options):
    data = encode(PHOTOGRAPHS["odd"], file_format, mode, **options)
    np.testing.assert_array_equal(run(f"decode(precise={precise})", data), pil(data))


@pytest.mark.parametrize("precise", [False, True])
def test_of_an_animated_gif_the_first_image_is_read(precise):
    frames = [
        PIL.Image.fromarray(PHOTOGRAPHS[name][:40, :50]) for name in ("odd", "flower")
    ]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    data = file.getvalue()
    np.testing.assert_array_equal(run(f"decode(precise={precise})", data), pil(data))


@pytest.mark.parametrize("precise", [False, True])
def test_decoding_to_grey_and_with_alpha(precise):
    grey = encode(PHOTOGRAPHS["odd"], "PNG", mode="L")
    got = run(f"decode(1, precise={precise})", grey)
    np.testing.assert_array_equal(got, pil(grey, "L")[..., None])
    alpha = encode(PHOTOGRAPHS["odd"], "PNG", mode="RGBA")
    got = run(f"decode(4, {precise})", alpha)
    np.testing.assert_array_equal(got, pil(alpha, "RGBA"))


# --- resizing and cropping ---


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
    long = run("resize_long(100)", np.zeros((50, 200, 3), np.uint8))
    assert long.shape == (25, 100, 3)


def resized(image, size, method, antialias):
    """The image by JAX; by area, which JAX lacks, by the torch reference."""
    if method == "area":
        channels = torch.from_numpy(image.transpose(2, 0, 1).copy())
        return resize.resize(channels, size, "area").numpy().transpose(1, 2, 0)
    shape = (*size, image.shape[-1])
    return jax.image.resize(image.astype(np.float32), shape, method, antialias)


METHODS = ["bilinear", "area", "bicubic", "nearest", "lanczos3", "lanczos5"]


@pytest.mark.parametrize("size", [(101, 150), (64, 64), (300, 500)])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_resizing_by_every_method_is_that_of_another_library(method, antialias, size):
    image = PHOTOGRAPHS["odd"]
    want = resized(image, size, method, antialias)
    spec = f"resize({size}, '{method}', {antialias})"
    as_float = run(spec, image.astype(np.float32))
    assert as_float.dtype == np.float32
    # Positions are float32: about 1e-5 of a pixel, times steps of up to 255. Bicubic
    # without antialiasing reads its kernel from a table of 1024 steps a pixel.
    bound = 0.3 if method == "bicubic" and not antialias else 1e-2
    np.testing.assert_allclose(as_float, want, rtol=0, atol=bound)
    got = run(spec, image)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, np.floor(np.clip(as_float, 0, 255)))


@pytest.mark.parametrize(
    ("method", "resample"),
    [
        ("bilinear", PIL.Image.Resampling.BILINEAR),
        ("bicubic", PIL.Image.Resampling.BICUBIC),
        ("lanczos3", PIL.Image.Resampling.LANCZOS),
    ],
)
@pytest.mark.parametrize("size", [(64, 64), (150, 101), (400, 500)])
def test_antialiased_resizing_is_pils_in_float(method, resample, size):
    image = PHOTOGRAPHS["odd"].astype(np.float32)
    got = run(f"resize({size}, '{method}', True)", image)
    for c in range(3):
        channel = PIL.Image.fromarray(image[..., c]).resize(size[::-1], resample)
        np.testing.assert_allclose(got[..., c], np.asarray(channel), atol=1e-2)


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "lanczos3", "lanczos5"])
def test_antialiased_resizing_is_tensorflows_to_the_bit(method):
    """On photographs, noise and grids of any size, smaller and larger than the result."""
    rng = np.random.default_rng(0)
    shapes = rng.integers(1, 500, (20, 2)).tolist()
    images = [rng.integers(0, 256, (*s, c), np.uint8) for s in shapes for c in (1, 3)]
    images += [
        *PHOTOGRAPHS.values(),
        np.tile(np.uint8([[0], [255]]), (60, 50))[..., None],
    ]

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None]), tf.TensorSpec([2])]
    )
    def tensorflows(image, size):
        return tf.image.resize(image, tf.cast(size, tf.int32), method, antialias=True)

    for image in images:
        size = (
            (224, 224) if rng.integers(2) else tuple(rng.integers(1, 300, 2).tolist())
        )
        wide = image.astype(np.float32)
        want = tensorflows(wide, np.float32(size)).numpy()
        got = run(f"resize({size}, '{method}', True)", wide)
        assert got.tobytes() == want.tobytes()


def test_antialiased_resizing_takes_unknown_shapes_and_batches():
    image = PHOTOGRAPHS["odd"].astype(np.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None])])
    def ours(image):
        return image_ops.resize_to(image, (40, 50), "bilinear", True)

    want = tf.image.resize(image, (40, 50), antialias=True)
    np.testing.assert_array_equal(ours(image), want)
    two = image_ops.resize_to(tf.stack([image, image]), (40, 50), "bilinear", True)
    np.testing.assert_array_equal(two[1], want)


@pytest.mark.parametrize("op", ["resize_small", "resize_long"])
@pytest.mark.parametrize(
    "arguments", ["", ", 'bilinear'", ", 'bilinear', True", ", method='bicubic'"]
)
def test_resizing_a_side_is_resizing(op, arguments):
    image = PHOTOGRAPHS["odd"]  # 223 x 331
    size = (100, 148) if op == "resize_small" else (67, 100)
    default = "" if arguments else ", 'area'"
    want = run(f"resize({size}{default}{arguments})", image)
    np.testing.assert_array_equal(run(f"{op}(100{arguments})", image), want)


def test_resizing_clips_what_overshoots():
    # Bicubic rings: 0, 0, 143.4, 251.3 and -9.7, -7.8, -20.2 here. So few values, since
    # TensorFlow's cast wraps them around, but saturates most of a larger image.
    image = np.uint8([0, 0, 255, 0]).reshape(1, 4, 1)
    got = run("resize((1, 7), method='bicubic')", image)
    assert got.ravel().tolist() == [0, 0, 0, 143, 251, 86, 0]
    got = run("resize((1, 7), method='bicubic')", 255 - image)
    assert got.min() >= 3
    assert got.ravel()[[2, 6]].tolist() == [255, 255]


def test_flip_lr_mirrors_half_of_the_images():
    image = PHOTOGRAPHS["odd"][:5, :7]
    mapped = tf.data.Dataset.from_tensor_slices(seeds(200)).map(
        lambda seed: ops.get_preprocess_fn("flip_lr")({"image": image, "seed": seed})
    )
    flipped = 0
    for features in mapped.as_numpy_iterator():
        if not np.array_equal(features["image"], image):
            np.testing.assert_array_equal(features["image"], image[:, ::-1])
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
    y, x = np.mgrid[:h, :w]
    u, v = x - (w - 1) / 2 - dx, y - (h - 1) / 2 - dy
    # Counter-clockwise on a screen, where y points down.
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    rows = (sin * u + cos * v) / scale + (h - 1) / 2
    columns = (cos * u - sin * v) / scale + (w - 1) / 2
    return bilinear(image, rows, columns)


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


# --- value ranges ---


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
    got = run("clip_value_range", image)  # of the model CLIP
    want = (image / 255 - [0.48145466, 0.4578275, 0.40821073]) / [
        0.26862954, 0.26130258, 0.27577711,
    ]  # fmt: skip
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalize_takes_values_to_255_and_torchvisions_mean_and_std(dtype):
    image = PHOTOGRAPHS["odd"].astype(dtype)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    got = run(f"normalize({mean}, {std})", image)
    assert got.dtype == np.float32
    # torchvision's three operations, each rounded to float32.
    unit = image.astype(np.float32) / np.float32(255)
    want = (unit - np.float32(mean)) / np.float32(std)
    np.testing.assert_array_equal(got, want)
    grey = image[..., :1]
    got = run("normalize((0.5,), (0.25,))", grey)
    np.testing.assert_allclose(got, (grey / 255 - 0.5) * 4, atol=1e-6)


def test_normalize_wants_a_mean_for_each_channel():
    with pytest.raises(ValueError, match=r"3 mean.*shape \(5, 7, 1\)"):
        run("normalize((0, 0, 0), (1, 1, 1))", np.zeros((5, 7, 1), np.uint8))
    for arguments in ("(0, 0), (1, 1, 1)", "(0, 0), (1, 0)"):
        with pytest.raises(
            ValueError, match="the same length, and std must not contain 0"
        ):
            ops.get_preprocess_fn(f"normalize({arguments})")


def test_grayscale_to_rgb_repeats_the_channel():
    grey = PHOTOGRAPHS["odd"][..., :1]
    got = run("grayscale_to_rgb", grey)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, np.repeat(grey, 3, axis=2))
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        run("grayscale_to_rgb", PHOTOGRAPHS["odd"])
