"""Describe a training stream without its data set, for planning."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from input_pipeline import ops, pipeline
from input_pipeline.sources import splits
from input_pipeline.sources.tfds import known_features
from input_pipeline.stream import batching
from input_pipeline.tracing import as_written

# Published numbers of examples: https://image-net.org/challenges/LSVRC/2012,
# https://www.cs.toronto.edu/~kriz/cifar.html, http://yann.lecun.com/exdb/mnist.
SIZES = {
    "imagenet2012": {"train": 1_281_167, "validation": 50_000},
    "cifar10": {"train": 50_000, "test": 10_000},
    "cifar100": {"train": 50_000, "test": 10_000},
    "mnist": {"train": 60_000, "test": 10_000},
    "fashion_mnist": {"train": 60_000, "test": 10_000},
}
SHAPES = {"idx": (28, 28, 1), "cifar": (32, 32, 3)}  # kinds without image files
ENCODED_BYTES = 110_000
"""The size of an encoded photo: the mean of ImageNet's training images."""


@dataclasses.dataclass(frozen=True)
class Outline:
    """A training stream: its number of examples, their shapes and their bytes."""

    examples: int
    element_spec: Mapping[str, tuple[tuple[int, ...], np.dtype]]
    bytes_per_example: int | float  # undecoded
    in_memory: bool  # the source holds its examples
    source: str  # where these values come from, in words


def of_stream(stream: pipeline.TrainData, kind: str) -> Outline:
    """Return the outline of a stream whose data set is present."""
    return Outline(
        examples=stream.total_examples,
        element_spec=stream.element_spec,
        bytes_per_example=stream.source.nbytes() / stream.total_examples,
        in_memory=kind in ("arrays", "npz", *SHAPES),
        source="the data set itself",
    )


def guess(
    *,
    data: Mapping[str, Any],
    pp: str = "",
    batch_size: int,
    examples: int | None = None,
    image_size: int | None = None,
) -> Outline:
    """Return the outline of a stream whose data set is absent.

    Args:
      data, pp, batch_size: of an input section.
      examples: of an epoch; needed for a data set that is not in SIZES.
      image_size: pixels per side of RGB images that pp does not have to decode.

    Raises ValueError if a needed argument is missing, or pp leaves an unknown shape.
    """
    pipeline.hide_accelerators()
    kind = data.get("kind", "tfds")
    if examples is None:
        examples = _known_size(data)
    if image_size is not None:
        features, source = _array((image_size, image_size, 3)), "--image_size"
    elif kind == "tfds":
        features, source = _tfds_features(data["name"]), "tfds' description of it"
    elif kind in SHAPES:
        features, source = _array(SHAPES[kind]), f"images of kind {kind!r}"
    elif kind in ("folder", "huggingface"):
        features, source = _encoded(), "photos of any size, and one label"
    else:
        raise ValueError(
            f"the image shape of kind {kind!r} is not known without the data set: give "
            "--image_size"
        )
    blank = _Blank(features, examples)
    stream = pipeline.TrainData(
        source=blank,
        preprocess=ops.get_preprocess_fn(pp),
        rows=batching.Rows(batch_size, 0, 1),
        seed=0,
        start_step=0,
        sampling=None,
        shuffle_buffer_size=None,
        cache_raw=False,
        threads=1,
        prefetch=0,
        reads_in_flight=1,
    )
    image = features["image"]()
    encoded = image.dtype == tf.string
    return Outline(
        examples=examples,
        element_spec=stream.element_spec,
        bytes_per_example=ENCODED_BYTES if encoded else int(tf.size(image)),
        in_memory=not encoded,
        source=source,
    )


def _known_size(data: Mapping[str, Any]) -> int:
    name = str(data.get("name", "")).split(":")[0].split("/")[0]
    split = data.get("split", "train")
    if data.get("kind", "tfds") != "tfds" or name not in SIZES:
        raise ValueError(
            "the number of examples is not known without the data set: give "
            f"--examples (known: {', '.join(SIZES)} of tfds)"
        )
    sizes = SIZES[name]
    total = 0
    for part, where in splits.parts(split, sizes, name):
        start, stop = splits.bounds(where, sizes[part])
        total += stop - start
    return total


Features = dict[str, Callable[[], tf.Tensor]]


def _array(shape: tuple[int, int, int]) -> Features:
    return {
        "image": lambda: tf.zeros(shape, tf.uint8),
        "label": lambda: tf.zeros((), tf.int64),
    }


def _encoded() -> Features:
    return {
        "image": lambda: tf.constant(b""),
        "label": lambda: tf.zeros((), tf.int64),
        "file_name": lambda: tf.constant(b""),
    }


def _tfds_features(name: str) -> Features:
    """Return blank features as `TfdsSource` reads them: images are not decoded."""

    def blank(feature: Any) -> Callable[[], tf.Tensor]:
        if isinstance(feature, tfds.features.Image):
            return lambda: tf.constant(b"")
        info = feature.get_tensor_info()
        shape = [side or 1 for side in info.shape]
        dtype = info.tf_dtype
        if dtype == tf.string:
            return lambda: tf.fill(shape, b"")
        return lambda: tf.zeros(shape, dtype)

    features = known_features(name)
    return {
        key: blank(feature)
        for key, feature in features.items()
        if not isinstance(feature.get_tensor_info(), dict)
    }


class _Blank:
    """A source of `size` examples that are all the same, and empty."""

    notices: tuple[str, ...] = ()

    def __init__(self, features: Features, size: int):
        self.class_names: tuple[str, ...] | None = None
        self.num_classes: int | None = None
        self._features, self._size = features, size

    def __len__(self) -> int:
        return self._size

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        features = {name: make() for name, make in self._features.items()}
        return {**features, "_id": tf.cast(index, tf.int32)}

    def sequential(self, start: int, stop: int) -> tf.data.Dataset:
        return tf.data.Dataset.range(start, stop).map(as_written(self.read))

    def finish(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return features

    def describe(self, index: int) -> str:
        return f"example {index}"

    def nbytes(self) -> int:
        return 0
