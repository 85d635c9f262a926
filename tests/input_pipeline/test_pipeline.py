"""The stream: the same for any number of workers, from any step, complete in eval."""

import itertools

import datasets
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.python.autograph.impl import api

from input_pipeline import ops, pipeline, sources
from input_pipeline.stream import order

DIGITS = {"kind": "arrays", "name": "digits", "split": "train"}  # 1,438
RANDOM_PP = 'flip_lr|random_crop(6)|keep("image", "label", "_id")'
IMAGENET_PP = 'decode_jpeg_and_inception_crop(32)|flip_lr|keep("image", "label")'
TEST = DIGITS | {"split": "test"}  # 359


def train(**kwargs):
    kwargs = {"data": DIGITS, "batch_size": 48, "seed": 7, "pp": RANDOM_PP} | kwargs
    return pipeline.make_train(**kwargs)[0]


def imagenet(data_dir, split):
    return {"name": "imagenet2012", "split": split, "data_dir": str(data_dir)}


def take(stream, count):
    return list(itertools.islice(stream, count))


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for name in x:
            assert x[name].dtype == y[name].dtype
            np.testing.assert_array_equal(x[name], y[name])


def joined(parts):
    """The global batches of the processes' batches."""
    return [
        {name: np.concatenate([rows[name] for rows in batch]) for name in batch[0]}
        for batch in zip(*parts, strict=True)
    ]


@pytest.fixture(scope="module")
def digits_stream():
    """70 batches, uninterrupted: two epochs and a third."""
    return take(train(), 70)


@pytest.mark.parametrize(("process_count", "threads"), [(1, 13), (2, 1), (4, 13)])
def test_any_number_of_processes_and_threads(digits_stream, process_count, threads):
    rows = {"process_count": process_count, "num_parallel_calls": threads}
    parts = [take(train(process_index=i, **rows), 35) for i in range(process_count)]
    assert parts[0][0]["image"].shape == (48 // process_count, 6, 6, 1)
    assert_same(joined(parts), digits_stream[:35])


def test_resume_is_the_uninterrupted_stream(digits_stream):
    stream = train()
    for step in np.random.default_rng(0).choice(68, 8, replace=False):
        resumed = take(stream.from_step(int(step)), 2)
        assert_same(resumed, digits_stream[step : step + 2])
    assert_same(take(train(start_step=66), 4), digits_stream[66:])


def test_a_balanced_stream_resumes_and_is_split_like_any_other(tmp_path):
    """It also keeps its order if the labels get other numbers and are mapped back."""
    path, rng = tmp_path / "few.npz", np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [30, 5, 2])
    np.savez(path, x=rng.integers(0, 256, (37, 8, 8, 1), np.uint8), y=labels)
    data = {"kind": "npz", "path": str(path), "images": "x", "labels": "y"}
    data |= {"split": "all", "class_names": ["a", "b", "c"]}
    given = {"data": data, "batch_size": 6, "sampling": "balanced"}
    whole = take(train(**given), 12)
    for batch in whole:
        assert np.bincount(batch["label"], minlength=3).tolist() == [2, 2, 2]
    assert_same(take(train(**given, start_step=9), 3), whole[9:])
    parts = [take(train(**given, process_index=i, process_count=2), 12) for i in (0, 1)]
    assert_same(joined(parts), whole)
    turned = train(**given).labelled_as(["c", "a", "b"])
    before = train(**given).source.labels()
    assert turned.source.labels().tolist() == ((before + 1) % 3).tolist()
    assert_same(take(turned.labelled_as(["a", "b", "c"]), 12), whole)


def test_balanced_sampling_that_cannot_be(imagenet_dir):
    with pytest.raises(ValueError, match="unknown sampling 'balance'; did you mean"):
        train(sampling="balance")
    with pytest.raises(ValueError, match="leave out one of them"):
        train(sampling="balanced", shuffle_buffer_size=9)
    with pytest.raises(ValueError, match="kind 'tfds' keeps within the examples"):
        train(sampling="balanced", data=imagenet(imagenet_dir, "train"))


def test_each_iteration_starts_over(digits_stream):
    stream = train()
    assert_same(take(stream, 2), digits_stream[:2])
    assert_same(take(stream, 3), digits_stream[:3])


