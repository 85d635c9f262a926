"""Data in a bucket: the same examples, order and bits as on a local disk."""

import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from input_pipeline import bucket, pipeline, sources
from input_pipeline.sources import bucket_shards

PP = 'decode_jpeg_and_inception_crop(32)|flip_lr|keep("image", "label", "_id")'
EVAL_PP = 'decode|resize(32)|keep("image", "label")'

on_gs = pytest.mark.parametrize("remote", ["gs"], indirect=True)
on_s3 = pytest.mark.parametrize("remote", ["s3"], indirect=True)


def upload(folder, remote, below=""):
    there = bucket.Bucket.open(remote.url)
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and ".record_index" not in path.parts:
            there.put(f"{below}{path.relative_to(folder)}", path.read_bytes())
    return there


def batches(data, count=4, start=0, **settings):
    stream, _ = pipeline.make_train(
        data=data, batch_size=8, seed=3, pp=PP, start_step=start, num_parallel_calls=2,
        **settings,
    )  # fmt: skip
    return list(itertools.islice(stream, count))


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize(
    "settings",
    [{}, {"skip_errors": True}, {"process_index": 1, "process_count": 2}],
    ids=str,
)
def test_a_tfds_data_set_gives_the_batches_of_a_local_disk(
    imagenet_dir, remote, settings
):
    upload(imagenet_dir, remote)
    section = {"name": "imagenet2012", "split": "train[:90%]"}
    local = batches({**section, "data_dir": str(imagenet_dir)}, **settings)
    assert_same(batches({**section, "data_dir": remote.url}, **settings), local)
    resumed = batches({**section, "data_dir": remote.url}, 2, start=2, **settings)
    assert_same(resumed, local[2:])


