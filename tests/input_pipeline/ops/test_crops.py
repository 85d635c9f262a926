"""Cropping ops against PIL and numpy."""

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from input_pipeline import ops
from input_pipeline.ops import crop_boxes
from tests.helpers.photographs import PHOTOGRAPHS, encode, pil, run, seeds


def box_of(shape, seed, sampler="tf", area=(0.05, 1.0), ratio=(0.75, 1.33), position=0):
    folded = tf.random.fold_in(tf.constant(seed), position)
    box = crop_boxes.sampler_law(sampler)(tf.constant(shape), folded, area, ratio)
    return [int(side) for side in box]


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"subsampling": "4:4:0"},
        {"subsampling": "4:1:1"},
        {"subsampling": 0, "progressive": True},
        {"subsampling": 2, "progressive": True},
        {"mode": "L"},
        {"mode": "CMYK"},
        {"mode": "CMYK", "progressive": True},
        {"file_format": "PNG"},
        {"file_format": "WEBP"},
    ],
)
def test_fused_decoding_and_cropping_is_pils_image_cropped(options):
    data = encode(PHOTOGRAPHS["tall"], **options)
    whole = pil(data)
    for sampler in ("tf", "torchvision"):
        spec = f"decode_jpeg_and_inception_crop(precise=True, sampler='{sampler}')"
        fn = ops.get_preprocess_fn(spec)
        for seed in seeds(4):
            y, x, h, w = box_of(whole.shape, seed, sampler)
            got = fn({"image": data, "seed": tf.constant(seed)})["image"]
            np.testing.assert_array_equal(got, whole[y : y + h, x : x + w])


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        ", method='area'",
        ", antialias=True",
        ", method='bicubic', antialias=True",
        ", sampler='torchvision'",
        ", sampler='power(2)'",
        ", sampler='beta(1, 2)'",
        ", 20, 50",
        ", 20, 50, ratio_min=0.5, ratio_max=2",
    ],
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


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("precise", [False, True])
def test_an_antialiased_crop_is_tensorflows_resizing_of_the_decoded_crop(
    precise, method
):
    """The whole op: boxes larger and smaller than the result, which is truncated."""
    image = PHOTOGRAPHS["even"]
    data, size = encode(image), (160, 144)
    fn = ops.get_preprocess_fn(
        f"decode_jpeg_and_inception_crop({size}, method={method!r}, antialias=True, "
        f"precise={precise})"
    )
    boxes = [(seed, box_of(image.shape, seed)) for seed in seeds(12)]
    assert len({h > size[0] for _, (_, _, h, _) in boxes}) == 2
    for seed, (y, x, h, w) in boxes:
        if precise:
            crop = pil(data)[y : y + h, x : x + w]
        else:
            crop = tf.io.decode_and_crop_jpeg(data, (y, x, h, w), channels=3)
        want = tf.image.resize(crop, size, method, antialias=True)
        want = np.clip(want, 0, 255).astype(np.uint8)
        got = fn({"image": data, "seed": tf.constant(seed)})["image"]
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("arguments", "resample"),
    [
        ("", PIL.Image.Resampling.BILINEAR),
        (", method='bicubic'", PIL.Image.Resampling.BICUBIC),
    ],
)
def test_random_resized_crop_is_the_torchvision_box_as_pil_resizes_it(
    arguments, resample
):
    image = PHOTOGRAPHS["odd"]
    fn = ops.get_preprocess_fn(f"drop('x')|random_resized_crop((40, 56){arguments})")
    for seed in seeds(8):
        y, x, h, w = box_of(
            image.shape, seed, "torchvision", (0.08, 1), (3 / 4, 4 / 3), position=1
        )
        crop = PIL.Image.fromarray(image[y : y + h, x : x + w])
        want = np.asarray(crop.resize((56, 40), resample)).astype(int)
        got = fn({"image": image, "seed": seed})["image"]
        assert got.dtype == tf.uint8
        difference = got.numpy() - want
        assert np.abs(difference).max() <= 1
        assert abs(difference.mean()) < 0.05  # rounded, not truncated


def test_random_resized_crop_takes_its_ranges():
    image = PHOTOGRAPHS["odd"][:100, :100]
    fn = ops.get_preprocess_fn(
        "random_resized_crop(50, (0.25, 0.25), (1, 1), 'nearest', False)"
    )
    for seed in seeds(5):
        got = fn({"image": image, "seed": seed})["image"].numpy()
        y, x, _, _ = box_of((100, 100, 3), seed, "torchvision", (0.25,) * 2, (1, 1))
        np.testing.assert_array_equal(got, image[y : y + 50, x : x + 50])


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


@pytest.mark.parametrize(
    ("arguments", "padding", "fill"), [("", 4, 0), (", 2, 7", 2, 7)]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pad_crop_is_a_uniform_window_of_the_padded_image(
    arguments, padding, fill, dtype
):
    rng = np.random.default_rng(0)
    image = rng.integers(10, 250, (5, 6, 3)).astype(dtype)
    around = [(padding, padding), (padding, padding), (0, 0)]
    padded = np.pad(image, around, constant_values=fill)
    windows = {
        padded[y : y + 5, x : x + 6].tobytes(): (y, x)
        for y in range(2 * padding + 1)
        for x in range(2 * padding + 1)
    }
    mapped = tf.data.Dataset.from_tensor_slices(seeds(800)).map(
        lambda seed: ops.get_preprocess_fn(f"pad_crop((5, 6){arguments})")(
            {"image": image, "seed": seed}
        )["image"]
    )
    assert mapped.element_spec == tf.TensorSpec((5, 6, 3), dtype)
    places = [windows[got.tobytes()] for got in mapped.as_numpy_iterator()]
    counts = np.bincount([y * (2 * padding + 1) + x for y, x in places])
    assert len(counts) == len(windows)
    mean = len(places) / len(windows)  # chi-square, its tail beyond p = 1e-4
    assert ((counts - mean) ** 2 / mean).sum() < len(windows) + 5 * len(windows) ** 0.5


def test_pad_crop_to_another_size():
    image = PHOTOGRAPHS["odd"][:30, :20]
    assert run("pad_crop(24, 3)", image, seed=seeds(1)[0]).shape == (24, 24, 3)
    with pytest.raises(ValueError, match="padding must not be negative"):
        ops.get_preprocess_fn("pad_crop(24, -1)")
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        run("pad_crop(24, 1)", image, seed=seeds(1)[0])
