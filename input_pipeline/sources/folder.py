"""Images in folders: data_dir/SPLIT/CLASS/*.jpg, and the layouts of folder_layouts."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from input_pipeline.sources import (
    ahead,
    disks,
    folder_layouts,
    image_files,
    prepared,
    splits,
)
from input_pipeline.sources.folder_layouts import ARRANGE, Folder, Found
from input_pipeline.sources.splits import DataNotFound
from input_pipeline.tracing import as_written


class FolderSource:
    """A split of a folder of images; see `sources.Source` for the interface.

    A class is a folder's name. Labels are the positions of the names in sorted order,
    by value (2 before 10) if all are whole numbers. The classes are those of the
    requested splits; other folders are not read. A part of a split is a part of one
    fixed random order of its files.

    Args:
      data_dir: the folder that contains the folders of the splits.
      split: the name of one, such as "train", or parts such as "train[:99%]".
      as_seen: turn images as EXIF says, and make transparent pixels white; False: read
        them as the files store them. See `image_files.readable`.

    Raises:
      DataNotFound: no such folder.
      ValueError: no such split, no images, or a class without images.
    """

    def __init__(self, *, data_dir: str, split: str, as_seen: bool = True):
        self.as_seen = as_seen
        self._disk = disk = disks.of(data_dir)
        root = os.path.expanduser(data_dir).rstrip("/") or "/"
        self._what = f"{root} {split}"
        if not disk.is_folder(root):
            raise DataNotFound(f"there is no folder {root}: {ARRANGE}")
        known = folder_layouts.folders(root, disk)
        above, own_name = os.path.split(disk.absolute(root))
        if own_name == split.partition("[")[0] and own_name not in known:
            raise ValueError(
                f"data_dir {root} has no split {own_name!r}, but is the folder of one: set "
                f"data_dir to {above}"
            )
        asked = dict.fromkeys(name for name, _ in splits.parts(split, known, root))
        found, self.class_names = folder_layouts.find(root, asked, disk)
        self.num_classes = len(self.class_names)
        notices = (
            folder_layouts.notice(os.path.join(root, name), found[name])
            for name in asked
        )
        record = os.path.join(root, prepared.FILE)
        self.prepared, resized = prepared.told(
            prepared.parsed(disk.text(record), root) if disk.is_file(record) else None,
            root,
        )
        self.notices = (*filter(None, notices), *resized)
        label_of = {name: label for label, name in enumerate(self.class_names)}

        def load(name: str) -> tuple[_Files, int]:
            files = _files(found[name], label_of)
            return files, len(files.names)

        chosen = splits.select(split, known, root, load)
        # One table of folders, and for each file its name, folder and label. A file's
        # name is short enough (22 bytes) to take no memory besides its table entry.
        folders, starts = [], []
        for files, _ in chosen:
            starts.append(len(folders))
            folders += files.folders
        pairs = list(zip(chosen, starts, strict=True))
        names = np.concatenate([files.names[rows] for (files, rows), _ in pairs])
        places = [files.folder_of[rows] + start for (files, rows), start in pairs]
        labels = [files.labels[rows] for (files, rows), _ in pairs]
        with tf.device("CPU"):
            self._folders = tf.constant([os.fsencode(folder) for folder in folders])
            self._names = tf.constant(names)
            self._folder_of = tf.constant(np.concatenate(places), tf.int32)
            self._labels = tf.constant(np.concatenate(labels), tf.int32)
        self.ahead = self._paths = None
        if isinstance(disk, disks.Listed):
            self._paths = (folders, names, np.concatenate(places))
            self.ahead = ahead.Ahead(lambda index: disk.content(self.path(index)))

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return example `index`: image (undecoded), label, file_name and `_id`."""
        if self.ahead is not None:
            return self.parse(self.ahead.item(index))
        return self.finish(self._file(index, tf.io.read_file(self._path(index))))

    def parse(self, item: ahead.Item) -> dict[str, tf.Tensor]:
        """Return the example of an item of `ahead`, as `read` does."""
        return self.finish(self._file(item["index"], ahead.content_of(item)))

    def labels(self) -> np.ndarray:
        """Return the label of every example, int64[n]."""
        labels: Any = self._labels.numpy()
        return labels.astype(np.int64)

    def sequential(self, start: int, stop: int) -> tf.data.Dataset:
        """Return the files of examples start to stop in order, several at a time."""
        indices = tf.data.Dataset.range(start, stop)
        if self.ahead is not None:
            return self.ahead.in_order(indices).map(
                as_written(lambda x: self._file(x["index"], ahead.content_of(x)))
            )
        return indices.map(
            as_written(lambda i: self._file(i, tf.io.read_file(self._path(i)))),
            num_parallel_calls=16,
            deterministic=True,
        )

    def finish(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return an example of `sequential` as `read` returns it."""
        image = image_files.readable(features["image"], as_seen=self.as_seen)
        return {**features, "image": image}

    def path(self, index: int) -> str:
        """Return the file of example `index`."""
        if self._paths is not None:
            folders, names, places = self._paths
            return os.path.join(folders[places[index]], os.fsdecode(names[index]))
        path: Any = self._path(tf.constant(index, tf.int64)).numpy()
        return os.fsdecode(path)

    def describe(self, index: int) -> str:
        """Return the folder, the example's index and its file."""
        return f"example {index} of {self._what} ({self.path(index)})"

    def nbytes(self) -> int:
        """Return the size of the files; asks the disk for each."""
        return sum(self._disk.size(self.path(i)) for i in range(len(self)))

    def _file(self, index: tf.Tensor, content: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            "image": content,
            "label": tf.cast(tf.gather(self._labels, index), tf.int64),
            "file_name": tf.gather(self._names, index),
            "_id": tf.cast(index, tf.int32),
        }

    def _path(self, index: tf.Tensor) -> tf.Tensor:
        folder = tf.gather(self._folders, tf.gather(self._folder_of, index))
        return tf.strings.join([folder, tf.gather(self._names, index)], os.sep)


@dataclasses.dataclass
class _Files:
    """The images of a split as arrays."""

    folders: list[str]
    names: np.ndarray  # bytes, one entry per image, as in the next two
    folder_of: np.ndarray  # int32: index into folders
    labels: np.ndarray  # int32


def _files(found: Found, label_of: Mapping[str, int]) -> _Files:
    counts = [len(folder.names) for folder in found.folders]
    names = [os.fsencode(name) for folder in found.folders for name in folder.names]
    labels = [_labels(folder, label_of) for folder in found.folders]
    return _Files(
        folders=[folder.path for folder in found.folders],
        names=np.array(names, object),
        folder_of=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        labels=np.concatenate([np.zeros(0, np.int32), *labels]),
    )


def _labels(folder: Folder, label_of: Mapping[str, int]) -> np.ndarray:
    if isinstance(folder.classes, str):
        return np.full(len(folder.names), label_of[folder.classes], np.int32)
    for name, its_class in zip(folder.names, folder.classes, strict=True):
        if its_class not in label_of:
            raise ValueError(
                f"{os.path.join(folder.path, name)} is of the class {its_class}, which "
                "has no folder in the other splits: keep the images of your "
                f"classes only, and {ARRANGE}"
            )
    return np.array([label_of[name] for name in folder.classes], np.int32)
