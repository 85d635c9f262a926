"""Whole runs: what a person who types the command gets."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.helpers.runs import (
    QUICKSTART,
    ROOT,
    error_of,
    run,
    values,
)
from vitjax import train
from vitjax.config import files
from vitjax.config.files import load
from vitjax.devices.stopping import STATUS
from vitjax.records.jsonl import MetricWriter, read_rows


def test_a_run_leaves_its_records(finished):
    from PIL import Image

    found = {p.name for p in finished.iterdir()}
    assert found == {
        "checkpoints", "config.json", "curves.png", "metrics.jsonl", "tensorboard",
        "train_batch.png",
    }  # fmt: skip
    config = json.loads((finished / "config.json").read_text())
    assert config["total_steps"] == 12
    assert config["input"]["data"] == {
        "kind": "arrays", "name": "digits", "split": "train",
    }  # fmt: skip
    for name in ("curves.png", "train_batch.png"):
        with Image.open(finished / name) as picture:
            assert min(picture.size) > 400
    kept = sorted(int(p.name) for p in (finished / "checkpoints").iterdir())
    assert kept == [10, 12]


def test_each_row_once_under_its_step_with_big_visions_names(finished):
    rows = read_rows(finished)
    got = values(rows)
    assert len(got) == sum(
        name != "step" and not name.startswith(("time/", "img/sec"))
        for row in rows
        for name in row
    ), "a metric twice under one step"
    training = [1, 2, 4, 6, 8, 10, 12]
    for name in ("training_loss", "l2_grads", "l2_params", "l2_updates", "lr"):
        assert [s for s, n in got if n == name] == training
    for name in ("val/prec@1", "val/prec@5", "val/loss"):
        assert [s for s, n in got if n == name] == [0, 5, 10, 12]
    assert got[1, "training_loss"] == pytest.approx(np.log(10), rel=1e-6)
    assert got[0, "val/loss"] == pytest.approx(np.log(10), rel=1e-6)
    assert got[1, "l2_updates"] == 0.0
    assert got[12, "val/loss"] < got[0, "val/loss"]
    assert got[10, "examples_seen"] == 640
    assert "img/sec/core" in rows[-2]


def test_the_same_command_again_changes_nothing(finished, capsys):
    before = {p: p.read_bytes() for p in finished.glob("*.jsonl")}
    assert run(finished) == 0
    assert {p: p.read_bytes() for p in finished.glob("*.jsonl")} == before
    out = capsys.readouterr().out
    assert "already finished at step 12; use another --workdir to start again" in out


def test_a_run_goes_on_with_split_parameters_and_microbatches(finished, tmp_path):
    """The keys that say where it computes may change: from step 10 to 12."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "checkpoints" / "12")
    rules = """--config.sharding_strategy=[('.*', 'fsdp("data", min_size_to_shard_mb=0)')]"""
    assert run(workdir, rules, "--config.accum_freq=2") == 0
    got, expected = values(read_rows(workdir)), values(read_rows(finished))
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, rtol=1e-5, err_msg=str(key))


def test_an_evaluation_that_a_resume_finds_missing_runs_first(finished, tmp_path):
    subprocess.run(["cp", "-r", f"{finished}/.", str(tmp_path)], check=True)
    file = tmp_path / "metrics.jsonl"
    rows = [r for r in read_rows(tmp_path) if not (r["step"] == 12 and "val/loss" in r)]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert run(tmp_path) == 0
    assert values(read_rows(tmp_path)) == values(read_rows(finished))


def test_resume_and_model_init_start_from_another_run(finished, tmp_path, caplog):
    other = tmp_path / "resumed"
    assert run(other, f"--config.resume={finished}/checkpoints/10") == 0
    got = values(read_rows(other))
    assert min(step for step, _ in got) == 10
    expected = values(read_rows(finished))
    assert got[12, "training_loss"] == expected[12, "training_loss"]

    other = tmp_path / "initialized"
    assert run(other, f"--config.model_init={finished}") == 0
    got = values(read_rows(other))
    assert got[0, "val/loss"] == expected[12, "val/loss"]
    assert (1, "training_loss") in got
    # Nothing alarms where nothing is wrong. The command shows nothing of orbax's, which
    # warns of a disk that was busy for a second.
    assert not [
        r.getMessage()
        for r in caplog.records
        if r.levelname == "WARNING" and "orbax" not in Path(r.pathname).parts
    ]

    changed = [f"--config.resume={finished}/checkpoints/10", "--config.lr=0.001"]
    assert run(tmp_path / "changed", *changed) == 0
    [warning] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "the config differs: lr: 0.003 -> 0.001" in warning


