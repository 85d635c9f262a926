"""Data sets in Hugging Face's formats: a saved folder, parquet files, the hub.

Reading goes through `datasets`, and so through Python, where one thread runs at a time:
0.3 ms per example of 66 KB (measured). A process thus reads at most 3,000 examples a
second, with any number of cores. Decoding and all else runs in TensorFlow's threads.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from input_pipeline.sources import image_files, splits
from input_pipeline.sources.arrays import check_labels
from input_pipeline.sources.folder_layouts import in_order
from input_pipeline.sources.splits import DataNotFound
from input_pipeline.tracing import as_written


class HuggingFaceSource:
    """A split of a Hugging Face data set; see `sources.Source` for the interface.

    Needs the package `datasets`. Parquet files and the hub's data sets are converted
    once to Arrow files in Hugging Face's cache (HF_HOME), which need as
    much disk space again. A part of a split is a part of one fixed random order of its
    rows.

    Args:
      split: "train", or parts such as "train[:99%]".
      data_dir: a folder that `save_to_disk` made, or one of parquet files whose names
        begin with the split's, as on the hub; else None.
      name: a data set on the hub, if there is no data_dir.
      config: the configuration of the hub's data set.
      image: the column of images.
      label: the column of labels: of the type ClassLabel, whole numbers, or names. The
        label of a name is its position in order, as in `folder.FolderSource`.
      as_seen: as in `folder.FolderSource`.

    Raises:
      DataNotFound: the data is missing, or `datasets` is not installed.
      ValueError: no such split or column, labels out of range, or rows without a label.
    """

    notices: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        split: str,
        data_dir: str | None = None,
        name: str | None = None,
        config: str | None = None,
        image: str = "image",
        label: str = "label",
        as_seen: bool = True,
    ):
        if (data_dir is None) == (name is None):
            raise ValueError(
                "data of kind 'huggingface' needs either data_dir, a folder, or name, a "
                f"data set on the hub, but has data_dir={data_dir!r} and name={name!r}"
            )
        self.as_seen = as_seen
        what = str(name or os.path.expanduser(str(data_dir)))
        self._what = f"{what} {split}"
        by_split = _open(name, data_dir, config)
        chosen = splits.select(
            split, tuple(by_split), what, lambda s: (by_split[s], len(by_split[s]))
        )
        self._tables = [_images_only(rows, image, label, what) for rows, _ in chosen]
        columns = [_labels(table, label, self._what) for table in self._tables]
        names = getattr(self._tables[0].features[label], "names", None)
        self._label_of: dict[str, int] | None = None
        if columns[0].dtype == object:
            names = in_order({name for column in columns for name in column})
            self._label_of = {name: number for number, name in enumerate(names)}
        self.class_names = tuple(names) if names else None
        self.num_classes = len(names) if names else None
        for column in () if self._label_of else columns:
            check_labels(column, self.num_classes, self._what)
            if not names:  # count at least the classes that occur
                largest = int(column.max(initial=-1))
                self.num_classes = max(self.num_classes or 0, largest + 1)
        self._keys = (image, label)
        self._rows = np.concatenate([rows for _, rows in chosen])
        self._ends = np.cumsum([len(rows) for _, rows in chosen])

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return example `index`: image (undecoded), label int64, `_id` int32."""
        return self.finish(self._row(index))

    def labels(self) -> np.ndarray:
        """Return the label of every example, int64[n]; reads the column of labels."""
        parts = np.split(self._rows, self._ends[:-1])
        found = []
        for table, rows in zip(self._tables, parts, strict=True):
            column = _labels(table, self._keys[1], self._what)[rows]
            if self._label_of is not None:
                column = [self._label_of[name] for name in column]
            found.append(np.asarray(column, np.int64))
        return np.concatenate(found)

    def sequential(self, start: int, stop: int) -> tf.data.Dataset:
        """Return the rows of examples start to stop in order."""
        return tf.data.Dataset.range(start, stop).map(as_written(self._row))

    def finish(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return an example of `sequential` as `read` returns it."""
        image = image_files.readable(features["image"], as_seen=self.as_seen)
        return {**features, "image": image}

    def describe(self, index: int) -> str:
        """Return the data set, the example's index, and its row in the files."""
        part = int(np.searchsorted(self._ends, index, side="right"))
        names = [file["filename"] for file in self._tables[part].cache_files]
        of = f" of {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        return (
            f"example {index} of {self._what} (row {self._rows[index]}"
            f"{of if names else ' of its split'})"
        )

    def nbytes(self) -> int:
        """Return about the size of the examples' part of the files."""
        rows = sum(len(table) for table in self._tables)
        return sum(table.data.nbytes for table in self._tables) * len(self) // rows

    def _row(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        image, label = tf.numpy_function(self._fetch, [index], [tf.string, tf.int64])
        return {
            "image": tf.ensure_shape(image, []),
            "label": tf.ensure_shape(label, []),
            "_id": tf.cast(index, tf.int32),
        }

    def _fetch(self, index: Any) -> tuple[np.ndarray, np.ndarray]:
        part = int(np.searchsorted(self._ends, index, side="right"))
        row = self._tables[part][int(self._rows[index])]
        image, label = (row[key] for key in self._keys)
        if self._label_of is not None:
            label = self._label_of[label]
        # An error here would print a traceback; empty bytes fail later as no image.
        image = image or {"bytes": b""}
        data = image["bytes"]
        if data is None:  # only a path was kept
            with open(image["path"], "rb") as file:
                data = file.read()
        # As an object: numpy would copy plain bytes into a fixed-width string array.
        return np.array(data, object), np.array(label, np.int64)


def _open(name: str | None, data_dir: str | None, config: str | None) -> dict[str, Any]:
    """Return the data set's splits by name."""
    try:
        import datasets  # an optional extra that takes seconds to import
    except ImportError:
        raise DataNotFound(
            "data of kind 'huggingface' needs the package 'datasets': install the extra, "
            'pip install -e ".[huggingface]"'
        ) from None
    datasets.disable_progress_bars()
    if data_dir is None:
        return _load(datasets, name, config, name)
    folder = os.path.expanduser(data_dir)
    if not os.path.isdir(folder):
        raise DataNotFound(f"there is no folder {folder}")
    if os.path.exists(os.path.join(folder, "dataset_dict.json")):
        return dict(_from_disk(datasets, folder))
    if os.path.exists(os.path.join(folder, "state.json")):
        # A single split, which may know its name.
        table = _from_disk(datasets, folder)
        return {str(table.split or "train"): table}
    return _load(datasets, folder, config, folder)


def _from_disk(datasets: Any, folder: str) -> Any:
    try:
        return datasets.load_from_disk(folder)
    except Exception as error:  # from Arrow, which names no file, or the disk
        files = sorted(Path(folder).rglob("*.arrow"))
        damaged = [path for path in files if not _readable(path)]
        which = ", ".join(map(str, damaged)) or folder
        raise ValueError(
            f"{which} is missing, truncated or damaged, of the data set in {folder} "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}): copy it again"
        ) from None


