"""Folders of images: real files, ILSVRC's own layout, and arrangements that fail."""

import functools
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from input_pipeline import ops, pipeline, sources
from input_pipeline.sources import splits

RNG = np.random.default_rng(0)
CLASSES = ("ant", "bee", "cat")
SUFFIXES = ("jpg", "JPEG", "png", "webp", "WebP", "PNG")


def open_folder(root, split):
    return sources.open_source(kind="folder", data_dir=str(root), split=split)


def read(source, index):
    return source.read(tf.constant(index, tf.int64))


def files_of(source):
    """(path, label) of each example, by what describe says."""
    texts = map(source.describe, range(len(source)))
    paths = [Path(re.search(r"\((.*)\)$", text)[1]) for text in texts]
    return list(zip(paths, map(int, source._labels), strict=True))


def encoded(suffix):
    image = Image.fromarray(RNG.integers(0, 256, (13, 17, 3), np.uint8))
    buffer = io.BytesIO()
    kind = {"jpg": "jpeg"}.get(suffix.lower(), suffix.lower())
    image.save(buffer, kind)
    return buffer.getvalue()


PIXEL = encoded("png")


def touch(path, content=PIXEL):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def pets(tmp_path):
    """Eight images of each class in train, two in val; and files that are no images."""
    for split, count in (("train", 8), ("val", 2)):
        for name in CLASSES:
            for i in range(count):
                suffix = SUFFIXES[i % len(SUFFIXES)]
                path = tmp_path / split / name / f"ä {i:02}.{suffix}"
                touch(path, encoded(suffix))
    touch(tmp_path / "train" / "ant" / "Thumbs.db")
    touch(tmp_path / "train" / "ant" / ".hidden.jpg")
    touch(tmp_path / "train" / ".git" / "x.jpg")
    touch(tmp_path / "readme.txt")
    touch(tmp_path / "notes" / "more" / "readme.txt")
    return tmp_path


def test_examples_are_the_files(pets):
    source = open_folder(pets, "train")
    assert len(source) == 24
    assert source.class_names == CLASSES
    assert source.num_classes == 3
    paths = [path for path in (pets / "train").rglob("ä *") if path.is_file()]
    assert sorted(path for path, _ in files_of(source)) == sorted(paths)
    decode = ops.get_preprocess_fn("decode")
    for i, (path, label) in enumerate(files_of(source)):
        features = read(source, i)
        assert features["image"].numpy() == path.read_bytes()
        assert features["file_name"].numpy().decode() == path.name
        assert int(features["label"]) == label == CLASSES.index(path.parent.name)
        assert int(features["_id"]) == i
        # Every kind of file is decoded, and as PIL does it where no rounding is free.
        image = decode({"image": features["image"]})["image"].numpy()
        expected = np.array(Image.open(path).convert("RGB"), np.int32)
        bound = 0 if path.suffix.lower() in (".png", ".webp") else 8
        assert np.abs(image - expected).max() <= bound
    size = sum(path.stat().st_size for path in paths)
    assert source.nbytes() == size
    sequential = source.sequential(3, 20).as_numpy_iterator()
    assert [int(features["_id"]) for features in sequential] == list(range(3, 20))


# ------------------------------------------------- folders as people have them


@pytest.fixture
def odd(tmp_path):
    """Three classes: nested, of every suffix, and with files that are no images."""
    train = tmp_path / "train"
    for name in ("a.BMP", "b.tif", "c.gif", "d.jfif", "e.jpe", "f.tiff", "g.AVIF"):
        touch(train / "ant" / name)
    for day in ("day 1", "day 10", "day 2"):
        touch(train / "bee" / day / "morning" / "1.jpeg")
        touch(train / "bee" / day / "0.webp")
    touch(train / "bee" / "z.png")
    touch(train / "cat" / "$1" / "ö.JPG")
    return tmp_path


