"""TFRecord shards in a bucket: tfds' metadata, the index of records, and their reads.

tfds itself reads no s3:// and reads gs:// slowly, so its small metadata files are copied
to a local folder, from which it answers as ever. A record is one read of its range. The
read fails if the shard was replaced since the source was opened.
"""

import contextlib
import hashlib
import shutil
import struct
import tempfile
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from absl import logging

from input_pipeline import bucket
from input_pipeline.sources import copies, record_index
from input_pipeline.sources.ahead import Damaged
from input_pipeline.sources.record_index import FOOTER, HEADER

_METADATA = (".json", ".txt")  # the files of a data set that are not shards
_SHARDS = 16  # indexed at a time
_MASK = 0xA282EAD8  # of TFRecord's checksums


class Shards:
    """The shards of a tfds data set in a bucket.

    Args:
      data_dir: the URL of tfds' data_dir.
      name: the data set, without its version.

    Raises bucket.BucketError if the bucket cannot be read.
    """

    def __init__(self, data_dir: str, name: str):
        self.url = data_dir.rstrip("/")
        self._bucket = bucket.Bucket.open(self.url)
        self._bucket.check()
        self._entries = {entry.key: entry for entry in self._bucket.list(name)}
        self._copies: copies.Copies | None = None
        self.metadata = tempfile.mkdtemp(prefix="tfds-metadata-")
        weakref.finalize(self, shutil.rmtree, self.metadata, ignore_errors=True)
        small = [x for x in self._entries if x.endswith(_METADATA) and _visible(x)]
        with ThreadPoolExecutor(_SHARDS) as pool:
            for path, content in zip(
                small, pool.map(self._bucket.read, small), strict=True
            ):
                local = Path(self.metadata) / path
                local.parent.mkdir(parents=True, exist_ok=True)
                local.write_bytes(content)

    def named(self, text: str) -> str:
        """Return a path or a message of tfds with the URL in the local folder's place."""
        return text.replace(self.metadata, self.url)

    def size(self, shard: str) -> int:
        """Return the bytes of a shard, given by its URL. ValueError if it is missing."""
        entry = self._entries.get(self._name(shard))
        if entry is None:
            raise ValueError(record_index.missing(shard))
        return entry.size

    def copy(self, shards: Sequence[str], cache_dir: str) -> None:
        """Begin to copy shards to a local folder; later reads use what is there."""
        entries = [self._entries[self._name(shard)] for shard in shards]
        self._copies = copies.Copies(self._bucket, entries, cache_dir)

    def read(self, shard: str, start: int, stop: int) -> bytes:
        """Return the data of the record in a range of a shard.

        Raises:
          Damaged: its length or a checksum is wrong.
          bucket.BucketError: the read failed, or the shard was replaced.
        """
        name = self._name(shard)
        frame = self._copies and self._copies.read(name, start, stop)
        if frame is not None:
            with contextlib.suppress(Damaged):
                return unframed(frame)
        etag = self._entries[name].etag
        data = unframed(
            self._bucket.view(name, start, stop - start, if_match=etag)
        )  # as damaged in the bucket, if the copy is right
        if frame is not None and self._copies is not None:
            self._copies.drop(name)
        return data

    def offsets(self, shards: Sequence[str]) -> list[np.ndarray]:
        """Return the byte offset of each record of each shard, as int64 arrays.

        They are kept beside the shards, in .record_index, or else in the user's cache.

        Raises ValueError for a shard that is missing, truncated or no TFRecord file.
        """
        return record_index.with_progress(self._offsets, shards, _SHARDS)

    def _offsets(self, shard: str) -> np.ndarray:
        size = self.size(shard)
        name = self._name(shard)
        # In the place of a local shard's time of change.
        key = int.from_bytes(
            hashlib.sha256(str(self._entries[name].etag).encode()).digest()[:8], "big"
        )
        key = int(np.uint64(key).astype(np.int64))
        folder, _, file = name.rpartition("/")
        kept = f"{folder}/{record_index.FOLDER}/{file}.npy"
        if kept in self._entries:
            try:
                found = record_index.fresh(self._bucket.read(kept), size, key)
            except bucket.NotFound:
                found = None
            if found is not None:
                return found

        def save(content: bytes) -> bool:
            try:
                self._bucket.put(kept, content)
            except bucket.BucketError as error:
                logging.info("the record index stays on this machine: %s", error)
                return False
            return True

        return record_index.cached(shard, size, key, lambda: self.scan(shard), save)

    def scan_all(self, shards: Sequence[str]) -> list[np.ndarray]:
        """Return what `offsets` does, from the bytes of the shards."""
        return record_index.with_progress(self.scan, shards, _SHARDS)

    def scan(self, shard: str) -> np.ndarray:
        """Return the offsets of a shard's records, from its bytes in large parts."""
        name = self._name(shard)
        size, etag = self._entries[name].size, self._entries[name].etag
        part, first = memoryview(b""), 0

        def header_at(position: int) -> bytes:
            nonlocal part, first
            if position + HEADER > first + len(part):
                first = position
                length = min(bucket.PART, size - first)
                part = self._bucket.view(name, first, length, if_match=etag)
            return bytes(part[position - first : position - first + HEADER])

        return record_index.walk(shard, size, header_at)

    def _name(self, shard: str) -> str:
        return shard.removeprefix(f"{self.url}/")


def unframed(frame: bytes | memoryview) -> bytes:
    """Return the data of a record of TFRecord, from all its bytes.

    Raises Damaged if its length or a checksum is wrong.
    """
    import google_crc32c

    def checked(part: bytes, check: bytes | memoryview, what: str) -> None:
        crc = google_crc32c.value(part)
        masked = ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF
        if struct.pack("<I", masked) != check:
            raise Damaged(f"the checksum of its {what} is wrong")

    checked(bytes(frame[:8]), frame[8:HEADER], "length")
    data = bytes(frame[HEADER:-FOOTER])  # the only copy, if `frame` is a view
    (length,) = struct.unpack_from("<Q", frame)
    if length != len(data):
        raise Damaged(f"its length is {length}, but the index has {len(data)}")
    checked(data, frame[-FOOTER:], "data")
    return data


def _visible(path: str) -> bool:
    return not any(part.startswith(".") for part in path.split("/"))