def test_rows_follow_order_and_ops(digits_stream):
    """Every index, and some examples, outside tf.data. Batch 29 has two epochs."""
    epoch, index = order.example_at(np.arange(70 * 48), seed=7, size=1438)
    assert set(epoch.numpy()[29 * 48 : 30 * 48]) == {0, 1}
    ids = np.concatenate([batch["_id"] for batch in digits_stream])
    np.testing.assert_array_equal(ids, index)
    source = sources.open_source(**DIGITS)
    preprocess = ops.get_preprocess_fn(RANDOM_PP)
    seeds = order.example_seed(epoch, index, seed=7)
    for step, row in ((0, 0), (0, 47), (29, 45), (29, 46), (69, 11)):
        at = step * 48 + row
        features = preprocess({**source.read(index[at]), "seed": seeds[at]})
        for name, expected in features.items():
            np.testing.assert_array_equal(digits_stream[step][name][row], expected)


@pytest.mark.parametrize("buffer", [None, 100])
def test_choice_no_replacement_follows_the_epochs(buffer, tmp_path):
    """The entries are rows of a picture: four epochs show each of the four rows once."""
    labels = np.arange(30)
    images = np.broadcast_to(np.arange(4, dtype=np.uint8)[None, :, None], (30, 4, 2))
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    data = {"kind": "npz", "path": str(tmp_path / "x.npz"), "split": "all"}
    pp = "choice_no_replacement|keep('image', '_id')"
    kwargs = {"data": data, "pp": pp, "batch_size": 30, "seed": 1}
    stream, _ = pipeline.make_train(**kwargs, shuffle_buffer_size=buffer)
    seen = {}
    for batch in take(stream, 8):
        for index, row in zip(batch["_id"], batch["image"], strict=True):
            seen.setdefault(int(index), []).append(int(row.reshape(-1)[0]))
    assert len(seen) == 30
    for rows in seen.values():
        assert sorted(rows[:4]) == sorted(rows[4:]) == [0, 1, 2, 3]
    assert len({tuple(rows) for rows in seen.values()}) > 10
    evaluation, _ = pipeline.make_eval(data=data, pp_fn=pp, batch_size=30)
    (batch,) = evaluation
    first = [seen[int(i)][0] for i in batch["_id"]]
    np.testing.assert_array_equal(batch["image"].reshape(30, -1)[:, 0], first)


def test_batches_are_numpy_without_the_seed():
    stream, total = pipeline.make_train(data=DIGITS, batch_size=16, seed=0)
    (batch,) = take(stream, 1)
    assert total == stream.total_examples == 1438
    assert stream.num_classes == len(stream.class_names) == 10
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        "image": ((16, 8, 8, 1), np.uint8),
        "label": ((16,), np.int64),
        "_id": ((16,), np.int32),
    }
    assert all(isinstance(x, np.ndarray) for x in batch.values())


def test_imagenet_stream(imagenet_dir):
    """Fused decoding and a coin, on JPEGs from the shards."""
    data = imagenet(imagenet_dir, "train[:99%]")
    kwargs = {"data": data, "batch_size": 32, "seed": 3, "pp": IMAGENET_PP}
    stream, total = pipeline.make_train(**kwargs)
    assert total == 297
    whole = take(stream, 12)
    assert whole[0]["image"].shape == (32, 32, 32, 3)
    assert whole[0]["image"].dtype == np.uint8
    # Batch 9 has the border of two epochs.
    assert_same(take(stream.from_step(9), 2), whole[9:11])
    parts = []
    for i in range(2):
        part, _ = pipeline.make_train(
            **kwargs, process_index=i, process_count=2, num_parallel_calls=i + 1
        )
        parts.append(take(part, 3))
    assert_same(joined(parts), whole[:3])


def test_a_far_step_at_imagenet_s_size(tmp_path):
    """Step 100,000 of 1,281,167 examples, in the 80th epoch."""
    size, batch_size, step = 1281167, 1024, 100_000
    labels = np.arange(size) % 1000
    np.savez(tmp_path / "x.npz", images=np.zeros((size, 1, 1), np.uint8), labels=labels)
    data = {"kind": "npz", "path": str(tmp_path / "x.npz"), "split": "all"}
    stream, total = pipeline.make_train(data=data, batch_size=batch_size, seed=7)
    assert total == size
    far = take(stream.from_step(step), 2)
    for number, batch in enumerate(far, step):
        positions = number * batch_size + np.arange(batch_size)
        epoch, index = order.example_at(positions, seed=7, size=size)
        assert (epoch.numpy() == 79).all()
        np.testing.assert_array_equal(batch["_id"], index)


# ------------------------------------------------------- big_vision's buffer shuffle


