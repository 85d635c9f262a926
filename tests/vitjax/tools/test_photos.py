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
from vitjax.tools import export, photos

PP = (
    "decode(precise=True)|resize((16, 24))|onehot(2, key='label', "
    "key_result='labels')|keep('image', 'labels')"
)
SECTION = {"pp_fn": PP, "device_pp": "value_range(-1, 1)"}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """The data section of a folder of odd images, with junk beside them."""
    root = tmp_path_factory.mktemp("odd")
    data = folder(root, good())
    (root / "val" / "a" / "._x.jpg").write_bytes(b"\0\5\26\7")
    (root / "val" / "a" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    return data


def rows(batches, count):
    return np.concatenate([b["image"] for b in itertools.islice(batches, count)])


def test_all_ways_of_reading_agree_on_every_file(odd, mesh):
    data, count = odd, len(good())
    evaluation, steps = pipeline.make_eval(data=data, batch_size=8, pp_fn=PP)
    assert evaluation.total_examples == count > 40
    told = map(evaluation.source.describe, range(count))
    paths = [Path(text.partition(" val (")[2][:-1]) for text in told]
    expected = rows(evaluation, steps)[:count]

    # Training, in its own order; `_id` says which example each is.
    train, _ = pipeline.make_train(
        data=data, batch_size=count, seed=0, pp=PP.replace("keep(", "keep('_id', ")
    )
    batch = next(iter(train))
    np.testing.assert_array_equal(np.sort(batch["_id"]), np.arange(count))
    np.testing.assert_array_equal(batch["image"], expected[batch["_id"]])

    # Few-shot, whose features are the pixels.
    features = Features(
        lambda state, image: (image, {"pixels": image.reshape(len(image), -1) / 1.0}),
        lambda **given: pipeline.make_eval(**given),
        mesh, batch_size=8, pp_fn=PP, device_pp="", feature="pixels", label_key="labels",
    )  # fmt: skip
    [(batches, _)] = features.open(data)
    found, _ = features.of(None, batches)
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)

    # predict, file by file; and what it feeds the exported program.
    feed = photos.Feed({**SECTION, "data": data})
    assert photos.find([data["data_dir"]]) == sorted(paths)
    examples = [feed.read(path) for path in paths]
    given = np.stack([example["image"] for example in examples])
    np.testing.assert_array_equal(given, expected)
    inside = device_ops.get_preprocess_fn(export._pixels_to_input(SECTION))
    np.testing.assert_array_equal(
        jax.device_get(
            inside({"image": jnp.asarray(given), "labels": batch["labels"]})["image"]
        ),
        jax.device_get(feed.batch(examples)),
    )


def test_what_is_refused_is_refused_everywhere_by_name(tmp_path):
    pp = (
        "decode(precise=True)|resize_small(256)|central_crop(16)|keep('image', 'label')"
    )
    feed = photos.Feed({"pp_fn": pp})
    streamed = ("float.tif.jpg", "1 x 20,000.png")  # in reading, and by an op
    for name, (content, why) in refused().items():
        data = folder(tmp_path / name, {name: (content,)})
        [path] = (tmp_path / name).rglob(name)
        if name not in streamed:  # tests/input_pipeline has all of them in a stream
            with pytest.raises(ValueError, match=r"is no image|cannot be") as caught:
                feed.read(path)
            assert str(path) in str(caught.value)
            assert why in str(caught.value)
            continue
        train, _ = pipeline.make_train(data=data, batch_size=1, seed=0, pp=pp)
        evaluation, _ = pipeline.make_eval(data=data, batch_size=1, pp_fn=pp)
        for read in (
            lambda train=train: next(iter(train)),
            lambda evaluation=evaluation: next(iter(evaluation)),
            lambda path=path: feed.read(path),
        ):
            with pytest.raises(ValueError, match=r"is no image|cannot be") as caught:
                read()
            text = str(caught.value)
            assert str(path) in text, name
            assert why in text, name
            assert "\n" not in text, name


def test_predict_follows_the_flag_of_the_runs_own_data(tmp_path):
    path = tmp_path / "turned.jpg"
    path.write_bytes(encode(PHOTO, "JPEG", exif=exif(6)))
    for flag, shape in ((True, (60, 40, 3)), (False, (40, 60, 3)), (None, (60, 40, 3))):
        data = {} if flag is None else {"as_seen": flag}
        section = {"pp_fn": "decode|keep('image')", "data": data}
        assert photos.Feed(section).read(path)["image"].shape == shape
