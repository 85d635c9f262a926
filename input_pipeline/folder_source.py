"""Images in folders: data_dir/SPLIT/CLASS/*.jpg, and two data sets' own layouts.

ILSVRC's validation images lie in one folder, without classes. Their labels are the list
that tfds ships with its imagenet2012; it goes by the number in a file's name.

Tiny ImageNet, which has a list of its classes in wnids.txt, keeps each folder's images in
a further folder, "images": train/CLASS/images, and val/images, whose classes are in
val/val_annotations.txt. Its test images have no labels and are no split here.
"""

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from input_pipeline import image_files, splits
from input_pipeline.splits import DataNotFound
from input_pipeline.tracing import as_written

IMAGES = (".jpg", ".jpeg", ".png", ".webp")
_ILSVRC_VAL = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
_TINY = "wnids.txt"  # is there where data_dir is Tiny ImageNet
_ARRANGE = "arrange images as data_dir/SPLIT/CLASS/NAME.jpg (or jpeg, png, webp)"


class FolderSource:
    """A split of a folder of images; see `sources.Source` for the interface.

    A class is a folder's name; labels are the places of the names in sorted order, the
    same in every split. A part of a split is one of a fixed random order of its files.

    Args:
      data_dir: the folder that holds the folders of the splits.
      split: the name of one, such as "train", or parts such as "train[:99%]".
      as_seen: images are turned as EXIF says and transparent pixels are white; False: as
        the files store them. See `image_files.readable`.

    Raises:
      DataNotFound: no such folder.
      ValueError: no such split, no images, or splits whose classes differ.
    """

    def __init__(self, *, data_dir: str, split: str, as_seen: bool = True):
        self._as_seen = as_seen
        root = os.path.expanduser(data_dir)
        self._what = f"{root} {split}"
        if not os.path.isdir(root):
            raise DataNotFound(f"there is no folder {root}: {_ARRANGE}")
        tiny = os.path.isfile(os.path.join(root, _TINY))
        self.class_names = _tiny_classes(root) if tiny else _class_names(root)
        self.num_classes = len(self.class_names)
        label_of = {name: label for label, name in enumerate(self.class_names)}

        def load(name: str) -> tuple[_Files, int]:
            files = (_tiny_list if tiny else _list)(root, name, label_of)
            return files, len(files.names)

        chosen = splits.select(split, _visible_folders(root), root, load)
        # One table of folders, and for each file its name, folder and label: a file's
        # name is short enough (22 bytes) to take no memory beside its place in a table.
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

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Example `index`: image (undecoded), label, file_name and `_id`."""
        return self.finish(self._file(index))

    def sequential(self, start: int, stop: int) -> tf.data.Dataset:
        """The files of examples start to stop in order, several at a time."""
        return tf.data.Dataset.range(start, stop).map(
            as_written(self._file), num_parallel_calls=16, deterministic=True
        )

    def finish(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """An example of `sequential` as `read` has it."""
        image = image_files.readable(features["image"], as_seen=self._as_seen)
        return {**features, "image": image}

    def describe(self, index: int) -> str:
        """The folder, the example's index and its file."""
        path: Any = self._path(tf.constant(index, tf.int64)).numpy()
        return f"example {index} of {self._what} ({os.fsdecode(path)})"

    def nbytes(self) -> int:
        """The size of the files; asks the disk for each."""
        folders: Any = self._folders.numpy()
        pairs: Any = zip(self._folder_of.numpy(), self._names.numpy(), strict=True)
        return sum(
            os.path.getsize(os.path.join(folders[place], name)) for place, name in pairs
        )

    def _file(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            "image": tf.io.read_file(self._path(index)),
            "label": tf.cast(tf.gather(self._labels, index), tf.int64),
            "file_name": tf.gather(self._names, index),
            "_id": tf.cast(index, tf.int32),
        }

    def _path(self, index: tf.Tensor) -> tf.Tensor:
        folder = tf.gather(self._folders, tf.gather(self._folder_of, index))
        return tf.strings.join([folder, tf.gather(self._names, index)], os.sep)


class _Files:
    """The images of a split, sorted by folder and name."""

    def __init__(
        self,
        folders: Sequence[str],
        names: Sequence[Sequence[str]],
        labels: Sequence[np.ndarray],
    ):
        counts = [len(part) for part in names]
        self.folders = list(folders)
        self.names = np.array([os.fsencode(n) for part in names for n in part], object)
        self.folder_of = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self.labels = np.concatenate([np.zeros(0, np.int32), *labels])


def _visible(folder: str) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return sorted(
            (e for e in entries if not e.name.startswith(".")), key=lambda e: e.name
        )


def _visible_folders(folder: str) -> list[str]:
    return [entry.name for entry in _visible(folder) if entry.is_dir()]


def _images(folder: str) -> list[str]:
    return [e.name for e in _visible(folder) if e.name.lower().endswith(IMAGES)]


