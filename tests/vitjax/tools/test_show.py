"""The command that shows the data: config files, pictures, one sentence an error."""

import re
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

from input_pipeline.look import charts, story
from vitjax.config import files
from vitjax.tools import show

ROOT = Path(__file__).resolve().parents[3]
QUICKSTART = str(ROOT / "configs/quickstart.py")
DIGITS = "{'kind': 'arrays', 'name': 'digits', 'split': 'train'}"
CONFIG = """
from ml_collections import ConfigDict
def get_config(arg=None):
    config = ConfigDict()
    config.seed = 1
    config.arg = repr(arg)
    config.input = dict(
        data=dict(name="imagenet2012", split="train", data_dir="nowhere"),
        batch_size=8, pp="resize(16)|flip_lr|keep('image', 'label')", accum_freq=2,
    )
    return config
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "configs" / "a.py"
    path.parent.mkdir()
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


@pytest.mark.parametrize("argument", ["", ":", ":a=1,b", ":a:b"])
def test_config_files_are_read_as_the_trainer_reads_them(config_file, argument):
    mine = show.load_config(config_file + argument)
    assert mine == files.load(config_file + argument)
    assert mine.arg == repr(argument[1:] if argument else None)
    # A file that imports its neighbours.
    spec = f"{ROOT / 'configs/vit_s16_i1k.py'}:preset=fixed,head=mlp"
    assert show.load_config(spec) == files.load(spec)


def test_all_pictures_but_the_one_without_its_data(
    config_file, tmp_path, capsys, monkeypatch
):
    # The pictures themselves are test_charts.py's.
    drawn = PIL.Image.new("RGB", (300, 200))
    for name in ("calibration", "spectrum", "crops"):
        monkeypatch.setattr(charts, f"draw_{name}", drawn.save)
    out = tmp_path / "deep" / "out"
    assert show.cli(["--config", config_file, "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert re.fullmatch(r"no batch\.png: .*imagenet2012.*\n", told.err)
    names = ["calibration.png", "spectrum.png", "crops.png"]
    assert told.out.splitlines() == [str(out / name) for name in names]
    assert sorted(written(out)) == sorted(names)


def test_other_data_than_the_config_s(config_file, tmp_path, capsys, monkeypatch):
    for name in ("calibration", "spectrum", "crops"):
        monkeypatch.setattr(charts, f"draw_{name}", lambda path: None)
    flags = ["--config", config_file, "--data", DIGITS, "--out", str(tmp_path / "o")]
    assert show.cli(flags) == 0
    width, height = written(tmp_path / "o")["batch.png"]
    assert width > 4 * height  # 8 images in a row
    assert capsys.readouterr().err == ""


def test_one_example(config_file, tmp_path, capsys):
    flags = ["--config", config_file, "--data", DIGITS, "--index", "12"]
    assert show.cli([*flags, "--epoch", "3", "--out", str(tmp_path / "o")]) == 0
    with_picture = capsys.readouterr().out
    assert with_picture.startswith("example 12 in epoch 3: example 12 of digits train")
    assert re.search(r"2\. flip_lr\n {5}(not )?mirrored\n {3}-> image", with_picture)
    path = tmp_path / "o" / "example_12_epoch_3.png"
    assert with_picture.endswith(f"\n{path}\n")
    assert list(written(tmp_path / "o")) == [path.name]
    assert show.cli(flags) == 0
    assert capsys.readouterr().out.startswith("example 12 in epoch 0: ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--index", "1438"], "the index must be in 0 to 1437, .* but it is 1438"),
        (["--index", "-1"], "the index must be in 0 to 1437, .* but it is -1"),
        (["--index", "0", "--epoch", "-2"], "epoch is counted from 0, but it is -2"),
        (["--index", "0", "--data", "dict(a=1)"], "--data is a Python literal such as"),
        (["--index", "0", "--data", "[1"], "--data is a Python literal such as"),
        (["--index", "0", "--data", "{1: 2}"], "--data is a Python literal such as"),
        (["--index", "0", "--data", "{'king': 1}"], "unknown key of data"),
        (["--index", "0", "--data", "{'kind': 'tdfs'}"], "unknown kind of data 'tdfs'"),
        (
            ["--index", "0", "--data", "{'name': 'mnist', 'split': 'train', "
             "'data_dir': 'nowhere'}"],
            "'mnist' is not prepared",
        ),
        (["--index", "0", "--out", QUICKSTART], "File exists: "),
    ],
)  # fmt: skip
def test_wrong_flags_are_one_sentence(flags, message, capsys):
    assert show.cli(["--config", QUICKSTART, *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(message, error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "cannot be read: invalid syntax"),
        ("import nothing_such", "cannot be read: No module named"),
        ("def config(): pass", r"has no function get_config\(arg\)"),
        ("def get_config(): return {}", "takes no argument, got 'b=1'"),
        ("def get_config(arg): return {'seed': 1}", "lacks 'input': set config.input"),
        ("def get_config(arg): return {'input': {}}", "lacks 'seed': set config.seed"),
        ("def get_config(arg): raise ValueError('no ' + arg)", "error: no b=1"),
        (CONFIG.replace("resize", "rezise"), "unknown host op 'rezise'.*'resize'"),
        (
            CONFIG.replace("batch_size", "batchsize"),
            "input section is wrong: .*'batch_size'",
        ),
        (CONFIG.replace("batch_size=8", "batch_size=0"), "batch_size must be a posit"),
    ],
)
def test_wrong_config_files_are_one_sentence(tmp_path, capsys, text, message):
    path = tmp_path / "a.py"
    path.write_text(text)
    flags = ["--config", f"{path}:b=1", "--data", DIGITS, "--index", "0"]
    assert show.cli(flags) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(message, error)


@pytest.mark.parametrize("spec", ["nothing.py", "configs", "README.md", ""])
def test_a_file_that_is_not_there_needs_no_tensorflow_to_say_so(spec):
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            "-m",
            "vitjax.tools.show",
            "--config",
            spec,
            "--index",
            "0",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    lines = [x for x in done.stderr.splitlines() if not x.startswith("import time:")]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: there is no config file {spec!r}: give a ")
    assert "tensorflow" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give --out, a folder for the pictures, or --index"),
        (["--config", "a.py"], "give --out, a folder for the pictures, or --index"),
        (
            ["--config", "a.py", "--out", "o", "--epoch", "1"],
            "--epoch needs an --index",
        ),
        (["--config", "a.py", "--index", "x"], "argument --index: invalid int value"),
        (["--config", "a.py", "--ind", "1"], "unrecognized arguments: --ind 1|--out"),
    ],
)
def test_flags_that_do_not_fit_show_the_usage(flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        show.cli(flags)
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_help_names_each_flag_and_an_example_that_works(capsys):
    with pytest.raises(SystemExit) as stop:
        show.cli(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--config", "--out", "--index", "--epoch", "--data"):
        assert flag in text
    assert max(map(len, text.splitlines())) <= 100
    example = re.sub(r"\s+", " ", text.split("example: python -m vitjax.tools.show")[1])
    flags = show.parse_flags(example.split())
    assert (ROOT / flags.config).is_file()


def test_folders_as_people_have_them(tmp_path):
    """Nested, with names that look like formulas, in a config with ops for files."""
    for name in ("$5_to_$10", "Ba$$in"):
        folder = tmp_path / "data" / "train" / name / "session 1"
        folder.mkdir(parents=True)
        for i in range(4):
            PIL.Image.new("RGB", (9, 8), (i, 99, 9)).save(folder / f"{i}.bmp")
    config = show.load_config(
        f"{ROOT / 'configs/transfer.py'}:res=16,batch=8,classes=2"
    )
    data = {"kind": "folder", "data_dir": str(tmp_path / "data"), "split": "train"}
    stream, _ = show.open_train(config, repr(data))
    assert stream.total_examples == 8
    story.draw_batch(tmp_path / "batch.png", stream)
    assert list(written(tmp_path)) == ["batch.png"]
