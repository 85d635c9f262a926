"""Copy what a tool reads of a bucket to this machine: a checkpoint, rows, files.

Copies are below ~/.cache/vitjax/copies, in folders named as in the bucket, and stay
there. What is there and unchanged is not fetched again. Nothing in the bucket changes,
and no lock is taken there. Each function returns a path of this machine as it is.
"""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from absl import logging

from input_pipeline import bucket, home, places
from vitjax.mirror import fetch, steps

_SMALL = ("config.json", "metrics.jsonl")
_CHECKPOINT = re.compile(r"(.+?)(?:/(best))?(?:/checkpoints/(\d+))?/*")


def checkpoint(
    path: str | Path, models: Sequence[str] = (), beside: Sequence[str] = ()
) -> Path:
    """Return the folder of a checkpoint, complete and as its marker says.

    Args:
      path: a workdir in a bucket (its newest whole checkpoint), its folder `best`, or
        WORKDIR/checkpoints/STEP. The rows and config.json are copied too.
      models: names of files. If `path` is a folder with some of them, it holds no run:
        the first is copied, with those named `beside`, and its path is returned.

    Raises ValueError if there is no whole checkpoint or the step's is damaged, and
    BucketError.
    """
    if places.scheme(path) is None:
        return Path(path)
    match = _CHECKPOINT.fullmatch(str(path))
    assert match is not None  # all that is not empty matches
    root, best, number = match.groups()
    with _opened(root) as copy:
        for name in models:
            if name in copy.objects:
                copy.keep((name, *beside))
                return copy.local / name
        copy.keep(_SMALL)
        copy.forget_removed()
        place = "best/checkpoints" if best else "checkpoints"
        if number is None:
            return copy.newest(place)
        return copy.step(steps.Step(place, int(number)))


def rows(path: str | Path) -> Path:
    """Return a workdir with its rows and config.json, without checkpoints."""
    if places.scheme(path) is None:
        return Path(path)
    with _opened(str(path)) as copy:
        copy.keep(_SMALL)
        return copy.local


def every(path: str | Path, first: int | None, last: int | None) -> Path:
    """Return a workdir with its whole checkpoints from step `first` to `last`."""
    if places.scheme(path) is None:
        return Path(path)
    with _opened(str(path)) as copy:
        copy.forget_removed()
        for step in copy.marked("checkpoints"):
            if (first or 0) <= step.number and (last is None or step.number <= last):
                copy.step(step)
        return copy.local


def file(path: str | Path, beside: Sequence[str] = ()) -> Path:
    """Return a file; those named `beside` are copied with it, where they exist."""
    if places.scheme(path) is None:
        return Path(path)
    folder, name = bucket.Bucket.of_file(str(path))
    with _locked(folder) as copy:
        try:
            copy.objects = {name: folder.head(name)}
        except bucket.NotFound:
            raise ValueError(f"there is no file {str(path)!r}") from None
        for other in beside:
            with contextlib.suppress(bucket.NotFound):
                copy.objects[other] = folder.head(other)
        copy.keep((name, *beside))
        return copy.local / name


@contextlib.contextmanager
def _opened(url: str) -> Iterator["_Copy"]:
    with _locked(bucket.Bucket.open(url)) as copy:
        copy.look()
        yield copy


@contextlib.contextmanager
def _locked(folder: bucket.Bucket) -> Iterator["_Copy"]:
    """Open a copy that no other process of this machine changes meanwhile."""
    cache = home.cache()
    if cache is None:
        raise ValueError(
            f"what is read of {folder.url} is copied to this machine, which has no home "
            "for it: set XDG_CACHE_HOME to a folder"
        )
    folder.check()
    copy = _Copy(folder, cache / "vitjax" / "copies")
    with (copy.versions / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield copy


class _Copy:
    """The copies of one folder; `versions` tells what they are copies of."""

    def __init__(self, folder: bucket.Bucket, copies: Path):
        inner = folder.url.replace("://", "/")
        self.folder = folder
        self.local, self.versions = copies / inner, copies / "versions" / inner
        self.objects: dict[str, bucket.Info] = {}
        for path in (self.local, self.versions):
            path.mkdir(parents=True, exist_ok=True)

    def look(self) -> None:
        """List the objects."""
        self.objects = {info.key: info for info in self.folder.list()}

    def marked(self, place: str) -> list[steps.Step]:
        """Return the steps of a place that have a marker, in order."""
        return [x for x in steps.marked(self.objects) if x.place == place]

    def keep(self, names: Iterable[str]) -> None:
        """Fetch objects whose copy is not of this version; those that are gone go."""
        for name in names:
            info, path = self.objects.get(name), self.local / name
            if info is None:
                path.unlink(missing_ok=True)
                continue
            version = f"{info.etag} {info.size}".encode()
            if self._told(name) == version and _size(path) == info.size:
                continue
            partial = self.local / ".fetched"
            try:
                os.replace(fetch.get(self.folder, info, partial), path)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            self._tell(name, version)

    def newest(self, place: str) -> Path:
        """Return the folder of the newest step that holds."""
        before, errors = None, []
        while (found := self.marked(place)) != before:
            before, errors = found, []
            for step in reversed(found):
                try:
                    path = self.step(step)
                except (fetch.Broken, bucket.NotFound) as error:
                    errors.append(error)
                    continue
                for error in errors:
                    logging.warning("%s; the checkpoint before it is taken", error)
                return path
            self.look()  # its run may have put newer ones and removed these
        if errors:
            raise errors[0]
        raise ValueError(
            f"no whole checkpoint in {self.folder.url}/{place}: expected the workdir of a "
            "run that has written one there, with its marker STEP.whole.json; to use a "
            "workdir that was copied there by hand, copy it back"
        )

    def step(self, step: steps.Step) -> Path:
        """Return the folder of a step; fetch it unless it is there."""
        if step not in self.marked(step.place):
            others = ", ".join(str(x.number) for x in self.marked(step.place)) or "none"
            raise ValueError(
                f"{self.folder.url}/{step.folder} is no whole checkpoint: it has no "
                f"marker {step.marker}; whole ones of that folder: {others}"
            )
        marker, path = self.folder.read(step.marker), self.local / step.folder
        if self._told(step.marker) != marker or not self._holds(marker):
            shutil.rmtree(path, ignore_errors=True)
            fetch.fetch_step(self.folder, step, self.local)
            self._tell(step.marker, marker)
        return path

    def forget_removed(self) -> None:
        """Remove the copies of checkpoints whose markers are gone."""
        for step in steps.whole(self.local):
            if step.marker not in self.objects:
                shutil.rmtree(self.local / step.folder)

    def _holds(self, marker: bytes) -> bool:
        files = steps.read_marker(marker)
        return all(_size(self.local / x) == size for x, (size, _) in files.items())

    def _told(self, name: str) -> bytes | None:
        path = self.versions / name
        return path.read_bytes() if path.is_file() else None

    def _tell(self, name: str, version: bytes) -> None:
        path = self.versions / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(version)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