@pytest.fixture
def photos(tmp_path):
    """A folder train/CLASS/*.png of 24 images, and files that are none."""
    rng = np.random.default_rng(0)
    for number in range(24):
        path = tmp_path / "photos" / "train" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(path)
    (tmp_path / "photos" / "train" / "a" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


@pytest.mark.parametrize("settings", [{}, {"skip_errors": True}], ids=str)
def test_a_folder_gives_the_batches_of_a_local_disk(photos, remote, settings):
    upload(photos, remote)
    section = {"kind": "folder", "split": "train[:90%]"}
    pp = 'decode|resize(16)|keep("image", "label", "_id")'

    def stream(data_dir):
        data = {**section, "data_dir": data_dir}
        made, _ = pipeline.make_train(
            data=data, batch_size=8, seed=3, pp=pp, **settings
        )
        return made

    local, there = stream(str(photos)), stream(remote.url)
    assert_same(list(itertools.islice(there, 4)), list(itertools.islice(local, 4)))
    assert there.class_names == local.class_names
    theirs = [x.replace(remote.url, str(photos)) for x in there.source.notices]
    assert theirs == list(local.source.notices)
    assert there.source.nbytes() == local.source.nbytes()
    assert there.source.describe(3) == local.source.describe(3).replace(
        str(photos), remote.url
    )


@on_s3
def test_an_evaluation_reads_the_batches_of_a_local_disk(imagenet_dir, remote):
    upload(imagenet_dir, remote)
    section = {"name": "imagenet2012", "split": "validation"}

    def stream(data_dir):
        data = {**section, "data_dir": data_dir}
        return list(pipeline.make_eval(data=data, batch_size=16, pp_fn=EVAL_PP)[0])

    assert_same(stream(remote.url), stream(str(imagenet_dir)))


@on_gs
def test_a_shuffle_buffer_reads_each_example_once(photos, remote):
    upload(photos, remote)
    data = {"kind": "folder", "split": "train", "data_dir": remote.url}
    stream, size = pipeline.make_train(
        data=data, batch_size=8, seed=3, shuffle_buffer_size=8,
        pp='decode|resize(16)|keep("image", "label", "_id")',
    )  # fmt: skip
    seen = [i for batch in itertools.islice(stream, 3) for i in batch["_id"]]
    assert sorted(seen) == list(range(size))


def train(remote, count=2, **settings):
    data = {"name": "imagenet2012", "split": "train", "data_dir": remote.url}
    return batches(data, count, **settings)


def test_a_record_is_one_request_of_its_own_bytes(imagenet_dir, remote):
    """The request returns the data, and the 16 bytes of length and checksums."""
    upload(imagenet_dir, remote)
    data = {"name": "imagenet2012", "split": "train", "data_dir": remote.url}
    source = sources.open_source(**data)
    remote.set(reset=True)
    source.read(tf.constant(5, tf.int64))
    asked = remote.set()
    assert asked["requests"] == {"GET": 1}
    frame = source._stops[5] - source._records[5]
    assert asked["bytes_out"] == frame


@on_s3
def test_the_index_is_kept_beside_the_shards(
    imagenet_dir, remote, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    there = upload(imagenet_dir, remote)
    expected = train(remote)
    kept = [x.key for x in there.list() if "/.record_index/" in x.key]
    assert len(kept) == 4
    assert not (tmp_path / "cache").exists()
    with monkeypatch.context() as patch:
        patch.setattr(bucket_shards.Shards, "scan", lambda *_: 1 / 0)
        assert_same(train(remote), expected)
    # A damaged one, and one of an older shard, are made again.
    there.put(kept[0], b"no index")
    shard = kept[1].replace(".record_index/", "").removesuffix(".npy")
    there.put(shard, there.read(shard))
    scan, scanned = bucket_shards.Shards.scan, []

    def counted(self, url):
        scanned.append(url.removeprefix(f"{remote.url}/"))
        return scan(self, url)

    monkeypatch.setattr(bucket_shards.Shards, "scan", counted)
    assert_same(train(remote), expected)
    first = kept[0].replace(".record_index/", "").removesuffix(".npy")
    assert sorted(scanned) == sorted([first, shard])


@on_gs
def test_the_index_is_kept_here_if_the_bucket_may_not_be_written(
    imagenet_dir, remote, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    upload(imagenet_dir, remote)
    remote.fail("403", -1, method="PUT")
    expected = train(remote)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 4
    monkeypatch.setattr(bucket_shards.Shards, "scan", lambda *_: 1 / 0)
    assert_same(train(remote), expected)


def broken(imagenet_dir, remote, tmp_path, index):
    """The same data set in the bucket and in a folder, with one flipped bit in both."""
    copy = shutil.copytree(
        imagenet_dir, tmp_path / "copy", ignore=shutil.ignore_patterns(".record_index")
    )
    source = sources.open_source(
        name="imagenet2012", split="train", data_dir=str(imagenet_dir)
    )
    place = re.search(r"of (\S+), at byte (\d+)", source.describe(index))
    shard = copy / Path(place[1]).relative_to(imagenet_dir)
    content = bytearray(shard.read_bytes())
    content[int(place[2]) + 30] ^= 1
    shard.write_bytes(content)
    upload(copy, remote)
    return copy


@on_s3
def test_a_wrong_checksum_is_named(imagenet_dir, remote, tmp_path):
    broken(imagenet_dir, remote, tmp_path, 7)
    with pytest.raises(ValueError, match="cannot be read") as caught:
        train(remote, 40)
    said = str(caught.value)
    assert "example 7 of imagenet2012 train" in said
    assert f"{remote.url}/imagenet2012/" in said
    assert "the checksum of its data is wrong" in said


@on_gs
def test_a_wrong_checksum_is_replaced_as_on_a_local_disk(
    imagenet_dir, remote, tmp_path
):
    copy = broken(imagenet_dir, remote, tmp_path, 7)
    data = {"name": "imagenet2012", "split": "train", "data_dir": str(copy)}
    local = batches(data, 38, skip_errors=True)
    assert 7 not in {i for batch in local for i in batch["_id"]}
    assert_same(train(remote, 38, skip_errors=True), local)


@on_s3
@pytest.mark.parametrize("kind", ["503", "429", "reset", "cut"])
def test_a_fault_that_passes_changes_nothing(imagenet_dir, remote, kind):
    upload(imagenet_dir, remote)
    expected = train(remote)
    remote.fail(kind, 5, key="tfrecord")
    assert_same(train(remote, skip_errors=True), expected)
    assert remote.set()["failed"] == 5


@on_s3
@pytest.mark.parametrize("kind", ["503", "429", "reset", "cut"])
def test_a_fault_while_the_index_is_made_changes_nothing(imagenet_dir, remote, kind):
    there = upload(imagenet_dir, remote)
    section = {"name": "imagenet2012", "split": "train"}
    remote.fail(kind, 5, key="tfrecord")
    source = sources.open_source(**section, data_dir=remote.url)
    assert remote.set()["failed"] == 5
    local = sources.open_source(**section, data_dir=str(imagenet_dir))
    np.testing.assert_array_equal(source._records, local._records)
    assert len([x for x in there.list() if "/.record_index/" in x.key]) == 4


@on_gs
def test_an_index_that_cannot_be_made_is_one_error_and_is_not_kept(
    imagenet_dir, remote
):
    there = upload(imagenet_dir, remote)
    remote.fail("403", -1, method="GET", key="train.tfrecord-00002")
    with pytest.raises(bucket.NotAllowed, match=r"tfrecord-00002.* the store refuses"):
        train(remote)
    kept = [x.key for x in there.list() if "/.record_index/" in x.key]
    assert not any("train.tfrecord-00002" in key for key in kept)


@on_s3
def test_a_shard_that_is_replaced_before_its_index_is_made(imagenet_dir, remote):
    there = upload(imagenet_dir, remote)
    shards = bucket_shards.Shards(remote.url, "imagenet2012")
    key = next(x.key for x in there.list() if "train.tfrecord-00002" in x.key)
    there.put(key, there.read(key))
    with pytest.raises(bucket.Changed, match="another program has replaced"):
        shards.offsets([f"{remote.url}/{key}"])


@on_gs
@pytest.mark.parametrize("in_flight", [1, 33])
def test_the_number_of_reads_in_flight_changes_no_batch(
    imagenet_dir, remote, in_flight
):
    upload(imagenet_dir, remote)
    section = {"name": "imagenet2012", "split": "train"}
    local = batches({**section, "data_dir": str(imagenet_dir)}, 6)
    ours = batches({**section, "data_dir": remote.url}, 6, reads_in_flight=in_flight)
    assert_same(ours, local)


@on_gs
@pytest.mark.parametrize("skip_errors", [False, True])
def test_a_fault_that_stays_is_no_damaged_example(imagenet_dir, remote, skip_errors):
    upload(imagenet_dir, remote)
    stream, _ = pipeline.make_train(
        data={"name": "imagenet2012", "split": "train", "data_dir": remote.url},
        batch_size=8, seed=3, pp=PP, skip_errors=skip_errors,
    )  # fmt: skip
    remote.fail("401", -1)  # the token has expired
    with pytest.raises(
        bucket.NotAllowed, match="credentials are missing or not accepted"
    ):
        next(iter(stream))


@pytest.mark.parametrize("skip_errors", [False, True])
def test_a_shard_that_is_replaced_ends_the_stream(imagenet_dir, remote, skip_errors):
    there = upload(imagenet_dir, remote)
    stream, _ = pipeline.make_train(
        data={"name": "imagenet2012", "split": "train", "data_dir": remote.url},
        batch_size=8, seed=3, pp=PP, skip_errors=skip_errors,
    )  # fmt: skip
    for info in list(there.list()):
        if "tfrecord" in info.key and "train" in info.key and ".npy" not in info.key:
            there.put(info.key, there.read(info.key))
    with pytest.raises(bucket.Changed, match=r"tfrecord.* has replaced or removed"):
        next(iter(stream))


@on_s3
def test_a_data_set_that_is_not_prepared_is_told(remote):
    with pytest.raises(sources.DataNotFound) as caught:
        train(remote)
    assert f"finds none in {remote.url}/imagenet2012" in str(caught.value)


@on_gs
def test_a_missing_or_truncated_shard_is_named(imagenet_dir, remote):
    there = upload(imagenet_dir, remote)
    shard = next(x.key for x in there.list() if "train.tfrecord" in x.key)
    content = there.read(shard)
    there.put(shard, content[:-5])
    with pytest.raises(
        ValueError, match=re.escape(f"{remote.url}/{shard} is truncated")
    ):
        train(remote)
    there.remove([shard])
    with pytest.raises(ValueError, match=re.escape(f"{remote.url}/{shard} is missing")):
        train(remote)


@on_s3
def test_the_folder_of_a_split_is_no_data_dir(photos, remote):
    upload(photos, remote)
    with pytest.raises(ValueError, match="is the folder of one") as caught:
        sources.open_source(
            kind="folder", data_dir=f"{remote.url}/train/", split="train"
        )
    assert str(caught.value).endswith(f"set data_dir to {remote.url}")
