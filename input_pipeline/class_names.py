"""Names of classes, also where the data set itself is not on this machine."""

from collections.abc import Sequence

from input_pipeline import sources, tfds_source


def of_data(**data) -> tuple[str, ...] | None:
    """The names of the classes of a data section, None if the data set has none.

    Those of a tfds data set that is not prepared are what tfds knows of it.

    Raises:
      DataNotFound: the data set is not there, and nobody else knows its names.
      ValueError: the section is wrong.
    """
    try:
        return sources.open_source(**data).class_names
    except sources.DataNotFound:
        if data.get("kind", "tfds") != "tfds":
            raise
        return tfds_source.known_class_names(data["name"])


def in_words(names: Sequence[str]) -> tuple[str, ...]:
    """ImageNet's synsets as words, "n01440764" as "tench, Tinca tinca".

    The words are those that tfds ships; other names stay as they are.
    """
    try:
        from tensorflow_datasets.datasets.siscore.labels import IMAGENET_LABELS_LIST
    except ImportError:  # a part of tfds that it may rearrange
        return tuple(names)
    synsets = tfds_source.known_class_names("imagenet2012") or ()
    words = dict(zip(synsets, IMAGENET_LABELS_LIST, strict=True))
    return tuple(words.get(name, name) for name in names)
