"""Faults that pass are not seen; each that stays is one sentence of its class."""

import os
import socket
import sys
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from input_pipeline import bucket as bucket_lib
from input_pipeline.bucket import (
    Bucket,
    BucketError,
    Changed,
    Exists,
    Faulty,
    NoBucket,
    NotAllowed,
    NotFound,
)
from tests.helpers.buckets import SECRET

DATA = bytes(range(256)) * 4000
OPERATIONS = {
    "read": lambda b: b.read("x", 3, 1000),
    "whole": lambda b: b.read("x"),
    "list": lambda b: list(b.list()),
    "head": lambda b: b.head("x"),
    "put": lambda b: b.put("y", DATA),
    "put_if_absent": lambda b: b.put_if_absent("z", b"mine"),
    "put_if_unchanged": lambda b: b.put_if_unchanged("x", b"mine", b.head("x").version),
    "remove": lambda b: b.remove(["x"]),
}
WRITES = ("put", "put_if_absent", "put_if_unchanged", "remove")
TOLD = {"gs": ("storage.objectViewer", "storage.objectUser", "gcloud auth"),
        "s3": ("s3:GetObject", "s3:PutObject", "AWS_ACCESS_KEY_ID")}  # fmt: skip


@pytest.fixture
def bucket(remote, monkeypatch):
    """A bucket with an object, which tries again soon."""
    monkeypatch.setattr(bucket_lib, "_IDLE", 0.15)
    monkeypatch.setattr(bucket_lib, "_WAIT", 0.01)
    bucket = Bucket.open(remote.url, patience=20)
    bucket.put("x", DATA)
    return bucket


@pytest.fixture
def brief(bucket, remote):
    """The same bucket with little patience."""
    return Bucket.open(remote.url, patience=0.15)


def fails(kind, work):
    """Return the sentence of the error that `work` raises, of exactly this class."""
    with pytest.raises(BucketError) as raised:
        work()
    assert type(raised.value) is kind
    text = str(raised.value)
    assert "\n" not in text
    assert SECRET not in text
    assert "Debug" not in text
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
    return text


@pytest.mark.parametrize("kind", ["503", "429", "500", "reset", "lost"])
def test_a_fault_that_passes_is_not_seen(bucket, remote, kind):
    for work in OPERATIONS.values():
        remote.fail(kind, 2)
        work(bucket)
        assert remote.set()["failed"] == 2


@pytest.mark.parametrize("kind", ["cut", "stall", "hang"])
@pytest.mark.parametrize("name", ["read", "whole"])
def test_a_body_that_does_not_come_is_read_again(bucket, remote, kind, name):
    remote.fail(kind)
    expected = DATA[3:1003] if name == "read" else DATA
    assert OPERATIONS[name](bucket) == expected
    assert remote.set()["failed"] == 1


def test_a_removal_whose_answer_is_lost_is_done(bucket, remote):
    remote.fail("lost")
    bucket.remove(["x"])
    assert list(bucket.list()) == []


def test_a_conditional_put_whose_answer_is_lost_is_ones_own(bucket, remote):
    remote.fail("lost", method="PUT")
    first = bucket.put_if_absent("lock", b"mine 1")
    assert first == bucket.head("lock").version
    remote.fail("lost", method="PUT")
    second = bucket.put_if_unchanged("lock", b"mine 2", first)
    assert second == bucket.head("lock").version != first
    assert remote.set()["failed"] == 1


def test_a_lost_answer_does_not_take_anothers_object(bucket, remote):
    other = bucket.put("lock", b"other")
    remote.fail("lost", method="PUT")
    fails(Exists, lambda: bucket.put_if_absent("lock", b"mine"))
    remote.fail("lost", method="PUT")
    stale = other._replace(etag='"0"', generation="1")
    if other.generation is None:
        stale = stale._replace(generation=None)
    fails(Changed, lambda: bucket.put_if_unchanged("lock", b"mine", stale))
    assert bucket.read("lock") == b"other"


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_fault_that_stays_is_told_with_its_time(brief, remote, name):
    remote.fail("503", -1)
    text = fails(Faulty, lambda: OPERATIONS[name](brief))
    assert remote.url in text
    said = "503 Service Unavailable"
    if name not in ("head", "put_if_unchanged"):  # HEAD has no body
        said += ", ServiceUnavailable: told by the test"
    assert said in text
    assert "in all tries of " in text


@pytest.mark.parametrize("kind", ["429", "500"])
def test_a_status_that_asks_to_come_back_is_a_fault(brief, remote, kind):
    remote.fail(kind, -1)
    assert kind in fails(Faulty, lambda: brief.read("x"))


