"""Write a folder of images once more with smaller images: the same tree, the same names.

Files that are no images are copied, as lists of classes are among them; hidden files and
those of operating systems are left out. Some files at a time are a task.
"""

import dataclasses
import os
import shutil
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.prepare import images, work
from input_pipeline.prepare.images import DAMAGED, DamagedImage, Settings
from input_pipeline.sources import folder_layouts, prepared
from input_pipeline.sources.folder import FolderSource
from input_pipeline.sources.splits import DataNotFound

NO_IMAGE = "not an image"
_LENGTH = 64  # files of a task


@dataclasses.dataclass(frozen=True)
class Files:
    """Some files of a folder, by their names in it."""

    root: str
    names: tuple[str, ...]


class Folder:
    """A folder of images to be written once more; see `__main__.prepare`.

    Raises DataNotFound without such a folder, ValueError without images.
    """

    as_seen = True
    """The default of a source of folders: transparent pixels have no colour."""
    inner = ""
    largest = 0
    """Bytes that are written twice for a time: none, as no files are joined."""
    notices: tuple[str, ...] = ()

    def __init__(self, data_dir: str):
        self.path = Path(os.path.abspath(data_dir))
        if not self.path.is_dir():
            raise DataNotFound(
                f"there is no folder {self.path}: {folder_layouts.ARRANGE}"
            )
        self._folders, self._names = _tree(self.path)
        self._images = [name for name in self._names if folder_layouts.is_image(name)]
        if not self._images:
            raise ValueError(f"{self.path} has no images: {folder_layouts.ARRANGE}")
        self.sizes = dict(Counter(Path(name).parts[0] for name in self._names))
        stats = {name: os.stat(self.path / name) for name in self._names}
        self.nbytes = sum(stats[name].st_size for name in self._images)
        self.other_bytes = sum(s.st_size for s in stats.values()) - self.nbytes
        self.fingerprint = work.fingerprint(
            (name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()
        )

    def samples(self, count: int, settings: Settings) -> list[tuple[Any, ...]]:
        """Return the arguments of `sample` for images from everywhere."""
        spread = work.spread(len(self._images), count)
        return [(str(self.path / self._images[i]), settings) for i in spread]

    @staticmethod
    def sample(path: str, settings: Settings) -> work.Result:
        """Return the bytes of one image before and after; a task."""
        data = Path(path).read_bytes()
        try:
            _, new = images.smaller(data, settings)
        except DamagedImage:
            new = data
        return {"bytes_before": len(data), "bytes_after": len(new)}

    def write(
        self, place: work.Place, workers: work.Workers, settings: Settings, skip: bool
    ) -> work.Result:
        """Write and verify all files; return the sums."""
        for name in self._folders:
            (place.folder / name).mkdir(parents=True, exist_ok=True)
        tasks = {
            f"{start:09}": (
                Files(str(self.path), tuple(self._names[start : start + _LENGTH])),
                str(place.folder),
                settings,
                skip,
            )
            for start in range(0, len(self._names), _LENGTH)
        }
        results = {}
        with work.progress(len(self._names), "preparing") as bar:
            results.update(work.kept(place, workers, write, tasks, bar, skip))
        written = {
            name: (*tasks[name][:2], results[name]["checksums"]) for name in tasks
        }
        self._verify(place, workers, written)
        return work.added(results.values())

    def _verify(
        self,
        place: work.Place,
        workers: work.Workers,
        tasks: dict[str, tuple[Any, ...]],
    ) -> None:
        """Read all files again, and compare the classes and labels of all splits.

        `tasks` are the names of the tasks that wrote them, and arguments of `read_again`.
        """
        folder = place.folder
        again = f"remove {folder} and start again"
        if odd := set(_tree(folder)[1]) - set(self._names):
            raise ValueError(
                f"{folder} has files that {self.path} has not ({min(odd)}): {again}"
            )
        names, wrong, damaged = [*tasks], [], []
        with work.progress(len(self._names), "verifying") as bar:
            for index, found in workers.each(read_again, [*tasks.values()]):
                if found["wrong"]:
                    wrong += found["wrong"]
                    damaged.append(names[index])
                bar.update(found["images"])
        if wrong:
            place.forget(damaged)
            raise ValueError(work.not_as_written(wrong))
        for split in folder_layouts.folders(str(self.path)):
            try:
                theirs = FolderSource(data_dir=str(self.path), split=split)
            except ValueError:  # no split of classes, such as ILSVRC's test
                continue
            ours = FolderSource(data_dir=str(folder), split=split)
            same = ours.class_names == theirs.class_names
            if not (same and np.array_equal(ours.labels(), theirs.labels())):
                raise ValueError(
                    f"the split {split!r} has other labels in {folder} than in {self.path}: "
                    f"{again}"
                )


def write(files: Files, folder: str, settings: Settings, skip: bool) -> work.Result:
    """Write files, smaller where they are larger images; a task.

    Entry `checksums` of the result has the one of each file.

    Raises ValueError for a damaged image, unless it is to be left as it is.
    """
    counts: Counter[str] = Counter()
    checksums = []
    before = after = 0
    for name in files.names:
        source, target = Path(files.root, name), Path(folder, name)
        if not folder_layouts.is_image(name):
            with work.whole(target) as path:
                shutil.copyfile(source, path)
            checksums.append(work.checksum(source))
            counts[NO_IMAGE] += 1
            continue
        data = source.read_bytes()
        try:
            outcome, new = images.smaller(data, settings)
        except DamagedImage as error:
            if not skip:
                raise ValueError(
                    f"{source} is damaged ({error}); restore it, or give --skip_damaged, "
                    "which leaves it as it is"
                ) from None
            outcome, new = DAMAGED, data
        work.write_whole(target, new)
        checksums.append(zlib.crc32(new))
        counts[outcome] += 1
        before, after = before + len(data), after + len(new)
    return {
        "images": len(files.names),
        "counts": counts,
        "bytes_before": before,
        "bytes_after": after,
        "checksums": checksums,
    }


def read_again(files: Files, folder: str, checksums: list[int]) -> work.Result:
    """Return the files that are lost or not those that were written; a task."""
    wrong = []
    for name, checksum in zip(files.names, checksums, strict=True):
        target = Path(folder, name)
        if not target.is_file() or work.checksum(target) != checksum:
            wrong.append(str(target))
    return {"images": len(files.names), "wrong": wrong}


def _tree(root: Path) -> tuple[list[str], list[str]]:
    """Return the folders below a folder, and the files, by their names from there.

    prepared.json is none of the files.
    """
    folders, files = [], []

    def walk(name: str, depth: int, above: frozenset[str]) -> None:
        path = os.path.join(root, name)
        real = os.path.realpath(path)
        if real in above:  # a link to a folder above it
            return
        folders.append(name)
        names, inner = folder_layouts.visible(path)
        files.extend(os.path.join(name, file) for file in names)
        # As the source, which follows links from a class's folder on: root, split, class.
        above = above | {real} if depth >= 2 else above
        for each in inner:
            walk(os.path.join(name, each), depth + 1, above)

    walk("", 0, frozenset())
    return folders, [name for name in files if name != prepared.FILE]