def _readable(path: Path) -> bool:
    """Return whether Arrow can read the file to its end."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file:
            for _ in pa.ipc.open_stream(file):
                pass
    except (OSError, pa.ArrowException):
        return False
    return True


def _load(datasets: Any, path: Any, config: str | None, what: Any) -> dict[str, Any]:
    try:
        return dict(datasets.load_dataset(path, config))
    except Exception as error:  # from the network, Arrow or any file format
        text = " ".join(str(error).split())
        raise DataNotFound(
            f"Hugging Face's datasets cannot load {what!r}: {type(error).__name__}: "
            f"{text[:300]}"
        ) from None


def _images_only(table: Any, image: str, label: str, what: str) -> Any:
    """Return the two columns, with images as bytes."""
    import datasets

    for key in (image, label):
        if key not in table.features:
            raise ValueError(
                f"{what} has no column {key!r}, but {', '.join(table.features)}: name "
                "the columns with image=... and label=..."
            )
    if not isinstance(table.features[image], datasets.Image):
        raise ValueError(
            f"the column {image!r} of {what} must be of the type Image, but is "
            f"{table.features[image]}"
        )
    chosen = table.select_columns([image, label])
    return chosen.cast_column(image, datasets.Image(decode=False))


def _labels(table: Any, key: str, what: str) -> np.ndarray:
    """Return the labels: int64, or names as objects. ValueError if any is None."""
    import pyarrow as pa

    column = table.select_columns([key]).with_format("arrow")[:][key]
    kind = column.type
    is_name = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (is_name or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise ValueError(
            f"the column {key!r} of {what} must hold whole numbers or names, but is "
            f"{table.features[key]}: cast it with datasets' cast_column, or name "
            "another one with label=..."
        )
    if column.null_count:
        missing = np.asarray(column.is_null())
        raise ValueError(
            f"{column.null_count} of the {len(column)} rows of {what} have no label "
            f"(None in the column {key!r}), the first of them row "
            f"{int(np.argmax(missing))}: leave them out with datasets' filter, or name "
            "another column with label=..."
        )
    if is_name:
        return np.array(column.to_pylist(), object)
    return np.asarray(column).astype(np.int64)
