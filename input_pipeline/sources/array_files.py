"""Array files read into memory: IDX (MNIST's format), CIFAR's batches, .npz."""

import gzip
import math
import os
import pickle
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.sources.arrays import (
    ArraySource,
    check_labels,
    count_classes,
    from_splits,
)
from input_pipeline.sources.splits import DataNotFound

_UBYTE = 8  # IDX's code of the type uint8
_IDX_SPLITS = {"train": "train", "test": "t10k"}


def idx(
    *,
    data_dir: str,
    split: str,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
) -> ArraySource:
    """Read IDX files, the format of MNIST and its relatives, compressed by gzip or not.

    Args:
      data_dir: the folder of {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz].
      split: "train", "test" (the files t10k), or parts such as "train[:90%]".
      class_names: in the order of the labels; the files have none.
      num_classes: if there are no names; labels are checked against it.
    """
    folder = _folder(data_dir)
    classes = count_classes(data_dir, class_names, num_classes)

    def load(name: str) -> tuple[np.ndarray, np.ndarray]:
        found = []
        for kind, dims in (("images", 3), ("labels", 1)):
            path = _idx_path(folder, f"{_IDX_SPLITS[name]}-{kind}", dims)
            found.append((path, _read_idx(path, dims)))
        (images_path, images), (labels_path, labels) = found
        _check(images_path, images, labels_path, labels, classes)
        return images, labels.astype(np.int64)

    return from_splits(
        split,
        tuple(_IDX_SPLITS),
        load,
        what=str(folder),
        class_names=class_names,
        num_classes=num_classes,
    )


