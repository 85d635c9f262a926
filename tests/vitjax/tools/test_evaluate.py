"""Evaluating a finished run, and the mean of its checkpoints."""

import contextlib
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.photographs import PHOTOGRAPHS
from tests.helpers.runs import QUICKSTART, run
from vitjax import train
from vitjax.checkpoints.checkpointer import Checkpointer
from vitjax.checkpoints.read import read_params
from vitjax.records.jsonl import read_rows
from vitjax.tools import average_checkpoints, evaluate
from vitjax.tools.trained import open_trained
from vitjax.trees import flatten_with_names
from vitjax.weights import files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run with three checkpoints, of steps 5, 10 and 12."""
    workdir = tmp_path_factory.mktemp("finished")
    assert run(workdir, "--config.max_to_keep=None") == 0
    return workdir


def test_from_a_shell_it_gives_what_training_recorded(finished, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "vitjax.tools.evaluate", "--ckpt", str(finished)]
    done = subprocess.run(
        [*command, "--out", str(out), "--save_logits"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    recorded = [row for row in read_rows(finished) if "val/loss" in row][-1]
    report = json.loads((out / "report.json").read_text())
    assert report["step"] == 12
    found = report["evals"]["val"]
    assert found["examples"] == 359
    for name in ("prec@1", "prec@5"):
        assert found[name] == pytest.approx(recorded[f"val/{name}"], abs=1e-9)
    assert found["loss"] == pytest.approx(recorded["val/loss"], rel=1e-5)
    right = np.trace(np.array(found["confusion"])) / 359
    assert right == pytest.approx(found["prec@1"])
    assert len(found["per_class"]) == 10
    table = (out / "report.md").read_text()
    assert f"| val | {found['prec@1']:.4f} |" in table
    assert table in done.stdout
    for name in ("val.png", "val_samples.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 500
            assert len(set(picture.convert("L").tobytes())) > 20
    with np.load(out / "val_logits.npz") as saved:
        hits = saved["logits"].argmax(1) == saved["labels"].argmax(1)
        assert hits.mean() == pytest.approx(found["prec@1"])


def test_the_mean_of_checkpoints_is_their_mean_and_is_evaluated(finished, capsys):
    flags = [str(finished), "--steps", "10:12"]
    assert average_checkpoints.main(flags) == 0
    assert "the mean of 2 checkpoints, steps [10, 12]" in capsys.readouterr().out
    out = finished / "averaged-10-12"
    mean = dict(flatten_with_names(read_params(out)[0]))
    parts = [
        dict(flatten_with_names(read_params(finished / "checkpoints" / s)[0]))
        for s in ("10", "12")
    ]
    assert mean.keys() == parts[0].keys()
    for name, x in mean.items():
        expected = (parts[0][name].astype(float) + parts[1][name]) / 2
        np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-9)
        assert x.dtype == parts[0][name].dtype
    # What it is evaluated with is the mean, and any tool can open it.
    report = json.loads((out / "evaluation" / "report.json").read_text())
    trained = open_trained(out)
    jax.tree.map(np.testing.assert_array_equal, trained.params, read_params(out)[0])
    assert report["evals"]["val"]["examples"] == 359
    assert report["evals"]["val"]["prec@5"] >= report["evals"]["val"]["prec@1"]
    # A second time it does not write over it.
    assert average_checkpoints.main(flags) == 1
    assert "has checkpoints already" in capsys.readouterr().err


def test_a_run_starts_from_the_mean(finished, tmp_path):
    out = tmp_path / "mean"
    flags = [str(finished), "--out", str(out), "--no_evaluation"]
    assert average_checkpoints.main(flags) == 0
    assert run(tmp_path / "next", f"--config.model_init={out}") == 0


def test_the_mean_of_one_is_itself(finished, tmp_path):
    out = tmp_path / "one"
    flags = [str(finished), "--steps", "5:9", "--out", str(out), "--no_evaluation"]
    assert average_checkpoints.main(flags) == 0
    jax.tree.map(
        np.testing.assert_array_equal,
        read_params(out)[0],
        read_params(finished / "checkpoints" / "5")[0],
    )


@pytest.mark.parametrize(("signs", "factor"), [((1, 1, 1), 1), ((1, -1), 0)])
def test_the_mean_of_equals_and_of_opposites(tmp_path, signs, factor):
    params = {"a": np.linspace(-1, 1, 7, dtype=np.float32)}
    with contextlib.closing(Checkpointer(tmp_path, max_to_keep=None)) as checkpointer:
        for step, sign in enumerate(signs, 1):
            state = {"params": {"a": jnp.asarray(sign * params["a"])}}
            checkpointer.save(step, state, {"config": None})
        checkpointer.finish()
    average_checkpoints.average(tmp_path, None, None, tmp_path / "mean")
    mean, _ = read_params(tmp_path / "mean")
    np.testing.assert_array_equal(mean["a"], factor * params["a"])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ["{run}", "--steps", "13:20"],
            "no checkpoint of the steps 13:20; it has 1, 5, 10, 12",
        ),
        (["{run}", "--steps", "5"], "--steps takes A:B"),
        (["{none}"], "no checkpoint"),
    ],
)
def test_what_cannot_be_averaged_is_one_sentence(
    finished, tmp_path, capsys, argv, words
):
    argv = [a.format(run=finished, none=tmp_path / "none") for a in argv]
    assert average_checkpoints.main(argv) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--evals", "vall"], "did you mean 'val'"),
        (["--config.evals.val.data={'kind': 'folder', 'data_dir': '/none', 'split': 'a'}"],
         "there is no folder /none"),
        (["--config.evals=None"], "nothing to evaluate"),
        (["--ema"], "has no 'ema'"),
        (["--config.evals.val.pp_fn=grayscale_to_rgb|keep('image', 'label')"],
         "the images do not fit the model"),
        (["--config", "configs/vit_s16_i1k.py"],
         "is for 10 classes, but the config has num_classes=1000"),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_one_sentence(
    finished, tmp_path, capsys, flags, words
):
    out = tmp_path / "out"
    assert evaluate.main(["--ckpt", str(finished), "--out", str(out), *flags]) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert not out.exists()


def test_an_optional_set_that_is_missing_is_left_out(finished, tmp_path, capsys):
    extra = {
        "type": "classification",
        "required": False,
        "data": {"kind": "folder", "data_dir": "/none", "split": "a"},
    }
    flags = ["--ckpt", str(finished), "--out", str(tmp_path / "out")]
    assert evaluate.main([*flags, f"--config.evals.v2={extra}"]) == 0
    assert "warning: v2 is left out: there is no folder" in capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["evals"]) == ["val"]


def test_nothing_is_written_unless_all_is(finished, tmp_path, capsys, monkeypatch):
    """A second data set is missing, or the second evaluation fails."""
    gone = {
        "type": "classification",
        "data": {"kind": "folder", "data_dir": "/none", "split": "a"},
    }
    flags = ["--ckpt", str(finished), "--out", str(tmp_path / "out")]
    assert evaluate.main([*flags, f"--config.evals.v2={gone}"]) == 1
    assert "there is no folder /none" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

    evaluated, rows = evaluate._evaluated, []

    def second_fails(row, *parts):
        rows.append(row)
        if len(rows) == 2:
            raise KeyboardInterrupt
        return evaluated(row, *parts)

    monkeypatch.setattr(evaluate, "_evaluated", second_fails)
    again = f"--config.evals.again={dict(open_trained(finished).evaluator()[1])}"
    assert evaluate.main([*flags, again]) == 130
    assert sorted(rows) == ["again", "val"]
    assert not list(tmp_path.iterdir())

    (tmp_path / "out").write_text("mine")
    assert evaluate.main(flags) == 1
    assert "--out is a folder, but" in capsys.readouterr().err


def test_json_is_the_report_alone_and_strict(finished, tmp_path, capsys, monkeypatch):
    from vitjax.tools import predictions

    own = predictions.summary
    worst = {"loss": float("nan"), "ece": float("inf")}
    monkeypatch.setattr(predictions, "summary", lambda *a: own(*a) | worst)
    out = tmp_path / "out"
    flags = ["--ckpt", str(finished), "--out", str(out), "--json"]
    assert evaluate.main(flags) == 0
    printed = capsys.readouterr()
    text = (out / "report.json").read_text()
    assert printed.out == text
    assert "written: " in printed.err

    def no_number(name):
        raise AssertionError(name)

    found = json.loads(text, parse_constant=no_number)["evals"]["val"]
    assert (found["loss"], found["ece"]) == (None, None)
    assert found["examples"] == 359


def test_the_averaged_parameters_of_training_are_evaluated(tmp_path):
    workdir = tmp_path / "run"
    ema = "--config.ema={'decay': 0.5}"
    args = ["--config", QUICKSTART, "--workdir", str(workdir)]
    small = [a for a in ("--config.total_steps=3", "--config.model.depth=1", ema)]
    assert train.cli([*args, *small, "--config.ckpt_steps=3"]) == 0
    assert evaluate.main(["--ckpt", str(workdir), "--ema"]) == 0
    report = json.loads((workdir / "evaluation-3-ema" / "report.json").read_text())
    assert report["parameters"] == "ema"


def test_an_evaluator_of_averaged_parameters_is_not_run_on_the_raw_ones(
    finished, tmp_path, capsys
):
    section = open_trained(finished).evaluator()[1]
    flag = f"--config.evals.val_ema={ {**section, 'params': 'ema'} }"
    flags = ["--ckpt", str(finished), "--out", str(tmp_path / "out"), flag]
    assert evaluate.main(flags) == 0
    assert "val_ema is of averaged parameters" in capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["evals"]) == ["val"]
    assert evaluate.main([*flags, "--evals", "val_ema"]) == 1


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of photographs of two classes, and a small vit trained on it."""
    root = tmp_path_factory.mktemp("pictures")
    for i, photo in enumerate(PHOTOGRAPHS.values()):
        folder = root / "val" / ("even", "odd")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(folder / f"{i}.jpg")
    return root


