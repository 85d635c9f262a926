"""Copy the shards of a bucket to a local disk, in the background, as much as fits.

A copy is `CACHE_DIR/gs/BUCKET/PATH/SHARD.KEY`, where KEY comes from the ETag: a shard that
was replaced in the bucket has another name here. A copy appears whole, by rename, so that
several processes may share the folder. Whoever reads falls back to the bucket.
"""

import contextlib
import hashlib
import os
import random
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from input_pipeline import bucket

_MARGIN, _MOST_MARGIN = 0.05, 10e9  # a share of the disk, and bytes, that stay free
_PARTIAL = ".partial"
_STALE = 3600  # seconds; a partial copy without a write for so long is abandoned


class Copies:
    """The copies of some shards of a bucket, which a thread makes.

    The thread ends when this object or the process does. The first failure to copy ends
    it too, with one warning, since the bucket has every shard.

    Args:
      store: the bucket.
      shards: of the bucket, with size and ETag.
      cache_dir: the folder of the copies; it is made.
    """

    def __init__(
        self, store: bucket.Bucket, shards: Sequence[bucket.Info], cache_dir: str
    ):
        place = Path(os.path.expanduser(cache_dir), *store.url.split("://", 1))
        self._there: dict[str, Path] = {}
        ended = threading.Event()
        weakref.finalize(self, ended.set)
        threading.Thread(
            target=_copy_all,
            args=(store, shards, place, self._there, ended),
            name="copy shards",
            daemon=True,
        ).start()

    def read(self, key: str, start: int, stop: int) -> bytes | None:
        """Return a range of a shard; less if its copy is cut; None if there is none."""
        path = self._there.get(key)
        if path is None:
            return None
        try:
            with open(path, "rb", buffering=0) as file:
                return os.pread(file.fileno(), stop - start, start)
        except OSError:
            self._there.pop(key, None)
            return None

    def drop(self, key: str) -> None:
        """Remove the copy of a shard, which has other bytes than the bucket."""
        path = self._there.pop(key, None)
        if path is not None:
            logging.warning(
                "cache_dir: %s is damaged and was removed; its shard is read from the "
                "bucket",
                path,
            )
            with contextlib.suppress(OSError):
                path.unlink()


def _copy_all(
    store: bucket.Bucket,
    shards: Sequence[bucket.Info],
    place: Path,
    there: dict[str, Path],
    ended: threading.Event,
) -> None:
    """Enter the copy of each shard in `there`, made now if there is room."""
    # Processes that share the folder begin with different shards.
    shards = random.Random().sample(shards, len(shards))
    missing = []
    for shard in shards:
        path = _path(place, shard)
        if _size(path) == shard.size:
            there[shard.key] = path
        else:
            missing.append(shard)
    left = 0
    for shard in missing:
        path = _path(place, shard)
        try:
            if _size(path) != shard.size:  # another process may have made it
                path.parent.mkdir(parents=True, exist_ok=True)
                _remove_old(path)
                if not _has_room(path.parent, shard.size):
                    left += 1
                    continue
                _copy(store, shard, path, ended)
        except OSError as error:  # a BucketError is one
            logging.warning(
                "cache_dir: no more shards are copied to %s (%s); what is not there is "
                "read from the bucket",
                place,
                error,
            )
            return
        if ended.is_set():
            return
        there[shard.key] = path
    if left:
        logging.warning(
            "cache_dir: %s has no room for %d of %d shards, which are read from the "
            "bucket",
            place,
            left,
            len(shards),
        )


def _copy(
    store: bucket.Bucket, shard: bucket.Info, path: Path, ended: threading.Event
) -> None:
    """Copy a shard to `path`, unless it all ends meanwhile."""
    with tempfile.NamedTemporaryFile(
        dir=path.parent, suffix=_PARTIAL, delete=False
    ) as file:
        try:
            for part in store.stream(shard):
                if ended.is_set():
                    break
                file.write(part)
            else:
                file.close()
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.name)


def _path(place: Path, shard: bucket.Info) -> Path:
    key = hashlib.sha256(str(shard.etag).encode()).hexdigest()[:16]
    return place / f"{shard.key}.{key}"


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _has_room(folder: Path, size: int) -> bool:
    disk = shutil.disk_usage(folder)
    return disk.free - size >= min(_MARGIN * disk.total, _MOST_MARGIN)


def _remove_old(path: Path) -> None:
    """Remove copies of other versions of a shard, and what killed processes left."""
    for old in path.parent.iterdir():
        if old.stem == path.stem and old != path:
            old.unlink(missing_ok=True)
    for partial in path.parent.glob(f"*{_PARTIAL}"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - partial.stat().st_mtime > _STALE:
                partial.unlink()