def _classes(root: str, split: str) -> list[str]:
    """The classes of a split: its folders, if any of them has an image; else none."""
    folder = os.path.join(root, split)
    classes = _visible_folders(folder)
    found = any(_images(os.path.join(folder, name)) for name in classes)
    return classes if found else []


def _class_names(root: str) -> tuple[str, ...]:
    """The classes, the same of all splits that have any; else those of ILSVRC."""
    found = {split: _classes(root, split) for split in _visible_folders(root)}
    found = {split: classes for split, classes in found.items() if classes}
    if not found:
        return tuple(_imagenet_list("labels.txt"))
    first = "train" if "train" in found else next(iter(found))
    for split, classes in found.items():
        differing = sorted(set(classes) ^ set(found[first]))
        if differing:
            lacking = split if differing[0] in found[first] else first
            raise ValueError(
                f"the classes of {os.path.join(root, split)} and of its sibling "
                f"{first!r} differ in {len(differing)} folder(s), but labels need the "
                f"same ones in each split: {lacking!r} lacks {differing[0]!r} (an empty "
                "folder will do)"
            )
    return tuple(found[first])


def _list(root: str, split: str, label_of: dict[str, int]) -> _Files:
    folder = os.path.join(root, split)
    flat = _images(folder)
    classes = _classes(root, split)
    if flat and classes:
        raise ValueError(
            f"{folder} has both images, such as {flat[0]}, and folders of images, such "
            f"as {classes[0]!r}, so that the images' classes are unclear: {_ARRANGE}"
        )
    if flat:
        return _ilsvrc_val(folder, flat, label_of)
    if not classes:
        raise ValueError(f"{folder} has no images in folders of classes: {_ARRANGE}")
    folders = [os.path.join(folder, name) for name in classes]
    names = [_images(path) for path in folders]
    labels = [
        np.full(len(part), label_of[name], np.int32)
        for name, part in zip(classes, names, strict=True)
    ]
    return _Files(folders, names, labels)


def _tiny_classes(root: str) -> tuple[str, ...]:
    with open(os.path.join(root, _TINY), encoding="utf-8") as lines:
        return tuple(sorted(lines.read().split()))


def _tiny_list(root: str, split: str, label_of: dict[str, int]) -> _Files:
    """A split of Tiny ImageNet."""
    folder = os.path.join(root, split)
    annotations = os.path.join(folder, "val_annotations.txt")
    flat = os.path.join(folder, "images")
    if os.path.isfile(annotations) and os.path.isdir(flat):
        return _tiny_val(flat, annotations, label_of)
    folders, names, labels = [], [], []
    for name, label in label_of.items():
        path = os.path.join(folder, name)
        inner = os.path.join(path, "images")
        path = inner if os.path.isdir(inner) else path  # or as somebody arranged them
        if os.path.isdir(path):
            folders.append(path)
            names.append(_images(path))
            labels.append(np.full(len(names[-1]), label, np.int32))
    if not any(names):
        raise ValueError(
            f"{folder} has neither val_annotations.txt nor {next(iter(label_of), 'CLASS')}"
            "/images, and so no labels: the splits of Tiny ImageNet are train and val"
        )
    return _Files(folders, names, labels)


def _tiny_val(folder: str, annotations: str, label_of: dict[str, int]) -> _Files:
    """The flat folder of Tiny ImageNet's validation images."""
    with open(annotations, encoding="utf-8") as lines:
        rows = [line.split() for line in lines if line.strip()]
    class_of = {row[0]: row[1] for row in rows if len(row) > 1}
    names = _images(folder)
    for name in names:
        if class_of.get(name) not in label_of:
            raise ValueError(
                f"{os.path.join(folder, name)} has no class of {_TINY} in {annotations}"
            )
    return _Files(
        [folder], [names], [np.array([label_of[class_of[n]] for n in names], np.int32)]
    )


def _ilsvrc_val(folder: str, names: list[str], label_of: dict[str, int]) -> _Files:
    """The flat folder of ILSVRC 2012's validation images."""
    synsets = _imagenet_list("validation_labels.txt")
    labels = []
    for name in names:
        match = _ILSVRC_VAL.fullmatch(name)
        number = int(match[1]) if match else 0
        if not 1 <= number <= len(synsets):
            raise ValueError(
                f"{os.path.join(folder, name)} lies in no folder of a class, and is no "
                f"validation image of ILSVRC 2012 by its name: {_ARRANGE}"
            )
        synset = synsets[number - 1]
        if synset not in label_of:
            raise ValueError(
                f"{os.path.join(folder, name)} is of the class {synset}, which has no "
                "folder beside in the other splits: keep the images of your classes "
                f"only, and {_ARRANGE}"
            )
        labels.append(label_of[synset])
    return _Files([folder], [names], [np.array(labels, np.int32)])


def _imagenet_list(name: str) -> list[str]:
    return tfds.core.tfds_path(f"datasets/imagenet2012/{name}").read_text().split()
