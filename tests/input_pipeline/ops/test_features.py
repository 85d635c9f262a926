"""Ops on any feature: labels, shapes, names."""

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import ops
from tests.helpers.photographs import seeds


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


def test_onehot_writes_to_key_result():
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


def apply(spec, **features):
    got = ops.get_preprocess_fn(spec)(features)
    return {k: v.numpy() if isinstance(v, tf.Tensor) else v for k, v in got.items()}


def test_flatten_names_what_is_inside():
    x, y, z = np.arange(3)
    got = apply("flatten", a={"b": x, "c": {"d": y}}, e=z)
    assert got == {"a/b": x, "a/c/d": y, "e": z}


def test_squeeze_last_dim():
    x = np.arange(3).reshape(3, 1)
    np.testing.assert_array_equal(
        apply("squeeze_last_dim", image=x)["image"], [0, 1, 2]
    )
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        apply("squeeze_last_dim", image=np.zeros((1, 3)))


def test_concat_joins_features():
    a, b = np.arange(4).reshape(2, 2), np.arange(4, 6).reshape(2, 1)
    got = apply("concat(('a', 'b'))", a=a, b=b)
    np.testing.assert_array_equal(got["a"], [[0, 1, 4], [2, 3, 5]])
    np.testing.assert_array_equal(got["b"], b)
    got = apply("concat(['a', 'a'], outkey='c', axis=0)", a=a)
    np.testing.assert_array_equal(got["c"], [[0, 1], [2, 3], [0, 1], [2, 3]])
    np.testing.assert_array_equal(got["a"], a)
    with pytest.raises(ValueError, match="at least one"):
        ops.get_preprocess_fn("concat(())")
    with pytest.raises(ValueError, match="reads feature 'b', which is not among 'a'"):
        apply("concat(('a', 'b'))", a=a)


def test_setdefault_fills_what_is_missing_or_empty():
    assert apply("setdefault('x', 3)", y=1)["x"] == 3
    np.testing.assert_array_equal(
        apply("setdefault('x', (3, 4))", y=1)["x"], np.int32([3, 4])
    )
    full = np.float32([[1, 2]])
    np.testing.assert_array_equal(apply("setdefault('x', 3)", x=full)["x"], full)
    got = apply("setdefault('x', 3)", x=np.zeros((0, 2), np.float32))["x"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [[3, 3]])


def test_setdefault_where_sizes_are_not_known_beforehand():
    sizes = tf.data.Dataset.from_tensor_slices([0, 2])
    fn = ops.get_preprocess_fn("setdefault('x', -1)")
    mapped = sizes.map(lambda n: fn({"x": tf.range(n, dtype=tf.int64)})["x"])
    assert [x.tolist() for x in mapped.as_numpy_iterator()] == [[-1], [0, 1]]


def test_lookup_reads_lines_pairs_and_arrays(tmp_path):
    names = ["n01", "é t", "n03"]
    lines, pairs, array = (tmp_path / f for f in ("a.txt", "b.csv", "c.npz"))
    lines.write_text("n01\né t\nn03\n", encoding="utf-8")
    pairs.write_text("n01,7\né t,-2\nn03,0\n", encoding="utf-8")
    np.savez(array, fnames=names, other=names[::-1])
    wanted = {
        f"lookup({str(lines)!r})": [0, 1, 2, -1],
        f"lookup({str(pairs)!r}, sep=',')": [7, -2, 0, -1],
        f"lookup({str(array)!r})": [0, 1, 2, -1],
        f"lookup({str(array)!r}, 'other')": [2, 1, 0, -1],
    }
    for spec, want in wanted.items():
        fn = ops.get_preprocess_fn(spec.replace(")", ", inkey='x', outkey='y')"))
        got = [int(fn({"x": tf.constant(x)})["y"]) for x in [*names, "n04"]]
        assert got == want
        mapped = tf.data.Dataset.from_tensor_slices([*names, "n04"]).map(
            lambda x, fn=fn: fn({"x": x})["y"]
        )
        assert mapped.element_spec.dtype == tf.int64
        assert [int(y) for y in mapped.as_numpy_iterator()] == want


