"""One file, one image: for training, evaluation, few-shot, predict and the exported program."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import device_ops, pipeline
from tests.helpers.odd_images import PHOTO, encode, exif, folder, good, refused
from vitjax.evaluators.features import Features
from vitjax.tools import photos, programs

pytestmark = pytest.mark.slow

PP = (
    "decode(precise=True)|resize((16, 24))|onehot(2, key='label', "
    "key_result='labels')|keep('image', 'labels')"
)
SECTION = {"pp_fn": PP, "device_pp": "value_range(-1, 1)"}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """The data section of a folder of odd images and junk."""
    root = tmp_path_factory.mktemp("odd")
    data = folder(root, good())
    (root / "val" / "a" / "._x.jpg").write_bytes(b"\0\5\26\7")
    (root / "val" / "a" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    return data


def rows(batches, count):
    return np.concatenate([b["image"] for b in itertools.islice(batches, count)])


def few_shot(mesh, **section):
    """Return few-shot's reader of images, with their pixels as features."""
    return Features(
        lambda state, image: (image, {"pixels": image.reshape(len(image), -1)}),
        lambda **given: pipeline.make_eval(**given),
        mesh, device_pp="value_range(0, 1, 0, 1)",  # to float
        feature="pixels", label_key="labels", **section,
    )  # fmt: skip


def test_all_ways_of_reading_agree_on_every_file(odd, mesh):
    data, count = odd, len(good())
    evaluation, steps = pipeline.make_eval(data=data, batch_size=8, pp_fn=PP)
    assert evaluation.total_examples == count > 40
    told = map(evaluation.source.describe, range(count))
    paths = [Path(text.partition(" val (")[2][:-1]) for text in told]
    expected = rows(evaluation, steps)[:count]

    # Training has its own order; `_id` is the example.
    train, _ = pipeline.make_train(
        data=data, batch_size=count, seed=0, pp=PP.replace("keep(", "keep('_id', ")
    )
    batch = next(iter(train))
    np.testing.assert_array_equal(np.sort(batch["_id"]), np.arange(count))
    np.testing.assert_array_equal(batch["image"], expected[batch["_id"]])

    features = few_shot(mesh, batch_size=8, pp_fn=PP)
    [(batches, _)] = features.open(data)
    found, _ = features.of(None, batches)
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)

    # predict reads file by file; the exported program has the same ops.
    feed = photos.Feed({**SECTION, "data": data})
    assert photos.find([data["data_dir"]]) == sorted(paths)
    examples = [feed.read(path) for path in paths]
    given = np.stack([example["image"] for example in examples])
    np.testing.assert_array_equal(given, expected)
    inside = device_ops.get_preprocess_fn(programs.pixels_to_input(SECTION))
    np.testing.assert_array_equal(
        jax.device_get(
            inside({"image": jnp.asarray(given), "labels": batch["labels"]})["image"]
        ),
        jax.device_get(feed.batch(examples)),
    )


def test_every_reader_refuses_the_same_files_by_name(tmp_path, mesh):
    """The files replace each other at one path, which each reader reads again."""
    pp = (
        "decode(precise=True)|resize_small(256)|central_crop(16)|onehot(1, key='label', "
        "key_result='labels')|keep('image', 'labels')"
    )
    data = folder(tmp_path, {"x.jpg": (encode(PHOTO, "JPEG"),)})
    path = tmp_path / "val" / "a" / "x.jpg"
    train, _ = pipeline.make_train(data=data, batch_size=1, seed=0, pp=pp)
    features = few_shot(mesh, batch_size=8, pp_fn=pp)
    [(shots, _)] = features.open(data)
    feed = photos.Feed({"pp_fn": pp})
    ways = {
        "train": lambda: next(iter(train)),
        # Few-shot reads what evaluations read.
        "evaluation": lambda: features.of(None, shots),
        "predict": lambda: feed.read(path),
    }
    for read in ways.values():
        read()
    files = refused()  # test_image_files.py reads them all
    for name in ("cut.jpg", "cut.webp.jpg", "iPhone.heic.jpg", "1 x 20,000.png"):
        content, why = files[name]
        path.write_bytes(content)
        for way, read in ways.items():
            with pytest.raises(ValueError, match=r"is no image|cannot be") as caught:
                read()
            text = str(caught.value)
            assert str(path) in text, (name, way)
            assert why in text, (name, way)
            assert "\n" not in text, (name, way)


def test_predict_follows_as_seen_of_the_runs_data(tmp_path):
    path = tmp_path / "turned.jpg"
    path.write_bytes(encode(PHOTO, "JPEG", exif=exif(6)))
    for flag, shape in ((True, (60, 40, 3)), (False, (40, 60, 3)), (None, (60, 40, 3))):
        data = {} if flag is None else {"as_seen": flag}
        section = {"pp_fn": "decode|keep('image')", "data": data}
        assert photos.Feed(section).read(path)["image"].shape == shape