def _idx_path(folder: Path, stem: str, dims: int) -> Path:
    # Some unpacking programs write a dot before "idx".
    names = [f"{stem}{dot}idx{dims}-ubyte{gz}" for dot in "-." for gz in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataNotFound(f"{folder} has none of the files {', '.join(names)}")


def _read_idx(path: Path, dims: int) -> np.ndarray:
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is damaged ({error}): copy it again") from None
    head = 4 + 4 * dims
    if data[:4] != bytes([0, 0, _UBYTE, dims]) or len(data) < head:
        raise ValueError(
            f"{path} is not an IDX file of {dims} dimension(s) of bytes: it begins with "
            f"{data[:4].hex(' ') or 'nothing'} instead of 00 00 08 {dims:02x}"
        )
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", dims, offset=4))
    if len(data) != head + math.prod(shape):
        raise ValueError(
            f"{path} is truncated or damaged: its header says {math.prod(shape)} bytes "
            f"of data {shape}, but it has {len(data) - head}; copy it again"
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


# The names allowed in CIFAR's pickles. numpy's rebuilding function has moved.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArraysOnly(pickle.Unpickler):
    """Unpickle only numpy arrays: what else a pickle names, it can call."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _ADMITTED[module, name]


def _unpickle(path: Path) -> dict[bytes, Any]:
    try:
        with path.open("rb") as file:
            # Written by Python 2, so its strings are bytes.
            content = _ArraysOnly(file, encoding="bytes").load()
    except FileNotFoundError:
        raise DataNotFound(f"{path} is missing: copy CIFAR's files again") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(
            f"{path} is not a CIFAR file, or damaged ({error}): only dicts of lists and "
            "numpy arrays are read, and no code in it is run; copy it again"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a CIFAR file: it holds no dict")
    return content


# The file of names -> its key of names, the batches' key of labels, files by split.
_CIFARS = {
    "batches.meta": (
        b"label_names",
        b"labels",
        {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
    ),
    "meta": (
        b"fine_label_names",
        b"fine_labels",
        {"train": ["train"], "test": ["test"]},
    ),
}


def cifar(*, data_dir: str, split: str) -> ArraySource:
    """Read CIFAR-10 or CIFAR-100 (its fine labels) in their "python version".

    Args:
      data_dir: the folder cifar-10-batches-py or cifar-100-python.
      split: "train", "test", or parts such as "train[:90%]".
    """
    folder = _folder(data_dir)
    metas = [name for name in _CIFARS if (folder / name).is_file()]
    if not metas:
        raise DataNotFound(
            f"{folder} has neither batches.meta (CIFAR-10) nor meta (CIFAR-100): give "
            "the unpacked folder cifar-10-batches-py or cifar-100-python itself"
        )
    names_key, labels_key, files = _CIFARS[metas[0]]
    names = _entry(folder / metas[0], _unpickle(folder / metas[0]), names_key)

    def load(name: str) -> tuple[np.ndarray, np.ndarray]:
        paths = [folder / file for file in files[name]]
        pieces = [_cifar_batch(path, labels_key, len(names)) for path in paths]
        images, labels = zip(*pieces, strict=True)
        return np.concatenate(images), np.concatenate(labels)

    return from_splits(
        split,
        tuple(files),
        load,
        what=str(folder),
        class_names=[name.decode() for name in names],
    )


def _cifar_batch(
    path: Path, labels_key: bytes, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    content = _unpickle(path)
    rows = _entry(path, content, b"data")
    labels = np.array(_entry(path, content, labels_key), np.int64)
    if getattr(rows, "dtype", None) != np.uint8 or rows.shape[1:] != (3 * 32 * 32,):
        raise ValueError(f"{path} is damaged: its data are not rows of 3,072 bytes")
    _check(path, rows, path, labels, classes)
    # A row is the red plane, then the green and the blue one.
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _entry(path: Path, content: dict[bytes, Any], key: bytes) -> Any:
    if key not in content:
        raise ValueError(f"{path} is not a CIFAR file: it lacks {key.decode()!r}")
    return content[key]


def npz(
    *,
    path: str,
    split: str,
    images: str = "images",
    labels: str = "labels",
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
) -> ArraySource:
    """Read an .npz file: uint8 images [n, h, w(, c)], integer labels [n] or [n, 1].

    "{split}" in `path`, `images` or `labels` is replaced by the name of the split:
    path="mnist.npz", images="x_{split}", labels="y_{split}". If none of them has it,
    the file is one split, named "all".

    Args:
      path: the file.
      split: such as "train[:90%]" or "all[90%:]".
      images: the key of the images in the file.
      labels: the key of the labels.
      class_names: in the order of the labels.
      num_classes: if there are no names; labels are checked against it.
    """
    pattern = Path(os.path.expanduser(path))
    classes = count_classes(path, class_names, num_classes)
    several = any("{split}" in text for text in (path, images, labels))

    def load(name: str) -> tuple[np.ndarray, np.ndarray]:
        keys = [key.replace("{split}", name) for key in (images, labels)]
        file = Path(str(pattern).replace("{split}", name))
        found = _read_npz(file, *keys)
        _check(file, found[0], file, found[1], classes)
        return found

    return from_splits(
        split,
        None if several else ("all",),
        load,
        what=str(pattern),
        class_names=class_names,
        num_classes=num_classes,
    )


def _read_npz(path: Path, *keys: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open("rb") as handle:
            file = np.load(handle, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError("it is one array, not an archive of several")
            lacks = [key for key in keys if key not in file]
            if lacks:
                raise ValueError(f"it lacks {lacks[0]!r} and has {', '.join(file)}")
            images, labels = (file[key] for key in keys)
    except FileNotFoundError:
        raise DataNotFound(f"the file {path} is missing") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(
            f"{keys[0]!r} of {path} must be uint8 [n, h, w] or [n, h, w, c], but is "
            f"{images.dtype} {list(images.shape)}"
        )
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise ValueError(
            f"{keys[1]!r} of {path} must be integers [n], but is {labels.dtype} "
            f"{list(labels.shape)}"
        )
    return images, labels.astype(np.int64)


def _folder(data_dir: str) -> Path:
    folder = Path(os.path.expanduser(data_dir))
    if not folder.is_dir():
        raise DataNotFound(f"there is no folder {folder}")
    return folder


def _check(images_path, images, labels_path, labels, classes: int | None) -> None:
    if len(images) != len(labels):
        raise ValueError(
            f"{images_path} has {len(images)} images, but {labels_path} has "
            f"{len(labels)} labels"
        )
    check_labels(labels, classes, str(labels_path))
