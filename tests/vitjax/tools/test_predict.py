"""python -m vitjax.tools.predict: from a checkpoint and photos to names."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas
import pytest
import scipy.special
import skimage.data
from PIL import Image

from input_pipeline import pipeline, sources
from input_pipeline.sources import class_names
from vitjax.tools import features, photos, predict
from vitjax.tools.trained import open_trained

pytestmark = pytest.mark.slow

CAT = Image.fromarray(skimage.data.chelsea()[:240, 40:400])
DIGITS = {"kind": "arrays", "name": "digits", "split": "test"}


def digits(count):
    batches, _ = pipeline.make_eval(
        data=DIGITS, batch_size=count, pp_fn="keep('image', 'label')"
    )
    return next(iter(batches))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eleven held-out digits as files in two folders, with a text and junk."""
    root = tmp_path_factory.mktemp("photos")
    (root / "more").mkdir()
    for i, image in enumerate(digits(11)["image"]):
        below = root / "more" if i % 2 else root
        Image.fromarray(image[..., 0]).save(below / f"{i:02}.png")
    (root / "notes.txt").write_text("no image, and not named as one")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "00.png").write_bytes(b"no image, and named as one")
    return root


def test_a_folder_is_predicted_as_the_evaluation_predicts_it(
    digits_run, folder, capsys
):
    """Batches of four, the last of three, give the same as all at once."""
    flags = ["--ckpt", str(digits_run), str(folder), "--json", "--top=3"]
    assert predict.main([*flags, "--batch_size=4"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["step"], document["parameters"]) == (20, "params")
    assert document["broken"] == []
    rows = {Path(row["file"]).stem: row["top"] for row in document["photos"]}
    images = digits(11)["image"].astype(np.float32) / 127.5 - 1
    logits = np.asarray(open_trained(digits_run).apply(images)[0])
    shares = scipy.special.softmax(logits.astype(np.float64), axis=1)
    assert sorted(rows) == [f"{i:02}" for i in range(11)]
    for i in range(11):
        guesses = rows[f"{i:02}"]
        assert [g["class"] for g in guesses] == list(np.argsort(-shares[i])[:3])
        for guess in guesses:
            assert guess["name"] == str(guess["class"])
            assert guess["probability"] == pytest.approx(
                shares[i, guess["class"]], abs=1e-5
            )


def test_all_batches_have_one_size(digits_run, folder):
    """The model is compiled once."""
    trained, seen = open_trained(digits_run), []

    class Watched:
        evaluator = trained.evaluator

        def apply(self, images):
            seen.append(images.shape)
            return trained.apply(images)

    paths = photos.find([folder])
    found = list(predict.predict(Watched(), paths, 4, {}))
    assert seen == 3 * [(4, 8, 8, 1)]
    assert [path for path, _, _ in found] == paths
    seen.clear()
    assert len(list(predict.predict(Watched(), paths[:2], 32, {}))) == 2
    assert seen == [(2, 8, 8, 1)]


def test_a_broken_file_is_named_and_the_others_are_predicted(
    digits_run, folder, tmp_path, capfd
):
    """capfd also sees the words that TensorFlow writes to stderr past Python."""
    broken, pictures = tmp_path / "broken.jpg", tmp_path / "pictures"
    broken.write_bytes(b"\xff\xd8\xff\xe0 and no more")
    good = [folder / "00.png", folder / "more" / "01.png"]
    paths = [good[0], broken, tmp_path / "gone.png", good[1]]
    flags = ["--ckpt", digits_run, *paths, "--pictures", pictures]
    assert predict.main([*map(str, flags)]) == 1
    printed = capfd.readouterr()
    first, second, last = printed.err.strip().splitlines()
    assert first.startswith(f"left out: '{broken}' is no image that can be decoded")
    assert second.startswith("left out: ")
    assert "gone.png': No such file" in second
    assert last == "error: 2 of 4 files could not be read; see above"
    lines = printed.out.splitlines()
    assert [lines[0], lines[6]] == [*map(str, good)]
    assert lines[12:] == ["", f"written: 2 pictures in {pictures}"]
    assert lines[1].split()[0].endswith("%")
    assert {p.name for p in pictures.iterdir()} == {"00.png", "01.png"}
    with Image.open(pictures / "00.png") as picture:
        assert picture.width == 900


def test_a_photo_that_is_too_small_for_the_crop_is_named(tmp_path):
    path = tmp_path / "small.png"
    CAT.resize((30, 16)).save(path)
    pp = "decode|central_crop(32)|keep('image', 'label')"
    with pytest.raises(ValueError, match=r"small\.png', of 16 x 30") as e:
        photos.Feed({"pp_fn": pp}).read(path)
    assert str(e.value).endswith("pp_fn (offset_width must be >= 0)")


def test_names_are_in_words_and_else_the_datas(digits_run):
    trained = open_trained(digits_run)
    assert trained.class_names == tuple("0123456789")
    named = dataclasses.replace(trained, class_names=("n01440764", "another"))
    assert named.names_in_words() == ("tench, Tinca tinca", "another")
    unnamed = dataclasses.replace(trained, class_names=None)
    assert unnamed.names_in_words() == tuple("0123456789")
    # Labels that pp looks up are not the data set's.
    e = trained.experiment
    pp = f"lookup('a.txt', key='label')|{e.input['pp']}"
    looked_up = dataclasses.replace(e, input={**e.input, "pp": pp})
    assert (e.relabels, looked_up.relabels) == (False, True)
    relabelled = dataclasses.replace(unnamed, experiment=looked_up)
    assert relabelled.names_in_words() is None


def test_imagenet_has_its_names_where_it_is_not_prepared(tmp_path):
    names = class_names.of_data(
        name="imagenet2012", split="train", data_dir=str(tmp_path)
    )
    assert names is not None
    words = class_names.in_words(names)
    # A shift by one would miss all three.
    expected = ["tabby, tabby cat", "crane (bird)", "crane (machine)"]
    assert [words[i] for i in (281, 134, 517)] == expected
    assert names[281] == "n02123045"
    with pytest.raises(sources.DataNotFound):
        class_names.of_data(kind="folder", data_dir=str(tmp_path / "no"), split="a")


def test_pictures_of_photos_with_one_name_have_different_names():
    paths = [Path("a/x.jpg"), Path("b/x.png"), Path("b/X.gif"), Path("x-2.jpg")]
    names = predict._picture_names(paths)
    assert len({name.lower() for name in names.values()}) == 4
    assert names[paths[0]] == "x.png"


def test_the_csv_has_a_row_for_each_photo(digits_run, folder, tmp_path, capsys):
    table, broken = tmp_path / "a.csv", tmp_path / "broken.png"
    broken.write_text("no image")
    flags = ["--ckpt", str(digits_run), "--json", "--top", "2", "--csv", str(table)]
    assert predict.main([*flags, str(folder), str(broken)]) == 1
    photos_of = json.loads(capsys.readouterr().out)["photos"]
    found = pandas.read_csv(table)
    guess = ["class", "name", "probability"]
    assert list(found) == ["file", *guess, *(f"{key}_2" for key in guess)]
    assert found.file.tolist() == [row["file"] for row in photos_of]
    assert len(found) == 11
    for i, suffix in enumerate(("", "_2")):
        assert found[f"class{suffix}"].tolist() == [
            x["top"][i]["class"] for x in photos_of
        ]
        shares = [x["top"][i]["probability"] for x in photos_of]
        np.testing.assert_allclose(found[f"probability{suffix}"], shares)


def test_features_of_photos_are_those_of_the_data(digits_run, folder, tmp_path, capsys):
    """The photos are the first eleven held-out digits, in two folders."""
    few, data = tmp_path / "few.npz", tmp_path / "data.parquet"
    flags = ["--ckpt", str(digits_run), "--feature", "head_input"]
    few_flags = [*flags, "--batch_size", "4", "--out", str(few), str(folder)]
    assert features.main(few_flags) == 0
    assert "head_input of 11 x 16\n" in capsys.readouterr().out
    assert features.main([*flags, "--evals", "val", "--out", str(data)]) == 0
    assert "head_input of 359 x 16\n" in capsys.readouterr().out
    table = pandas.read_parquet(data)
    own = ["evaluator", "index", "labels", "label_name"]
    assert list(table) == ["features", "files", *own]
    assert set(table.evaluator) == {"val"}
    assert table["index"].tolist() == list(range(359))
    assert table.labels.tolist()[:11] == digits(11)["label"].tolist()
    assert table.label_name.tolist() == [str(k) for k in table.labels]
    expected = np.stack(table.features)
    trained = open_trained(digits_run)
    images = digits(11)["image"].astype(np.float32) / 127.5 - 1
    _, out = trained.apply(images)
    np.testing.assert_allclose(expected[:11], out["head_input"], atol=1e-5)
    with np.load(few) as found:
        assert found["features"].dtype == np.float32
        order = [int(Path(name).stem) for name in found["files"]]
        assert sorted(order) == list(range(11))
        np.testing.assert_allclose(found["features"], expected[order], atol=1e-5)
