"""Find the offset of each record of a TFRecord shard, once, and keep it on disk.

A shard is a sequence of records: length (uint64), checksum of the length (uint32), the
data, checksum of the data (uint32), all little-endian. Skipping from length to length
reads a few bytes of each record. The result is a small file, next to the shards if that
folder is writable, else in the user's cache folder. It holds the size and the
modification time of its shard, and is made again when either differs.
"""

import contextlib
import hashlib
import io
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from absl import logging
from tqdm import tqdm

from input_pipeline import home

HEADER, FOOTER = 12, 4  # bytes before and after the data of a record
FOLDER = ".record_index"
_THREADS = 16  # they mostly wait for the disk
_PATIENCE = 3  # seconds before progress is shown


def offsets(shards: Sequence[str]) -> list[np.ndarray]:
    """Return the byte offset of each record of each shard, as int64 arrays.

    Raises:
      ValueError: a shard is missing, truncated or no TFRecord file; names the file.
    """
    return with_progress(shard_offsets, shards, _THREADS)


def with_progress(
    offsets_of: Callable[[str], np.ndarray], shards: Sequence[str], threads: int
) -> list[np.ndarray]:
    """Return the offsets of each shard, found by several threads."""
    with ThreadPoolExecutor(threads) as pool:
        # Only shown if it takes more than a moment: minutes at first, on a slow disk.
        return list(
            tqdm(
                pool.map(offsets_of, shards),
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
    beside = Path(os.path.dirname(shard)) / FOLDER
    return cached(shard, size, mtime, lambda: scan(shard, size), beside)


def cached(
    shard: str,
    size: int,
    key: int,
    scan: Callable[[], np.ndarray],
    beside: Path | Callable[[bytes], bool],
) -> np.ndarray:
    """Return the offsets of a shard from a fresh index file, or from `scan`; keep them.

    Args:
      key: differs when the shard was written again.
      beside: the folder of index files by the shard; or a function that tries to write
        an index file there, and returns whether it could.
    """
    local = isinstance(beside, Path)
    folders = [*([beside] if local else []), *_cache_folders(shard)]
    name = f"{os.path.basename(shard)}.npy"
    for folder in folders:
        with contextlib.suppress(OSError):
            found = fresh((folder / name).read_bytes(), size, key)
            if found is not None:
                return found
    found = scan()
    content = _file_of(size, key, found)
    if not local and beside(content):
        return found
    if not any(_save(folder, name, content) for folder in folders):
        logging.warning(
            "the record index of %s cannot be written to any of %s, so each start makes "
            "it again: set XDG_CACHE_HOME to a folder for it",
            shard,
            ", ".join(map(str, folders)) or "the user's folders, as there is no home",
        )
    return found


def file_size(path: str) -> int:
    """Return the bytes of a file."""
    return size_and_time(path)[0]


def size_and_time(path: str) -> tuple[int, int]:
    """Return (the bytes of a file, its modification time in nanoseconds).

    Raises ValueError if the file is missing.
    """
    try:
        stat = os.stat(path)
        return stat.st_size, stat.st_mtime_ns
    except FileNotFoundError:
        raise ValueError(missing(path)) from None


def missing(shard: str) -> str:
    """Return the error for a shard that is not there."""
    return (
        f"the shard {shard} is missing, though the data set's own record lists it; "
        "copy it or prepare the data set again"
    )


def scan(shard: str, size: int) -> np.ndarray:
    """Return the byte offset of each record of a shard of `size` bytes, by reading it.

    Raises:
      ValueError: the records do not end where the file does.
    """
    with _open(shard) as file:

        def header_at(position: int) -> bytes:
            file.seek(position)
            return file.read(HEADER)

        return walk(shard, size, header_at)


def walk(shard: str, size: int, header_at: Callable[[int], bytes]) -> np.ndarray:
    """Return what `scan` does; `header_at` reads the HEADER bytes at a position.

    It returns fewer bytes at the end of the shard.
    """
    found, position = [], 0
    while position < size:
        header, end = header_at(position), position + HEADER
        if len(header) == HEADER:
            (length,) = struct.unpack_from("<Q", header)
            end += length + FOOTER
        if end > size:
            raise ValueError(
                f"the shard {shard} is truncated or damaged: its record {len(found)}, at "
                f"byte {position}, should end at byte {end}, but the file has {size} "
                "bytes; copy it or prepare the data set again"
            )
        found.append(position)
        position = end
    return np.array(found, np.int64)


def frame(shard: str, offset: int) -> bytes:
    """Return the bytes of the record at an offset, with its length and checksums."""
    with _open(shard) as file:
        file.seek(offset)
        header = file.read(HEADER)
        (length,) = struct.unpack_from("<Q", header)
        return header + file.read(length + FOOTER)


def content(frame: bytes) -> bytes:
    """Return the data in the bytes of a record; its checksums are not looked at."""
    return frame[HEADER:-FOOTER]


def _open(path: str):
    return open(path, "rb", buffering=0)


def _cache_folders(shard: str) -> list[Path]:
    """Return the folder of a shard's index in the user's cache, if there is a home."""
    cache = home.cache()
    if cache is None:
        return []
    place = hashlib.sha256(os.path.dirname(shard).encode()).hexdigest()[:16]
    return [cache / "input_pipeline" / "record_index" / place]


def fresh(file: bytes, size: int, key: int) -> np.ndarray | None:
    """Return the offsets in an index file; None if it is damaged or of another shard."""
    try:
        content = np.load(io.BytesIO(file), allow_pickle=False)
    except (ValueError, EOFError):  # truncated
        return None
    except SystemError:  # Python 3.11 may fail on the header in several threads
        return fresh(file, size, key)
    if content.dtype != np.int64 or content.shape < (3,):
        return None
    found = content[3:]
    return found if tuple(content[:3]) == (size, key, _check(found)) else None


def _file_of(size: int, key: int, found: np.ndarray) -> bytes:
    """Return the bytes of an index file."""
    file = io.BytesIO()
    head = np.array([size, key, _check(found)], np.int64)
    np.save(file, np.concatenate([head, found]))
    return file.getvalue()


def _check(found: np.ndarray) -> int:
    """Return a checksum: a wrong offset would look like a damaged record."""
    return zlib.crc32(found.astype("<i8").tobytes())


def _save(folder: Path, name: str, content: bytes) -> bool:
    """Write by rename, so that several processes may do it; False if refused."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(content)
        os.chmod(file.name, 0o644)
        os.replace(file.name, folder / name)
    except OSError:
        return False
    return True
