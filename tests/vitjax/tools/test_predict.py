"""python -m vitjax.tools.predict: from a checkpoint and photos to names."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from input_pipeline import pipeline, sources
from input_pipeline.sources import class_names
from vitjax.tools import photos, predict
from vitjax.tools.trained import open_trained

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
CAT = Image.fromarray(skimage.data.chelsea()[:240, 40:400])
DIGITS = {"kind": "arrays", "name": "digits", "split": "test"}


def digits(count):
    batches, _ = pipeline.make_eval(
        data=DIGITS, batch_size=count, pp_fn="keep('image', 'label')"
    )
    return next(iter(batches))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eleven held-out digits as files, in two folders, a text between them, and junk."""
    root = tmp_path_factory.mktemp("photos")
    (root / "more").mkdir()
    for i, image in enumerate(digits(11)["image"]):
        below = root / "more" if i % 2 else root
        Image.fromarray(image[..., 0]).save(below / f"{i:02}.png")
    (root / "notes.txt").write_text("no image, and not named as one")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "00.png").write_bytes(b"no image, and named as one")
    return root


def expected_shares(run, images):
    """The probabilities of digits as an evaluation of the run has them."""
    trained = open_trained(run)
    logits = np.asarray(trained.apply(images.astype(np.float32) / 127.5 - 1)[0])
    shares = np.exp(logits.astype(np.float64))
    return shares / shares.sum(1, keepdims=True)


def tell(capsys, *flags):
    """(exit status, stdout, stderr) of the command."""
    status = predict.main([str(flag) for flag in flags])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_folder_is_predicted_as_the_evaluation_predicts_it(
    digits_run, folder, capsys
):
    """In batches of four, the last of three: equal to all at once."""
    status, out, _ = tell(
        capsys, "--ckpt", digits_run, folder, "--json", "--top=3", "--batch_size=4"
    )
    assert status == 0
    document = json.loads(out)
    assert (document["step"], document["parameters"]) == (20, "params")
    assert document["broken"] == []
    rows = {Path(row["file"]).stem: row["top"] for row in document["photos"]}
    batch = digits(11)
    shares = expected_shares(digits_run, batch["image"])
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
    """So that the model is compiled once."""
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


