"""Labels by name: expected ones are looked up in the names, one by one."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from input_pipeline import ops, pipeline
from input_pipeline.sources import class_names, relabel, tfds
from input_pipeline.sources.arrays import ArraySource
from input_pipeline.sources.folder import FolderSource

MODEL = ("ant", "bee", "cat")


def source_of(names, *, count=None, order=None):
    """Two examples of each class, in an order of the labels."""
    size = len(names) if names is not None else count
    labels = np.array([*range(size), *(order or range(size))], np.int64)
    images = np.zeros((len(labels), 1, 1, 1), np.uint8)
    return ArraySource(
        images, labels, what="here", class_names=names, num_classes=count
    )


def labels_of(source):
    read = [source.read(tf.constant(i, tf.int64)) for i in range(len(source))]
    in_order = list(source.sequential(0, len(source)).as_numpy_iterator())
    labels = [int(features["label"]) for features in read]
    assert labels == [int(features["label"]) for features in in_order]
    assert read[0]["label"].dtype == tf.int64
    assert read[1]["image"].dtype == tf.uint8
    assert source.describe(1) == "example 1 of here"
    return labels


def matched(source, ours=MODEL, count=None, how="name"):
    count = len(ours) if count is None and ours is not None else count
    return relabel.matched(source, ours, count, how, "here")


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        (("ant", "cat"), MODEL, "there is no example of 'bee'"),
        (("cat", "bee", "ant"), MODEL, "are mapped by name to those of 'ant', 'bee', 'cat'"),
        (("0", "2", "10"), ("0", "10", "2"), "by name"),
        (("2",), ("0", "1", "2"), "no example of '0', '1'"),
        (("0", "1"), ("0", "1", "2"), "no example of '2'"),
        (("1", "10"), tuple(map(str, range(11))), "'5' and 4 more"),
        (("n01443537",), ("tench, Tinca tinca", "goldfish, Carassius auratus"), "tench"),
        (("goldfish, Carassius auratus",), ("n01440764", "n01443537"), "n01440764"),
    ],
)  # fmt: skip
def test_labels_are_the_models_of_the_same_name(theirs, ours, said):
    source = source_of(theirs)
    found, notice = matched(source, ours)
    words = class_names.in_words
    expected = [words(ours).index(words([theirs[k]])[0]) for k in labels_of(source)]
    assert labels_of(found) == expected
    assert (found.class_names, found.num_classes) == (ours, len(ours))
    assert said in notice
    assert notice.startswith("labels of here are mapped")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (MODEL, MODEL),
        (MODEL, None),
        (tuple("012"), tuple("012")),
    ],
)
def test_equal_classes_change_nothing_and_give_no_notice(theirs, ours):
    source = source_of(theirs)
    assert matched(source, ours, 3) == (source, None)
    unnamed = source_of(None, count=3)
    assert matched(unnamed, ours, 3) == (unnamed, None)


def test_a_class_that_the_model_does_not_know_is_refused_by_name():
    source = source_of(("ant", "cow", "dog"), order=[2, 1, 0])
    with pytest.raises(ValueError, match="not known to the model, 'cow', 'dog'") as e:
        matched(source)
    assert "(known: 'ant', 'bee', 'cat')" in str(e.value)
    # The options that the message names.
    for how in ("known", "number"):
        assert f"match_classes={how!r}" in str(e.value)
    found, notice = matched(source, how="known")
    assert labels_of(found) == [0, -1, -1, -1, -1, 0]
    assert "examples of 'cow', 'dog' are left out" in notice
    onehot = ops.get_preprocess_fn("onehot(3, key='label', key_result='labels')")
    row = onehot({"label": tf.constant(-1, tf.int64)})["labels"]
    assert not row.numpy().any()
    for how in ("number", None):
        assert matched(source, how=how) == (source, None)
    # The user names the classes of a model without names.
    found, _ = matched(source, None, 4, how=["dog", "cow", "bee", "ant"])
    assert labels_of(found) == [3, 1, 0, 0, 1, 3]
    for how in ("names", 3, [1]):
        with pytest.raises(ValueError, match="match_classes must be one of 'name'"):
            matched(source, how=how)


def test_without_names_their_number_is_compared():
    for names, ours in ((None, None), (None, MODEL), (tuple("0123"), MODEL)):
        with pytest.raises(ValueError, match="here has 4 classes, but the model 3"):
            matched(source_of(names, count=4), ours, 3)
    with pytest.raises(ValueError, match="here has 4 classes, but the model 3"):
        matched(source_of((*MODEL, "dog")), None, 3, "number")
    found, notice = matched(source_of(MODEL), None, 5)
    assert labels_of(found) == [0, 1, 2, 0, 1, 2]
    assert "has 3 of the model's 5 classes, taken to be the first ones" in notice
    for names, ours in ((MODEL, tuple("012")), (tuple("012"), MODEL)):  # one counts
        source = source_of(names)
        found, notice = matched(source, ours, 3)
        assert found is source
        assert "keep their numbers" in notice
        assert "match_classes" in notice


@pytest.mark.parametrize(("names", "said"), [("2 10", True), ("1 2", False)])
def test_folders_sorted_by_value_give_a_notice_if_the_model_has_no_names(
    tmp_path, names, said
):
    for name in names.split():
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("L", (1, 1)).save(tmp_path / "val" / name / "a.png")
    source = FolderSource(data_dir=str(tmp_path), split="val")
    found, notice = matched(source, None, 2)
    assert found is source
    assert ("match_classes=['10', '2', ...]" in str(notice)) == said
    # No notice for an explicit choice, or for a model of any number of classes.
    assert matched(source, None, 2, "number") == (source, None)
    assert matched(source, None) == (source, None)


def test_imagenets_variants_have_its_classes_in_its_order_or_get_them():
    names = tfds.known_class_names("imagenet2012")
    source = source_of(names)
    for other in ("imagenet_v2", "imagenet2012_real", "imagenet_a", "imagenet_r"):
        assert matched(source, tfds.known_class_names(other)) == (source, None)
    real = tfds.known_features("imagenet2012_real")
    assert tfds._label_keys(real, names) == ("original_label", "real_label")
    # tfds' resized one sorts otherwise; Imagenette has ten of the classes.
    for other in ("imagenet_resized", "imagenette"):
        theirs = tfds.known_class_names(other)
        found, _ = matched(source_of(theirs), names)
        labels = [int(found.read(tf.constant(i, tf.int64))["label"]) for i in range(10)]
        assert labels == [names.index(name) for name in theirs[:10]]
        assert labels != list(range(10))
    # timm's list of words, which as Hugging Face's calls two classes "crane".
    timm = importlib.util.find_spec("timm").origin  # to import it takes seconds
    file = Path(timm).with_name("data") / "_info/imagenet_synset_to_lemma.txt"
    lemma = dict(line.split("\t") for line in file.read_text().splitlines())
    words = tuple(lemma[name] for name in names)
    assert words.count("crane") == 2
    assert matched(source, words) == (source, None)


def test_the_same_classes_in_another_order_and_others():
    source = source_of(("0", "2", "10"))
    assert relabel.reordered(source, ("0", "2", "10")) is source
    assert labels_of(relabel.reordered(source, ("0", "10", "2"))) == [0, 2, 1, 0, 2, 1]
    words = r"it lacks '3' and adds '2', '10'"
    with pytest.raises(relabel.OtherClasses, match=words):
        relabel.reordered(source, ("0", "3"))
    with pytest.raises(relabel.OtherClasses, match="it adds '10'"):
        relabel.reordered(source, ("0", "2"))
    # Folders that were called 0, 1, 2 have other names now.
    with pytest.raises(relabel.OtherClasses, match="it lacks '0', '1', '2'"):
        relabel.reordered(source_of(MODEL), ("0", "1", "2"))


def write_folders(root, counts, split="val"):
    """Images of each class, as many as `counts` says; pixels number class and image."""
    for k, (name, count) in enumerate(counts.items()):
        folder = root / split / name
        folder.mkdir(parents=True)
        for i in range(count):
            pixels = np.full((2, 2, 3), 20 * k + i, np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")


def test_evaluation_batches_have_the_models_labels(tmp_path):
    """Folders named by numbers: sorted by value, or in the model's order."""
    counts = {"10": 3, "0": 2, "2": 1}
    write_folders(tmp_path, counts)
    data = {"kind": "folder", "data_dir": str(tmp_path), "split": "val"}
    expected = [20 * k + i for k, n in enumerate(counts.values()) for i in range(n)]

    def evaluated(names, **more):
        kw = {
            "batch_size": 4,
            "pp_fn": "decode|central_crop(2)|keep('image', 'label')",
        } | more
        stream, _ = pipeline.make_eval(data=data, class_names=names, **kw)
        rows = [
            (int(image[0, 0, 0]), int(label))
            for batch in stream
            for image, label, mask in zip(
                batch["image"], batch["label"], batch["_mask"], strict=True
            )
            if mask
        ]
        assert sorted(pixel for pixel, _ in rows) == expected
        return stream, {[*counts][pixel // 20]: label for pixel, label in rows}

    stream, labels = evaluated(None)
    assert stream.class_names == ("0", "2", "10")
    assert labels == {"0": 0, "2": 1, "10": 2}
    assert stream.notices == ()
    text_order = ("0", "10", "2")  # a model of torchvision's ImageFolder
    stream, labels = evaluated(text_order)
    assert (stream.class_names, labels) == (text_order, {"0": 0, "10": 1, "2": 2})
    assert stream.notices[0].startswith(f"labels of {tmp_path} val are mapped")
    # Labels that pp_fn looks up do not come from the folder.
    table = tmp_path / "table.txt"
    table.write_text("0.png\n1.png\n2.png\n")
    pp = f"decode|central_crop(2)|lookup({str(table)!r}, inkey='file_name', outkey='label')"
    stream, _ = evaluated(text_order, pp_fn=f"{pp}|keep('image', 'label')")
    assert stream.notices == ()


def test_a_run_keeps_the_names_of_its_classes(tmp_path):
    write_folders(tmp_path, {"a": 1, "b": 1}, "train")
    data = {"kind": "folder", "data_dir": str(tmp_path), "split": "train"}
    assert class_names.of_run(("x",), data=data, relabels=True) == ("x",)
    assert class_names.of_run(None, data=data, relabels=True) is None
    assert class_names.of_run(None, data=data, relabels=False) == ("a", "b")
    gone = {**data, "data_dir": str(tmp_path / "gone")}
    assert class_names.of_run(None, data=gone, relabels=False) is None