@pytest.mark.parametrize("cache_raw", [False, True])
def test_buffer_shuffle_has_each_example_once_an_epoch(imagenet_dir, cache_raw):
    ids = []
    for i in range(2):
        stream, total = pipeline.make_train(
            data=imagenet(imagenet_dir, "train[:99%]"),
            batch_size=22,
            pp='keep("_id")',
            seed=0,
            shuffle_buffer_size=250_000,
            cache_raw=cache_raw,
            process_index=i,
            process_count=2,
        )
        assert total == 297
        count = 297 * (i + 1) // 2 - 297 * i // 2
        batches = take(stream, 2 * count // 11 + 1)
        part = np.concatenate([batch["_id"] for batch in batches])[: 2 * count]
        first, second = part[:count], part[count:]
        np.testing.assert_array_equal(np.sort(first), np.sort(second))
        assert (first != second).mean() > 0.9
        ids.append(first)
    np.testing.assert_array_equal(np.sort(np.concatenate(ids)), np.arange(297))


def test_buffer_shuffle_is_local_and_seeded():
    def first(**kwargs):
        stream = train(shuffle_buffer_size=100, pp='keep("_id")', **kwargs)
        return np.concatenate([batch["_id"] for batch in take(stream, 10)])

    ids = first()
    assert (ids <= np.arange(480) + 100).all()  # nothing comes before it was read
    assert (ids[1:] < ids[:-1]).any()
    np.testing.assert_array_equal(ids, first())
    assert (ids != first(seed=8)).any()
    assert (ids != first(start_step=5)).any()


def test_a_buffer_larger_than_the_data_is_as_large_as_the_data():
    """TensorFlow allocates it at once: it would die of a signal."""
    vast, all_of_it = (train(shuffle_buffer_size=n) for n in (2**60, 1438))
    for a, b in zip(take(vast, 3), take(all_of_it, 3), strict=True):
        np.testing.assert_array_equal(a["_id"], b["_id"])


@pytest.mark.parametrize(
    "number",
    [
        {"prefetch": -3},
        {"num_parallel_calls": -3},
        {"num_parallel_calls": 10**10},
        {"shuffle_buffer_size": 0},
        {"batch_size": 2**60},
    ],
)
def test_numbers_that_tensorflow_would_refuse(number):
    [key] = number
    with pytest.raises(ValueError, match=f"{key} must be"):
        train(**number)


def test_buffer_shuffle_augments_as_the_global_shuffle_does(digits_stream):
    """An example of an epoch has the same fate in either order."""
    images = {
        int(index): image
        for batch in digits_stream[:29]
        for index, image in zip(batch["_id"], batch["image"], strict=True)
    }
    for batch in take(train(shuffle_buffer_size=100), 5):
        for index, image in zip(batch["_id"], batch["image"], strict=True):
            if int(index) in images:
                np.testing.assert_array_equal(image, images[int(index)])


def test_notices(caplog):
    from absl import logging

    logging.get_absl_logger().propagate = True
    train(shuffle_buffer_size=100)
    assert "resumed run sees other batches" in caplog.text
    caplog.clear()
    train(cache_raw=True)
    assert "cache_raw has no effect on the global shuffle" in caplog.text
    caplog.clear()
    train()
    assert not caplog.text


# ------------------------------------------------------------------------ evaluation


@pytest.mark.parametrize(
    ("batch_size", "process_count"), [(4, 1), (356, 4), (360, 2), (1000, 4)]
)
def test_eval_has_every_example_once(batch_size, process_count):
    parts = []
    for i in range(process_count):
        stream, steps = pipeline.make_eval(
            data=TEST,
            batch_size=batch_size,
            process_index=i,
            process_count=process_count,
        )
        assert steps == -(-359 // batch_size)
        parts.append(list(stream))
        assert len(parts[-1]) == steps
        assert_same(list(stream), parts[-1])  # again from the beginning
    batches = joined(parts)
    mask = np.concatenate([batch["_mask"] for batch in batches])
    ids = np.concatenate([batch["_id"] for batch in batches])
    images = np.concatenate([batch["image"] for batch in batches])
    assert mask.dtype == np.float32
    assert mask.shape == (steps * batch_size,)
    np.testing.assert_array_equal(mask, np.arange(len(mask)) < 359)
    np.testing.assert_array_equal(ids[:359], np.arange(359))
    assert not images[359:].any()
    assert not ids[359:].any()


def test_eval_batches_are_the_examples_of_the_source(imagenet_dir):
    data = imagenet(imagenet_dir, "validation")
    pp = 'decode|resize_small(40)|central_crop(32)|keep("image", "label")'
    stream, steps = pipeline.make_eval(data=data, batch_size=16, pp_fn=pp)
    batches = list(stream)
    assert steps == len(batches) == 4
    assert sum(batch["_mask"].sum() for batch in batches) == 50
    source, preprocess = sources.open_source(**data), ops.get_preprocess_fn(pp)
    for i in (0, 17, 49):
        expected = preprocess(source.read(tf.constant(i, tf.int64)))
        for name, x in expected.items():
            np.testing.assert_array_equal(batches[i // 16][name][i % 16], x)


def test_random_ops_in_an_evaluation_repeat_themselves():
    stream, _ = pipeline.make_eval(data=TEST, batch_size=128, pp_fn=RANDOM_PP)
    assert_same(list(stream), list(stream))


# ---------------------------------------------------------------------------- errors


def test_wrong_batch_sizes():
    for make in (pipeline.make_eval, lambda **kw: pipeline.make_train(seed=0, **kw)):
        with pytest.raises(ValueError, match=r"multiple .* is 3, but it is 16"):
            make(data=DIGITS, batch_size=16, process_count=3)
        with pytest.raises(ValueError, match="but it is 0"):
            make(data=DIGITS, batch_size=0)
        with pytest.raises(ValueError, match="process_index must be in 0 to 1"):
            make(data=DIGITS, batch_size=16, process_count=2, process_index=2)


def test_unknown_names_are_found_when_made():
    with pytest.raises(ValueError, match="flip_rl"):
        train(pp="flip_rl")
    with pytest.raises(ValueError, match="digtis"):
        train(data=DIGITS | {"name": "digtis"})
    with pytest.raises(TypeError, match="shufle"):
        train(shufle=3)
    with pytest.raises(ValueError, match="1438 examples are too few for 2000"):
        next(iter(train(batch_size=2000, process_count=2000, shuffle_buffer_size=10)))


def test_features_that_cannot_be_batched(imagenet_dir):
    data = imagenet(imagenet_dir, "train")

    def first(pp):
        stream, _ = pipeline.make_eval(data=data, batch_size=2, pp_fn=pp)
        next(iter(stream))

    with pytest.raises(ValueError, match=r"^the feature 'file_name' is a string"):
        first("decode|resize(8)")
    with pytest.raises(ValueError, match=r"^the feature 'image' has the shape"):
        first('decode|keep("image")')
    with pytest.raises(ValueError, match=r"^op .* reads feature 'img'"):
        first('decode(key="img")')


def test_accelerators_are_hidden(monkeypatch):
    hidden = []
    monkeypatch.setattr(
        tf.config, "set_visible_devices", lambda *args: hidden.append(args)
    )
    train()
    pipeline.make_eval(data=TEST, batch_size=8)
    assert hidden == [([], "GPU"), ([], "TPU")] * 2


@pytest.mark.parametrize("kind", ["arrays", "tfds", "folder", "huggingface"])
def test_nothing_is_rewritten_by_autograph(kind, imagenet_dir, tmp_path, monkeypatch):
    """autograph's parser warns on Python 3.13, into the output of a run."""
    rewritten = []

    def convert(function, context):
        rewritten.append(function)
        raise NotImplementedError  # then TensorFlow uses it unchanged

    monkeypatch.setattr(api, "_convert_actual", convert)
    tf.data.Dataset.range(1).map(lambda x: x + 1)  # it converts this one
    assert len(rewritten) == 1
    pp = "decode|resize(8)|flip_lr|keep('image', 'label')"
    if kind == "arrays":
        data, pp = DIGITS, RANDOM_PP
    elif kind == "tfds":
        data = imagenet(imagenet_dir, "train")
    else:
        data = {"kind": kind, "data_dir": str(tmp_path / kind), "split": "train"}
        images = [np.full((9, 9, 3), i, np.uint8) for i in range(6)]
        write = {"folder": _write_folder, "huggingface": _write_huggingface}[kind]
        write(tmp_path / kind, images)
    given = {"data": data, "pp": pp, "batch_size": 4}
    take(train(**given, skip_errors=True), 2)
    take(train(**given, shuffle_buffer_size=3, cache_raw=True), 2)
    take(pipeline.make_eval(data=data, batch_size=4, pp_fn="keep('label')")[0], 2)
    assert len(rewritten) == 1


def _write_folder(folder, images):
    for i, image in enumerate(images):
        path = folder / "train" / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def _write_huggingface(folder, images):
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    rows = {"image": [Image.fromarray(x) for x in images], "label": [0, 1] * 3}
    split = datasets.Dataset.from_dict(rows, features)
    datasets.DatasetDict({"train": split}).save_to_disk(folder)
