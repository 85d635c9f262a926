"""A tfds data set written once more: tfds itself reads both, and they are alike."""

import io
import itertools
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from input_pipeline import pipeline, sources
from input_pipeline.prepare import __main__ as prepare
from input_pipeline.prepare import records, shards, work
from input_pipeline.sources import record_index
from tests.input_pipeline.prepare.conftest import resized

ROOT = Path(__file__).resolve().parents[3]
SHORT = 160
VERSION = "imagenet2012/5.1.0"


def arguments(source, out, *more):
    flags = {"name": "imagenet2012", "data_dir": source, "out": out}
    flags["short_side"] = SHORT
    return [x for k, v in flags.items() for x in (f"--{k}", str(v))] + list(more)


@pytest.fixture(scope="module")
def small_dir(imagenet_dir, tmp_path_factory):
    """The data_dir of imagenet_dir, prepared by two processes."""
    out = tmp_path_factory.mktemp("small") / "tfds"
    assert prepare.main(arguments(imagenet_dir, out, "--workers", "2")) == 0
    return out


def read(data_dir, split):
    """The examples as tfds reads them from the files alone, undecoded."""
    builder = tfds.builder_from_directory(data_dir / VERSION)
    return list(
        builder.as_dataset(
            split=split, decoders={"image": tfds.decode.SkipDecoding()}
        ).as_numpy_iterator()
    )


