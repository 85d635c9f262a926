"""Shards of a bucket that are copied to a local disk while they are read."""

import errno
import gc
import itertools
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import bucket, pipeline, sources
from input_pipeline.sources import copies

on_gs = pytest.mark.parametrize("remote", ["gs"], indirect=True)
on_s3 = pytest.mark.parametrize("remote", ["s3"], indirect=True)
SPLIT = {"name": "imagenet2012", "split": "train"}
BATCHES = 8  # an epoch of 300 examples, in batches of 38, less the last


@pytest.fixture
def there(imagenet_dir, remote):
    """The data set in the bucket, with its record index."""
    store = bucket.Bucket.open(remote.url)
    for path in sorted(Path(imagenet_dir).rglob("*")):
        if path.is_file() and ".record_index" not in path.parts:
            store.put(str(path.relative_to(imagenet_dir)), path.read_bytes())
    sources.open_source(**SPLIT, data_dir=remote.url)
    return store


def stream(data_dir, **data):
    made, _ = pipeline.make_train(
        data={**SPLIT, "data_dir": str(data_dir), **data}, batch_size=38, seed=3,
        pp='decode_jpeg_and_inception_crop(16)|flip_lr|keep("image", "_id")',
        num_parallel_calls=2, reads_in_flight=8,
    )  # fmt: skip
    return made


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def end_copying():
    """Wait until no thread copies."""
    for thread in threading.enumerate():
        if thread.name == "copy shards":
            thread.join()


def copied(folder):
    return sorted(x for x in Path(folder).rglob("*.tfrecord*") if x.is_file())


def shards(store):
    """The shards of the split in the bucket."""
    named = [x for x in store.list() if "train.tfrecord" in x.key]
    return sorted(x for x in named if not x.key.endswith(".npy"))


def opened(remote, folder):
    """A source of the bucket whose copying has ended."""
    source = sources.open_source(**SPLIT, data_dir=remote.url, cache_dir=str(folder))
    end_copying()
    return source


def read_all(source):
    examples = [source.read(tf.constant(i, tf.int64)) for i in range(len(source))]
    return [(x["image"].numpy(), int(x["label"])) for x in examples]


def test_what_is_copied_needs_no_requests_and_gives_the_same_bits(
    imagenet_dir, there, remote, tmp_path
):
    local = stream(imagenet_dir)
    ours = stream(remote.url, cache_dir=str(tmp_path))
    batches = iter(ours)
    assert_same(itertools.islice(batches, 2), itertools.islice(local, 2))
    end_copying()
    remote.set(reset=True)
    later = ours.from_step(BATCHES)  # in the second epoch
    assert_same(
        itertools.islice(later, BATCHES), itertools.islice(local.from_step(BATCHES), 8)
    )
    assert remote.set()["requests"] == {}
    # Another start finds them; so may another process.
    source = opened(remote, tmp_path)
    remote.set(reset=True)
    assert len(read_all(source)) == 300
    assert remote.set()["requests"] == {}


@on_gs
def test_a_full_disk_is_one_warning(there, remote, tmp_path, monkeypatch, caplog):
    expected = read_all(sources.open_source(**SPLIT, data_dir=remote.url))
    copy, done = copies._copy, []

    def full(store, shard, path, ended):
        if done:
            raise OSError(errno.ENOSPC, "No space left on device")
        done.append(shard)
        copy(store, shard, path, ended)

    monkeypatch.setattr(copies, "_copy", full)
    source = opened(remote, tmp_path)
    assert read_all(source) == expected
    assert len(copied(tmp_path)) == 1
    [said] = [x for x in caplog.messages if "cache_dir" in x]
    assert "No space left on device" in said


