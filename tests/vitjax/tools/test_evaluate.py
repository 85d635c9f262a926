"""Evaluating a finished run, and the mean of its checkpoints."""

import contextlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

from vitjax import weights
from vitjax.checkpoints.checkpointer import Checkpointer
from vitjax.checkpoints.read import read_params
from vitjax.records.jsonl import read_rows
from vitjax.tools import average_checkpoints, convert, evaluate, predictions
from vitjax.tools.trained import open_trained
from vitjax.trees import flatten_with_names
from vitjax.weights import files

pytestmark = pytest.mark.slow

GONE = {"type": "classification"}
GONE |= {"data": {"kind": "folder", "data_dir": "/none", "split": "a"}}
IN_COLOUR = (
    "--config.evals.val.pp_fn=central_crop(8)|grayscale_to_rgb|keep('image', 'label')"
)


def report_of(out):
    return json.loads((out / "report.json").read_text())


def last_evaluation(workdir):
    return [row for row in read_rows(workdir) if "val/loss" in row][-1]


def test_it_gives_what_training_recorded(digits_run, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--ckpt", str(digits_run), "--out", str(out), "--save_logits"]
    assert evaluate.main(flags) == 0
    recorded = last_evaluation(digits_run)
    report = report_of(out)
    assert report["step"] == 20
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
    assert table in capsys.readouterr().out
    for name in ("val.png", "val_samples.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 500
            assert len(set(picture.convert("L").tobytes())) > 20
    with np.load(out / "val_logits.npz") as saved:
        hits = saved["logits"].argmax(1) == saved["labels"].argmax(1)
        assert hits.mean() == pytest.approx(found["prec@1"])


def test_the_mean_of_checkpoints_is_their_mean_and_is_evaluated(
    digits_run, tmp_path, capsys
):
    workdir = tmp_path / "run"
    shutil.copytree(digits_run, workdir)
    flags = [str(workdir), "--steps", "1:20"]
    assert average_checkpoints.main(flags) == 0
    assert "the mean of 2 checkpoints, steps [1, 20]" in capsys.readouterr().out
    out = workdir / "averaged-1-20"
    mean = dict(flatten_with_names(weights.load(out)[0]))  # as model_init reads it
    first, last = (
        dict(flatten_with_names(read_params(workdir / "checkpoints" / step)[0]))
        for step in ("1", "20")
    )
    assert mean.keys() == first.keys()
    for name, x in mean.items():
        expected = (first[name].astype(float) + last[name]) / 2
        np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-9)
        assert x.dtype == first[name].dtype
    trained = open_trained(out)
    jax.tree.map(np.testing.assert_array_equal, trained.params, read_params(out)[0])
    assert report_of(out / "evaluation")["evals"]["val"]["examples"] == 359
    # The same command again does not write over it.
    assert average_checkpoints.main(flags) == 1
    assert "has checkpoints already" in capsys.readouterr().err
    flags = [str(workdir), "--steps", "20:", "--no_evaluation"]
    assert average_checkpoints.main(flags) == 0
    assert [p.name for p in (workdir / "averaged-20").iterdir()] == ["checkpoints"]


@pytest.mark.parametrize(
    ("signs", "first", "last", "factor"),
    [((1, 1, 1), None, None, 1), ((1, -1), None, None, 0), ((3, 1, -1, 2), 2, 3, 0)],
)
def test_the_mean_of_equals_and_of_opposites(tmp_path, signs, first, last, factor):
    params = {"a": np.linspace(-1, 1, 7, dtype=np.float32)}
    with contextlib.closing(Checkpointer(tmp_path, max_to_keep=None)) as checkpointer:
        for step, sign in enumerate(signs, 1):
            state = {"params": {"a": jnp.asarray(sign * params["a"])}}
            checkpointer.save(step, state, {"config": None})
        checkpointer.finish()
    average_checkpoints.average(tmp_path, first, last, tmp_path / "mean")
    mean, _ = read_params(tmp_path / "mean")
    np.testing.assert_array_equal(mean["a"], factor * params["a"])


def test_an_optional_set_that_is_missing_is_left_out(digits_run, tmp_path, capsys):
    flags = ["--ckpt", str(digits_run), "--out", str(tmp_path / "out")]
    optional = f"--config.evals.v2={ {**GONE, 'required': False} }"
    assert evaluate.main([*flags, optional]) == 0
    assert "warning: v2 is left out: there is no folder" in capsys.readouterr().err
    assert list(report_of(tmp_path / "out")["evals"]) == ["val"]


def test_nothing_is_written_unless_all_is(digits_run, tmp_path, capsys, monkeypatch):
    """A second data set is missing, or Ctrl-C ends the second evaluation."""
    flags = ["--ckpt", str(digits_run), "--out", str(tmp_path / "out")]
    assert evaluate.main([*flags, f"--config.evals.v2={GONE}"]) == 1
    assert "there is no folder /none" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

    evaluated, rows = evaluate._evaluated, []

    def second_fails(row, *parts):
        rows.append(row)
        if len(rows) == 2:
            raise KeyboardInterrupt
        return evaluated(row, *parts)

    monkeypatch.setattr(evaluate, "_evaluated", second_fails)
    again = f"--config.evals.again={dict(open_trained(digits_run).evaluator()[1])}"
    assert evaluate.main([*flags, again]) == 130
    assert sorted(rows) == ["again", "val"]
    assert not list(tmp_path.iterdir())


def test_json_is_the_report_alone_and_strict(digits_run, tmp_path, capsys, monkeypatch):
    own = predictions.summary
    worst = {"loss": float("nan"), "ece": float("inf")}
    monkeypatch.setattr(predictions, "summary", lambda *a: own(*a) | worst)
    out = tmp_path / "out"
    flags = ["--ckpt", str(digits_run), "--out", str(out), "--json"]
    assert evaluate.main(flags) == 0
    printed = capsys.readouterr()
    assert printed.out == (out / "report.json").read_text()
    assert "written: " in printed.err
    found = json.loads(printed.out)["evals"]["val"]
    assert (found["loss"], found["ece"]) == (None, None)
    assert found["examples"] == 359


def test_averaged_parameters_are_evaluated_only_with_their_flag(
    scanned_run, tmp_path, capsys
):
    workdir = tmp_path / "run"
    shutil.copytree(scanned_run, workdir)
    section = open_trained(workdir).evaluator()[1]
    flags = ["--ckpt", str(workdir)]
    flags.append(f"--config.evals.val_ema={ {**section, 'params': 'ema'} }")
    assert evaluate.main(flags) == 0
    assert "val_ema is for averaged parameters" in capsys.readouterr().err
    assert list(report_of(workdir / "evaluation-4")["evals"]) == ["val"]
    assert evaluate.main([*flags, "--evals", "val_ema"]) == 1
    assert evaluate.main([*flags, "--evals", "val_ema", "--ema"]) == 0
    report = report_of(workdir / "evaluation-4-ema")
    assert report["parameters"] == "ema"
    assert list(report["evals"]) == ["val_ema"]


def test_other_sizes(tok_run, tmp_path):
    flags = ["--ckpt", str(tok_run), "--out", str(tmp_path / "out"), IN_COLOUR]
    flags += ["--resolution", "8", "16", "--crop_ratio", "0.5"]
    assert evaluate.main(flags) == 0
    report = report_of(tmp_path / "out")["evals"]
    assert list(report) == ["val@8,0.5", "val@16,0.5"]
    assert report["val@8,0.5"]["loss"] != report["val@16,0.5"]["loss"]
    assert (tmp_path / "out" / "sizes.png").is_file()


def test_one_of_the_state_dicts_of_a_trainers_file(tok_run, tmp_path):
    """The shapes give the architecture, and the config the number of heads."""
    own = tmp_path / "own.pth"
    assert convert.main([str(tok_run), str(own), "--to", "torchvision"]) == 0
    state = {name: torch.tensor(x) for name, x in files.read(own)[0].items()}
    zeros = {name: torch.zeros_like(x) for name, x in state.items()}
    ckpt = tmp_path / "last.pth.tar"
    torch.save({"epoch": 3, "state_dict": zeros, "state_dict_ema": state}, ckpt)
    config = tmp_path / "two_heads.py"
    config.write_text(
        "from configs import quickstart\n"
        "def get_config():\n"
        "    config = quickstart.get_config()\n"
        "    config.model.num_heads = 2\n"
        "    return config\n"
    )
    flags = ["--ckpt", f"{ckpt}:state_dict_ema", "--config", str(config)]
    assert evaluate.main([*flags, IN_COLOUR]) == 0
    found = report_of(tmp_path / "evaluation-last.pth-state_dict_ema")
    recorded = last_evaluation(tok_run)
    assert found["evals"]["val"]["loss"] == pytest.approx(
        recorded["val/loss"], rel=1e-5
    )
