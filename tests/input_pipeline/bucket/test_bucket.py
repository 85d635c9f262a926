"""The operations of a bucket, on gs and on s3, against the server of tests."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from input_pipeline import bucket as bucket_lib
from input_pipeline.bucket import Bucket, Changed, Exists, NotFound, Short

DATA = bytes(range(256)) * 40


@pytest.fixture
def bucket(remote):
    return Bucket.open(remote.url)


@pytest.mark.parametrize("key", ["x", "a-b.c d%41/e+ä&<1>.bin", "x/y/z"])
def test_an_object_of_any_name_comes_back(bucket, key):
    bucket.put(key, DATA)
    assert bucket.read(key) == DATA
    assert [info.key for info in bucket.list()] == [key]


@pytest.mark.parametrize(
    ("start", "length"), [(0, None), (0, 10), (100, 300), (9000, None), (5, 0)]
)
def test_a_range_is_one_request_and_its_own_bytes(bucket, remote, start, length):
    bucket.put("x", DATA)
    remote.set(reset=True)
    expected = DATA[start:] if length is None else DATA[start : start + length]
    assert bucket.read("x", start, length) == expected
    counts = remote.set()
    assert counts["bytes_out"] == len(expected)
    assert counts["requests"] == ({"GET": 1} if expected else {})


@pytest.mark.parametrize("start", [len(DATA) - 5, len(DATA), len(DATA) + 5])
def test_a_range_beyond_the_end_is_refused(bucket, start):
    bucket.put("x", DATA)
    with pytest.raises(Short):
        bucket.read("x", start, 10)


def test_a_replaced_object_is_not_read(bucket):
    before = bucket.put("x", DATA)
    assert bucket.read("x", 0, 5, if_match=before.etag) == DATA[:5]
    bucket.put("x", DATA[::-1])
    with pytest.raises(Changed, match="replaced"):
        bucket.read("x", 0, 5, if_match=before.etag)


@pytest.mark.parametrize("size", [0, 999, 1000, 2500])
def test_a_stream_is_one_request_for_each_part(bucket, remote, size):
    bucket.put("x", DATA[:size])
    [info] = bucket.list()
    remote.set(reset=True)
    parts = list(bucket.stream(info, part=1000))
    assert b"".join(parts) == DATA[:size]
    assert remote.set()["requests"].get("GET", 0) == -(-size // 1000) == len(parts)


def test_a_stream_ends_when_its_object_is_replaced(bucket):
    bucket.put("x", DATA)
    parts = bucket.stream(bucket.head("x"), part=1000)
    next(parts)
    bucket.put("x", DATA[::-1])
    with pytest.raises(Changed):
        next(parts)


def test_a_large_file_goes_in_parts(bucket, remote, tmp_path):
    content = os.urandom(11 * 2**20)
    (tmp_path / "large").write_bytes(content)
    bucket.put("x", tmp_path / "large")
    counts = remote.set()
    assert counts["requests"] == {"PUT": 3, "POST": 2}
    assert counts["uploads"] == 0
    assert bucket.read("x") == content


def test_a_missing_file_is_an_error_of_the_file(bucket, tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        bucket.put("x", tmp_path / "none")


def test_put_if_absent_puts_once(bucket):
    bucket.put_if_absent("lock", b"mine")
    with pytest.raises(Exists, match="exists already"):
        bucket.put_if_absent("lock", b"other")
    assert bucket.read("lock") == b"mine"


def test_put_if_unchanged_replaces_that_version_only(bucket):
    first = bucket.put_if_absent("lock", b"1")
    second = bucket.put_if_unchanged("lock", b"2", first)
    with pytest.raises(Changed):
        bucket.put_if_unchanged("lock", b"3", first)
    bucket.put_if_unchanged("lock", b"4", second)
    assert bucket.head("lock").version != second
    bucket.put_if_unchanged("lock", b"5", bucket.head("lock").version)
    assert bucket.read("lock") == b"5"
    bucket.remove(["lock"])
    with pytest.raises(Changed):
        bucket.put_if_unchanged("lock", b"6", second)


def test_one_of_many_at_once_gets_it(bucket, remote):
    remote.set(latency=0.05)
    barrier = threading.Barrier(8)

    def try_it(i):
        barrier.wait()
        try:
            bucket.put_if_absent("lock", b"%d" % i)
        except Exists:
            return None
        return b"%d" % i

    with ThreadPoolExecutor(8) as pool:
        [winner] = [x for x in pool.map(try_it, range(8)) if x is not None]
    assert bucket.read("lock") == winner


def test_a_listing_of_many_pages_tells_size_and_version(bucket, remote):
    keys = sorted(f"d/{i}" for i in range(7))
    for i, key in enumerate([*keys, "d0", "dd/1"]):
        bucket.put(key, DATA[: i * 10])
    Bucket.open(f"{remote.url}x").put("d/other", b"")
    remote.set(page=3, reset=True)
    found = list(bucket.list("d"))
    assert remote.set()["requests"] == {"GET": 3}
    assert [info.key for info in found] == keys
    assert [info.size for info in found] == [i * 10 for i in range(7)]
    assert [info.etag for info in found] == [bucket.head(key).etag for key in keys]
    assert len(list(bucket.list())) == 9
    assert list(bucket.list("none")) == []


def test_objects_are_removed_also_those_that_are_gone(bucket, remote):
    kept, *keys = [f"{i:02}" for i in range(40)]
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda key: bucket.put(key, DATA), [kept, *keys]))
    bucket.remove(["none", *keys, "gone"])
    bucket.remove(["none"])
    bucket.remove([])
    assert [info.key for info in bucket.list()] == [kept]
    with pytest.raises(NotFound, match="there is no such object"):
        bucket.head("a")


def test_nothing_is_imported_and_asked_before_it_is_needed(remote):
    assert not hasattr(bucket_lib, "obstore")
    Bucket.open(remote.url)
    assert remote.set()["requests"] == {}
