"""Read examples of a data set that tfds has prepared, by index.

tfds' metadata says which shards, and which of their records, a split or sub-split has,
and its features parse an example. Only the reading is done here, because tfds reads
from front to back. Nothing is ever downloaded or prepared.
"""

import os
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from input_pipeline import places
from input_pipeline.sources import ahead, bucket_shards, prepared, record_index
from input_pipeline.sources.splits import DataNotFound
from input_pipeline.spec import did_you_mean
from input_pipeline.tracing import as_written


class TfdsSource:
    """A split of a prepared tfds data set; see `sources.Source` for the interface.

    Args:
      name: as `tfds.builder` takes it: "imagenet2012", "imagenet2012:5.0.0",
        "imagenet_v2/matched-frequency". Without a version it is that of the installed
        tfds or, if that is not prepared, the only prepared one; a notice says so.
      split: a split or any part of one that tfds knows, such as "train[:99%]".
      data_dir: where tfds has prepared it, also gs:// or s3://; None is tfds' default.
      cache_dir: a local folder to which the shards of a bucket are copied while they are
        read, as much as fits; see `copies`.

    Raises:
      DataNotFound: the data set is not prepared.
      ValueError: unknown data set or split, no examples, not TFRecord, a damaged shard,
        a bucket that cannot be read.
    """

    def __init__(
        self,
        *,
        name: str,
        split: str,
        data_dir: str | None = None,
        cache_dir: str | None = None,
    ):
        self._what = f"{name} {split}"
        remote = _in_bucket(name, data_dir)
        where = data_dir if remote is None else remote.metadata
        named = (lambda text: text) if remote is None else remote.named
        try:
            builder, notices = prepared_builder(name, where)
            instructions = _file_instructions(builder, name, split)
        except ValueError as error:
            raise type(error)(named(str(error))) from None
        folder = builder.data_path
        self.prepared, resized = prepared.told(
            prepared.read(folder), named(str(folder))
        )
        self.notices = (*map(named, notices), *resized)
        self._features: Any = builder.info.features
        self.class_names = _class_names(self._features)
        self.num_classes = len(self.class_names) if self.class_names else None
        self.label_keys = _label_keys(self._features, self.class_names)
        label = dict(self._features.items()).get("label")
        self._label_is_one_class = isinstance(label, tfds.features.ClassLabel)

        # One row per piece of a shard, and one row per record.
        self._files = [named(piece.filename) for piece in instructions]
        shards = list(dict.fromkeys(self._files))
        offsets_of = record_index.offsets if remote is None else remote.offsets
        self._size_of = record_index.file_size if remote is None else remote.size
        found = dict(zip(shards, offsets_of(shards), strict=True))
        self._counts = {shard: len(offsets) for shard, offsets in found.items()}
        pieces = list(zip(self._files, instructions, strict=True))
        for file, piece in pieces:
            check_count(file, piece.examples_in_shard, len(found[file]))
        self._records = np.concatenate(
            [found[file][p.skip : p.skip + p.take] for file, p in pieces]
        )
        self.ahead = None
        if remote is not None:
            stops = {x: np.append(found[x], remote.size(x))[1:] for x in shards}
            self._stops = np.concatenate(
                [stops[file][p.skip : p.skip + p.take] for file, p in pieces]
            )
            self.remote = remote
            self.ahead = ahead.Ahead(self._fetch)
            if cache_dir is not None:
                remote.copy(shards, cache_dir)
        elif cache_dir is not None:
            self.notices += (
                f"cache_dir={cache_dir!r} has no effect: {folder} is not in a bucket",
            )
        self._ends = np.cumsum([piece.take for piece in instructions], dtype=np.int64)
        self._skips = [piece.skip for piece in instructions]

        # Made here, eagerly: a graph then refers to them instead of containing them.
        with tf.device("CPU"):
            self._files_table = tf.constant(self._files)
            self._ends_table = tf.constant(self._ends)
            self._records_table = tf.constant(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return example `index` (int64), its image undecoded; `_id` is the index."""
        if self.ahead is not None:
            return self.parse(self.ahead.item(index))
        piece = tf.searchsorted(self._ends_table, [index], side="right")[0]
        record = _read_record(
            tf.gather(self._files_table, piece), tf.gather(self._records_table, index)
        )
        return self._parse(record, index)

    def parse(self, item: ahead.Item) -> dict[str, tf.Tensor]:
        """Return the example of an item of `ahead`, as `read` does."""
        return self._parse(ahead.content_of(item), item["index"])

    def _fetch(self, index: int) -> bytes:
        """Return the record of an example, read from a bucket."""
        file = self._files[int(np.searchsorted(self._ends, index, side="right"))]
        return self.remote.read(
            file, int(self._records[index]), int(self._stops[index])
        )

    def sequential(self, start: int, stop: int) -> tf.data.Dataset:
        """Return examples start to stop in the order of the shards, front to back.

        Several shards are read at a time, in turns, as in tfds. From a bucket, examples
        are read one by one, ahead.
        """
        if self.ahead is not None:
            items = self.ahead.in_order(tf.data.Dataset.range(start, stop))
            return items.map(as_written(self.parse))
        pieces = np.searchsorted(self._ends, [start, stop - 1], side="right")
        rows = []
        for i in range(pieces[0], pieces[1] + 1):
            first = max(start, self._ends[i - 1] if i else 0)
            last = min(stop, self._ends[i])
            rows.append((self._files[i], self._records[first], first, last - first))
        files, *numbers = zip(*rows, strict=True)

        def read_piece(*piece):
            file, offset, first, count = piece
            records = records_from(file, offset, buffer_size=2**20).take(count)
            return tf.data.Dataset.zip(
                tf.data.Dataset.range(first, first + count), records
            )

        pieces = tf.data.Dataset.from_tensor_slices(
            (list(files), *(np.array(column, np.int64) for column in numbers))
        )
        examples = pieces.interleave(
            as_written(read_piece),
            cycle_length=16,
            block_length=16,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return examples.map(
            as_written(lambda index, record: self._parse(record, index))
        )

    def finish(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return `features`: `sequential` leaves nothing to do."""
        return features

    def describe(self, index: int) -> str:
        """Return the data set, the example's index, its file and its place there."""
        piece = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[piece - 1]) if piece else 0
        return (
            f"example {index} of {self._what} (record "
            f"{self._skips[piece] + index - first} of {self._files[piece]}, at byte "
            f"{self._records[index]})"
        )

    def nbytes(self) -> int:
        """Return about the size of the examples' part of the shards."""
        shards = dict.fromkeys(self._files)
        size = sum(map(self._size_of, shards))
        return int(size * len(self) / sum(self._counts[shard] for shard in shards))

    def _parse(self, record: tf.Tensor, index: tf.Tensor) -> dict[str, tf.Tensor]:
        skip = {
            name: tfds.decode.SkipDecoding()
            for name, feature in self._features.items()
            if isinstance(feature, tfds.features.Image)
        }
        features = self._features.deserialize_example(record, decoders=skip)
        if self._label_is_one_class:
            features["label"] = _checked(features["label"], self.num_classes)
        return {**features, "_id": tf.cast(index, tf.int32)}


