"""The command that shows the data: what it draws and prints."""

import re

import PIL.Image
import pytest

from input_pipeline.look import charts
from tests.helpers.runs import ROOT
from vitjax.config import files
from vitjax.tools import show

DIGITS = "{'kind': 'arrays', 'name': 'digits', 'split': 'train'}"
CONFIG = """
from ml_collections import ConfigDict
def get_config(arg=None):
    config = ConfigDict()
    config.seed = 1
    config.input = dict(
        data=dict(name="imagenet2012", split="train", data_dir="nowhere"),
        batch_size=8, pp="resize(16)|flip_lr|keep('image', 'label')", accum_freq=2,
    )
    return config
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(CONFIG)
    return str(path)


def written(folder):
    """Name -> size of the pictures of a folder."""
    sizes = {}
    for path in folder.glob("*.png"):
        with PIL.Image.open(path) as image:
            assert image.format == "PNG"
            sizes[path.name] = image.size
    return sizes


def test_config_files_are_read_as_the_trainer_reads_them():
    spec = f"{ROOT / 'configs/vit_s16_i1k.py'}:preset=fixed,head=mlp"
    assert show.load_config(spec) == files.load(spec)


def test_all_pictures_are_drawn_and_a_missing_data_set_is_named(
    config_file, tmp_path, capsys, monkeypatch
):
    # test_charts.py tests the pictures themselves.
    drawn = PIL.Image.new("RGB", (300, 200))
    for name in ("calibration", "spectrum", "crops"):
        monkeypatch.setattr(charts, f"draw_{name}", drawn.save)
    out = tmp_path / "deep" / "out"
    flags = ["--config", config_file, "--out", str(out)]
    assert show.main(flags) == 0
    told = capsys.readouterr()
    assert re.fullmatch(r"no batch\.png: .*imagenet2012.*\n", told.err)
    names = ["calibration.png", "spectrum.png", "crops.png"]
    assert told.out.splitlines() == [str(out / name) for name in names]
    assert sorted(written(out)) == sorted(names)
    assert show.main([*flags, "--data", DIGITS]) == 0
    width, height = written(out)["batch.png"]
    assert width > 4 * height  # 8 images in a row
    assert capsys.readouterr().err == ""


def test_one_example(config_file, tmp_path, capsys):
    flags = ["--config", config_file, "--data", DIGITS, "--index", "12"]
    assert show.main([*flags, "--epoch", "3", "--out", str(tmp_path / "o")]) == 0
    with_picture = capsys.readouterr().out
    assert with_picture.startswith("example 12 in epoch 3: example 12 of digits train")
    assert re.search(r"2\. flip_lr\n {5}(not )?mirrored\n {3}-> image", with_picture)
    path = tmp_path / "o" / "example_12_epoch_3.png"
    assert with_picture.endswith(f"\n{path}\n")
    assert list(written(tmp_path / "o")) == [path.name]
    assert show.main(flags) == 0
    assert capsys.readouterr().out.startswith("example 12 in epoch 0: ")