def test_all_images_below_a_class_are_read_in_a_fixed_order(odd, tmp_path_factory):
    """By folder and name, then the one random order, however a disk lists them."""
    listed = [
        *(odd / "train" / "ant" / n for n in ("a.BMP", "b.tif", "c.gif", "d.jfif")),
        *(odd / "train" / "ant" / n for n in ("e.jpe", "f.tiff", "g.AVIF")),
        odd / "train" / "bee" / "z.png",
        *(
            odd / "train" / "bee" / day / name
            for day in ("day 1", "day 10", "day 2")
            for name in ("0.webp", "morning/1.jpeg")
        ),
        odd / "train" / "cat" / "$1" / "ö.JPG",
    ]
    source = open_folder(odd, "train")
    assert source.notices == ()
    assert source.class_names == CLASSES
    found = [path for path, _ in files_of(source)]
    assert found == [listed[i] for i in splits.fixed_order(15)]
    for i, (path, label) in enumerate(files_of(source)):
        assert path.relative_to(odd / "train").parts[0] == CLASSES[label]
        assert read(source, i)["file_name"].numpy().decode() == path.name
    other = tmp_path_factory.mktemp("other")
    for path in reversed(listed):
        touch(other / path.relative_to(odd))
    again = [path for path, _ in files_of(open_folder(other, "train"))]
    assert [p.relative_to(other) for p in again] == [p.relative_to(odd) for p in found]


def test_files_of_operating_systems_are_no_classes_and_no_images(odd):
    expected = files_of(open_folder(odd, "train"))
    for folder in ("__MACOSX", ".ipynb_checkpoints", "@eaDir", "$RECYCLE.BIN"):
        touch(odd / "train" / folder / "ant" / "1.jpg")
        touch(odd / "train" / "bee" / folder / "1.jpg")
        touch(odd / folder / "ant" / "1.jpg")
    for name in ("._a.jpg", "Thumbs.db", "desktop.ini", ".DS_Store"):
        touch(odd / "train" / "ant" / name)
        touch(odd / "train" / name)
    source = open_folder(odd, "train")
    assert files_of(source) == expected
    assert source.notices == ()
    assert_fails(odd, "tain", "(known: train, and parts")


def test_files_that_are_no_images_are_counted_in_one_notice(odd, caplog):
    train = odd / "train"
    for i in range(4):
        touch(train / "ant" / f"{i}.HEIC")
        touch(train / "bee" / "day 1" / f"{i // 2}{i % 2}.heic")
    touch(train / "cat" / "LICENSE")
    source = open_folder(odd, "train")
    assert len(source) == 15
    sentence = (
        f"{train}: 9 file(s) without an image suffix are skipped: "
        "8 .heic (4 in ant, 4 in bee), 1 without a suffix (1 in cat)"
    )
    assert source.notices == (sentence,)
    data = {"kind": "folder", "data_dir": str(odd), "split": "train"}
    rows = {"batch_size": 2, "seed": 0, "process_count": 2}
    for process in (0, 1):
        pipeline.make_train(data=data, process_index=process, **rows)
    assert [record.getMessage() for record in caplog.records] == [sentence]


