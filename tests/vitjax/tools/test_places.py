"""Every argument that is a path refuses one with a scheme, before anything is made."""

import importlib
import re
from pathlib import Path

import pytest

import vitjax
from tests.helpers.runs import QUICKSTART
from vitjax import train, weights
from vitjax.checkpoints.read import locate
from vitjax.config import experiment, files

ROOT = Path(__file__).resolve().parents[3]
CASES = [
    "vitjax.train --config X",
    "vitjax.benchmark --data X",
    "vitjax.benchmark --json X",
    "vitjax.benchmark --trace X",
    "vitjax.tools.attention_rollout --ckpt a --image X --out a.png",
    "vitjax.tools.attention_rollout --ckpt a --image a.png --out X",
    "vitjax.tools.attention_rollout --ckpt a --posemb X",
    "vitjax.tools.average_checkpoints a --out X",
    "vitjax.tools.compare_runs a --out X",
    "vitjax.tools.convert a.npz X --to timm",
    "vitjax.tools.evaluate --ckpt a --config X",
    "vitjax.tools.evaluate --ckpt a --out X",
    "vitjax.tools.evaluate --ckpt a --predictions X",
    "vitjax.tools.export --ckpt a --to timm X",
    "vitjax.tools.features --ckpt a X --out a.npz",
    "vitjax.tools.features --ckpt a --out X",
    "vitjax.tools.plan --config X",
    "vitjax.tools.plan --config {config} --out X",
    "vitjax.tools.plot a --out X",
    "vitjax.tools.predict --ckpt a X",
    "vitjax.tools.predict --ckpt a b --csv X",
    "vitjax.tools.predict --ckpt a b --pictures X",
    "vitjax.tools.profile --config {config} --out X",
    "vitjax.tools.show --config X --out new",
    "vitjax.tools.show --out X",
    "vitjax.tools.sweep --config X --matrix a=1",
    "vitjax.tools.sweep --config {config} --matrix a=1 --out X",
    "input_pipeline.benchmark --json X",
    "input_pipeline.prepare.__main__ --name mnist --out X",
    "input_pipeline.prepare.__main__ --name mnist --out new --data_dir X",
    "parity.__main__ --out X",
    "parity.gpu.__main__ --out X",
    "parity.speed.__main__ --json X",
]
# Here X may be in a bucket.
READ = [
    "vitjax.train --config {config} --workdir new --config.resume=X",
    "vitjax.train --config {config} --workdir new --config.model_init=X",
    "vitjax.tools.attention_rollout --ckpt X --posemb a.png",
    "vitjax.tools.average_checkpoints X",
    "vitjax.tools.compare_runs X",
    "vitjax.tools.compare_runs name=X",
    "vitjax.tools.convert X a.npz --to timm",
    "vitjax.tools.evaluate --ckpt X",
    "vitjax.tools.plot X",
    "vitjax.tools.sweep --config {config} --matrix config.model_init=X --out new",
]


@pytest.mark.parametrize("line", CASES)
@pytest.mark.parametrize("path", ["gs://bucket/x", "s3:/bucket/x"])
def test_one_sentence_and_nothing_is_made(line, path, tmp_path, monkeypatch, capsys):
    said = refused(line, path, tmp_path, monkeypatch, capsys)
    assert f"a path of this machine, got {path!r}" in said


@pytest.mark.parametrize("line", READ)
@pytest.mark.parametrize("path", ["az://bucket/x", "s3:/bucket/x"])
def test_what_is_read_may_be_in_a_bucket_only(
    line, path, tmp_path, monkeypatch, capsys
):
    said = refused(line, path, tmp_path, monkeypatch, capsys)
    assert f"gs://BUCKET/PATH or s3://BUCKET/PATH, got {path!r}" in said


@pytest.mark.parametrize("line", ["evaluate --ckpt X", "average_checkpoints X"])
def test_what_would_be_written_into_a_bucket_needs_another_place(
    line, tmp_path, monkeypatch, capsys
):
    said = refused(f"vitjax.tools.{line}", "gs://b/x", tmp_path, monkeypatch, capsys)
    assert "gs://b/x is in a bucket: give --out" in said


def refused(line, path, tmp_path, monkeypatch, capsys):
    """What a command says that must fail, and make nothing."""
    monkeypatch.chdir(tmp_path)
    module, *argv = line.format(config=QUICKSTART).replace("X", path).split()
    main = importlib.import_module(module).main
    try:
        status = main(argv)
    except SystemExit as exit:
        status = exit.code
    said = capsys.readouterr().err
    assert status in (1, 2)
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    return said


@pytest.mark.parametrize("path", ["gs:/b/x", "az://b/x", "gs://", "gs://b", "http://x"])
def test_a_workdir_in_what_is_no_bucket_is_refused(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = train.cli(["--config", str(QUICKSTART), "--workdir", path])
    except SystemExit as exit:
        status = exit.code
    said = capsys.readouterr().err
    assert status in (1, 2)
    assert re.search("gs://BUCKET/(PATH|FOLDER)", said)
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_no_parser_reads_a_path_unchecked():
    for package in ("vitjax", "input_pipeline", "parity"):
        for file in (ROOT / package).rglob("*.py"):
            assert not re.search(r"\btype=(Path|str)\b", file.read_text()), file


@pytest.mark.parametrize(
    "use",
    [
        locate,
        weights.load,
        vitjax.load,
        lambda path: experiment.from_config(
            files.load(str(QUICKSTART), [f"resume={path}"]).to_dict()
        ),
    ],
    ids=["locate", "weights.load", "vitjax.load", "resume"],
)
def test_functions_refuse_as_commands_do(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"a path of this machine or .*, got 'az://b/x'"
    ):
        use("az://b/x")
    assert list(tmp_path.iterdir()) == []


def test_a_function_trains_in_no_bucket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="a path of this machine, got 's3://b/x'"):
        train.train_and_evaluate(files.load(str(QUICKSTART)), "s3://b/x")
    assert list(tmp_path.iterdir()) == []