def _in_bucket(name: str, data_dir: str | None) -> bucket_shards.Shards | None:
    """Return the shards of a data set in a bucket; None if it is on this machine."""
    where = data_dir or os.environ.get("TFDS_DATA_DIR", "")  # as tfds
    if places.scheme(where) is None:
        return None
    key = "data_dir" if data_dir else "TFDS_DATA_DIR"
    places.check(where, key, places.BUCKETS)
    return bucket_shards.Shards(where, name.partition(":")[0])


def records_from(file: Any, offset: Any, buffer_size: int) -> tf.data.Dataset:
    """Return the records of a file from a byte offset on."""
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=[file],
        compression_type="",
        buffer_size=tf.constant(buffer_size, tf.int64),
        byte_offsets=[offset],
    )
    spec = tf.TensorSpec([], tf.string)
    return tf.data.experimental.from_variant(variant, spec)


def _read_record(file: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    # Without a buffer only the record itself is read: three times faster than with the
    # default of 256 KiB, measured on records of 110 KB.
    return records_from(file, offset, buffer_size=0).take(1).get_single_element()


def _checked(label: tf.Tensor, num_classes: Any) -> tf.Tensor:
    """Return the label after a check that it is a class, which tfds' reader omits."""
    what = [f"its label is not in 0 to {num_classes - 1}, but", label]
    right = tf.logical_and(label >= 0, label < num_classes)
    with tf.control_dependencies([tf.debugging.Assert(right, what)]):
        return tf.identity(label)


def known_class_names(name: str) -> tuple[str, ...] | None:
    """Return the class names of a data set, which need not be prepared."""
    return _class_names(known_features(name))


def known_features(name: str) -> Any:
    """Return tfds' features of a data set by name; it need not be prepared."""
    builder, _ = _builder(name, None)
    return builder.info.features


def _builder(name: str, data_dir: str | None) -> tuple[tfds.core.DatasetBuilder, bool]:
    """Return (the builder of a data set, whether the data set is prepared)."""
    bare, version, _ = name.partition(":")
    verbosity = logging.get_verbosity()
    try:
        # tfds warns of every folder that it does not find; the error below says more.
        logging.set_verbosity(logging.ERROR)
        builder = tfds.builder(name, data_dir=data_dir)
        return builder, builder.is_prepared()
    except tfds.core.DatasetNotFoundError:
        hint = did_you_mean(name, tfds.list_builders())
        raise ValueError(f"tfds knows no data set {name!r}{hint}") from None
    except (ValueError, AssertionError) as error:  # with several lines
        lines = str(error).strip().splitlines()
        why = next((line for line in lines if "cannot be loaded at" in line), lines[0])
        there = ""
        if version and isinstance(error, AssertionError):  # no such version
            there = _there(_builder(bare, data_dir)[0], bare)
        raise ValueError(
            f"tfds cannot open the data set {name!r}: {why}{there}"
        ) from None
    finally:
        logging.set_verbosity(verbosity)


def prepared_builder(
    name: str, data_dir: str | None
) -> tuple[tfds.core.DatasetBuilder, tuple[str, ...]]:
    """Return (the builder of a prepared data set, notices on its version).

    Raises DataNotFound or ValueError, as `TfdsSource`.
    """
    if data_dir is None:  # tfds reads the variable then
        places.check(os.environ.get("TFDS_DATA_DIR", ""), "TFDS_DATA_DIR")
    builder, is_prepared = _builder(name, data_dir)
    notices = ()
    if not is_prepared:
        versions = _prepared_versions(builder)
        if len(versions) != 1 or ":" in name:
            raise DataNotFound(_not_prepared(builder, name, data_dir))
        [only] = versions
        own = builder.version
        builder, _ = _builder(f"{name}:{only}", data_dir)
        notices = (
            f"{name}: version {only}, the only one that is prepared, is read from "
            f"{builder.data_path}; the installed tfds' own is {own} (name='{name}:{only}' "
            "asks for it)",
        )
    file_format: Any = builder.info.file_format
    if file_format != tfds.core.FileFormat.TFRECORD:
        raise ValueError(
            f"{builder.data_path} is in tfds' file format "
            f"{file_format.value!r}, but only 'tfrecord' can be read by "
            "index: prepare the data set with file_format='tfrecord' (tfds' default)"
        )
    return builder, notices


def _prepared_versions(builder: tfds.core.DatasetBuilder) -> list[str]:
    """Return the prepared versions in a builder's folder, the oldest first."""
    folder = builder.data_path.parent
    found = [
        path.name
        for path in (folder.iterdir() if folder.exists() else ())
        if tfds.core.Version.is_valid(path.name)
        and (path / "dataset_info.json").exists()
    ]
    return sorted(found, key=tfds.core.Version)


def _there(builder: tfds.core.DatasetBuilder, bare: str) -> str:
    """Return which versions are prepared, and how to get one; "" if none is."""
    versions = _prepared_versions(builder)
    if not versions:
        return ""
    return (
        f"; prepared in {builder.data_path.parent} are {', '.join(versions)}: ask for one "
        f"with name='{bare}:{versions[-1]}'"
    )


def _not_prepared(
    builder: tfds.core.DatasetBuilder, name: str, data_dir: str | None
) -> str:
    where = "" if data_dir is None else f", data_dir={str(data_dir)!r}"
    command = (
        'python -c "import tensorflow_datasets as tfds; '
        f'tfds.builder({name!r}{where}).download_and_prepare()"'
    )
    manual = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    first = ""
    if name.startswith("imagenet2012"):
        # tfds' default folder for files that must be downloaded by hand.
        levels = builder.info.full_name.count("/")  # config and version
        folder = builder.data_path.parents[levels] / "downloads" / "manual"
        tars = "ILSVRC2012_img_val.tar"
        if not name.startswith("imagenet2012_real"):
            tars = f"ILSVRC2012_img_train.tar and {tars}"
        first = f"put {tars} from https://image-net.org into {folder} and "
    elif manual:
        first = f"follow tfds' instructions ({' '.join(manual.split())}) and "
    return (
        f"the data set {name!r} is not prepared: tfds finds none in "
        f"{builder.data_path}{_there(builder, name.partition(':')[0])}; to prepare it, "
        f"{first}run: {command}"
    )


def _file_instructions(builder, name: str, split: str) -> list:
    try:
        instructions = builder.info.splits[split].file_instructions
    except (KeyError, ValueError, AssertionError) as error:
        known = ", ".join(builder.info.splits)
        raise ValueError(
            f"{name!r} in {builder.data_path} has no split {split!r}: it has {known}, "
            f"and parts of them such as 'train[:99%]' ({str(error).splitlines()[0]})"
        ) from None
    if not sum(piece.take for piece in instructions):
        raise ValueError(f"the split {split!r} of {name!r} has no examples")
    return [piece for piece in instructions if piece.take]


def check_count(shard: str, said: int, count: int) -> None:
    """Raise ValueError unless a shard has as many records as tfds' metadata says."""
    if count != said:
        raise ValueError(
            f"the shard {shard} has {count} records, but dataset_info.json next to it "
            f"says {said}; copy it or prepare the data set "
            "again"
        )


def _class_names(features) -> tuple[str, ...] | None:
    """Return the class names: of "label" if there is one, else of the first label."""
    labels = _class_labels(features)
    if not labels:
        return None
    return tuple(labels.get("label", next(iter(labels.values()))).names)


def _label_keys(features, names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the features that hold labels of classes of these names."""
    labels = _class_labels(features)
    return tuple(key for key, label in labels.items() if tuple(label.names) == names)


def _class_labels(features) -> dict[str, Any]:
    # The labels' feature is inside a sequence of labels.
    inner = {key: getattr(x, "feature", x) for key, x in features.items()}
    return {k: x for k, x in inner.items() if isinstance(x, tfds.features.ClassLabel)}