def test_flip_lr_on_the_devices_trains_as_on_the_host(tmp_path):
    """Mixup, too, must take a partner's own coin."""
    rest = (
        "value_range(-1, 1)|onehot(10, key='label', key_result='labels')"
        "|keep('image', 'labels')"
    )
    host, device = tmp_path / "host", tmp_path / "device"
    pp, device_pp = "--config.input.pp=", "--config.device_pp="
    assert run(host, f"{pp}flip_lr|keep('image', 'label')", device_pp + rest) == 0
    flags = [f"{pp}keep('image', 'label', 'seed')", f"{device_pp}flip_lr|{rest}"]
    assert run(device, *flags) == 0
    expected = values(read_rows(host))
    for key, value in values(read_rows(device)).items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-6, err_msg=str(key))


def test_model_init_reads_files(finished, tmp_path, capsys):
    from vitjax.tools.convert import convert

    file = tmp_path / "x.pth"  # which says neither heads nor posemb
    convert(finished, file, to="timm", grid=(4, 4))
    init = [f"--config.model_init={file}", "--config.total_steps=2"]
    assert run(tmp_path / "run", *init) == 0
    expected = values(read_rows(finished))[12, "val/loss"]
    assert values(read_rows(tmp_path / "run"))[0, "val/loss"] == expected
    error = error_of(capsys, tmp_path / "no", *init, "--config.model.mlp_dim=48")
    assert (
        "shape (16, 32) in the file, (16, 48) in the model: Transformer/encoderblock_0/Mlp"
        in error
    )


def test_the_next_step_is_dispatched_before_metrics_are_read(tmp_path, monkeypatch):
    """With a step that takes a fifth of a second, and a log of what happens when."""
    events = []
    build, write = train.program_lib.build, MetricWriter.write

    def late(value, step):
        time.sleep(0.2)
        events.append(("done", int(step)))
        return value

    @jax.jit
    def slow(value, step):
        shape = jax.ShapeDtypeStruct(value.shape, value.dtype)
        return jax.pure_callback(late, shape, value, step)

    def slow_build(*args, **kwargs):
        program = build(*args, **kwargs)

        def train_step(state, batch, key):
            state, metrics = program.train_step(state, batch, key)
            step = len([e for e in events if e[0] == "dispatch"]) + 1
            on_cpu = jax.device_put(np.int32(step), metrics["l2_grads"].sharding)
            metrics["training_loss"] = slow(metrics["training_loss"], on_cpu)
            events.append(("dispatch", step))
            return state, metrics

        return dataclasses.replace(program, train_step=train_step)

    def logged(self, step, row):
        events.append(("row", step))
        write(self, step, row)

    monkeypatch.setattr(train.program_lib, "build", slow_build)
    monkeypatch.setattr(MetricWriter, "write", logged)
    assert run(tmp_path, "--config.ckpt_steps=None", "--config.evals=None") == 0
    for step in (2, 4, 6, 8, 10):
        # Nobody waited for the step before the next one was under way ...
        following = events.index(("dispatch", step + 1))
        assert following < events.index(("done", step))
        # ... and its row came before anything further was.
        assert following < events.index(("row", step))
        assert events.index(("row", step)) < events.index(("dispatch", step + 2))


def test_balanced_class_weights_are_of_the_runs_labels(tmp_path):
    """By hand: zero logits, and as many examples of each of two classes in a batch."""
    labels = np.repeat([0, 1], [56, 8])
    np.savez(tmp_path / "few.npz", x=np.zeros((64, 8, 8, 1), np.uint8), y=labels)
    data = {"kind": "npz", "path": str(tmp_path / "few.npz"), "split": "all"}
    data |= {"images": "x", "labels": "y", "num_classes": 10}
    given = {"data": data, "batch_size": 64, "pp": "keep('image', 'label')"}
    flags = [
        f"--config.input={given | {'sampling': 'balanced'}}",
        "--config.class_weights=balanced",
        "--config.mixup=None",
        "--config.evals=None",
        "--config.total_steps=1",
    ]
    assert run(tmp_path / "run", *flags) == 0
    weights = 64 / (2 * 56), 64 / (2 * 8)
    [loss] = [r["training_loss"] for r in read_rows(tmp_path / "run")]
    assert loss == pytest.approx(sum(weights) / 2 * np.log(10), rel=1e-5)


