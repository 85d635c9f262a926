"""Examples that cannot be read: named, or replaced without shifting anything."""

import io
import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from input_pipeline import pipeline, sources
from input_pipeline.stream import damaged, order

pytestmark = pytest.mark.slow

COUNT = 60
PP = 'decode|random_crop(9)|flip_lr|keep("image", "label")'
SEED = 5


@pytest.fixture(scope="module")
def clean_dir(tmp_path_factory):
    """Sixty JPEGs of two classes."""
    root = tmp_path_factory.mktemp("clean")
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        path = root / "train" / "ab"[i % 2] / f"{i:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (12, 14, 3), np.uint8)).save(
            buffer, "JPEG"
        )
        path.write_bytes(buffer.getvalue())
    return root


@pytest.fixture
def root(clean_dir, tmp_path):
    shutil.copytree(clean_dir, tmp_path / "copy")
    return tmp_path / "copy"


def section(root):
    return {"kind": "folder", "data_dir": str(root), "split": "train"}


def train(root, **kwargs):
    kwargs = {"data": section(root), "batch_size": 8, "seed": SEED, "pp": PP} | kwargs
    return pipeline.make_train(**kwargs)[0]


def take(stream, count):
    return list(itertools.islice(stream, count))


def rows(stream, count):
    """The images and labels of `count` batches, one after the other."""
    batches = take(stream, count)
    assert all(batch.keys() == {"image", "label"} for batch in batches)
    images = np.concatenate([batch["image"] for batch in batches])
    return images, np.concatenate([batch["label"] for batch in batches])


def index_at(position):
    epoch, index = order.example_at([position], seed=SEED, size=COUNT)
    return int(epoch[0]), int(index[0])


def file_at(root, position):
    """The file of the example at a position of the stream."""
    text = sources.open_source(**section(root)).describe(index_at(position)[1])
    return Path(re.search(r"\((.*)\)$", text)[1])


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "no image": lambda path: path.write_bytes(b"nothing of the kind"),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


FUSED = 'decode_jpeg_and_inception_crop(9, precise={})|flip_lr|keep("image", "label")'


@pytest.mark.parametrize(
    ("damage", "pp"),
    [
        ("cut", PP),
        ("gone", PP),
        ("cut", FUSED.format(False)),
        ("cut", FUSED.format(True)),
    ],
)
def test_the_example_is_named(root, damage, pp):
    """Position 29 is in batch 3; the batches before it are unchanged."""
    stream, path = train(root, pp=pp), file_at(root, 29)
    expected = rows(stream, 3)
    DAMAGES[damage](path)
    iterator = iter(stream)
    got = [next(iterator) for _ in range(3)]
    np.testing.assert_array_equal([b["label"] for b in got], expected[1].reshape(3, 8))
    with pytest.raises(ValueError, match="cannot be read") as caught:
        next(iterator)
    text = str(caught.value)
    start = f"example {index_at(29)[1]} of {root} train ({path}) cannot be read ("
    assert text.startswith(start)
    assert "set skip_errors=True in input" in text
    assert "\n" not in text
    assert "{{" not in text
    assert "[Op" not in text


def test_only_the_process_that_reads_the_example_fails(root):
    """Row 5 of 8 is in the second half of batch 3."""
    half = {"process_count": 2, "start_step": 3}
    halves = [train(root, process_index=i, **half) for i in range(2)]
    path = file_at(root, 29)
    DAMAGES["cut"](path)
    take(halves[0], 1)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        take(halves[1], 1)


def test_the_reason_is_given(root):
    def why(damage):
        path = file_at(root, 0)
        content = path.read_bytes()
        stream = train(root)
        damage(path)
        with pytest.raises(ValueError, match="cannot be read") as caught:
            take(stream, 1)
        path.write_bytes(content)
        return re.search(r"cannot be read \((.*)\); set", str(caught.value))[1]

    assert why(DAMAGES["gone"]).endswith("No such file or directory")
    assert why(DAMAGES["no image"]).startswith("it is none of JPEG, PNG, GIF")
    assert why(DAMAGES["empty"]) == "it is empty"