@pytest.mark.parametrize("kind", ["reset", "cut", "stall", "hang"])
def test_a_store_that_never_answers_is_told(brief, remote, kind):
    remote.fail(kind, -1)
    text = fails(Faulty, lambda: brief.read("x"))
    assert (
        f"cannot read {remote.url}/x: the store did not answer, or not in full" in text
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_forbidden_says_what_to_grant(bucket, remote, name):
    reading = name not in WRITES
    method = {} if reading else {"method": "PUT"}
    if name == "remove":
        method = {"method": "DELETE" if remote.scheme == "gs" else "POST"}
    remote.fail("403", **method)
    text = fails(NotAllowed, lambda: OPERATIONS[name](bucket))
    assert text.startswith(f"cannot {'read' if reading else 'write'} {remote.url}")
    assert f"grant this account {'roles/' * (remote.scheme == 'gs')}" in text
    assert TOLD[remote.scheme][not reading] in text
    assert remote.set()["failed"] == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "401"},
        {"kind": "403", "code": "SignatureDoesNotMatch"},
        {"kind": "400", "code": "ExpiredToken"},
    ],
    ids=str,
)
def test_refused_credentials_are_told(bucket, remote, fault):
    remote.fail(**fault)
    text = fails(NotAllowed, lambda: bucket.read("x"))
    assert "the credentials are missing or not accepted" in text
    assert TOLD[remote.scheme][2] in text


def test_missing_credentials_are_told(remote, monkeypatch, tmp_path):
    for name in ("GOOGLE_SERVICE_ACCOUNT_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = remote.set()["tokens"]
    text = fails(NotAllowed, lambda: Bucket.open(remote.url).check())
    assert "the credentials are missing or not accepted" in text
    assert remote.set()["tokens"] > asked  # the metadata address is the server's


def test_damaged_credentials_are_told_but_not_shown(bucket_server, monkeypatch):
    pytest.importorskip("obstore")
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", f'{{"private_key": {SECRET}')
    text = fails(NotAllowed, lambda: Bucket.open("gs://b/x").check())
    assert "none can be read" in text


def test_a_missing_bucket_is_told(remote):
    bucket = Bucket.open(f"{remote.scheme}://no-bucket/x")
    for name, work in OPERATIONS.items():
        if name not in ("head", "put_if_unchanged"):  # HEAD has no body to tell it
            assert "no bucket 'no-bucket'" in fails(NoBucket, lambda w=work: w(bucket))
    assert "no bucket 'no-bucket'" in fails(NoBucket, bucket.check)


def test_a_missing_object_is_told(bucket):
    assert "no such object" in fails(NotFound, lambda: bucket.read("none", 0, 5))


def test_another_region_is_told(bucket, remote):
    remote.fail("301")
    assert "set AWS_REGION" in fails(BucketError, lambda: bucket.read("x"))


def test_a_check_is_one_request_and_has_less_patience(bucket, remote, monkeypatch):
    remote.set(reset=True)
    bucket.check()
    assert remote.set()["requests"] == {"GET": 1}
    monkeypatch.setattr(bucket_lib, "_FIRST", 0.2)
    impatient = Bucket.open(remote.url, patience=1000)
    for kind in ("hang", "503"):
        remote.fail(kind, -1)
        fails(Faulty, impatient.check)


def test_no_server_is_told(remote, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = f"http://127.0.0.1:{listener.getsockname()[1]}"
    key = os.environ["GOOGLE_SERVICE_ACCOUNT_KEY"].replace(remote.address, dead)
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", key)
    monkeypatch.setenv("AWS_ENDPOINT_URL", dead)
    bucket = Bucket.open(remote.url, patience=0.5)
    assert "check the network" in fails(Faulty, lambda: bucket.read("x"))


@pytest.mark.parametrize(
    "url",
    ["gs://", "gs://bucket", "gs://bucket/", "gs:/bucket/x", "az://b/x", "http://h/x",
     "bucket/x", "gs:///x", "s3://b/../x", "s3://b//x//y", ""],
)  # fmt: skip
def test_another_url_is_refused(url):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as refused:
        Bucket.open(url)
    assert repr(url) in str(refused.value)


def test_without_the_extra_one_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ValueError, match=r'`pip install -e "\.\[bucket\]"`'):
        Bucket.open("gs://bucket/x")


@pytest.mark.parametrize("name", ["a//b", "a/../b", "a/b\x01"])
def test_an_object_that_no_path_can_name_is_told(bucket, remote, name):
    address = f"{remote.address}/{quote(remote.url.split('//')[1])}/{quote(name)}"
    urlopen(Request(address, b"", method="PUT")).close()
    text = fails(BucketError, lambda: list(bucket.list()))
    assert name.rpartition("/")[2].rstrip("\x01") in text
    assert "rename or remove it" in text
