"""Sources of examples, each with random access: `read(index)`, in graph.

A config's `data` section is the keyword arguments of one source, plus `kind`, its name
in SOURCES: `dict(name="imagenet2012", split="train[:99%]")` is a tfds data set, the
default kind; `dict(kind="folder", data_dir="~/pets", split="train[:99%]")` a folder of
images; `dict(kind="arrays", name="digits", split="train")` needs no files.
"""

import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow as tf

from input_pipeline import parts, places
from input_pipeline.sources import array_files
from input_pipeline.sources.arrays import ARRAYS, ArraySource
from input_pipeline.sources.folder import FolderSource
from input_pipeline.sources.huggingface import HuggingFaceSource
from input_pipeline.sources.splits import DataNotFound
from input_pipeline.sources.tfds import TfdsSource
from input_pipeline.spec import did_you_mean, fit, hints_of

__all__ = ["SOURCES", "DataNotFound", "Source", "arrays", "labels_of", "open_source"]


@runtime_checkable
class Source(Protocol):
    """The interface that the pipeline needs of a source."""

    class_names: tuple[str, ...] | None
    """The names of the classes in the order of their labels, if the source has them."""
    num_classes: int | None
    """The number of classes, if the source knows it."""
    notices: tuple[str, ...]
    """User-facing sentences on how the data set was read, if any."""
    # The optional tuple `label_keys` names the features with labels; else ("label",).
    # The optional dict `prepared` has the facts of `prepared.facts`; None: as it was made.
    # The optional method `labels()` returns the label of every example, an int64[n],
    # without reading the examples: see `labels_of`.
    # The optional `ahead`, an `ahead.Ahead`, reads the examples of a bucket; the method
    # `parse(item)` then returns the example of one of its items, as `read` does.

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return example `index` (an int64 scalar); `_id` is its index in the split."""
        ...

    def sequential(self, start: int, stop: int) -> tf.data.Dataset:
        """Return examples start to stop, each once, in the fastest order to read.

        Steps that take memory may be left to `finish`.
        """
        ...

    def finish(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return an example of `sequential` as `read` returns it."""
        ...

    def describe(self, index: int) -> str:
        """Return a name of example `index` for messages, with its file."""
        ...

    def nbytes(self) -> int:
        """Return about how many bytes the examples take, undecoded."""
        ...


def arrays(*, name: str, split: str) -> ArraySource:
    """Return a data set held in memory.

    "digits": scikit-learn's 1,797 handwritten digits, grey, 8x8, their values 0 to 16
    scaled to uint8 0 to 255; "test" is a fixed random fifth (359), "train" the others.
    """
    return _lookup(ARRAYS, name, "data set of kind 'arrays'")(split)


SOURCES = {
    "tfds": TfdsSource,
    "folder": FolderSource,
    "idx": array_files.idx,
    "cifar": array_files.cifar,
    "npz": array_files.npz,
    "huggingface": HuggingFaceSource,
    "arrays": arrays,
}
# The arguments of sources that are paths.
_PATHS = ("data_dir", "path", "cache_dir")
_IN_BUCKETS = ("tfds", "folder")  # the kinds that a bucket may hold


def open_source(*, kind: str = "tfds", origin: Any = "", **data) -> Source:
    """Open the source that a config's data section describes.

    `origin` says where to get the data set, and where its files go; the error about
    missing files ends with it.

    Raises:
      DataNotFound: the files of the data set are missing.
      ValueError: an unknown kind, key, name or split, or damaged files; a person's own
        kind, a dotted name, that is no `Source`.
    """
    source = _checked(kind, origin, data)
    try:
        with parts.explained(f"the source {kind!r}", parts.SLIPS):
            opened: Any = source(**data)
    except DataNotFound as error:
        if not origin:
            raise
        raise DataNotFound(f"{error}; the data set: {origin}") from None
    if parts.is_dotted(kind):
        _check_source(opened, kind)
    return opened


def check_section(section: Mapping[str, Any]) -> None:
    """Raise ValueError, as `open_source`, for a wrong kind or key; open no file."""
    bound = inspect.signature(open_source).bind(**section)
    bound.apply_defaults()
    _checked(**bound.arguments)


def _checked(kind: str, origin: Any, data: Mapping[str, Any]) -> Any:
    """Return the function of a kind of data, its arguments checked."""
    if parts.is_dotted(kind):
        source = parts.find(kind, "sources")
    else:
        source = _lookup(SOURCES, kind, "kind of data")
    keys = inspect.signature(source).parameters
    hints = hints_of(source)
    for key in data:
        _lookup(keys, key, f"key of data of kind {kind!r}:")
    for key, parameter in keys.items():
        if parameter.default is parameter.empty and key not in data:
            raise ValueError(f"the data section lacks a {key}: {data}")
        if key not in data:
            continue
        try:
            fit(data[key], hints.get(key, Any))
        except TypeError:
            raise ValueError(
                f"{key} of a data section must be {_name(hints[key])}, got {data[key]!r}"
            ) from None
        if key in _PATHS and kind in SOURCES and data[key] is not None:
            local = key == "cache_dir" or kind not in _IN_BUCKETS
            served = () if local else places.BUCKETS
            places.check(data[key], f"{key} of a data section", served)
    if not isinstance(origin, str):
        raise ValueError(f"origin of a data section must be a string, got {origin!r}")
    return source


def labels_of(source: Any) -> np.ndarray:
    """Return the label of every example, int64[n].

    Raises ValueError for a source that would have to read every example for them.
    """
    labels = getattr(source, "labels", None)
    if labels is None:
        raise ValueError(
            "sampling='balanced' and class_weights='balanced' need the label of every "
            "example, which data of the kind 'tfds' keeps within the examples: use another "
            "kind (folder, huggingface, npz), or give class_weights as a list"
        )
    return labels()


def _check_source(opened: Any, kind: str) -> None:
    """Raise ValueError, naming what it lacks, unless a person's source is a `Source`."""
    methods = [k for k, x in vars(Source).items() if inspect.isfunction(x)]
    members = [*Source.__annotations__, "__len__", *(k for k in methods if k[0] != "_")]
    lacks = [name for name in members if not hasattr(opened, name)]
    if lacks:
        raise ValueError(
            f"data of kind {kind!r} must be a source, such as an ArraySource of "
            f"input_pipeline.sources.arrays, but its {type(opened).__name__} has no "
            f"{', '.join(lacks)}"
        )


def _lookup(table: Mapping, name: str, what: str) -> Any:
    if not isinstance(name, str) or name not in table:
        hint = did_you_mean(name, table)
        raise ValueError(f"unknown {what} {name!r}{hint} (known: {', '.join(table)})")
    return table[name]


def _name(hint: Any) -> str:
    if typing.get_origin(hint) is types.UnionType:
        return " or ".join(map(_name, typing.get_args(hint)))
    names = {
        str: "a string",
        int: "a whole number",
        bool: "True or False",
        types.NoneType: "None",
    }
    return names.get(hint, "a list of strings")