def test_an_evaluation_always_stops(root):
    source = sources.open_source(**section(root))
    # The last example, in a batch that is filled up.
    path = Path(re.search(r"\((.*)\)$", source.describe(59))[1])
    DAMAGES["cut"](path)
    stream, _ = pipeline.make_eval(data=section(root), batch_size=16, pp_fn=PP)
    iterator = iter(stream)
    for _ in range(3):
        next(iterator)
    with pytest.raises(ValueError, match="an evaluation reads every example") as caught:
        next(iterator)
    assert str(caught.value).startswith(f"example 59 of {root} train ({path}) cannot")


@pytest.fixture
def shard(copied):
    return sorted(copied.glob("imagenet2012/5.1.0/imagenet2012-validation.tf*"))[1]


def evaluation(data_dir):
    data = {"name": "imagenet2012", "split": "validation", "data_dir": str(data_dir)}
    pp_fn = 'decode|resize(8)|keep("image", "label")'
    return pipeline.make_eval(data=data, batch_size=8, pp_fn=pp_fn)[0]


def test_a_damaged_shard_s_record_and_offset_are_named(copied, shard):
    """A whole record of a JPEG that is cut, or of an unknown class; a damaged record."""
    records = [x.numpy() for x in tf.data.TFRecordDataset(str(shard))]
    example = tf.train.Example.FromString(records[2])
    feature = example.features.feature
    image = feature["image"].bytes_list.value

    def write():
        records[2] = example.SerializeToString()
        with tf.io.TFRecordWriter(str(shard)) as writer:
            for record in records:
                writer.write(record)

    def error():
        with pytest.raises(ValueError, match="cannot be read") as caught:
            list(evaluation(copied))
        return str(caught.value)

    whole = image[0]
    image[0] = whole[: len(whole) // 2]
    write()
    offset = sum(len(record) + 16 for record in records[:2])
    place = f"(record 2 of {shard}, at byte {offset}) cannot be read ("
    assert place in error()
    image[0] = whole
    feature["label"].int64_list.value[0] = 1000
    write()
    assert f"{place}its label is not in 0 to 999, but 1000); an eval" in error()
    data = bytearray(shard.read_bytes())
    data[offset + 50] ^= 1
    shard.write_bytes(data)
    assert f"{place}corrupted record at {offset + 12}); an eval" in error()


def test_a_shard_that_is_cut_in_the_middle(copied, shard):
    """During a run the error names the example, at the start the shard."""
    sizes = [len(x.numpy()) + 16 for x in tf.data.TFRecordDataset(str(shard))]
    running, offset = evaluation(copied), sum(sizes[:5])
    shard.write_bytes(shard.read_bytes()[: offset + 50])
    place = f"record 5 of {shard}, at byte {offset}"
    message = f"{re.escape(place)}.* cannot be read .*truncated record"
    with pytest.raises(ValueError, match=message):
        list(running)
    message = (
        f"{re.escape(str(shard))} is truncated or damaged.*at byte {offset}, should"
    )
    with pytest.raises(ValueError, match=message):
        list(evaluation(copied))


def test_a_failure_that_does_not_repeat():
    """A disk may fail once: then no example is named."""
    pairs = tf.data.Dataset.range(4).map(lambda i: (i, i))
    text = damaged.explain("the batch", "a reason", pairs, lambda x: x, str, "cure")
    assert text == (
        "the batch could not be made (a reason), but each of its examples can when "
        "tried again: the disk or the memory may be failing"
    )


# --------------------------------------------------------------------- skip_errors


@pytest.fixture(scope="module")
def clean_rows(clean_dir):
    """Twenty batches, two epochs and two thirds; and one more."""
    return rows(train(clean_dir), 21)


@pytest.mark.parametrize("neighbours", [1, 7])
def test_a_damaged_example_s_place_is_taken_by_the_next(root, clean_rows, neighbours):
    """`neighbours` positions that follow one another cannot be read."""
    first = 27
    hit = {index_at(first + i)[1] for i in range(neighbours)}
    for i in range(neighbours):
        DAMAGES["no image"](file_at(root, first + i))
    expected, labels = (x[:160].copy() for x in clean_rows)
    replaced = []
    for position in range(160):
        spare = position
        while index_at(spare)[1] in hit:
            spare += 1
        if spare != position:
            replaced.append(position)
            # Made in a stream of its own: epoch, index and seed are the spare's.
            expected[position] = clean_rows[0][spare]
            labels[position] = clean_rows[1][spare]
    stream = train(root, skip_errors=True)
    images, got = rows(stream, 20)
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(got, labels)
    assert len(replaced) >= 2 * neighbours  # in each epoch
    for start, stop in ((0, 20), (3, 4), (0, 3), (4, 20)):
        inside = [p for p in replaced if 8 * start <= p < 8 * stop]
        assert stream.skipped(start, stop) == len(inside)


def test_a_stream_with_damaged_examples_resumes_and_divides(root):
    for position in (3, 27, 28, 50):
        DAMAGES["cut"](file_at(root, position))
    *_, whole = take(train(root, skip_errors=True), 4)
    *_, single = take(train(root, skip_errors=True, num_parallel_calls=1), 4)
    (resumed,) = take(train(root, skip_errors=True).from_step(3), 1)
    half = {"skip_errors": True, "process_count": 2, "start_step": 3}
    parts = [next(iter(train(root, process_index=i, **half))) for i in range(2)]
    for name, expected in whole.items():
        np.testing.assert_array_equal(single[name], expected)
        np.testing.assert_array_equal(resumed[name], expected)
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(joined, expected)


def test_skip_errors_changes_nothing_else(clean_dir, clean_rows):
    stream = train(clean_dir, skip_errors=True)
    images, labels = rows(stream, 5)
    np.testing.assert_array_equal(images, clean_rows[0][:40])
    np.testing.assert_array_equal(labels, clean_rows[1][:40])
    assert stream.skipped(0, 5) == 0
    assert stream.element_spec == train(clean_dir).element_spec
    assert stream.element_spec.keys() == {"image", "label"}


def test_too_many_damaged_examples_stop_the_run(root):
    for i in range(8):
        DAMAGES["no image"](file_at(root, 27 + i))
    stream = train(root, skip_errors=True)
    take(stream, 3)
    with pytest.raises(ValueError, match="and neither can the 7 that would") as caught:
        take(stream, 4)
    text = str(caught.value)
    assert text.startswith(f"example {index_at(27)[1]} of {root} train (")
    assert "it is none of JPEG" in text


def test_the_first_replaced_examples_are_named(root, caplog):
    from absl import logging

    logging.get_absl_logger().propagate = True
    for position in range(0, 60, 5):
        DAMAGES["no image"](file_at(root, position))
    take(train(root, skip_errors=True), 20)
    lines = [r.getMessage() for r in caplog.records if "skip_errors" in r.getMessage()]
    assert len(lines) == len(set(lines)) == 10
    assert str(file_at(root, 0)) in lines[0]
    assert lines[-1].endswith("no more are named")


# ------------------------------------------------------------ with a shuffle buffer


def test_with_a_shuffle_buffer_the_example_is_named_too(root):
    path = file_at(root, 29)
    DAMAGES["cut"](path)
    with pytest.raises(ValueError, match="cannot be read") as caught:
        take(train(root, shuffle_buffer_size=20), 20)
    assert str(caught.value).startswith(f"example {index_at(29)[1]} of {root} train (")


def test_with_a_shuffle_buffer_the_next_index_is_taken(root):
    pp = 'decode|random_crop(9)|keep("image", "_id")'
    kwargs = {"shuffle_buffer_size": 20, "pp": pp}
    expected = take(train(root, **kwargs), 20)
    index = index_at(29)[1]
    DAMAGES["cut"](file_at(root, 29))
    stream = train(root, skip_errors=True, **kwargs)
    count = 0
    for ours, theirs in zip(take(stream, 20), expected, strict=True):
        for image, other, i, j in zip(
            ours["image"], theirs["image"], ours["_id"], theirs["_id"], strict=True
        ):
            assert i == ((index + 1) % COUNT if j == index else j)
            assert (j == index) or (image == other).all()
            count += j == index
    assert count == stream.skipped(0, 20) >= 2
