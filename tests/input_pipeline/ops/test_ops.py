"""The host ops' language: its promises about chance, and its errors."""

import re

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import ops
from tests.helpers.photographs import PHOTOGRAPHS, encode, seeds

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

    n = 12
    eager = [example(tf.constant(seed))["image"].numpy() for seed in seeds(n)]
    assert len({image.tobytes() for image in eager}) == n
    dataset = tf.data.Dataset.from_tensor_slices(seeds(n))
    for parallel in (None, 8):
        mapped = dataset.map(example, num_parallel_calls=parallel)
        for got, want in zip(mapped.as_numpy_iterator(), eager, strict=True):
            np.testing.assert_array_equal(got["image"], want)
        # Batching knows the shape; the flagship's bytes stay small.
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


@pytest.mark.parametrize("coin", [0, 1])
def test_a_draw_is_used_after_a_keep_dropped_it(coin):
    """Without a seed nothing could be drawn again."""
    image = PHOTOGRAPHS["odd"]
    fn = ops.get_preprocess_fn("keep('image')|flip_lr")
    got = fn({"image": image, "flip_lr_coin": tf.constant(coin, tf.uint32)})
    assert set(got) == {"image"}
    np.testing.assert_array_equal(got["image"], image[:, ::-1] if coin else image)


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
        ("resize(0)", "sizes must be positive"),
        ("resize_small(-1)", "sizes must be positive"),
        ("resize_small(256, method='aera')", "method cannot be 'aera'"),
        ("decode(2)", "channels must be 1, 3 or 4"),
        ("value_range(0, 1, 5, 5)", "differ"),
        ("vgg_value_range((0, 0, 0), (0, 1, 1))", "std must not contain 0"),
        ("random_affine(scale=(2, 1))", "low <= high"),
        ("onehot(0)", "depth must be positive"),
        ("randaug(2, 10, 'broken')", "contrast cannot be 'broken'"),
        ("randaug(2, 10, fill=300)", "fill must be 0 to 255"),
        ("keep(1)", "keys cannot be"),
        ("inception_crop(9, area_min=0)", "0 < area_min <= area_max"),
        ("inception_crop(9, 50, 5)", "0 < area_min <= area_max"),
        ("inception_crop(9, ratio_min=2)", "ratio_min <= ratio_max"),
        ("inception_crop(9, sampler='power(0)')", "power\\(0\\).*p must be positive"),
        ("decode_jpeg_and_inception_crop(9, sampler='pil')", "sampler cannot be"),
        ("decode_jpeg_and_inception_crop(9, precise=1)", "precise cannot be 1"),
        ("random_resized_crop(9, (0, 1))", "0 < low <= high"),
        ("random_resized_crop(9, ratio=(2, 1))", "0 < low <= high"),
        ("random_crop((5, 0))", "sizes must be positive"),
        ("flip_lr(5)", "it is called as flip_lr\\(\\), besides inkey='image'"),
    ],
)
def test_mistakes_are_refused_when_the_function_is_built(spec, message):
    with pytest.raises(ValueError, match=message):
        ops.get_preprocess_fn(spec)


def test_a_random_op_without_seed_and_a_missing_feature_are_named():
    fn = ops.get_preprocess_fn("flip_lr")
    with pytest.raises(ValueError, match=r"'flip_lr' is random and needs .*'seed'"):
        fn({"image": PHOTOGRAPHS["odd"]})
    fn = ops.get_preprocess_fn("resize(8, inkey='x')")
    with pytest.raises(ValueError, match=r"reads feature 'x', .* among 'image'"):
        fn({"image": PHOTOGRAPHS["odd"]})


@pytest.mark.parametrize(
    "op", ["value_range(-1, 1)", "flip_lr", "randaug(2, 10)", "inception_crop(8)"]
)
def test_an_image_that_is_still_a_file_must_be_decoded(op):
    fn = ops.get_preprocess_fn(op)
    message = (
        f"op {op!r} takes pixels, but the images of the data are files: put decode"
    )
    features = {"image": b"\xff\xd8", "seed": tf.constant([1, 2])}
    with pytest.raises(ValueError, match=re.escape(message)):
        fn(features)
