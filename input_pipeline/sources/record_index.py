"""Find the offset of each record of a TFRecord shard, once, and keep it on disk.

A shard is a sequence of records: length (uint64), checksum of the length (uint32), the
data, checksum of the data (uint32), all little-endian. Skipping from length to length
reads a few bytes of each record. The result is a small file, next to the shards if that
folder is writable, else in the user's cache folder. It holds the size and the
modification time of its shard, and is made again when either differs.
"""

import hashlib
import os
import struct
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from input_pipeline import home

_HEADER, _FOOTER = 12, 4  # bytes before and after the data of a record
_FOLDER = ".record_index"
_THREADS = 16  # they mostly wait for the disk
_PATIENCE = 3  # seconds before progress is shown


def offsets(shards: Sequence[str]) -> list[np.ndarray]:
    """Return the byte offset of each record of each shard, as int64 arrays.

    Raises:
      ValueError: a shard is missing, truncated or no TFRecord file; names the file.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        # Only shown if it takes more than a moment: minutes at first, on a slow disk.
        return list(
            tqdm(
                pool.map(shard_offsets, shards),
                desc="indexing records",
                total=len(shards),
                unit=" shards",
                delay=_PATIENCE,
                leave=False,
            )
        )


def shard_offsets(shard: str) -> np.ndarray:
    """Return the byte offset of each record of one shard, from its index file if fresh.

    Raises:
      ValueError: the shard is missing, truncated or no TFRecord file.
    """
    size, mtime = size_and_time(shard)
    folders = _index_folders(shard)
    name = f"{os.path.basename(shard)}.npy"
    for folder in folders:
        found = _load(folder / name, size, mtime)
        if found is not None:
            return found
    found = scan(shard, size)
    content = np.concatenate([np.array([size, mtime], np.int64), found])
    if not any(_save(folder, name, content) for folder in folders):
        logging.warning(
            "the record index of %s cannot be written to any of %s, so each start makes "
            "it again: set XDG_CACHE_HOME to a folder for it",
            shard,
            ", ".join(map(str, folders)) or "the user's folders, as there is no home",
        )
    return found


def file_size(path: str) -> int:
    """Return the bytes of a file, which may be remote."""
    return size_and_time(path)[0]


def size_and_time(path: str) -> tuple[int, int]:
    """Return (the bytes of a file, its modification time in nanoseconds).

    Raises ValueError if the file is missing.
    """
    try:
        if _is_remote(path):
            stat = tf.io.gfile.stat(path)
            return stat.length, stat.mtime_nsec
        stat = os.stat(path)
        return stat.st_size, stat.st_mtime_ns
    except (FileNotFoundError, tf.errors.NotFoundError):
        raise ValueError(
            f"the shard {path} is missing, though the data set's own record lists it; "
            "copy it or prepare the data set again"
        ) from None


def scan(shard: str, size: int) -> np.ndarray:
    """Return the byte offset of each record of a shard of `size` bytes, by reading it.

    Raises:
      ValueError: the records do not end where the file does.
    """
    found, position = [], 0
    with _open(shard) as file:
        while position < size:
            header = file.read(_HEADER)
            if len(header) < _HEADER:
                end = position + _HEADER
            else:
                (length,) = struct.unpack_from("<Q", header)
                end = position + _HEADER + length + _FOOTER
            if end > size:
                raise ValueError(
                    f"the shard {shard} is truncated or damaged: its record "
                    f"{len(found)}, at byte {position}, should end at byte {end}, but "
                    f"the file has {size} bytes; copy it or prepare the data set again"
                )
            found.append(position)
            position = end
            file.seek(position)
    return np.array(found, np.int64)


def frame(shard: str, offset: int) -> bytes:
    """Return the bytes of the record at an offset, with its length and checksums."""
    with _open(shard) as file:
        file.seek(offset)
        header = file.read(_HEADER)
        (length,) = struct.unpack_from("<Q", header)
        return header + file.read(length + _FOOTER)


def content(frame: bytes) -> bytes:
    """Return the data in the bytes of a record; its checksums are not looked at."""
    return frame[_HEADER:-_FOOTER]


def _is_remote(path: str) -> bool:
    return "://" in path


def _open(path: str):
    if _is_remote(path):
        return tf.io.gfile.GFile(path, "rb")
    return open(path, "rb", buffering=0)


def _index_folders(shard: str) -> list[Path]:
    """Return the possible folders of a shard's index, the best first."""
    parent = os.path.dirname(shard)
    folders = [] if _is_remote(shard) else [Path(parent) / _FOLDER]
    cache = home.cache()
    if cache is not None:
        place = hashlib.sha256(parent.encode()).hexdigest()[:16]
        folders.append(cache / "input_pipeline" / "record_index" / place)
    return folders


def _load(path: Path, size: int, mtime: int) -> np.ndarray | None:
    try:
        content = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # absent or truncated
        return None
    except SystemError:  # Python 3.11 may fail on the header in several threads
        return _load(path, size, mtime)
    if content.dtype != np.int64 or content.shape < (2,):
        return None
    return content[2:] if tuple(content[:2]) == (size, mtime) else None


def _save(folder: Path, name: str, content: np.ndarray) -> bool:
    """Write by rename, so that several processes may do it; False if refused."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            np.save(file, content)
        os.chmod(file.name, 0o644)
        os.replace(file.name, folder / name)
    except OSError:
        return False
    return True