def test_nan_stops_the_run_and_names_the_last_good_checkpoint(tmp_path, capsys):
    message = error_of(
        capsys,
        tmp_path,
        # Growing tenfold a step: finite at the start, and surely not for long.
        "--config.optax_name=identity",
        "--config.wd=-10.0",
        "--config.wd_mults=[('.*', 1.0)]",
        "--config.schedule=None",
        "--config.total_steps=80",
        "--config.ckpt_steps=3",
        "--config.input.batch_size=8",
    )
    found = re.search(r"between steps (\d+) and (\d+) .* is of step (\d+);", message)
    assert found, message
    first, last, saved = map(int, found.groups())
    assert saved < first <= last < 80
    assert (tmp_path / "checkpoints" / str(saved)).is_dir()
    kept = [int(p.name) for p in (tmp_path / "checkpoints").iterdir()]
    assert max(kept) == saved


def test_another_config_in_the_workdir_is_refused(finished, capsys):
    before = sorted((p, p.stat().st_mtime_ns) for p in finished.rglob("*"))
    message = error_of(capsys, finished, "--config.lr=0.5", "--config.seed=7")
    assert "lr: 0.003 -> 0.5; seed: 0 -> 7" in message
    assert f"--config.resume={finished} to continue" in message
    assert before == sorted((p, p.stat().st_mtime_ns) for p in finished.rglob("*"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sead=1", "config key 'sead'; did you mean 'seed'"),
        ("model.widht=3", "'widht'; did you mean 'width'"),
        ("input.batchsize=3", "'batchsize'; did you mean 'batch_size'"),
        ("input.data.splits=x", "'splits'"),
        ("input.data.name=digit", "digit"),
        ("input.data.kind=array", "array"),
        ("input.pp=decod", "decod"),
        ("device_pp=value_rang", "value_rang"),
        ("model_name=vitt", "model 'vitt'; did you mean 'vit'"),
        ("loss=softmax_xnt", "loss 'softmax_xnt'; did you mean 'softmax_xent'"),
        ("input.batch_size=36", "not divisible by 8 device"),
        ("accum_freq=3", "accum_freq 3"),
        ("schedule.warmup_steps=12", "warm-up of 12 steps"),
        ("schedule.warmup_percent=0.1", "warmup"),
        ("evals.val.typ=x", "evals.val: 'typ'"),
        ("evals.val.type=x", "evaluator 'x'"),
        ("evals.val.batch_size=9", "evals.val: batch_size 9"),
        ("evals.val.loss_name=x", "loss 'x'"),
        ("optax_name=scale_by_adm", "scale_by_adm"),
        ("optax.b3=1", "b3"),
        ("num_classes=11", "num_classes is 11"),
        ("mixup.q=1", "'q'"),
        ("ema={'decai': 0.9}", "ema: 'decai'; did you mean 'decay'"),
        ("ema={'every': 1.5}", "ema.every must be a whole number, got 1.5"),
        ("ema=0.9", "ema must be a section"),
        ("ema={'decay': 2}", "ema.decay must be at least 0 and below 1"),
        ("evals.val.params=ema", "evals.val: params='ema' needs averaged parameters"),
        ("evals.val.params=emma", "evals.val.params 'emma'; did you mean 'ema'"),
        ("mixup.p=0", "mixup.p must be positive"),
        ("wandb={'projet': 'x'}", "wandb: 'projet'; did you mean 'project'"),
        ("mesh=[('data', 3)]", "8 devices"),
        ("resume=nowhere", "no checkpoint at"),
        ("model_init=nowhere", "no checkpoint at"),
        ("total_epochs=3", "given twice, as total_steps, total_epochs"),
        ("schedule=[('.*', dict(a=1))]", "{'key': 1} and not dict(key=1)"),
        ("model.widht=3", "widht"),
        ("eval_only=True", "'eval_only' is not supported"),
        ("fewshot=1", "'fewshot' is not supported"),
    ],
)
def test_a_wrong_config_is_one_sentence_and_writes_nothing(
    tmp_path, capsys, override, words
):
    workdir = tmp_path / "new"
    # Two units of one duration, both from the command line.
    extra = ["--config.schedule.warmup_steps=2"] if "warmup_percent" in override else []
    message = error_of(capsys, workdir, *extra, f"--config.{override}")
    assert words in message
    assert not workdir.exists()


