"""Parts of splits: tfds' arithmetic as the reference, and a random order that stays."""

import re

import numpy as np
import pytest
import tensorflow_datasets as tfds

from input_pipeline.sources import splits

SPECS = [
    "train",
    "train[:99%]",
    "train[99%:]",
    "train[:1%]",
    "train[33%:66%]",
    "train[-7%:]",
    "train[:-7%]",
    "train[:50]",
    "train[50:]",
    "train[-5:]",
    "train[3:-4]",
    "train[0:0%]",
    "train[7:3]",
    "test+train[:10]",
    " train[:10] + test[20%:] + train[40:]",
]


FIRST = [3, 5, 8, 2, 6, 9, 0, 4, 7, 1]


def as_tfds(spec, sizes):
    """(split, start, stop) of each part that has examples, by tfds itself."""
    infos = tfds.core.SplitDict(
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[size],
            num_bytes=0,
            filename_template=tfds.core.ShardedFileTemplate(
                dataset_name="d", data_dir="/", split=name, filetype_suffix="tfrecord"
            ),
        )
        for name, size in sizes.items()
    )
    found = []
    for part in spec.split("+"):
        for piece in infos[part.strip()].file_instructions:
            name = piece.filename.split("-")[1].split(".")[0]
            found.append((name, piece.skip, piece.skip + piece.take))
    return [(name, start, stop) for name, start, stop in found if stop > start]


@pytest.mark.parametrize("size", [50, 101, 1250, 1281167])
@pytest.mark.parametrize("spec", SPECS)
def test_bounds_are_tfds_s(spec, size):
    sizes = {"train": size, "test": 57}
    ours = []
    for name, part in splits.parts(spec, sizes, "x"):
        start, stop = splits.bounds(part, sizes[name])
        if stop > start:
            ours.append((name, start, stop))
    assert ours == as_tfds(spec, sizes)


def test_the_order_is_a_permutation_that_never_changes():
    for size in (1, 2, 999, 100_000):
        np.testing.assert_array_equal(np.sort(splits.fixed_order(size)), range(size))
    # As it was when the first split was taken: results stay comparable.
    assert splits.fixed_order(10).tolist() == FIRST
    # Nothing of the order of the files is left.
    order = splits.fixed_order(100_000)
    assert abs(np.corrcoef(order, np.arange(100_000))[0, 1]) < 0.01
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.01


def test_parts_partition_a_split():
    def rows(spec):
        (_, found), *more = splits.select(
            spec, ["train"], "x", lambda name: (name, 997)
        )
        assert not more
        return found

    whole = rows("train")
    cuts = ["train[:37%]", "train[37%:500]", "train[500:-3]", "train[-3:]"]
    np.testing.assert_array_equal(np.concatenate([rows(c) for c in cuts]), whole)
    np.testing.assert_array_equal(np.sort(whole), range(997))


def test_each_split_is_loaded_once():
    loaded = []

    def load(name):
        loaded.append(name)
        return name, 10

    found = splits.select("a[:2]+b+a[5:7]", ["a", "b"], "x", load)
    assert [(name, len(rows)) for name, rows in found] == [
        ("a", 2),
        ("b", 10),
        ("a", 2),
    ]
    assert loaded == ["a", "b"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tran", "x has no split 'tran'; did you mean 'train'? (known: train, test"),
        ("train[5", "x has no split 'train[5': write the name"),
        ("train[:5.5%]", "write the name of a split or a part"),
        ("train[:11]", "the part [:11] goes beyond the split's 10 examples"),
        ("train[-120%:]", "the part [-120%:] goes beyond"),
        ("train[5:5]", "the split 'train[5:5]' of x has no examples"),
        ("", "x has no split ''"),
    ],
)
def test_wrong_specs(spec, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        splits.select(spec, ["train", "test"], "x", lambda name: (name, 10))
    assert "\n" not in str(caught.value)
