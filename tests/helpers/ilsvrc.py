"""A small ILSVRC 2012: two tar files of photographs, prepared by tfds' own builder.

The tars have the layout of the real ones (a tar of one tar per synset; a flat tar of
validation images), so everything behind them, tfds' imagenet2012 included, is the
code that the real data set goes through. The pictures are random crops of photographs
that scikit-image and scikit-learn ship; which photograph depends on the class only, so
that there is something to learn.
"""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import skimage
import sklearn.datasets
import tensorflow_datasets as tfds
from PIL import Image

_SKIMAGE = Path(skimage.__file__).parent / "data"
_PHOTOS = (
    *(_SKIMAGE / f"{name}.png" for name in ("astronaut", "chelsea", "coffee", "ihc")),
    *(_SKIMAGE / f"{name}.jpg" for name in ("hubble_deep_field", "retina", "rocket")),
    *(_SKIMAGE / f"{name}.png" for name in ("motorcycle_left", "color", "brick")),
    *(Path(sklearn.datasets.__file__).parent / "images" / n for n in ("china.jpg",)),
    *(Path(sklearn.datasets.__file__).parent / "images" / n for n in ("flower.jpg",)),
)
# The builder knows a few files of the real data set by name and mends them: this one
# is a PNG, which it converts to JPEG.
_PNG = "n02105855_2933.JPEG"
_GREY_ROW, _CMYK_ROW = 1, 2  # of the first synset


def synsets(num_classes: int) -> list[str]:
    """The synsets that are used: the PNG's, then the first of tfds' label file."""
    labels = tfds.core.tfds_path("datasets/imagenet2012/labels.txt").read_text()
    names = labels.split()
    first = _PNG.split("_")[0]
    return [first, *(name for name in names if name != first)][:num_classes]


def _photos() -> list[Image.Image]:
    photos = [Image.open(path).convert("RGB") for path in _PHOTOS]
    for photo in photos:
        photo.thumbnail((480, 480))
        photo.info.clear()  # colour profiles
    return photos


def _crop(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A random crop of odd height and width, a third of the photograph or more."""
    width, height = (
        int(rng.integers(side // 3, side)) // 2 * 2 - 1 for side in photo.size
    )
    left = int(rng.integers(0, photo.width - width + 1))
    top = int(rng.integers(0, photo.height - height + 1))
    return photo.crop((left, top, left + width, top + height))


def _encode(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _class_tar(
    synset: str, row: int, photo: Image.Image, count: int, rng: np.random.Generator
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i in range(count):
            crop, name = _crop(photo, rng), f"{synset}_{i + 1}.JPEG"
            if row == 0 and i == 0:
                name, data = _PNG, _encode(crop, "PNG")
            elif row == 0 and i == _GREY_ROW:
                data = _encode(crop.convert("L"))
            elif row == 0 and i == _CMYK_ROW:
                data = _encode(crop.convert("CMYK"))
            else:
                data = _encode(crop, subsampling=i % 3, progressive=i % 5 == 4)
            _add(tar, name, data)
    return buffer.getvalue()


def write_tars(folder: Path, *, train_per_class: int, num_classes: int, val: int):
    """ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar in `folder`, always alike."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2012)
    photos, names = _photos(), synsets(num_classes)
    photo_of = {name: photos[i % len(photos)] for i, name in enumerate(names)}
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as tar:
        for row, name in enumerate(names):
            data = _class_tar(name, row, photo_of[name], train_per_class, rng)
            _add(tar, f"{name}.tar", data)
    # The validation labels are the builder's own; the k-th file has the k-th of them.
    path = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt")
    labels = path.read_text().split()[:val]
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
        for i, name in enumerate(labels):
            photo = photo_of.get(name, photos[int(name[1:]) % len(photos)])
            data = _encode(_crop(photo, rng))
            _add(tar, f"ILSVRC2012_val_{i + 1:08}.JPEG", data)


def prepare(
    root: Path,
    *,
    train_per_class: int,
    num_classes: int,
    val: int,
    num_shards: int = 4,
) -> Path:
    """Write the tars under `root`, let tfds prepare them; the tfds data_dir.

    `num_classes` (at most 1000) synsets of the 1,000 have training images; the labels
    of the `val` validation images are the true file's first ones. No network.
    """
    write_tars(
        root / "manual",
        train_per_class=train_per_class,
        num_classes=num_classes,
        val=val,
    )
    data_dir = root / "tfds"
    builder = tfds.builder("imagenet2012", data_dir=data_dir)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=root / "manual", num_shards=num_shards
        )
    )
    return data_dir


def prepare_real(data_dir: Path, manual_dir: Path, labels: list[list[int]]) -> None:
    """Let tfds' own builder prepare imagenet2012_real from the validation tar.

    `labels` stands for the one file that the builder would download: the classes of
    each image, in the order of the file names.
    """
    builder = tfds.builder("imagenet2012_real", data_dir=data_dir)
    names = (f"ILSVRC2012_val_{i + 1:08}.JPEG" for i in range(len(labels)))
    by_file = dict(zip(names, labels, strict=True))
    builder._get_real_labels = lambda dl_manager: by_file
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
    )


def prepare_v2(
    data_dir: Path, folder: Path, examples: Sequence[tuple[int, bytes]]
) -> None:
    """Let tfds' own builder prepare imagenet_v2 of (class, JPEG) pairs.

    `folder` stands for what the builder would download and unpack; its images lie below
    folders that are named by the numbers of their classes.
    """
    for i, (label, data) in enumerate(examples):
        path = folder / "imagenetv2-matched-frequency-format-val" / str(label)
        path.mkdir(parents=True, exist_ok=True)
        (path / f"{i}.jpeg").write_bytes(data)
    builder = tfds.builder("imagenet_v2", data_dir=data_dir)
    with mock.patch.object(
        tfds.download.DownloadManager, "download_and_extract", return_value=str(folder)
    ):
        builder.download_and_prepare()
