"""Layouts of image folders: data_dir/SPLIT/CLASS/*.jpg, and those of two data sets.

A class's images may be in nested folders of the class's folder, at any depth. Files and
folders that operating systems create (`is_junk`) are neither classes nor images.

ILSVRC's validation images are in one folder, without classes. Their labels are in the
list that tfds ships with its imagenet2012, by the number in a file's name.

Tiny ImageNet, which has a list of its classes in wnids.txt, keeps each folder's images
in a further folder, "images": train/CLASS/images, and val/images, whose classes are in
val/val_annotations.txt. Its test images have no labels and are not a split here.
"""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import tensorflow_datasets as tfds

from input_pipeline.sources.disks import Disk, Local

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"),
    *(".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".pgm", ".pbm"),
)
# Lower-case names of files and folders that operating systems create. Names that begin
# with a dot are junk too.
_JUNK = {
    "__macosx",  # macOS, in archives
    "thumbs.db",  # Windows, and the next three
    "desktop.ini",
    "$recycle.bin",
    "system volume information",
    "lost+found",  # the root of a Linux disk; only root may read it
    "@eadir",  # Synology, and the next
    "#recycle",
}
_ILSVRC_VAL = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
_TINY = "wnids.txt"  # present if data_dir is Tiny ImageNet
ARRANGE = (
    "arrange images as data_dir/SPLIT/CLASS/NAME.jpg (or "
    f"{', '.join(s[1:] for s in SUFFIXES if s != '.jpg')})"
)
_MOST_NAMED = 3  # classes in a notice or an error
_LOCAL = Local()


@dataclasses.dataclass
class Folder:
    """A folder that holds images, sorted by name."""

    path: str
    names: list[str]
    classes: str | list[str]  # one for all images, or one per image


@dataclasses.dataclass
class Found:
    """The images of a split's folder, and the other files in it."""

    folders: list[Folder]
    others: dict[str, Counter[str]]
    """By class, the number of files of each suffix that are not images."""

    def classes(self) -> set[str]:
        """Return the classes that have a folder of images."""
        return {f.classes for f in self.folders if isinstance(f.classes, str)}


def is_junk(name: str) -> bool:
    """Return whether a name is of a system's file or folder, such as "._cat.jpg"."""
    return name.startswith(".") or name.lower() in _JUNK


def is_image(name: str) -> bool:
    """Return whether a file of this name is an image that can be decoded."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def find(
    root: str, asked: Iterable[str], disk: Disk
) -> tuple[dict[str, Found], tuple[str, ...]]:
    """Return the contents of each requested split, and the names of their classes.

    Raises ValueError for a split without images, a class without images, or images
    without a class.
    """
    if disk.is_file(os.path.join(root, _TINY)):
        names = tuple(sorted(disk.text(os.path.join(root, _TINY)).split()))
        return {split: _tiny_split(root, split, names, disk) for split in asked}, names
    found = {split: _split(os.path.join(root, split), disk) for split in asked}
    return found, _class_names(root, found.values(), disk)


def notice(path: str, found: Found) -> str | None:
    """Return one sentence on the skipped files of a split, or None without any."""
    count = sum(sum(counter.values()) for counter in found.others.values())
    if not count:
        return None
    return (
        f"{path}: {count:,} file(s) without an image suffix are skipped: "
        f"{_in_words(found.others)}"
    )


def folders(folder: str, disk: Disk = _LOCAL) -> list[str]:
    """Return the names of the folders in a folder, sorted, without junk."""
    return visible(folder, disk)[1]


def visible(folder: str, disk: Disk = _LOCAL) -> tuple[list[str], list[str]]:
    """Return the names of a folder's files and folders, each sorted, without junk."""
    files, inner = [], []
    for name, is_folder in disk.entries(folder):
        if not is_junk(name):
            (inner if is_folder else files).append(name)
    return sorted(files), sorted(inner)


def _images(folder: str, disk: Disk) -> list[str]:
    return [name for name in visible(folder, disk)[0] if is_image(name)]


def _below(
    path: str,
    its_class: str,
    others: Counter[str],
    disk: Disk,
    above: Collection[str] = (),
) -> Iterator[Folder]:
    """Yield a class's folders of images: the class folder, then those in it by name.

    Counts the suffixes of files that are not images into `others`.
    """
    real = disk.real(path)
    if real in above:  # a link to a folder above it
        return
    files, inner = visible(path, disk)
    names = [name for name in files if is_image(name)]
    if len(names) < len(files):
        others.update(
            os.path.splitext(name)[1].lower() or "without a suffix"
            for name in files
            if not is_image(name)
        )
    if names:
        yield Folder(path, names, its_class)
    for name in inner:
        inside = os.path.join(path, name)
        yield from _below(inside, its_class, others, disk, {*above, real})


