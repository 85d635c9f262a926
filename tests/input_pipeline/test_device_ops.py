"""Device ops against the host ops, value for value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import device_ops, ops
from input_pipeline.plans import threefry2x32

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
        "value_range(-1, 1, 10, 200, clip_values=True)",
        "value_range(vmin=2, vmax=-2)",
        "vgg_value_range",
        "vgg_value_range((1, 2, 3), (4, 5, 6))",
        "normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))",
        "normalize((0, 0.5, 1), (1, 2, 0.001))",
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


@pytest.mark.parametrize(
    ("arguments", "labels", "dtype"),
    [
        ("5", [0, 4, -1, 5, 2], np.int32),
        ("5, multi=False", [0, 4, -1, 5, 2], np.int8),
        ("5, on=0.9, off=0.1", [[0, 0, 3], [4, -1, 1]], np.uint8),
        ("5, multi=False", [[0, 0, 3], [4, -1, 1]], np.int32),
        ("5", [[], []], np.int32),
        ("5, key_result='z'", [1, 2], np.int32),
        ("300", [1, 43], np.int8),
    ],
)
def test_onehot_is_the_host_op_bit_for_bit(arguments, labels, dtype):
    labels = np.asarray(labels).astype(dtype)  # in bytes -1 is 255
    got = run(f"onehot({arguments})", labels=labels)
    host = ops.get_preprocess_fn(f"onehot({arguments})")
    each = [host({"labels": one}) for one in labels]
    assert set(got) == set(each[0])
    for name, value in got.items():
        want = np.stack([np.asarray(features[name]) for features in each])
        assert value.dtype == want.dtype
        np.testing.assert_array_equal(value, want)


def test_keep_drop_copy_and_keys():
    x, y = np.asarray([1.0, 3.0]), np.asarray([2.0])
    assert set(run("keep('x')", x=x, y=y)) == {"x"}
    assert set(run("drop('x')", x=x, y=y)) == {"y"}
    np.testing.assert_array_equal(run("copy('x', 'z')", x=x, y=y)["z"], x)
    moved = run("value_range(0, 1, 1, 3, inkey='x', outkey='z')", x=x)
    np.testing.assert_array_equal(moved["z"], [0.0, 1.0])
    np.testing.assert_array_equal(moved["x"], x)


SEEDS = np.random.default_rng(1).integers(-(2**31), 2**31, (64, 2)).astype(np.int32)


@pytest.mark.parametrize(
    ("on_host", "on_device"),
    [
        # Other ops before it do not matter: the coin is the first, second ... flip's.
        ("drop('x')|flip_lr", "flip_lr"),
        ("flip_lr", "drop('x')|copy('image', 'y')|flip_lr"),
        (
            "flip_lr(outkey='y')|flip_lr|flip_lr(key='y')",
            "flip_lr(outkey='y')|flip_lr|flip_lr(key='y')",
        ),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_flip_lr_is_the_host_op_bit_for_bit(on_host, on_device, dtype):
    images = np.resize(IMAGES, (64, 5, 4, 3)).astype(dtype)
    got = run(on_device, image=images, seed=SEEDS)
    host = ops.get_preprocess_fn(on_host)
    each = [host({"image": i, "seed": s}) for i, s in zip(images, SEEDS, strict=True)]
    for name in each[0].keys() - {"seed"}:
        want = np.stack([features[name] for features in each])
        assert got[name].dtype == dtype
        np.testing.assert_array_equal(got[name], want)
    mirrored = (np.asarray(got["image"]) == images[:, :, ::-1]).all((1, 2, 3))
    assert 16 < mirrored.sum() < 48
    np.testing.assert_array_equal(
        np.asarray(got["image"])[~mirrored], images[~mirrored]
    )
    if "y" in each[0]:  # three flips, three coins
        other = (np.asarray(got["y"]) == images[:, :, ::-1]).all((1, 2, 3))
        assert 16 < (mirrored ^ other).sum() < 48


def test_the_coin_is_threefry_of_the_seed_in_numpy_too():
    words = SEEDS.view(np.uint32)
    word = threefry2x32((words[:, 0], words[:, 1]), (np.uint32([0x666C6970]), 0))[0]
    images = np.resize(IMAGES, (64, 5, 4, 3))
    got = np.asarray(run("flip_lr", image=images, seed=SEEDS)["image"])
    mirrored = (got == images[:, :, ::-1]).all((1, 2, 3))
    np.testing.assert_array_equal(mirrored, word & 1)


def test_flip_lr_is_the_same_for_an_example_in_any_row():
    """Partner rows of mixup, microbatches and batch sizes move an example."""
    images = np.resize(IMAGES, (64, 5, 4, 3))
    spec = "flip_lr|value_range(-1, 1)|keep('image')"
    want = np.asarray(run(spec, image=images, seed=SEEDS)["image"])
    rolled = run(spec, image=np.roll(images, 1, 0), seed=np.roll(SEEDS, 1, 0))
    np.testing.assert_array_equal(rolled["image"], np.roll(want, 1, 0))
    strided = run(spec, image=images[1::4], seed=SEEDS[1::4])
    np.testing.assert_array_equal(strided["image"], want[1::4])


def test_flip_lr_works_after_the_seed_was_dropped_and_not_without():
    images = np.resize(IMAGES, (4, 5, 4, 3))
    got = run("keep('image')|flip_lr", image=images, seed=SEEDS[:4])
    assert set(got) == {"image"}
    with pytest.raises(ValueError, match="end pp with keep\\('image', 'label', 'seed'"):
        run("flip_lr", image=images)


def test_normalize_wants_a_mean_for_each_channel():
    with pytest.raises(ValueError, match=r"2 mean.*shape \(2, 16, 24, 3\)"):
        run("normalize((0, 0), (1, 1))", image=IMAGES)


def test_an_empty_spec_changes_nothing_and_copies_the_dict():
    features = {"image": IMAGES}
    got = device_ops.get_preprocess_fn("")(features)
    assert got == features
    assert got is not features


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("value_rang(-1, 1)", "did you mean 'value_range'"),
        ("randaug_tv(2, 10)", "runs on the host: put it into pp"),
        ("decode", "runs on the host"),
        ("value_range(vmin='a')", "value_range\\(vmin=-1, vmax=1"),
        ("value_range(in_min=1, in_max=1)", "differ"),
        ("onehot", "onehot\\(depth, key='labels'"),
        ("onehot(0)", "positive"),
        ("normalize((0,), (1, 1))", "the same length"),
        ("normalize((0,), (0,))", "std must not contain 0"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(spec, message):
    with pytest.raises(ValueError, match=message):
        device_ops.get_preprocess_fn(spec)


def test_a_missing_feature_is_named_with_those_present():
    with pytest.raises(ValueError, match="'labels', which is not among 'image'"):
        run("onehot(3)", image=IMAGES)


def test_every_host_op_is_a_device_op_or_is_known_to_run_on_the_host():
    for name in ops.OPS:
        if name not in device_ops.OPS:
            with pytest.raises(ValueError, match="runs on the host"):
                device_ops.get_preprocess_fn(name)
