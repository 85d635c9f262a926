"""Hugging Face's formats, written by their own package."""

import io
import os
import re
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from input_pipeline import pipeline, sources

COUNT = 40
RNG = np.random.default_rng(0)
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["x", "y", "z"]),
        "text": datasets.Value("string"),
    }
)


def jpeg():
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (8, 9, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def images():
    return [jpeg() for _ in range(COUNT)]


def table(images, labels=None, kind=None):
    return datasets.Dataset.from_dict(
        {
            "image": [{"bytes": data, "path": None} for data in images],
            "label": labels or [i % 3 for i in range(len(images))],
            "text": ["unused"] * len(images),
        },
        features=FEATURES if kind is None else datasets.Features(FEATURES, label=kind),
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def written(folder, rows):
    """The section of a data set that is saved there."""
    rows.save_to_disk(str(folder / "rows"))
    return {"data_dir": str(folder / "rows"), "split": "train"}


@pytest.fixture
def saved(tmp_path, images):
    both = {"train": table(images), "test": table(images[:10])}
    return Path(written(tmp_path, datasets.DatasetDict(both))["data_dir"])


def open_folder(data_dir, split, **kwargs):
    data = {"kind": "huggingface", "data_dir": str(data_dir), "split": split}
    return sources.open_source(**data, **kwargs)


@pytest.mark.parametrize("as_seen", [True, False])
def test_a_turned_photo_is_read_as_the_flag_says(as_seen, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    photo = Image.fromarray(RNG.integers(0, 256, (8, 9, 3), np.uint8))
    photo.save(buffer, "JPEG", exif=exif)
    data = written(tmp_path, table([buffer.getvalue()]))
    source = open_folder(**data, as_seen=as_seen)
    [features] = source.sequential(0, 1).map(source.finish)
    shape = tf.io.decode_image(features["image"]).shape[:2]
    assert shape == ((9, 8) if as_seen else (8, 9))


def assert_holds(source, images):
    rows = tf.data.Dataset.range(len(source)).map(source.read, num_parallel_calls=4)
    expected = {data: i for i, data in enumerate(images)}
    for i, features in enumerate(rows.as_numpy_iterator()):
        number = expected.pop(features["image"])
        assert features["label"] == number % 3
        assert features["_id"] == i
        row = re.search(r"\(row (\d+) of ", source.describe(i))[1]
        assert int(row) == number
    assert not expected


def test_a_saved_data_set(saved, images):
    source = open_folder(saved, "train")
    assert_holds(source, images)
    assert source.class_names == ("x", "y", "z")
    assert source.num_classes == 3
    assert_holds(open_folder(saved, "test"), images[:10])
    assert source.nbytes() >= sum(map(len, images))


def test_parquet(tmp_path, images):
    """The hub's layout: a folder "data", the split in each name, two shards."""
    folder = tmp_path / "data"
    folder.mkdir()
    whole = table(images)
    for i in range(2):
        part = whole.shard(2, i, contiguous=True)
        part.to_parquet(str(folder / f"train-0000{i}-of-00002.parquet"))
    table(images[:10]).to_parquet(str(folder / "test-00000-of-00001.parquet"))
    assert_holds(open_folder(tmp_path, "train"), images)
    assert_holds(open_folder(tmp_path, "test"), images[:10])


def test_parts_are_taken_at_random(saved):
    def rows(split):
        source = open_folder(saved, split)
        return [source.describe(i).split("(")[1] for i in range(len(source))]

    whole = rows("train")
    assert rows("train[:75%]") + rows("train[75%:]") == whole
    assert whole != sorted(whole, key=lambda text: int(text.split()[1]))
    assert len(rows("train[:3]+test[:2]")) == 5


def test_images_kept_as_paths(tmp_path, images):
    paths = [tmp_path / f"{i}.jpg" for i in range(COUNT)]
    for path, data in zip(paths, images, strict=True):
        path.write_bytes(data)
    rows = table(images).to_dict() | {"image": list(map(str, paths))}
    data = written(tmp_path, datasets.Dataset.from_dict(rows, features=FEATURES))
    assert_holds(open_folder(**data), images)


def labels_of(source):
    rows = tf.data.Dataset.range(len(source)).map(source.read).as_numpy_iterator()
    return {row["image"]: row["label"] for row in rows}


@pytest.mark.parametrize("kind", ["string", "large_string"])
def test_names_become_classes_in_sorted_order(tmp_path, images, kind):
    kind = datasets.Value(kind)
    names = ["rose", "Ö", "ash", "rose", "oak"]
    test = table(images[5:7], ["yew", "ash"], kind)
    both = {"train": table(images[:5], names, kind), "test": test}
    data = written(tmp_path, datasets.DatasetDict(both))
    source = open_folder(**data)
    assert source.class_names == ("ash", "oak", "rose", "Ö")
    assert source.num_classes == 4
    assert labels_of(source) == dict(zip(images, (2, 3, 0, 2, 1), strict=False))
    # The names of all splits that are read count, in one order.
    source = open_folder(**data | {"split": "train[:2]+test"})
    assert source.class_names == ("ash", "oak", "rose", "yew", "Ö")
    assert labels_of(source).items() >= {(images[5], 3), (images[6], 0)}


def test_booleans_are_two_classes(tmp_path, images):
    rows = table(images[:3], [True, False, True], datasets.Value("bool"))
    source = open_folder(**written(tmp_path, rows))
    assert source.num_classes == 2
    assert labels_of(source) == dict(zip(images, (1, 0, 1), strict=False))


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([0, 1, None, 2, None], datasets.ClassLabel(names=["x", "y", "z"])),
        ([0, 1, None, 2, None], datasets.Value("int32")),
        (["a", "b", None, "", None], datasets.Value("string")),
    ],
)
def test_rows_without_a_label_are_refused(tmp_path, images, labels, kind):
    data = written(tmp_path, table(images[:5], labels, kind))
    message = (
        f"2 of the 5 rows of {data['data_dir']} train have no label (None in the column "
        "'label'), the first of them row 2: leave them out"
    )
    assert_fails(message, **data)


def test_a_row_without_an_image_is_a_damaged_example(tmp_path, images):
    rows = table(images[:8]).to_dict()
    rows["image"][3] = None
    data = written(tmp_path, datasets.Dataset.from_dict(rows, features=FEATURES))
    data["kind"] = "huggingface"
    pp = 'decode|reshape((8, 9, 3))|keep("image", "label")'
    stream, _ = pipeline.make_eval(data=data, batch_size=8, pp_fn=pp)
    message = r"train \(row 3 of .*\.arrow\) cannot be read \(.*it is empty"
    with pytest.raises(ValueError, match=message):
        list(stream)
    stream, _ = pipeline.make_train(
        data=data, batch_size=4, seed=0, pp=pp, skip_errors=True
    )
    batches = [batch for batch, _ in zip(stream, range(2), strict=False)]
    assert sum(len(batch["label"]) for batch in batches) == 8
    assert stream.skipped(0, 2) == 1


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_truncated_or_missing_file_is_named(images, tmp_path, harm):
    data = written(tmp_path, table(images))
    folder = Path(data["data_dir"])
    (file,) = folder.glob("*.arrow")
    if harm == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        named = f"{file} is missing, truncated or damaged"
    else:
        file.unlink()
        named = f"{folder} is missing, truncated or damaged"
    assert_fails(named, **data)


def assert_fails(message, kind=ValueError, **data):
    with pytest.raises(kind, match=re.escape(message)) as caught:
        sources.open_source(kind="huggingface", **data)
    assert "\n" not in str(caught.value)


def test_errors(saved, images, tmp_path, monkeypatch):
    data = {"data_dir": str(saved), "split": "train"}
    known = f"{saved} has no split 'val' (known: train, test, and parts"
    assert_fails(known, **data | {"split": "val"})
    assert_fails("has no examples", **data | {"split": "train[:0]"})
    assert_fails("no column 'img', but image, label, text", **data, image="img")
    assert_fails("the column 'text' of", **data, image="text")
    assert_fails("needs either data_dir, a folder, or name", split="train")
    assert_fails("there is no folder", sources.DataNotFound, data_dir="/no", split="a")
    # The hub marks secret labels by -1.
    secret = written(tmp_path / "secret", table(images[:3], [0, 1, -1]))
    assert_fails("in 0 to 2, but 1 of 3 are not, the first of them -1", **secret)
    half = table(images[:2], [0.5, 0.5], datasets.Value("float32"))
    half = written(tmp_path / "half", half)
    assert_fails("must hold whole numbers or names, but is Value('float32')", **half)
    (tmp_path / "empty").mkdir()
    empty = data | {"data_dir": str(tmp_path / "empty")}
    assert_fails("datasets cannot load", sources.DataNotFound, **empty)
    assert_fails(
        "cannot load 'no/such'", sources.DataNotFound, name="no/such", split="a"
    )
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert_fails('pip install -e ".[huggingface]"', **data)
