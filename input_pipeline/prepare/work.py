"""The work on a data set: its folder, its processes, its progress, and its resumption.

Everything is written to the folder NAME.preparing, which becomes NAME when all is done
and verified. A finished task leaves its result there, so the same command goes on after
a kill; what a task writes has another name until it is whole.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from input_pipeline.prepare.images import DAMAGED
from input_pipeline.sources import prepared

Result = dict[str, Any]
"""The JSON values that a task returns; `images` counts them, `counts` by outcome."""
FINGERPRINT = "source_fingerprint"
"""The entry of a record that differs when files of the source change."""
_DONE, _LOCK, _PART = ".done", ".lock", ".part-of-prepare"
_MARGIN = 1.1  # of an estimate


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a data set is written: `final` in the end, `folder` until then.

    Args:
      final: the folder of the finished data set.
      record: what prepared.json says from the start: the settings and the source. The
        same record means the same work.
    """

    final: Path
    record: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """The folder until all is done."""
        return self.final.with_name(f"{self.final.name}.preparing")

    def finished(self) -> Result | None:
        """Return the record and facts of the same work if it is already done, or None.

        Raises ValueError if there is something else, which would be overwritten.
        """
        if not self.final.exists() or _is_empty(self.final):
            return None
        there = prepared.read(self.final)
        if there is not None:
            if not _differing(there, self.record):
                self._tidy()
                return there
            self._check_source(there, self.final)
        what = (
            f"from another source or with other settings ({self._differences(there)})"
            if there
            else "by another program"
        )
        raise ValueError(
            f"{self.final} exists and was written {what}: choose another --out, or remove "
            "it"
        )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder, or continue in it; no other process may at the same time.

        Raises ValueError if the folder holds other work, or another process has it.
        """
        if os.path.ismount(self.final):
            raise ValueError(
                f"{self.final} is the root of a disk, which cannot be replaced by the "
                "finished folder: name a folder in it as --out"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"another process is at work in {self.folder}: wait until it has ended"
                ) from None
            except OSError:  # a file system without locks
                pass
            self._begin()
            yield

    def _begin(self) -> None:
        there = prepared.read(self.folder)
        if there is None and {p.name for p in self.folder.iterdir()} > {_LOCK}:
            raise ValueError(
                f"{self.folder} exists and was written by another program: choose another "
                "--out, or remove it"
            )
        if there is not None and _differing(there, self.record):
            self._check_source(there, self.folder)
            raise ValueError(
                f"{self.folder} was begun from another source or with other settings "
                f"({self._differences(there)}): give the same ones, or remove it"
            )
        if there is None:
            write_json(self.folder / prepared.FILE, self.record)
        (self.folder / _DONE).mkdir(exist_ok=True)
        for path in self.folder.rglob(f"*{_PART}"):  # what a killed process left
            path.unlink()

    def _check_source(self, there: Mapping[str, Any], folder: Path) -> None:
        """Raise ValueError if a record differs only because files have changed."""
        if {*_differing(there, self.record)} == {FINGERPRINT}:
            raise ValueError(
                f"{folder} was written from {self.record['source']} before files there "
                "changed: remove it, or give another --out"
            )

    def _differences(self, there: Mapping[str, Any]) -> str:
        """Return each entry of the record that differs, as it is there and as asked."""
        return "; ".join(
            f"{key}: expected {there.get(key)!r}, got {value!r}"
            for key, value in _differing(there, self.record).items()
            if key != FINGERPRINT
        )

    def forget(self, tasks: Iterable[str]) -> None:
        """Let a later start do these tasks again."""
        for name in tasks:
            (self.folder / _DONE / f"{name}.json").unlink()

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write the whole record, and give the folder its final name."""
        write_json(self.folder / prepared.FILE, {**self.record, **facts})
        os.replace(self.folder, self.final)
        self._tidy()

    def _tidy(self) -> None:
        """Remove what only a resumption needs; the folder has its final name before."""
        shutil.rmtree(self.final / _DONE, ignore_errors=True)
        with contextlib.suppress(OSError):  # a disk that is read-only by now
            (self.final / _LOCK).unlink(missing_ok=True)

    def check_space(
        self, needed: float, twice: float, tell: Callable[[str], None]
    ) -> None:
        """Raise ValueError if the disk lacks the bytes that are still to be written.

        `twice` are those that are there twice for a time.
        """
        there = sum(
            path.stat().st_size
            for path in self.folder.rglob("*")
            if path.is_file() and not path.name.endswith(_PART)
        )
        rest = max(0, (needed + twice) * _MARGIN - there)
        disk = next(p for p in (self.folder, *self.folder.parents) if p.exists())
        free = shutil.disk_usage(disk).free
        also = f", and {in_words(twice)} more while shards are joined" if twice else ""
        if rest > free:
            raise ValueError(
                f"the data set will take about {in_words(needed)}{also}, but the disk of "
                f"{disk} has only {in_words(free)} free: free "
                f"{in_words(rest - free)}, or choose another --out or a smaller "
                "--short_side"
            )
        tell(
            f"about {in_words(needed)} will be written{also}; {in_words(free)} are free"
        )


