"""Device ops against the host ops and against numpy; they need no TensorFlow."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import device_ops, ops

# Every uint8 value, in images that are neither square nor alike.
IMAGES = (
    np.random.default_rng(0)
    .permuted(np.arange(2 * 16 * 24 * 3) % 256, out=None)
    .reshape(2, 16, 24, 3)
    .astype(np.uint8)
)


def run(spec, **features):
    return jax.jit(device_ops.get_preprocess_fn(spec))(features)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    "spec",
    [
        "value_range(-1, 1)",
        "value_range(0, 1)",
        "value_range(-3, 5, 10, 200)",
        "value_range(-1, 1, 10, 200, clip_values=True)",
        "value_range(vmin=2, vmax=-2)",
        "vgg_value_range",
        "vgg_value_range((1, 2, 3), (4, 5, 6))",
    ],
)
def test_equals_the_host_op_to_two_ulp_of_the_largest_value(spec, dtype):
    images = IMAGES.astype(dtype)
    got = run(spec, image=images)["image"]
    assert got.dtype == jnp.float32
    host = ops.get_preprocess_fn(spec)
    want = np.stack([host({"image": image})["image"].numpy() for image in images])
    # XLA multiplies by reciprocals and contracts multiply-add: one rounding each.
    ulp = np.spacing(np.abs(want).max())
    np.testing.assert_allclose(got, want, rtol=0, atol=2 * ulp)


def test_value_range_in_numbers():
    image = jnp.asarray([0, 51, 255], jnp.uint8).reshape(1, 1, 3, 1)
    got = run("value_range(-1, 1)", image=image)["image"]
    np.testing.assert_allclose(got.ravel(), [-1, -0.6, 1], rtol=0, atol=2e-7)


def test_vgg_value_range_has_imagenets_mean_and_deviation():
    image = jnp.full((1, 1, 1, 3), 255, jnp.uint8)
    got = run("vgg_value_range", image=image)["image"].ravel()
    want = [(1 - m) / s for m, s in [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_onehot_is_exact_and_off_outside_the_classes():
    label = np.asarray([0, 4, -1, 5, 2], np.int32)
    got = run("onehot(5)", label=label)["labels"]
    want = np.zeros((5, 5), np.float32)
    want[0, 0] = want[1, 4] = want[4, 2] = 1
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, want)
    host = ops.get_preprocess_fn("onehot(5, key='label', key_result='labels')")
    same = np.stack([host({"label": one})["labels"].numpy() for one in label])
    np.testing.assert_array_equal(got, same)


def test_onehot_names_and_values():
    got = run("onehot(3, key='y', key_result='z', on=0.9, off=0.05)", y=np.asarray([1]))
    np.testing.assert_array_equal(got["z"], np.float32([[0.05, 0.9, 0.05]]))
    assert set(got) == {"y", "z"}


def test_the_flagships_device_pp_gives_images_and_labels():
    spec = (
        "value_range(-1, 1)|onehot(7, key='label', key_result='labels')"
        "|keep('image', 'labels')"
    )
    got = run(spec, image=IMAGES, label=np.asarray([1, 2]), _mask=np.ones(2))
    assert {k: (v.shape, v.dtype) for k, v in got.items()} == {
        "image": ((2, 16, 24, 3), jnp.float32),
        "labels": ((2, 7), jnp.float32),
    }


def test_keep_drop_copy_and_keys():
    x, y = np.asarray([1.0, 3.0]), np.asarray([2.0])
    assert set(run("keep('x')", x=x, y=y)) == {"x"}
    assert set(run("drop('x')", x=x, y=y)) == {"y"}
    np.testing.assert_array_equal(run("copy('x', 'z')", x=x, y=y)["z"], x)
    moved = run("value_range(0, 1, 1, 3, inkey='x', outkey='z')", x=x)
    np.testing.assert_array_equal(moved["z"], [0.0, 1.0])
    np.testing.assert_array_equal(moved["x"], x)


def test_an_empty_spec_changes_nothing_and_copies_the_dict():
    features = {"image": IMAGES}
    got = device_ops.get_preprocess_fn("")(features)
    assert got == features
    assert got is not features


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("value_rang(-1, 1)", "did you mean 'value_range'"),
        ("randaug(2, 10)", "runs on the host: put it into pp"),
        ("decode", "runs on the host"),
        ("value_range(vmin='a')", "value_range\\(vmin=-1, vmax=1"),
        ("value_range(in_min=1, in_max=1)", "differ"),
        ("onehot", "onehot\\(depth, key='label'"),
        ("onehot(0)", "positive"),
    ],
)
def test_mistakes_are_told_before_anything_runs(spec, message):
    with pytest.raises(ValueError, match=message):
        device_ops.get_preprocess_fn(spec)


def test_a_missing_feature_is_named_with_those_present():
    with pytest.raises(ValueError, match="'label', which is not among 'image'"):
        run("onehot(3)", image=IMAGES)


def test_every_host_op_is_a_device_op_or_is_known_to_run_on_the_host():
    for name in ops.OPS:
        if name not in device_ops.OPS:
            with pytest.raises(ValueError, match="runs on the host"):
                device_ops.get_preprocess_fn(name)


def test_imports_without_tensorflow():
    code = (
        "import sys; sys.modules['tensorflow'] = None; "
        "import input_pipeline.device_ops as d; d.get_preprocess_fn('value_range')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