def opened(data):
    return Image.open(io.BytesIO(data))


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "validation", "train[:99%]", "train[99%:]"])
def test_tfds_reads_the_same_examples_in_the_same_order(imagenet_dir, small_dir, split):
    before, after = read(imagenet_dir, split), read(small_dir, split)
    assert len(before) == len(after)
    changed = 0
    for old, new in zip(before, after, strict=True):
        assert old["file_name"] == new["file_name"]
        assert old["label"] == new["label"]
        width, height = opened(old["image"]).size
        if min(width, height) <= SHORT:
            assert old["image"] == new["image"]
            continue
        changed += 1
        share = SHORT / min(width, height)
        size = (round(width * share), round(height * share))
        assert opened(new["image"]).size == size
        if changed % 20 == 0:
            pixels = [tf.io.decode_jpeg(x["image"], 3).numpy() for x in (old, new)]
            error = pixels[1] - resized(pixels[0], size)
            assert np.abs(error).mean() < 4
    assert changed == sum(
        old["image"] != new["image"] for old, new in zip(before, after, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "split", ["train[:2%]", "train[7:40]+validation[:3]", "validation[-30%:]"]
)
def test_our_slices_and_classes_are_the_same(imagenet_dir, small_dir, split):
    old, new = (
        sources.open_source(name="imagenet2012", split=split, data_dir=str(folder))
        for folder in (imagenet_dir, small_dir)
    )
    assert old.class_names == new.class_names
    names = [
        [x.read(tf.constant(i, tf.int64))["file_name"].numpy() for i in range(len(x))]
        for x in (old, new)
    ]
    assert names[0] == names[1]
    assert (old.prepared, old.notices) == (None, ())
    folder = str(small_dir / VERSION)
    assert new.prepared == {
        "folder": folder, "short_side": SHORT, "filter": "bicubic", "quality": 95,
    }  # fmt: skip
    [notice] = new.notices
    assert f"{folder}: images were resized to 160 before" in notice


@pytest.mark.slow
def test_the_metadata_are_copied_but_for_sizes_and_a_sentence(imagenet_dir, small_dir):
    old, new = imagenet_dir / VERSION, small_dir / VERSION
    names = [
        {path.name for path in x.iterdir() if path.name != ".record_index"}
        for x in (old, new)
    ]
    assert names[1] == names[0] | {"prepared.json"}
    for name in ("features.json", "label.labels.txt"):
        assert (old / name).read_bytes() == (new / name).read_bytes()
    before, after = (
        json.loads((x / "dataset_info.json").read_text()) for x in (old, new)
    )
    said = after.pop("description").removeprefix(before.pop("description")).strip()
    assert said.startswith("Images whose shorter side was larger were resized to 160")
    for split in after["splits"]:
        files = new.glob(f"*-{split['name']}.tfrecord*")
        lengths = [
            len(record) for file in sorted(files)
            for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
        ]  # fmt: skip
        assert split.pop("numBytes") == str(sum(lengths))
    for split in before["splits"]:
        del split["numBytes"]
    assert before == after
    record = json.loads((new / "prepared.json").read_text())
    assert record["source"] == str(old)
    assert record["source_sizes"] == {"train": 300, "validation": 50}
    sizes = [
        opened(x["image"]).size
        for s in ("train", "validation")
        for x in read(imagenet_dir, s)
    ]
    large = sum(min(size) > SHORT for size in sizes)
    assert record["counts"] == {"resized": large, "small enough": 350 - large}


@pytest.mark.slow
def test_only_the_image_of_a_record_changes(imagenet_dir, small_dir):
    name = "imagenet2012-train.tfrecord-00001-of-00004"
    both = [
        list(tf.data.TFRecordDataset(str(x / VERSION / name)).as_numpy_iterator())
        for x in (imagenet_dir, small_dir)
    ]
    same = 0
    for old, new in zip(*both, strict=True):
        examples = [tf.train.Example.FromString(x) for x in (old, new)]
        images = [x.features.feature.pop("image").bytes_list.value[0] for x in examples]
        assert examples[0] == examples[1]
        if images[0] == images[1]:
            same += 1
            assert old == new
    assert 0 < same < 75


# ------------------------------------------------------- one sentence, nothing written


def fails(capsys, argv):
    assert prepare.main([str(x) for x in argv]) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


@pytest.mark.slow
def test_the_same_command_again_does_nothing_and_another_is_refused(
    imagenet_dir, small_dir, capsys, inline
):
    there = {p: p.stat().st_mtime_ns for p in small_dir.rglob("*")}
    assert prepare.main(arguments(imagenet_dir, small_dir)) == 0
    assert "already prepared" in capsys.readouterr().out
    for flag, before, now in (
        ("quality", 95, 90), ("short_side", 160, 100), ("filter", "bicubic", "lanczos"),
    ):  # fmt: skip
        line = fails(capsys, arguments(imagenet_dir, small_dir, f"--{flag}", str(now)))
        assert f"other settings ({flag}: expected {before!r}, got {now!r}): " in line
    assert {p: p.stat().st_mtime_ns for p in small_dir.rglob("*")} == there


@pytest.mark.slow
def test_what_was_prepared_is_not_prepared_again(small_dir, tmp_path, capsys, inline):
    line = fails(capsys, arguments(small_dir, tmp_path / "out"))
    assert (
        "were resized to 160 before: prepare the data set that they came from" in line
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_program_is_refused(imagenet_dir, tmp_path, capsys, inline):
    for name in ("5.1.0", "5.1.0.preparing"):
        folder = tmp_path / name / "imagenet2012" / name
        folder.mkdir(parents=True)
        (folder / "mine.txt").write_text("precious")
        line = fails(capsys, arguments(imagenet_dir, tmp_path / name))
        assert "written by another program: choose another --out" in line
        assert [p.name for p in folder.parent.iterdir()] == [name]
        assert (folder / "mine.txt").read_text() == "precious"
    # The data set itself.
    line = fails(capsys, arguments(imagenet_dir, imagenet_dir))
    assert "exists and was written by another program" in line


def test_unfinished_work_of_other_settings_is_refused(
    imagenet_dir, tmp_path, capsys, inline, monkeypatch
):
    def stop(*_):
        raise OSError("the disk is gone")

    monkeypatch.setattr(shards, "_join", stop)
    assert "the disk is gone" in fails(capsys, arguments(imagenet_dir, tmp_path))
    line = fails(capsys, arguments(imagenet_dir, tmp_path, "--quality", "90"))
    assert "(quality: expected 95, got 90): give the same ones" in line


@pytest.mark.parametrize("name", ["dataset_info.json", "imagenet2012-train"])
def test_a_source_that_changed_is_refused(
    copied, tmp_path, capsys, inline, monkeypatch, name
):
    """A shard of the same size, or other metadata."""

    def stop(*_):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_join", stop)
        assert "the disk is gone" in fails(capsys, arguments(copied, tmp_path / "out"))
    path = min((copied / VERSION).glob(f"{name}*"))
    data = path.read_bytes()
    if path.suffix == ".json":
        data = json.dumps({**json.loads(data), "citation": "other"}).encode()
    path.write_bytes(data)
    line = fails(capsys, arguments(copied, tmp_path / "out"))
    assert f"was written from {path.parent} before files there changed" in line
    assert "remove it, or give another --out" in line


def test_two_at_a_time_are_refused(imagenet_dir, tmp_path, capsys, inline):
    import fcntl

    folder = tmp_path / "imagenet2012" / "5.1.0.preparing"
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        line = fails(capsys, arguments(imagenet_dir, tmp_path))
    assert "another process is at work" in line


def test_without_space_nothing_is_written(
    imagenet_dir, tmp_path, capsys, inline, monkeypatch
):
    def usage(free):
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9**9, 0, free)
        )

    usage(3_000_000)
    line = fails(capsys, arguments(imagenet_dir, tmp_path / "out"))
    assert "has only 3.0 MB free" in line
    assert not (tmp_path / "out").exists()
    # The estimate, from 128 records, is near the truth.
    usage(10**9)
    assert prepare.main(arguments(imagenet_dir, tmp_path / "out")) == 0
    estimate = float(capsys.readouterr().out.split("about ")[1].split(" MB")[0])
    files = (tmp_path / "out" / VERSION).glob("*.tfrecord*")
    assert estimate == pytest.approx(
        sum(p.stat().st_size for p in files) / 1e6, rel=0.15
    )


