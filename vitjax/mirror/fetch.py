"""Fetch the newest whole checkpoint and the rows of a workdir in a bucket."""

import itertools
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import logging

from input_pipeline import bucket
from vitjax.mirror import steps

_THREADS = 16  # files on their way at a time


def fetch(folder: bucket.Bucket, to: Path) -> tuple[list[steps.Step], list[str]]:
    """Fill the folder `to` with what a run resumes from.

    That is the newest whole checkpoint of each place, and the files directly in the
    workdir. A checkpoint whose marker does not hold is named in a warning, and the one
    before it is taken.

    Returns the steps that hold, or are older than one that does; and the names of all
    other objects of checkpoints, with the markers first.

    Raises:
      bucket.BucketError: the bucket failed.
      Broken: no marker of a checkpoint to resume from holds.
    """
    objects = {entry.key: entry for entry in folder.list()}
    good = []
    # A web console makes an empty object for a folder, even for this one.
    small = [
        name
        for name, entry in objects.items()
        if "/" not in name and name != "lock" and entry.size
    ]
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda name: get(folder, objects[name], to), small))
        for _, of_place in itertools.groupby(steps.marked(objects), lambda s: s.place):
            good += _newest(folder, list(of_place), to, objects, pool)
    left = [x for x in objects if (step := steps.step_of(x)) and step not in good]
    return good, sorted(left, key=lambda name: (not steps.is_marker(name), name))


def fetch_step(folder: bucket.Bucket, step: steps.Step, to: Path) -> None:
    """Fetch one step. Raises ValueError if its marker does not hold."""
    objects = {entry.key: entry for entry in folder.list(step.folder)}
    with ThreadPoolExecutor(_THREADS) as pool:
        _step(folder, step, to, objects, pool)


def _newest(
    folder: bucket.Bucket,
    found: list[steps.Step],
    to: Path,
    objects: Mapping[str, bucket.Info],
    pool: ThreadPoolExecutor,
) -> list[steps.Step]:
    """Fetch the newest step that holds; return it and those before it."""
    errors = []
    for count in range(len(found), 0, -1):
        try:
            _step(folder, found[count - 1], to, objects, pool)
        except Broken as error:
            errors.append(error)
            continue
        for error in errors:
            logging.warning("%s; the checkpoint before it is taken", error)
        return found[:count]
    if found[0].place == steps.BEST:  # as for one on this disk
        logging.warning("%s; the search for the best checkpoint restarts", errors[0])
        return []
    raise errors[0]


class Broken(ValueError):
    """A marker does not hold: a file of its checkpoint is missing or another one."""


def _step(
    folder: bucket.Bucket,
    step: steps.Step,
    to: Path,
    objects: Mapping[str, bucket.Info],
    pool: ThreadPoolExecutor,
) -> None:
    what = f"the checkpoint {folder.url}/{step.folder} is damaged"
    try:
        files = steps.read_marker(folder.read(step.marker))
    except ValueError as error:
        raise Broken(f"{what}: {step.marker}: {error}") from None
    for name, (size, _) in files.items():
        found = objects.get(name)
        if found is None or found.size != size:
            has = "is missing" if found is None else f"has {found.size} bytes"
            raise Broken(f"{what}: {name}, of {size} bytes, {has}")

    partial = to / ".fetched"

    def one(name: str) -> str | None:
        path = get(folder, objects[name], partial)
        return None if steps.crc32(path) == files[name][1] else name

    try:
        for name in pool.map(one, files):
            if name is not None:
                raise Broken(f"{what}: the bits of {name} have changed")
        (to / step.place).mkdir(parents=True, exist_ok=True)
        os.replace(partial / step.folder, to / step.folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def get(folder: bucket.Bucket, info: bucket.Info, to: Path) -> Path:
    """Fetch an object into the folder `to`, and return its path there."""
    path = to / info.key
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for part in folder.stream(info):
            file.write(part)
    return path