@on_s3
def test_what_has_no_room_is_not_copied(there, remote, tmp_path, monkeypatch, caplog):
    sizes = [x.size for x in shards(there)]
    free = [10 + sum(sizes)]

    def usage(folder):
        taken = sum(x.stat().st_size for x in copied(tmp_path))
        return shutil._ntuple_diskusage(100, 0, free[0] - taken)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    opened(remote, tmp_path / "all")  # its margin is 5 bytes
    assert len(copied(tmp_path)) == 4
    shutil.rmtree(tmp_path / "all")
    free[0] -= 6
    opened(remote, tmp_path / "some")
    assert len(copied(tmp_path)) == 3
    [said] = [x for x in caplog.messages if "cache_dir" in x]
    assert "no room for 1 of 4 shards" in said


@on_gs
def test_a_shard_that_has_changed_is_copied_again(there, remote, tmp_path):
    expected = read_all(opened(remote, tmp_path))
    before = copied(tmp_path)
    for info in shards(there):  # the same bytes under another ETag
        there.put(info.key, there.read(info.key))
    for path in before:
        path.write_bytes(bytes(path.stat().st_size))
    assert read_all(opened(remote, tmp_path)) == expected
    after = copied(tmp_path)
    assert len(after) == 4
    assert not {*after} & {*before}


@on_s3
@pytest.mark.parametrize("when", ["before", "while"])
def test_a_copy_that_is_cut_is_not_used(there, remote, tmp_path, when, caplog):
    source = opened(remote, tmp_path)
    expected = read_all(source)
    [path, *_] = copied(tmp_path)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)
    if when == "before":
        source = opened(remote, tmp_path)
    assert read_all(source) == expected
    assert ("is damaged and was removed" in caplog.text) == (when == "while")
    assert path.exists() == (when == "before")


@on_gs
def test_damage_of_the_bucket_is_no_fault_of_the_copy(there, remote, tmp_path):
    first = shards(there)[0]
    content = bytearray(there.read(first.key))
    content[30] ^= 1
    there.put(first.key, bytes(content))
    source = opened(remote, tmp_path)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="the checksum of its data"
    ):
        source.read(tf.constant(0, tf.int64))
    assert len(copied(tmp_path)) == 4


@on_s3
def test_copying_ends_with_its_source(there, remote, tmp_path, monkeypatch):
    began, go_on = threading.Event(), threading.Event()
    parts = bucket.Bucket.stream

    def slowly(self, info, part=1000):
        for content in parts(self, info, part):
            yield content
            began.set()
            go_on.wait(60)

    monkeypatch.setattr(bucket.Bucket, "stream", slowly)
    source = sources.open_source(**SPLIT, data_dir=remote.url, cache_dir=str(tmp_path))
    assert began.wait(60)
    del source
    gc.collect()
    go_on.set()
    end_copying()
    assert [x for x in tmp_path.rglob("*") if x.is_file()] == []


@on_gs
def test_what_a_killed_process_left_is_removed(there, remote, tmp_path, monkeypatch):
    opened(remote, tmp_path)
    place = copied(tmp_path)[0].parent
    for path in copied(tmp_path):
        path.unlink()
    partial = place / f"tmpxyz{copies._PARTIAL}"
    partial.write_bytes(b"half")
    opened(remote, tmp_path)
    assert partial.exists()  # another process may be writing it
    copied(tmp_path)[0].unlink()
    monkeypatch.setattr(copies, "_STALE", -1)
    opened(remote, tmp_path)
    assert not partial.exists()


@on_gs
def test_a_cache_dir_in_a_bucket_is_refused(remote):
    with pytest.raises(ValueError, match="cache_dir of a data section must be a path"):
        sources.open_source(**SPLIT, data_dir=remote.url, cache_dir=remote.url)


def test_a_cache_dir_of_local_data_has_no_effect(imagenet_dir, tmp_path):
    source = sources.open_source(
        **SPLIT, data_dir=str(imagenet_dir), cache_dir=str(tmp_path)
    )
    assert any("cache_dir" in x and "has no effect" in x for x in source.notices)
    assert list(tmp_path.iterdir()) == []
