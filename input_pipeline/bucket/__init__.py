"""Read and write the objects of a bucket, gs://bucket/path or s3://bucket/path.

    bucket = Bucket.open("gs://bucket/tensorflow_datasets")
    bucket.check()                                # one sentence within 10 s, or nothing
    for info in bucket.list("mnist"):
        data = bucket.read(info.key, 12, 100, if_match=info.etag)

Every method may be called from several threads at once. Faults that pass (503, 429, a
reset, a body that is cut or stalls) are retried inside, and are not seen. Whatever stays
is a `BucketError`, an OSError of one sentence. obstore is imported here only, by `open`.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline import places
from input_pipeline.bucket.errors import (
    BucketError,
    Changed,
    Exists,
    Faulty,
    NoBucket,
    NotAllowed,
    NotFound,
    Short,
    explained,
    short,
)

__all__ = [
    "Bucket",
    "BucketError",
    "Changed",
    "Exists",
    "Faulty",
    "Info",
    "NoBucket",
    "NotAllowed",
    "NotFound",
    "Short",
    "Version",
    "split",
]

PART = 8 * 2**20  # bytes of a part of `stream`
PATIENCE = 180.0  # seconds of retries
_FIRST = 3.0  # seconds of retries, and of silence, in `check`: GCS' metadata gets two
_CONNECT = 3.0  # seconds to connect
_IDLE = 15.0  # seconds without a byte that end a request
_REQUEST = 120.0  # seconds of a whole request
_WAIT = 0.1  # seconds before the second try; later ones wait longer


class Version(NamedTuple):
    """The version of an object: GCS tells both, S3 an ETag only."""

    etag: str | None
    generation: str | None


class Info(NamedTuple):
    """An object: its key below the bucket's path, its bytes, its version."""

    key: str
    size: int
    etag: str | None
    generation: str | None  # a listing has none

    @property
    def version(self) -> Version:
        """The version, for `put_if_unchanged`."""
        return Version(self.etag, self.generation)


def split(url: str) -> tuple[str, str, str]:
    """Return (scheme, bucket, path) of gs://bucket/path or s3://bucket/path.

    Raises ValueError, with one sentence, for anything else.
    """
    scheme, colon, rest = url.partition("://")
    name, _, path = rest.partition("/")
    path = path.strip("/")
    if not colon or scheme not in places.BUCKETS or not name or not path:
        raise ValueError(
            f"expected the URL of a folder in a bucket, as gs://BUCKET/FOLDER or "
            f"s3://BUCKET/FOLDER, got {url!r}: give one"
        )
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(
            f"{url!r} has an empty part, '.' or '..' between its slashes: a bucket has "
            "no folders to walk, so give the path without it"
        )
    return scheme, name, path