def test_only_requested_splits_are_read(odd, monkeypatch):
    touch(odd / "test" / "unknown" / "1.jpg")
    touch(odd / "val" / "cat" / "1.jpg")
    looked_into = []
    scandir = os.scandir

    def remembered(path):
        looked_into.append(Path(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", remembered)
    assert open_folder(odd, "train").class_names == CLASSES
    parts = {path.relative_to(odd).parts[:1] for path in looked_into}
    assert parts == {(), ("train",)}
    assert open_folder(odd, "test").class_names == ("unknown",)
    assert open_folder(odd, "val").class_names == ("cat",)
    both = open_folder(odd, "val+test")
    assert both.class_names == ("cat", "unknown")
    labels = {path.parent.name: label for path, label in files_of(both)}
    assert labels == {"cat": 0, "unknown": 1}


def test_a_link_to_a_folder_above_is_not_followed_for_ever(odd):
    elsewhere = odd / "elsewhere"
    touch(elsewhere / "2.jpg")
    (odd / "train" / "cat" / "link").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(odd / "train" / "cat")
    files = files_of(open_folder(odd, "train"))
    names = [path.name for path, label in files if CLASSES[label] == "cat"]
    assert sorted(names) == ["2.jpg", "ö.JPG"]


def test_files_that_nothing_decodes_are_one_sentence(pets):
    """This happens with own images and a config whose data set holds pixels."""
    data = {"kind": "folder", "data_dir": str(pets), "split": "train"}
    messages = {
        "flip_lr|keep('image', 'label')": "'flip_lr' takes pixels, but the images of the",
        "keep('image', 'label')": "are files, which cannot be part of a batch before",
    }
    for pp, message in messages.items():
        stream, _ = pipeline.make_train(data=data, batch_size=4, seed=0, pp=pp)
        with pytest.raises(ValueError, match=message) as caught:
            next(iter(stream))
        assert "decode|resize(224)" in str(caught.value)
        assert "\n" not in str(caught.value)
        stream, _ = pipeline.make_eval(data=data, batch_size=4, pp_fn=pp)
        with pytest.raises(ValueError, match=message):
            next(iter(stream))


# ------------------------------------------------------------------------- ILSVRC


@pytest.fixture(scope="module")
def ilsvrc_dir(imagenet_dir, tmp_path_factory):
    """The files of imagenet_dir as ILSVRC's tars unpack; val has no folders of classes."""
    root = tmp_path_factory.mktemp("ilsvrc_folders")
    for name, synset in labels_of_tfds(imagenet_dir, "train").items():
        touch(root / "train" / synset / name)
    for name in labels_of_tfds(imagenet_dir, "validation"):
        touch(root / "val" / name)
    return root


@functools.cache
def labels_of_tfds(imagenet_dir, split):
    """File name -> synset, as tfds has prepared it."""
    source = sources.open_source(
        name="imagenet2012", split=split, data_dir=str(imagenet_dir)
    )
    rows = source.sequential(0, len(source)).as_numpy_iterator()
    return {row["file_name"].decode(): source.class_names[row["label"]] for row in rows}


def test_ilsvrc_validation_images_need_no_folders(ilsvrc_dir, imagenet_dir, tmp_path):
    """Alone in a folder they have ILSVRC's 1,000 classes, in tfds' order."""
    (tmp_path / "val").symlink_to(ilsvrc_dir / "val")
    source = open_folder(tmp_path, "val")
    names = {path.name: source.class_names[label] for path, label in files_of(source)}
    assert names == labels_of_tfds(imagenet_dir, "validation")
    synsets = tfds.core.tfds_path("datasets/imagenet2012/labels.txt").read_text()
    assert source.class_names == tuple(synsets.split())


def test_ilsvrc_validation_images_of_some_classes(ilsvrc_dir, tmp_path):
    """With a train folder of ten classes, labels are positions among these ten."""
    message = r"\A.*is of the class n0.*has no folder.*\Z"  # in one line
    with pytest.raises(ValueError, match=message):
        open_folder(ilsvrc_dir, "val")
    known = set(open_folder(ilsvrc_dir, "train").class_names)
    # The first 50 have few of the ten classes: name files of these classes.
    full = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt")
    synsets = full.read_text().split()
    numbers = [i + 1 for i, synset in enumerate(synsets) if synset in known][:40]
    for number in numbers:
        touch(tmp_path / "val" / f"ILSVRC2012_val_{number:08}.JPEG")
    (tmp_path / "train").symlink_to(ilsvrc_dir / "train")
    source = open_folder(tmp_path, "val")
    assert len(source) == 40
    assert source.class_names == tuple(sorted(known))
    for path, label in files_of(source):
        number = int(path.stem.split("_")[-1])
        assert source.class_names[label] == synsets[number - 1]


@pytest.fixture
def tiny(tmp_path):
    """Tiny ImageNet's archive as it unpacks, of three classes; wnids.txt is unsorted."""
    root = tmp_path / "tiny-imagenet-200"
    for name in CLASSES:
        for i in range(3):
            touch(root / "train" / name / "images" / f"{name}_{i}.JPEG")
        touch(root / "train" / name / f"{name}_boxes.txt", b"ant_0.JPEG\t0\t0\t9\t9\n")
    of = {"val_0.JPEG": "cat", "val_1.JPEG": "ant", "val_10.JPEG": "cat"}
    rows = [f"{name}\t{label}\t0\t0\t9\t9\n" for name, label in of.items()]
    touch(root / "val" / "val_annotations.txt", "".join(rows).encode())
    for name in of:
        touch(root / "val" / "images" / name, encoded("JPEG"))
    touch(root / "test" / "images" / "test_0.JPEG")
    touch(root / "wnids.txt", b"cat\nant\nbee\n")
    touch(root / "words.txt", b"ant\tan ant\n")
    return root


def test_tiny_imagenet_as_it_unpacks(tiny):
    train, val = open_folder(tiny, "train"), open_folder(tiny, "val")
    assert train.class_names == val.class_names == CLASSES
    assert len(train) == 9
    for path, label in files_of(train):
        assert path.name.startswith(CLASSES[label])
        assert path.parent == tiny / "train" / CLASSES[label] / "images"
    named = {path.name: CLASSES[label] for path, label in files_of(val)}
    assert named == {"val_0.JPEG": "cat", "val_1.JPEG": "ant", "val_10.JPEG": "cat"}
    assert read(val, 0)["image"].numpy() == files_of(val)[0][0].read_bytes()
    assert len(open_folder(tiny, "train+val[:1]")) == 10


def test_tiny_imagenet_with_a_validation_sorted_into_classes(tiny):
    for name in CLASSES:
        touch(tiny / "val" / name / "a.JPEG")
    (tiny / "val" / "val_annotations.txt").unlink()
    found = [
        (path.parent.name, label) for path, label in files_of(open_folder(tiny, "val"))
    ]
    assert sorted(found) == [("ant", 0), ("bee", 1), ("cat", 2)]


def test_missing_parts_of_tiny_imagenet_are_one_sentence(tiny):
    assert_fails(
        tiny, "test", f"{tiny / 'test'} has neither val_annotations.txt nor ant/"
    )
    touch(tiny / "val" / "images" / "val_7.JPEG")
    message = f"{tiny / 'val' / 'images' / 'val_7.JPEG'} has no class of wnids.txt in"
    assert_fails(tiny, "val", message)


# ------------------------------------------------------------------------- errors


def assert_fails(root, split, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        open_folder(root, split)
    assert "\n" not in str(caught.value)


def test_wrong_splits(pets):
    known = "(known: notes, train, val, and parts"
    assert_fails(
        pets, "vall", f"{pets} has no split 'vall'; did you mean 'val'? {known}"
    )
    message = f"but is the folder of one: set data_dir to {pets}"
    assert_fails(pets / "train", "train[:50%]", message)
    assert_fails(pets, "train[5:5]", "the split 'train[5:5]' of")
    message = (
        f"{pets / 'notes'} has no images in folders of classes (1 .txt (1 in more))"
    )
    assert_fails(pets, "notes", message)
    touch(pets / "bare" / "readme.txt")
    message = f"{pets / 'bare'} has no images in folders of classes: arrange images"
    assert_fails(pets, "bare", message)
    with pytest.raises(sources.DataNotFound, match=r"there is no folder .*/none"):
        open_folder(pets / "none", "train")


def test_a_folder_too_many_above_the_classes(pets):
    (pets / "nested").mkdir()
    (pets / "val").rename(pets / "nested" / "val")
    message = (
        f"all images of {pets / 'nested'} are below its only folder 'val', in folders that "
        "look like the classes, 'ant', 'bee', 'cat'"
    )
    assert_fails(pets, "nested", message)


def test_classes_without_images(pets):
    (pets / "train" / "dog").mkdir()
    for i in range(3):
        touch(pets / "train" / "eel" / "deep" / f"{i}.HEIC")
    message = (
        f"{pets / 'train'} has 2 class(es) without images that can be read: 'dog', 'eel' "
        "(but 3 .heic (3 in eel)); convert or add images there, or remove the folder"
    )
    assert_fails(pets, "train", message)
    assert open_folder(pets, "val").class_names == CLASSES


def test_images_without_a_class(pets):
    touch(pets / "flat" / "1.jpg")
    message = f"{pets / 'flat' / '1.jpg'} is in no class folder, and its name is not"
    assert_fails(pets, "flat", message)
    touch(pets / "train" / "1.jpg")
    assert_fails(pets, "train", f"{pets / 'train'} has both images, such as 1.jpg, and")