def vit_config(folder, path):
    """A config file of a tiny vit with learned positions on those photographs."""
    path.write_text(f"""
from ml_collections import ConfigDict


def get_config(arg=None):
    data = dict(kind="folder", data_dir={str(folder)!r}, split="val")
    pp = "decode|resize_small(36)|central_crop(32)|keep('image', 'label')"
    device_pp = (
        "value_range(-1, 1)|onehot(2, key='label', key_result='labels')"
        "|keep('image', 'labels')"
    )
    return ConfigDict(dict(
        input=dict(data=data, batch_size=8, pp=pp), device_pp=device_pp,
        num_classes=2, total_steps=2, loss="softmax_xent", seed=0,
        model=dict(width=16, depth=1, mlp_dim=32, num_heads=2, patch_size=(16, 16),
                   pool_type="tok", posemb="learn", gelu="exact"),
        optax_name="scale_by_adam", lr=0.01, ckpt_steps=2, tensorboard=False,
        evals=dict(val=dict(data=data, pp_fn=pp, device_pp=device_pp, batch_size=8,
                            loss_name="softmax_xent", log_steps=2)),
    ))
""")
    return str(path)


def test_other_sizes_and_a_file_of_another_librarys_format(pictures, tmp_path, capsys):
    config = vit_config(pictures, tmp_path / "tiny.py")
    workdir = tmp_path / "run"
    assert train.cli(["--config", config, "--workdir", str(workdir)]) == 0
    flags = ["--resolution", "32", "64", "--crop_ratio", "0.5", "1.0"]
    assert evaluate.main(["--ckpt", str(workdir), *flags]) == 0
    out = workdir / "evaluation-2"
    report = json.loads((out / "report.json").read_text())["evals"]
    assert list(report) == ["val@32,0.5", "val@32,1.0", "val@64,0.5", "val@64,1.0"]
    assert len({row["loss"] for row in report.values()}) == 4
    assert (out / "sizes.png").is_file()

    # As torchvision would store it: the architecture is in the shapes alone.
    from vitjax.tools import convert

    file = tmp_path / "other.pth"
    assert convert.main([str(workdir), str(file), "--to", "torchvision"]) == 0
    assert evaluate.main(["--ckpt", str(workdir), "--out", str(tmp_path / "a")]) == 0
    # As a trainer would: one of two state dicts. num_heads is not in the file either.
    state = {name: torch.tensor(x) for name, x in files.read(file)[0].items()}
    ckpt = tmp_path / "last.pth.tar"
    zeros = {name: torch.zeros_like(x) for name, x in state.items()}
    torch.save({"epoch": 3, "state_dict": zeros, "state_dict_ema": state}, ckpt)
    code = evaluate.main(["--ckpt", f"{ckpt}:state_dict_ema", "--config", config])
    assert code == 0, capsys.readouterr().err
    a, b = (
        json.loads((tmp_path / name / "report.json").read_text())["evals"]["val"]
        for name in ("a", "evaluation-last.pth-state_dict_ema")
    )
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)
    assert evaluate.main(["--ckpt", str(file)]) == 1
    assert "give num_heads in the model of a --config" in capsys.readouterr().err
    assert evaluate.main(["--ckpt", str(file), "--config", QUICKSTART]) == 1
    assert (
        "is for 2 classes, but the config has num_classes=10" in capsys.readouterr().err
    )