class Workers:
    """Processes that do tasks; `with` ends them."""

    def __init__(self, count: int):
        self.count = count

    def __enter__(self) -> "Workers":
        # A fork of a process that has imported TensorFlow, and done nothing else, starts
        # at once and shares its memory.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["input_pipeline.prepare.images"])
        self._pool = ProcessPoolExecutor(
            self.count, mp_context=context, initializer=_start_worker
        )
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(cancel_futures=True)

    def each(
        self, function: Callable[..., Result], tasks: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Result]]:
        """Yield (index of the task, its result), as they come.

        Raises the error of a task; ValueError if a process was killed.
        """
        waiting: dict[Future[Result], int] = {}
        rest = iter(enumerate(tasks))
        try:
            while True:
                # Few at a time, so that an error need not wait for many others.
                while len(waiting) < 2 * self.count and (task := next(rest, None)):
                    waiting[self._pool.submit(function, *task[1])] = task[0]
                if not waiting:
                    return
                ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool:
            raise ValueError(
                "one of the processes was killed, perhaps for want of memory: the same "
                "command goes on, with fewer --workers if need be"
            ) from None


def _start_worker() -> None:
    """Prepare a process: it takes no accelerator, and ends when its parent is gone."""
    import tensorflow as tf
    from PIL import Image

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    tf.config.set_visible_devices([], "GPU")
    Image.MAX_IMAGE_PIXELS = None  # the user's own images are no attack
    parent: Any = multiprocessing.parent_process()

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


def kept(
    place: Place,
    workers: Workers,
    function: Callable[..., Result],
    tasks: Mapping[str, tuple[Any, ...]],
    bar: tqdm,
    skip_damaged: bool,
) -> Iterator[tuple[str, Result]]:
    """Yield (name, result) of each task.

    Those of an earlier start are not done again, unless it left damaged images as they
    are and this one is not to.
    """
    open_tasks = []
    for name in tasks:
        path = place.folder / _DONE / f"{name}.json"
        result = json.loads(path.read_text()) if path.exists() else None
        if result and (skip_damaged or DAMAGED not in result["counts"]):
            bar.update(result["images"])
            yield name, result
        else:
            open_tasks.append(name)
    for index, result in workers.each(function, [tasks[name] for name in open_tasks]):
        name = open_tasks[index]
        write_json(place.folder / _DONE / f"{name}.json", result)
        bar.update(result["images"])
        yield name, result


def not_as_written(files: Sequence[str]) -> str:
    """Return the error about damaged files, whose tasks are forgotten."""
    others = f" (nor are {len(files) - 1:,} others)" if len(files) > 1 else ""
    return (
        f"{files[0]} is not what was written{others}: give the same command again, which "
        "writes only what is damaged, and look at the disk"
    )


def progress(total: int, what: str) -> tqdm:
    """Return a bar of images."""
    return tqdm(desc=what, total=total, unit=" images", mininterval=1, smoothing=0)


def spread(size: int, count: int) -> list[int]:
    """Return at most `count` of the numbers below `size`, at equal distances."""
    return [size * i // min(size, count) for i in range(min(size, count))]


def fingerprint(files: Iterable[tuple[str, int, int]], info: bytes = b"") -> str:
    """Return a hash of files' (name, size, modification time), in any order, and info."""
    found = hashlib.sha256(info)
    for file in sorted(files):
        found.update(f"{file}\n".encode())
    return found.hexdigest()


def added(results: Iterable[Result]) -> Result:
    """Return the sums of the results' numbers: images, bytes and counts."""
    total: Result = {"images": 0, "bytes_before": 0, "bytes_after": 0}
    counts: Counter[str] = Counter()
    for result in results:
        for key in total:
            total[key] += result[key]
        counts.update(result["counts"])
    return {**total, "counts": dict(sorted(counts.items()))}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_whole(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name first, so that it is never half there."""
    with whole(path) as part:
        part.write_bytes(data)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give the name of a file to write; afterwards it gets the name `path`.

    It is on the disk before, so a loss of power leaves no empty file of that name.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}{_PART}")
    yield part
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    found = 0
    with path.open("rb") as file:
        while data := file.read(2**20):
            found = zlib.crc32(data, found)
    return found


def in_words(count: float) -> str:
    """Return a number of bytes for people."""
    if count < 1000:
        return f"{count:,.0f} bytes"
    for unit in ("KB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:,.1f} {unit}"
    return f"{count / 1000:,.1f} TB"


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _differing(there: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a record that another one has not, or has otherwise."""
    items = json.loads(json.dumps(record)).items()
    return {key: value for key, value in items if there.get(key) != value}