def one_shard(folder):
    """A data set of one shard of 40 images of 300 x 200; return its bytes."""
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (200, 300, 3), np.uint8) for _ in range(40)]
    tfds.dataset_builders.AdhocBuilder(
        name="one",
        version="1.0.0",
        features=tfds.features.FeaturesDict({"image": tfds.features.Image()}),
        split_datasets={"train": list(enumerate({"image": x} for x in pixels))},
        data_dir=folder,
    ).download_and_prepare()
    return sum(path.stat().st_size for path in folder.rglob("*.tfrecord*"))


def test_a_shard_and_its_parts_need_space_together(
    tmp_path, capsys, inline, monkeypatch
):
    """What is on the disk at most, while shards are joined, is asked for before."""
    monkeypatch.setattr(shards, "_LENGTH", 7)
    size = one_shard(tmp_path / "one")
    out, most = tmp_path / "out", [0]
    replace = os.replace

    def noted(old, new):
        found = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
        most[0] = max(most[0], sum(found))
        replace(old, new)

    monkeypatch.setattr(os, "replace", noted)
    flags = ["--name", "one", "--short_side", "300", "--data_dir", tmp_path / "one"]
    argv = [str(x) for x in (*flags, "--out", out)]  # all images are copied
    free = int(1.5 * size)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9**9, 0, free)
    )
    line = fails(capsys, argv)
    assert "more while shards are joined" in line
    assert not out.exists()
    free = int(2.3 * size)
    assert prepare.main(argv) == 0
    assert 1.9 * size < most[0] < free
    assert "40 images were copied undecoded" in capsys.readouterr().out
    flags[3] = "30"
    assert prepare.main([str(x) for x in (*flags, "--out", tmp_path / "small")]) == 0
    assert "undecoded" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--kind", "huggingface", "--data_dir", "x"], "'huggingface' is not served"),
        (["--kind", "arrays", "--name", "digits"], "'arrays' is not served"),
        ([], "give --name"),
        (["--name", "imagenet2013"], "did you mean 'imagenet2012'"),
        (["--name", "imagenet2012", "--data_dir", "none"], "is not prepared"),
    ],
)
def test_wrong_arguments(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, ["--out", "out", *argv])
    assert list(tmp_path.iterdir()) == []


def adhoc(folder, features):
    """A data set of two 4 x 5 images."""
    rows = [{"image": np.full((4, 5, 3), i, np.uint8), "x": i} for i in range(2)]
    rows = [{k: row[k] for k in features} for row in rows]
    tfds.dataset_builders.AdhocBuilder(
        name="adhoc",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": list(enumerate(rows))},
        data_dir=folder,
    ).download_and_prepare()