def _split(path: str, disk: Disk) -> Found:
    """Read a split of class folders, or ILSVRC's flat one."""
    found = Found([], {})
    for name in folders(path, disk):
        others = found.others[name] = Counter()
        found.folders += _below(os.path.join(path, name), name, others, disk)
    flat = _images(path, disk)
    if flat and found.folders:
        raise ValueError(
            f"{path} has both images, such as {flat[0]}, and folders of images, such as "
            f"{min(found.classes())!r}, so that the images' classes are unclear: "
            f"{ARRANGE}"
        )
    if flat:
        return Found([_ilsvrc_val(path, flat)], {})
    if not found.folders:
        hint = f" ({_in_words(found.others)})" if any(found.others.values()) else ""
        raise ValueError(f"{path} has no images in folders of classes{hint}: {ARRANGE}")
    if len(found.others) == 1 and len(found.folders) > 1:
        [name] = found.others
        inner = [os.path.basename(folder.path) for folder in found.folders]
        if name not in inner:
            raise ValueError(
                f"all images of {path} are below its only folder {name!r}, in folders that "
                f"look like the classes, {_some(map(repr, inner))}: move them up, or give "
                f"the data_dir whose {os.path.basename(path)!r} holds the classes"
            )
    empty = sorted(found.others.keys() - found.classes())
    if empty:
        held = _in_words({name: found.others[name] for name in empty})
        raise ValueError(
            f"{path} has {len(empty)} class(es) without images that can be read: "
            f"{_some(map(repr, empty))}{f' (but {held})' if held else ''}; convert or "
            "add images there, or remove the folder"
        )
    return found


def _in_words(others: Mapping[str, Counter[str]]) -> str:
    """Return, for example, "12 .heic (8 in ant, 4 in bee), 1 .txt (1 in ant)"."""
    total = sum(others.values(), Counter[str]())
    return _some(
        f"{count:,} {suffix} "
        f"({_some(f'{c[suffix]:,} in {name}' for name, c in others.items() if c[suffix])})"
        for suffix, count in total.most_common()
    )


def _some(names: Iterable[str]) -> str:
    """Return the first few names, and how many more there are."""
    names = list(names)
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _class_names(root: str, found: Collection[Found], disk: Disk) -> tuple[str, ...]:
    """Return the splits' classes; a flat one has another split's, or ILSVRC's."""
    classes = set[str]().union(*(split.classes() for split in found))
    if classes:
        return in_order(classes)
    synsets = _imagenet_list("labels.txt")
    for name in sorted(folders(root, disk), key=lambda name: (name != "train", name)):
        classes_there = folders(os.path.join(root, name), disk)
        if not set(synsets).isdisjoint(classes_there):
            return tuple(classes_there)
    return tuple(synsets)


def in_order(names: Collection[str]) -> tuple[str, ...]:
    """Sort names; by value if all are whole numbers."""
    numbers = whole_numbers(names)
    return tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))


def whole_numbers(names: Iterable[str]) -> bool:
    """Return whether all names are whole numbers."""
    return all(re.fullmatch(r"-?[0-9]+", name) for name in names)


def _tiny_split(root: str, split: str, class_names: Sequence[str], disk: Disk) -> Found:
    """Read a split of Tiny ImageNet."""
    path = os.path.join(root, split)
    annotations = os.path.join(path, "val_annotations.txt")
    flat = os.path.join(path, "images")
    if disk.is_file(annotations) and disk.is_folder(flat):
        return Found([_tiny_val(flat, annotations, class_names, disk)], {})
    there = set(folders(path, disk))
    found = [
        folder
        for name in class_names
        if name in there
        for folder in _below(os.path.join(path, name), name, Counter(), disk)
    ]
    if not found:
        raise ValueError(
            f"{path} has neither val_annotations.txt nor {next(iter(class_names), 'CLASS')}"
            "/images, and so no labels: the splits of Tiny ImageNet are train and val"
        )
    return Found(found, {})


def _tiny_val(
    folder: str, annotations: str, class_names: Sequence[str], disk: Disk
) -> Folder:
    """Read the flat folder of Tiny ImageNet's validation images."""
    lines = disk.text(annotations).splitlines()
    rows = [line.split() for line in lines if line.strip()]
    class_of = {row[0]: row[1] for row in rows if len(row) > 1}
    names = _images(folder, disk)
    for name in names:
        if class_of.get(name) not in class_names:
            raise ValueError(
                f"{os.path.join(folder, name)} has no class of {_TINY} in {annotations}"
            )
    return Folder(folder, names, [class_of[name] for name in names])


def _ilsvrc_val(folder: str, names: list[str]) -> Folder:
    """Read the flat folder of ILSVRC 2012's validation images."""
    synsets = _imagenet_list("validation_labels.txt")
    classes = []
    for name in names:
        match = _ILSVRC_VAL.fullmatch(name)
        number = int(match[1]) if match else 0
        if not 1 <= number <= len(synsets):
            raise ValueError(
                f"{os.path.join(folder, name)} is in no class folder, and its name is not "
                f"that of an ILSVRC 2012 validation image: {ARRANGE}"
            )
        classes.append(synsets[number - 1])
    return Folder(folder, names, classes)


def _imagenet_list(name: str) -> list[str]:
    return tfds.core.tfds_path(f"datasets/imagenet2012/{name}").read_text().split()