class Bucket:
    """A folder of a bucket; keys are below it. See `open`."""

    def __init__(self, url: str, patience: float):
        self.url = url
        self._library = _obstore()
        self._store = self._open(patience, _IDLE, _REQUEST)

    @classmethod
    def open(cls, url: str, *, patience: float = PATIENCE) -> "Bucket":
        """Open gs://bucket/path or s3://bucket/path; makes no request.

        Credentials are those of the environment and of the machine. `patience` is how
        many seconds a request is tried for again. Raises ValueError for another URL, or
        if the extra `bucket` is not installed; NotAllowed for unreadable credentials.
        """
        return cls("{}://{}/{}".format(*split(url)), patience)

    @classmethod
    def of_file(cls, url: str) -> tuple["Bucket", str]:
        """Open the folder of a file, or its bucket; return that and the file's key."""
        folder, _, key = "{}://{}/{}".format(*split(url)).rpartition("/")
        return cls(folder, PATIENCE), key

    def check(self) -> None:
        """Raise BucketError within 10 s unless the bucket answers and may be listed."""
        with self._explained("", "read"):
            first = self._open(_FIRST, _FIRST, 2 * _FIRST)
            next(iter(self._library.list(first, chunk_size=1)), None)

    def url_of(self, key: str) -> str:
        """Return the whole URL of a key; of the folder for ""."""
        return f"{self.url}/{key}".rstrip("/")

    def read(
        self,
        key: str,
        start: int = 0,
        length: int | None = None,
        *,
        if_match: str | None = None,
    ) -> bytes:
        """Return `length` bytes from `start` on, by one request; None: all of the rest.

        Raises NotFound, Short if the object ends before, and Changed if its ETag is not
        `if_match`.
        """
        return bytes(self.view(key, start, length, if_match=if_match))

    def view(
        self,
        key: str,
        start: int = 0,
        length: int | None = None,
        *,
        if_match: str | None = None,
    ) -> memoryview:
        """Return what `read` does, as obstore holds it, without a copy."""
        if length == 0:
            return memoryview(b"")
        options: dict[str, Any] = {}
        if length is not None:
            options["range"] = (start, start + length)
        elif start:
            options["range"] = {"offset": start}
        if if_match is not None:
            options["if_match"] = if_match
        with self._explained(key, "read"):
            found = self._library.get(self._store, key, options=options)
            data = memoryview(found.bytes())
        wanted = found.meta["size"] - start if length is None else length
        if len(data) != wanted:
            raise short(self.url_of(key), start, wanted, len(data))
        return data

    def stream(self, info: Info, part: int = PART) -> Iterator[bytes]:
        """Yield an object of `list` or `head` in parts, each by one request.

        Raises Changed if the object is replaced meanwhile.
        """
        for start in range(0, info.size, part):
            length = min(part, info.size - start)
            yield self.read(info.key, start, length, if_match=info.etag)

    def put(self, key: str, content: bytes | Path) -> Version:
        """Write an object whole; a file of more than 5 MiB goes in parts at once.

        Nobody sees a half-written object. Raises FileNotFoundError for a missing file.
        """
        if isinstance(content, Path):
            content.stat()
        with self._explained(key, "write"):
            return _version(self._library.put(self._store, key, content))

    def put_if_absent(self, key: str, content: bytes) -> Version:
        """Write an object unless there is one; raises Exists.

        `content` must be the caller's own, by a random name in it: if the answer is
        lost, the object is read to see whose it is.
        """
        return self._put_if(key, content, None)

    def put_if_unchanged(self, key: str, content: bytes, version: Version) -> Version:
        """Replace an object if it still has this version; raises Changed.

        `version` is of `head`, of `put` or of this; `content` as for `put_if_absent`.
        """
        return self._put_if(key, content, version)

    def list(self, prefix: str = "") -> Iterator[Info]:
        """Yield the objects below the folder `prefix`, at any depth."""
        with self._explained(prefix, "read"):
            chunks = self._library.list(self._store, prefix or None, chunk_size=1000)
            for chunk in chunks:
                for meta in chunk:
                    yield _info(meta)

    def head(self, key: str) -> Info:
        """Return an object's size and version; raises NotFound."""
        with self._explained(key, "read"):
            return _info(self._library.head(self._store, key))

    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is not there counts as removed."""
        keys = [*keys]
        if not keys:
            return
        try:
            with self._explained(keys[0] if len(keys) == 1 else "", "write"):
                self._library.delete(self._store, keys)
        except NotFound:  # GCS tells of an object that is not there, and stops at it
            if len(keys) > 1:
                for key in keys:
                    self.remove([key])

    def _open(self, patience: float, idle: float, request: float) -> Any:
        """Return a store of obstore."""
        from obstore.store import from_url

        with self._explained("", "read"):
            return from_url(
                self.url,
                client_options={
                    "allow_http": True,  # of an endpoint that the environment names
                    "connect_timeout": timedelta(seconds=_CONNECT),
                    "read_timeout": timedelta(seconds=idle),
                    "timeout": timedelta(seconds=request),
                },
                retry_config={
                    "max_retries": 1000,  # the time decides
                    "retry_timeout": timedelta(seconds=patience),
                    "backoff": {
                        "base": 2,
                        "init_backoff": timedelta(seconds=_WAIT),
                        "max_backoff": timedelta(seconds=min(8, patience / 4)),
                    },
                },
            )

    @contextlib.contextmanager
    def _explained(self, key: str, verb: str) -> Iterator[None]:
        """Raise obstore's errors as a `BucketError`."""
        start = time.monotonic()
        try:
            yield
        except (FileNotFoundError, self._library.exceptions.BaseError) as error:
            took = time.monotonic() - start
            # obstore's error would repeat itself, with all its internals.
            raise explained(error, self.url_of(key), verb, took) from None

    def _put_if(self, key: str, content: bytes, version: Version | None) -> Version:
        """Put if the object is absent (version None) or has this version.

        A put whose answer is lost finds its own object in the way when obstore tries it
        again, so what is there is read: it is a success if it is what was put.
        """
        mode: Any = "create"
        if version is not None:  # obstore takes no None in it
            told = {"e_tag": version.etag, "version": version.generation}
            mode = {name: value for name, value in told.items() if value is not None}
        try:
            with self._explained(key, "write"):
                return _version(self._library.put(self._store, key, content, mode=mode))
        except (Exists, Changed, Faulty):
            there = self.find(key)
            if there is not None and there[0] == content:
                return there[1]
            raise
        except NotFound as error:  # S3 tells so of an object that was removed
            raise Changed(str(error)) from None

    def find(self, key: str) -> tuple[bytes, Version] | None:
        """Return (content, version) of an object, or None if there is none."""
        try:
            with self._explained(key, "read"):
                found = self._library.get(self._store, key)
                return bytes(found.bytes()), _info(found.meta).version
        except NotFound:
            return None


def _obstore() -> Any:
    """Import obstore; ValueError, with one sentence, if it is not installed."""
    try:
        import obstore
        import obstore.exceptions
    except ImportError:
        raise ValueError(
            "a bucket is read and written with obstore, which is not installed: run "
            '`pip install -e ".[bucket]"` in the checkout'
        ) from None
    return obstore


def _info(meta: Any) -> Info:
    return Info(meta["path"], meta["size"], meta["e_tag"], meta["version"])


def _version(done: Any) -> Version:
    return Version(done["e_tag"], done["version"])