def test_images_of_a_declared_size_or_none_are_refused(tmp_path, capsys, inline):
    flags = ["--name", "adhoc", "--out", tmp_path / "out", "--short_side", "3"]
    fixed = tfds.features.Image(shape=(4, 5, 3))
    adhoc(tmp_path / "fixed", {"image": fixed})
    line = fails(capsys, [*flags, "--data_dir", tmp_path / "fixed"])
    assert "declares that its images are (4, 5, 3)" in line
    adhoc(tmp_path / "none", {"x": np.int64})
    line = fails(capsys, [*flags, "--data_dir", tmp_path / "none"])
    assert "no image under the name 'image': its features are x" in line


# ------------------------------------------------------------------------------ damage


SHARD = "imagenet2012-train.tfrecord-00002-of-00004"


def cut(data_dir, place):
    """Cut the image of one record short; everything else of the shard is right."""
    path = str(data_dir / VERSION / SHARD)
    all_of_it = list(tf.data.TFRecordDataset(path).as_numpy_iterator())
    with tf.io.TFRecordWriter(path) as writer:
        for i, record in enumerate(all_of_it):
            if i == place:
                example = tf.train.Example.FromString(record)
                values = example.features.feature["image"].bytes_list.value
                values[0] = values[0][: len(values[0]) // 2]
                record = example.SerializeToString()
            writer.write(record)


def flip(data_dir, place):
    """Change one byte of one record, so that its checksum is wrong."""
    path = data_dir / VERSION / SHARD
    data = bytearray(path.read_bytes())
    at = 0
    for _ in range(place):
        at += 16 + struct.unpack_from("<Q", data, at)[0]
    data[at + 300] ^= 255
    path.write_bytes(data)


def place_of_large(data_dir):
    """The place in SHARD of an image that is resized, neither first nor last."""
    path = str(data_dir / VERSION / SHARD)
    for i, record in enumerate(tf.data.TFRecordDataset(path).as_numpy_iterator()):
        example = tf.train.Example.FromString(record)
        features = example.features.feature
        image = features["image"].bytes_list.value[0]
        if i > 5 and min(opened(image).size) > SHORT:
            return i, features["file_name"].bytes_list.value[0].decode()
    raise AssertionError


@pytest.mark.parametrize(("harm", "why"), [(cut, "truncated"), (flip, "corrupted")])
def test_a_damaged_record_is_named_or_left_in_its_place(
    copied, tmp_path, capsys, inline, monkeypatch, harm, why
):
    monkeypatch.setattr(shards, "_LENGTH", 20)
    place, name = place_of_large(copied)
    harm(copied, place)
    out = tmp_path / "out"
    line = fails(capsys, arguments(copied, out))
    assert f"the split 'train' is damaged: record {place}" in line
    assert f"{SHARD}, at byte" in line
    assert why in line
    assert (name in line) == (harm is cut)
    assert not (out / VERSION).exists()
    # The same command with the flag continues, and leaves the record as it is; without
    # it, a later start does not accept that.
    with monkeypatch.context() as patch:
        patch.setattr(shards.Shards, "_write_metadata", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare.main(arguments(copied, out, "--skip_damaged"))
    line = fails(capsys, arguments(copied, out))
    assert f"the split 'train' is damaged: record {place}" in line
    assert prepare.main(arguments(copied, out, "--skip_damaged")) == 0
    assert "1 damaged" in capsys.readouterr().out
    assert (
        json.loads((out / VERSION / "prepared.json").read_text())["counts"]["damaged"]
        == 1
    )
    frames = []
    for folder in (copied, out):
        path = str(folder / VERSION / SHARD)
        offsets = record_index.shard_offsets(path)
        assert len(offsets) == 75
        frames.append(record_index.frame(path, offsets[place]))
    assert frames[0] == frames[1]
    # Training leaves it out, and has every other example.
    data = dict(name="imagenet2012", split="train", data_dir=str(out))
    stream, _ = pipeline.make_train(
        data=data, batch_size=50, seed=0, pp="decode|resize(8)|keep('image', '_id')",
        skip_errors=True,
    )  # fmt: skip
    batches = list(itertools.islice(iter(stream), 6))
    seen = {int(i) for batch in batches for i in batch["_id"]}
    assert stream.skipped(0, 6) == 1
    assert seen == {*range(300)} - {150 + place}


def other_label(shard):
    """Change a label; the shard is a right one otherwise."""
    records_there = list(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator())
    example = tf.train.Example.FromString(records_there[7])
    example.features.feature["label"].int64_list.value[0] += 1
    records_there[7] = example.SerializeToString()
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in records_there:
            writer.write(record)


def zeros(shard):
    """Lose 200 bytes of an image."""
    data = shard.read_bytes()
    at = data.index(b"\xff\xd8\xff") + 1000
    assert any(data[at : at + 200])
    shard.write_bytes(data[:at] + bytes(200) + data[at + 200 :])


def more(shard):
    """Append a record, which is there twice then."""
    data = shard.read_bytes()
    first = record_index.frame(str(shard), 0)
    shard.write_bytes(data + first)


@pytest.mark.parametrize("harm", [other_label, zeros, more])
def test_a_harmed_shard_is_noticed_in_the_end_and_alone_written_again(
    imagenet_dir, tmp_path, capsys, inline, monkeypatch, harm
):
    """The check is not of what was meant to be written, but of what is there."""
    join, write, written = shards._join, records.write, []

    def wrong(shard, count):
        join(shard, count)
        if shard.name == SHARD:
            harm(shard)

    def noted(part, *rest):
        written.append(os.path.basename(part.path))
        return write(part, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_join", wrong)
        line = fails(capsys, arguments(imagenet_dir, tmp_path))
    assert f"{SHARD} is not what was written: give the same command again" in line
    assert not (tmp_path / VERSION).exists()
    monkeypatch.setattr(records, "write", noted)
    assert prepare.main(arguments(imagenet_dir, tmp_path)) == 0
    assert {*written} == {SHARD}
    path = str(tmp_path / VERSION / SHARD)
    assert len(list(tf.data.TFRecordDataset(path).as_numpy_iterator())) == 75


# -------------------------------------------------------------------------- after a kill


SLOWLY = """
import sys
from input_pipeline.prepare import shards
from input_pipeline.prepare.__main__ import main
shards._LENGTH = 10
sys.exit(main(sys.argv[1:]))
"""


def descendants(pid):
    """The processes that a process and its children have started, from /proc."""
    children = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, waiting = [], [pid]
    while waiting:
        mine = children.get(waiting.pop(), [])
        found += mine
        waiting += mine
    return found


def is_alive(pid):
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
def test_a_killed_process_is_continued(
    imagenet_dir, small_dir, tmp_path, monkeypatch, request, capsys
):
    argv = arguments(imagenet_dir, tmp_path, "--workers", "2")
    process = subprocess.Popen([sys.executable, "-c", SLOWLY, *argv], cwd=ROOT)
    unfinished = tmp_path / "imagenet2012" / "5.1.0.preparing"
    while len(list(unfinished.glob(".done/*.json"))) < 9:
        assert process.poll() is None
        time.sleep(0.001)
    theirs = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(theirs) >= 3
    deadline = time.monotonic() + 60
    while any(map(is_alive, theirs)):
        assert time.monotonic() < deadline, "a process is left behind"
        time.sleep(0.05)
    assert not (tmp_path / VERSION).exists()
    done = {path.stem for path in unfinished.glob(".done/*.json")}
    assert 9 <= len(done) < 36

    # The same command does the rest, and no more.
    request.getfixturevalue("inline")
    monkeypatch.setattr(shards, "_LENGTH", 10)
    written = []
    write = records.write

    def noted(part, target, *rest):
        written.append(os.path.basename(target))
        return write(part, target, *rest)

    monkeypatch.setattr(records, "write", noted)
    assert prepare.main(argv) == 0
    assert not done & set(written)
    assert len(done) + len(written) == 4 * 8 + 2 * 2 + 2 * 2
    assert not unfinished.exists()
    for path in (small_dir / VERSION).iterdir():
        if path.is_file() and path.name != "prepared.json":
            assert path.read_bytes() == (tmp_path / VERSION / path.name).read_bytes()


def test_a_worker_that_is_killed_is_one_sentence():
    with (
        work.Workers(1) as workers,
        pytest.raises(ValueError, match="one of the processes was killed"),
    ):
        list(workers.each(os._exit, [(9,)]))