def test_from_a_shell_a_broken_file_is_named_and_the_rest_goes_on(
    digits_run, folder, tmp_path
):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 and no more")
    pictures = tmp_path / "pictures"
    command = [
        sys.executable, "-m", "vitjax.tools.predict", "--ckpt", str(digits_run),
        str(folder / "00.png"), str(broken), str(tmp_path / "gone.png"),
        str(folder / "more" / "01.png"), "--pictures", str(pictures),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    first, second, last = done.stderr.strip().splitlines()
    assert first.startswith("left out: ")
    assert second.startswith("left out: ")
    assert "broken.jpg' is no image that can be decoded" in first
    assert "gone.png': No such file" in second
    assert last == "error: 2 of 4 files could not be read; see above"
    lines = done.stdout.splitlines()
    assert [lines[0], lines[6]] == [
        str(folder / "00.png"),
        str(folder / "more" / "01.png"),
    ]
    assert lines[12:] == ["", f"written: 2 pictures in {pictures}"]
    assert lines[1].split()[0].endswith("%")
    assert {p.name for p in pictures.iterdir()} == {"00.png", "01.png"}
    with Image.open(pictures / "00.png") as picture:
        assert picture.width == 900


PP = "decode|resize_small(40)|central_crop(32)|keep('image', 'label')"
SECTION = {"pp_fn": PP, "device_pp": "value_range(0, 255)"}


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_an_ordinary_jpeg_is_fed_to_the_bit_as_by_an_evaluation(mode, tmp_path):
    (tmp_path / "val" / "cat").mkdir(parents=True)
    path = tmp_path / "val" / "cat" / "photo.jpg"
    CAT.convert(mode).save(path)
    data = {"kind": "folder", "data_dir": str(tmp_path), "split": "val"}
    batches, _ = pipeline.make_eval(data=data, batch_size=1, pp_fn=PP)
    expected = next(iter(batches))["image"]
    np.testing.assert_array_equal(photos.Feed(SECTION).read(path)["image"], expected[0])


def test_a_photo_that_is_too_small_for_the_crop_is_named(tmp_path):
    path = tmp_path / "small.png"
    CAT.resize((30, 16)).save(path)
    pp = "decode|central_crop(32)|keep('image', 'label')"
    with pytest.raises(ValueError, match=r"small\.png', of 16 x 30") as e:
        photos.Feed({"pp_fn": pp}).read(path)
    assert str(e.value).endswith("pp_fn (offset_width must be >= 0)")


def test_names_come_from_the_checkpoint_then_from_the_data(digits_run, monkeypatch):
    trained = open_trained(digits_run)
    assert trained.class_names == tuple("0123456789")
    names = ("n01440764", "another")
    kept = type(trained)(**{**vars(trained), "class_names": names})
    assert predict.class_names(kept) == ("tench, Tinca tinca", "another")
    kept = type(trained)(**{**vars(trained), "class_names": None})
    assert predict.class_names(kept) == tuple("0123456789")
    # Labels that pp looks up are others than the data set's.
    e = trained.experiment
    looked_up = {**e.input, "pp": f"lookup('a.txt', key='label')|{e.input['pp']}"}
    other = type(e)(**{**vars(e), "input": looked_up})
    assert (e.relabels, other.relabels) == (False, True)
    relabelled = type(trained)(**{**vars(kept), "experiment": other})
    assert predict.class_names(relabelled) is None
    monkeypatch.setattr(sources, "open_source", _nowhere)
    assert predict.class_names(kept) is None


def _nowhere(**data):
    raise sources.DataNotFound(f"not here: {data}")


def test_imagenet_has_its_names_where_it_is_not_prepared(tmp_path):
    names = class_names.of_data(
        name="imagenet2012", split="train", data_dir=str(tmp_path)
    )
    assert names is not None
    words = class_names.in_words(names)
    # Three that a shift by one would miss, the two cranes among them.
    assert [words[i] for i in (281, 134, 517)] == [
        "tabby, tabby cat", "crane (bird)", "crane (machine)",
    ]  # fmt: skip
    assert names[281] == "n02123045"
    with pytest.raises(sources.DataNotFound):
        class_names.of_data(kind="folder", data_dir=str(tmp_path / "no"), split="a")


def error_of(capsys, *flags):
    status, out, err = tell(capsys, *flags)
    assert (status, out) == (1, "")
    [line] = err.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_mistakes_are_one_sentence(digits_run, folder, tmp_path, capsys):
    photo = folder / "00.png"
    assert "no checkpoint at" in error_of(capsys, "--ckpt", tmp_path, photo)
    empty = tmp_path / "empty"
    empty.mkdir()
    line = error_of(capsys, "--ckpt", digits_run, photo, empty)
    assert "empty' has no images (.jpg" in line
    line = error_of(
        capsys,
        "--ckpt",
        digits_run,
        photo,
        "--config.evals.val.pp_fn=decode|resize(10)",
    )
    assert "does not fit its model and images of 10 x 10 x 3" in line
    taken = tmp_path / "taken"
    taken.write_text("")
    line = error_of(capsys, "--ckpt", digits_run, photo, "--pictures", taken)
    assert "--pictures is a folder" in line
    several = "--config.evals.val.pp_fn=decode|keep('image', 'label')"
    CAT.save(tmp_path / "cat.png")
    line = error_of(capsys, "--ckpt", digits_run, photo, tmp_path / "cat.png", several)
    assert "'image' of several shapes, [(8, 8, 3), (240, 360, 3)]" in line


def test_pictures_of_photos_with_one_name_stand_beside_each_other():
    paths = [Path("a/x.jpg"), Path("b/x.png"), Path("b/X.gif"), Path("x-2.jpg")]
    names = predict._picture_names(paths)
    assert len({name.lower() for name in names.values()}) == 4
    assert names[paths[0]] == "x.png"


@pytest.mark.parametrize("flag", ["--top=0", "--batch_size=0"])
def test_numbers_begin_at_one(flag, capsys):
    with pytest.raises(SystemExit):
        predict.parse_flags(["--ckpt", "run", "a.jpg", flag])
    assert "must be at least 1" in capsys.readouterr().err
