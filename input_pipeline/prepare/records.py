"""The tasks on records of tfds' shards: sample, write, read again.

Of a record only the feature "image" changes; a record whose image is not resized stays
the same bytes.
"""

import dataclasses
import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from input_pipeline.prepare import images, work
from input_pipeline.prepare.images import DAMAGED, DamagedImage, Settings
from input_pipeline.sources import record_index
from input_pipeline.sources.tfds import records_from
from input_pipeline.tracing import as_written

IMAGE = "image"
"""The only feature that changes: the one that the pipeline's ops read."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Records of a shard: the first one's number, and the offset of each."""

    split: str
    path: str
    start: int
    offsets: np.ndarray


def sample(path: str, offset: int, settings: Settings) -> work.Result:
    """Return the bytes of one record before and after; a task."""
    record = record_index.content(record_index.frame(path, offset))
    try:
        _, new = _converted(record, settings)
    except DamagedImage:
        new = record
    return {"bytes_before": len(record), "bytes_after": len(new)}


def write(
    part: Part, target: str, settings: Settings, skip_damaged: bool
) -> work.Result:
    """Write the records of a part to a file; a task.

    Entry `rest` of the result has a checksum of each record without its image, `file` the
    size and the checksum of the file.

    Raises ValueError for a damaged record or image, unless it is to be left as it is.
    """
    counts: Counter[str] = Counter()
    rest, before, after = [], 0, 0
    with work.whole(Path(target)) as path, _Writer(path) as writer:
        for row, (record, why) in enumerate(_read(part.path, part.offsets)):
            outcome, new = DAMAGED, record
            if record is not None:
                try:
                    outcome, new = _converted(record, settings)
                except DamagedImage as error:
                    why = str(error)
            if outcome == DAMAGED and not skip_damaged:
                raise ValueError(_sentence(part, row, record, why))
            if record is None or new is None:
                frame = record_index.frame(part.path, part.offsets[row])
                writer.as_it_is(frame)
                record = new = record_index.content(frame)
            else:
                writer.add(new)
            counts[outcome] += 1
            before += len(record)
            after += len(new)
            rest.append(_rest(new))
    return {
        "images": len(part.offsets),
        "counts": counts,
        "bytes_before": before,
        "bytes_after": after,
        "rest": rest,
        "file": [writer.size, writer.checksum],
    }


def read_again(path: str, parts: list[tuple[int, int]]) -> work.Result:
    """Return the checksum of each record of a shard without its image; a task.

    There is none if the file does not consist of parts of these sizes and checksums.
    """
    if not _consists_of(path, parts):
        return {"images": 0, "rest": []}
    offsets = record_index.scan(path, os.path.getsize(path))
    rest = []
    for row, (record, _) in enumerate(_read(path, offsets)):
        if record is None:  # copied with its damage
            record = record_index.content(record_index.frame(path, offsets[row]))
        rest.append(_rest(record))
    return {"images": len(rest), "rest": rest}


def _consists_of(path: str, parts: list[tuple[int, int]]) -> bool:
    with open(path, "rb") as file:
        same = all(zlib.crc32(file.read(size)) == checksum for size, checksum in parts)
        return same and not file.read(1)


def _read(path: str, offsets: Sequence[int] | np.ndarray) -> Iterator[tuple[Any, str]]:
    """Yield (record, "") of each offset; of a damaged record (None, the reason)."""
    records = None
    for offset in offsets:
        if records is None:
            records = _records(path, int(offset)).as_numpy_iterator()
        try:
            yield next(records), ""
        except (tf.errors.DataLossError, tf.errors.OutOfRangeError) as error:
            records = None
            yield None, error.message.partition("\n")[0]


def _records(path: str, offset: int) -> tf.data.Dataset:
    """Return the records of a file from an offset on, their checksums compared."""

    @as_written
    def all_of(path: tf.Tensor, offset: tf.Tensor) -> tf.data.Dataset:
        return records_from(path, offset, buffer_size=2**20)

    where = tf.data.Dataset.from_tensors((path, tf.constant(offset, tf.int64)))
    return where.flat_map(all_of)


def _converted(record: bytes, settings: Settings) -> tuple[str, bytes]:
    """Return (what became of the image, the record that takes the place).

    Raises DamagedImage if the record has no image, or one that cannot be read.
    """
    try:
        example = tf.train.Example.FromString(record)
    except Exception as error:  # of protobuf, which TensorFlow brings
        raise DamagedImage(f"it is no tf.train.Example: {error}") from None
    values = example.features.feature[IMAGE].bytes_list.value
    if len(values) != 1:
        raise DamagedImage(f"it has {len(values)} images")
    outcome, values[0] = images.smaller(values[0], settings)
    if outcome != images.RESIZED:
        return outcome, record
    return outcome, example.SerializeToString(deterministic=True)


def _rest(record: bytes) -> str:
    """Return a checksum of all features but the image."""
    try:
        example = tf.train.Example.FromString(record)
    except Exception:  # as in _converted
        return hashlib.sha256(record).hexdigest()
    example.features.feature.pop(IMAGE, None)
    return hashlib.sha256(example.SerializeToString(deterministic=True)).hexdigest()


def _sentence(part: Part, row: int, record: bytes | None, why: str) -> str:
    """Return the error about a damaged record."""
    name = ""
    if record is not None:
        with_name = tf.train.Example()
        with_name.MergeFromString(record)
        values = with_name.features.feature["file_name"].bytes_list.value
        name = "".join(f" ({value.decode(errors='replace')})" for value in values)
    return (
        f"the split {part.split!r} is damaged: record {part.start + row}{name} of "
        f"{part.path}, at byte {part.offsets[row]}, cannot be read ({why}); restore it, or "
        "give --skip_damaged, which leaves it as it is"
    )


class _Writer:
    """Writes records, and bytes as they are, to one file.

    In the end `size` and `checksum` are those of the file.
    """

    def __init__(self, path: Path):
        self.size = self.checksum = 0
        self._path = path
        self._records: Any = None

    def __enter__(self) -> "_Writer":
        self._out = self._path.open("wb")
        return self

    def __exit__(self, *_: Any) -> None:
        self._flush()
        self._out.close()

    def add(self, record: bytes) -> None:
        """Write a record, with its length and checksums."""
        if self._records is None:
            self._records = tf.io.TFRecordWriter(str(self._behind))
        self._records.write(record)

    def as_it_is(self, frame: bytes) -> None:
        """Write bytes as they are: a record whose checksum is wrong."""
        self._flush()
        self._write(frame)

    @property
    def _behind(self) -> Path:
        return self._path.with_name(f"records.{self._path.name}")

    def _flush(self) -> None:
        """Append the records that TensorFlow has written, to a file of its own."""
        if self._records is not None:
            self._records.close()
            self._records = None
            with self._behind.open("rb") as behind:
                while data := behind.read(2**20):
                    self._write(data)
            self._behind.unlink()

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self.size += len(data)
        self.checksum = zlib.crc32(data, self.checksum)