def test_a_missing_data_set_stops_at_once_and_an_optional_one_is_skipped(
    tmp_path, capsys, caplog
):
    missing = "--config.evals.v2={'data': {'name': 'mnist', 'split': 'test', "
    missing += f"'data_dir': '{tmp_path}'}}"
    message = error_of(capsys, tmp_path / "new", missing + "}")
    assert "mnist" in message
    assert "download_and_prepare" in message
    assert not (tmp_path / "new").exists()
    assert run(tmp_path / "new", missing + ", 'required': False}") == 0
    [warning] = [r for r in caplog.records if r.levelname == "WARNING"]
    assert "evals.v2" in warning.getMessage()
    assert "download_and_prepare" in warning.getMessage()
    assert "val/prec@1" in read_rows(tmp_path / "new")[0]


def test_a_file_as_workdir_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "file" in error_of(capsys, tmp_path / "file")


def test_an_accelerator_that_jax_does_not_see_stops_the_run(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(train.startup, "idle_accelerator", lambda: "pip install this")
    assert "pip install this" in error_of(capsys, tmp_path / "new")
    assert run(tmp_path / "new", "--allow_cpu") == 0


def test_labels_that_no_output_is_for_are_refused(tmp_path, capsys):
    pp = "--config.input.pp=onehot(9, key='label', key_result='labels')"
    flags = ["--config.num_classes=9", pp, "--config.device_pp=value_range(-1, 1)"]
    line = error_of(capsys, tmp_path / "new", *flags)
    assert "the data has 10 classes, but num_classes is 9" in line
    assert not (tmp_path / "new").exists()


def test_an_interrupt_is_one_sentence(tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train_and_evaluate", interrupted)
    assert run(tmp_path / "new") == 130
    assert "the same command resumes" in capsys.readouterr().err


def test_a_signal_during_the_first_evaluation_ends_the_run_after_it(
    tmp_path, capsys, monkeypatch
):
    real = train.schedule.run

    def interrupted(due, state):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(due, state)

    monkeypatch.setattr(train.schedule, "run", interrupted)
    assert run(tmp_path) == STATUS
    assert "after step 0, with nothing new to save" in capsys.readouterr().err
    [row] = read_rows(tmp_path)
    assert row["step"] == 0
    assert not (tmp_path / "checkpoints").exists()
    monkeypatch.undo()
    assert run(tmp_path) == 0


def test_help_is_for_people():
    out = subprocess.run(
        [sys.executable, "-m", "vitjax.train", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0
    for word in ("--workdir", "--allow_cpu", "--config.total_epochs=3", "resumes"):
        assert word in out.stdout


def test_default_workdirs_are_named_after_the_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()  # where too long a name would be an error
    assert files.default_workdir("configs/a.py") == os.path.join("runs", "a")
    assert files.default_workdir("a") == os.path.join("runs", "a")
    long = "configs/a.py:" + ",".join(f"argument_{i}={i}" for i in range(20))
    names = [files.default_workdir(spec) for spec in (long, f"{long}1")]
    assert names[0] != names[1]
    for name in [*names, files.default_workdir("a.py:ckpt=runs/b/best,data_dir=~/x")]:
        assert os.path.dirname(name) == "runs"
        assert len(name) < 90
    name = files.default_workdir("configs/a.py:preset=fixed")
    assert name == os.path.join("runs", "a-preset=fixed")


def test_stdout_of_a_run_is_plain_lines(tmp_path, capsys):
    """With the few-shot evaluator, as docs/tools.md writes it; only the head learns."""
    data = {"kind": "arrays", "name": "digits"}
    few = {"type": "fewshot", "data": data | {"split": "test"}, "shots": [2]}
    few |= {"fit_data": data | {"split": "train"}}
    head = "--config.schedule=[('head/.*', {}), ('.*', None)]"
    assert run(tmp_path, head, f"--config.evals.fewshot={few}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("devices: 8 x cpu")
    assert any(f"parameters ({16 * 10 + 10} trainable), " in line for line in lines)
    assert any("loss" in line and "ETA" in line and "img/s" in line for line in lines)
    assert any("val/prec@1" in line for line in lines)
    assert read_rows(tmp_path)[-1]["fewshot/2shot"] > 0.1


def test_the_config_file_needs_no_knowledge_of_where_it_lies():
    assert load(QUICKSTART).num_classes == 10