def test_lookup_names_the_error_in_its_file(tmp_path):
    twice, array = tmp_path / "a.txt", tmp_path / "c.npz"
    twice.write_text("x\nx\n")
    np.savez(array, names=["x"])
    for arguments, message in (
        (f"'{tmp_path}/none.txt'", "cannot read .*none.txt"),
        (f"'{twice}'", "holds a string twice"),
        (f"'{twice}', sep=','", "not of the form string,number"),
        (f"'{array}'", "has no 'fnames': .*'names'"),
    ):
        with pytest.raises(ValueError, match=message):
            ops.get_preprocess_fn(f"lookup({arguments})")


def choices(spec, n, **features):
    fn = ops.get_preprocess_fn(spec)
    mapped = tf.data.Dataset.from_tensor_slices(seeds(n)).map(
        lambda seed: fn(features | {"seed": seed})
    )
    return mapped.element_spec, list(mapped.as_numpy_iterator())


def test_choice_takes_one_entry_of_all_keys_alike():
    x = np.arange(5) * 10
    y = np.stack([x, x + 1], axis=1)
    spec, drawn = choices("choice(inkey=('x', 'y'), outkey=('a', 'b'))", 500, x=x, y=y)
    assert spec["a"].shape == ()
    assert spec["b"].shape == (2,)
    for features in drawn:
        np.testing.assert_array_equal(features["b"], [features["a"], features["a"] + 1])
        np.testing.assert_array_equal(features["x"], x)
    counts = np.bincount([features["a"] // 10 for features in drawn], minlength=5)
    assert np.abs(counts - 100).max() < 5 * np.sqrt(80)


def test_choice_takes_several_different_entries_in_any_order():
    x = np.arange(4)
    spec, drawn = choices("choice(3, key='x')", 400, x=x)
    assert spec["x"].shape == (3,)
    taken = [tuple(features["x"]) for features in drawn]
    assert all(len(set(t)) == 3 for t in taken)
    assert len(set(taken)) == 24
    spec, drawn = choices("choice((1, 4), key='x')", 300, x=x)
    assert spec["x"].shape.as_list() == [None]
    counts = np.bincount([len(features["x"]) for features in drawn], minlength=5)
    assert counts[0] == counts[4] == 0
    assert np.abs(counts[1:4] - 100).max() < 5 * np.sqrt(70)


def test_choice_of_too_few():
    x = np.arange(2)
    _, drawn = choices("choice(3, key='x', fewer_ok=True)", 5, x=x)
    assert all(sorted(features["x"]) == [0, 1] for features in drawn)
    # An error when the function is traced if the number is known then, else when it runs.
    for n, have in (("3", 2), ("(3, 6)", 2), ("'single'", 0)):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
            choices(f"choice({n}, key='x')", 2, x=x[:have])
        fn = ops.get_preprocess_fn(f"choice({n}, key='x')")
        mapped = tf.data.Dataset.from_tensors(have).map(
            lambda n, fn=fn: fn({"x": tf.range(n), "seed": tf.constant([1, 2])})["x"]
        )
        with pytest.raises(tf.errors.InvalidArgumentError, match="too few entries"):
            list(mapped)


def test_choice_no_replacement_goes_through_all_entries():
    x = np.arange(4)
    fn = ops.get_preprocess_fn("choice_no_replacement(inkey='x', outkey='y')")

    def epochs(index, count):
        return [
            int(fn({"x": x, "epoch": np.int64(e), "index": np.int64(index)})["y"])
            for e in range(count)
        ]

    rounds = [np.reshape(epochs(index, 12), (3, 4)) for index in range(5)]
    for orders in rounds:
        np.testing.assert_array_equal(np.sort(orders, axis=1), [x, x, x])
    assert len({tuple(order) for orders in rounds for order in orders}) > 8
    with pytest.raises(ValueError, match="reads feature 'epoch'"):
        apply("choice_no_replacement(key='x')", x=x)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("choice(0)", "n must be positive"),
        ("choice((2, 2))", "0 < low < high"),
        ("choice('all')", "n cannot be 'all'"),
        ("choice(inkey=('a', 'b'), outkey='c')", "the same number of features"),
        ("choice", "'choice' is random and needs the feature 'seed'"),
    ],
)
def test_mistakes_of_choice_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        apply(spec, image=np.arange(3))
