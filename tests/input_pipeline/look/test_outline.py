"""The outline of a stream without its data set agrees with the data set."""

import pytest

from input_pipeline import pipeline
from input_pipeline.look import outline

PP = "decode_jpeg_and_inception_crop(32)|flip_lr|keep('image', 'label')"


@pytest.mark.parametrize(
    "pp", [PP, "decode|resize(16)|onehot(1000, key='label', key_result='labels')"
           "|value_range(-1, 1)|keep('image', 'labels')"],
)  # fmt: skip
def test_shapes_of_imagenet(imagenet_dir, pp):
    data = {"name": "imagenet2012", "split": "train", "data_dir": str(imagenet_dir)}
    stream, _ = pipeline.make_train(data=data, batch_size=8, seed=0, pp=pp)
    there = outline.of_stream(stream, "tfds")
    guessed = outline.guess(data=data, pp=pp, batch_size=8)
    assert guessed.element_spec == there.element_spec
    assert (there.examples, guessed.examples) == (300, 1_281_167)
    assert there.bytes_per_example > 100
    assert not there.in_memory
    assert not guessed.in_memory


def test_arrays_are_as_large_as_they_are():
    data = {"kind": "arrays", "name": "digits", "split": "train"}
    pp = "keep('image', 'label')"
    stream, _ = pipeline.make_train(data=data, batch_size=8, seed=0, pp=pp)
    there = outline.of_stream(stream, "arrays")
    found = there.examples, there.bytes_per_example, there.in_memory
    assert found == (1438, 64, True)


@pytest.mark.parametrize(
    ("split", "examples"),
    [("train[99%:]", 12_812), ("validation+train[:10]", 50_010)],
)
def test_parts_are_counted_as_tfds_counts_them(split, examples):
    data = {"name": "imagenet2012:5.*.*", "split": split}
    assert outline.guess(data=data, pp=PP, batch_size=8).examples == examples


def test_missing_numbers_are_asked_for():
    folder = {"kind": "folder", "data_dir": "/no", "split": "train"}
    with pytest.raises(ValueError, match="give --examples"):
        outline.guess(data=folder, pp=PP, batch_size=8)
    pp = "decode|keep('image', 'label')"
    with pytest.raises(ValueError, match=r"shape \(None, None, 3\)"):
        outline.guess(data=folder, pp=pp, batch_size=8, examples=9)
    npz = {"kind": "npz", "path": "/no", "split": "train"}
    with pytest.raises(ValueError, match="give --image_size"):
        outline.guess(data=npz, batch_size=8, examples=9)
    given = outline.guess(
        data=npz, pp="keep('image')", batch_size=8, examples=9, image_size=20
    )
    assert given.element_spec["image"][0] == (20, 20, 3)
    assert given.bytes_per_example == 1200
