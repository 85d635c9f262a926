"""Tools and starts that read a run or weights in a bucket do as from a disk."""

import json
import shutil

import jax
import numpy as np
import pytest

import vitjax
from input_pipeline import bucket
from tests.helpers.runs import params_of, run, values
from vitjax import weights
from vitjax.config import files as config_files
from vitjax.mirror import steps
from vitjax.records.jsonl import read_rows
from vitjax.tools import (
    average_checkpoints,
    compare_runs,
    convert,
    evaluate,
    plot,
    pretrained_folder,
)
from vitjax.tools.trained import open_trained
from vitjax.weights import files

on_s3 = pytest.mark.parametrize("remote", ["s3"], indirect=True)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def assert_equal(a, b):
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        np.testing.assert_array_equal(x, y)


def report_of(out):
    return json.loads((out / "report.json").read_text())


def test_a_run_is_evaluated_as_on_a_disk(remote, digits_run, tmp_path, capsys):
    url = remote.hold(digits_run)
    reports = []
    for ckpt in (url, str(digits_run)):
        out = tmp_path / str(len(reports))
        assert evaluate.main(["--ckpt", ckpt, "--out", str(out)]) == 0
        reports.append(report_of(out))
        assert reports[-1].pop("checkpoint") == f"{ckpt}, step 20"
    assert reports[0] == reports[1]


@on_s3
@pytest.mark.parametrize("key", ["resume", "model_init"])
def test_a_run_starts_from_a_bucket_as_from_a_disk(
    remote, digits_run, tmp_path, key, capsys
):
    """With the steps of the digits' run and ten more, or twelve of its own."""
    url = remote.hold(digits_run)
    steps = 30 if key == "resume" else 12
    for number, path in enumerate((url, digits_run)):
        flags = [f"--config.{key}={path}", f"--config.total_steps={steps}"]
        assert run(tmp_path / str(number), *flags, "--config.evals=None") == 0
    assert_equal(*(params_of(tmp_path / str(n), steps) for n in range(2)))
    assert values(read_rows(tmp_path / "0")) == values(read_rows(tmp_path / "1"))
    kept = json.loads((tmp_path / "0" / "config.json").read_text())
    assert kept[key] == url
    if key == "resume":
        return
    # A run that has its own checkpoint asks for no other.
    remote.fail("403", -1)
    flags = [f"--config.{key}={url}", f"--config.total_steps={steps}"]
    assert run(tmp_path / "0", *flags, "--config.evals=None") == 0
    assert remote.set()["failed"] == 0


@on_s3
def test_what_cannot_start_a_run_is_one_sentence(remote, digits_run, tmp_path, capsys):
    url = remote.hold(digits_run)
    there = bucket.Bucket.open(url)
    there.put("checkpoints/20/meta/metadata", b"{")
    for path, said in ((f"{url}/checkpoints/20", "is damaged"), (url, "no whole")):
        capsys.readouterr()
        assert run(tmp_path / "new", f"--config.resume={path}") == 1
        text = capsys.readouterr().err
        assert said in text
        assert "Traceback" not in text
        there.remove([steps.Step("checkpoints", n).marker for n in (1, 20)])
    remote.fail("401", -1)
    assert evaluate.main(["--ckpt", url, "--out", str(tmp_path / "out")]) == 1
    assert "the credentials are missing or not accepted" in capsys.readouterr().err


@on_s3
def test_weights_are_loaded_from_a_bucket(remote, digits_run, tmp_path, capsys):
    """A run, a file of weights, and a part of the library."""
    url = remote.hold(digits_run)
    params, config = weights.load(digits_run)
    loaded, kept = weights.load(url)
    assert kept == config
    assert_equal(loaded, params)
    for source, name in ((url, "vit.npz"), (digits_run, "vit.safetensors")):
        to = "big_vision" if name.endswith("npz") else "timm"
        flags = ["--to", to, "--grid", "4", "4"]
        assert convert.main([str(source), str(tmp_path / name), *flags]) == 0
        bucket.Bucket.open(remote.url).put(name, tmp_path / name)
        file = f"{remote.url}/{name}"
        assert_equal(weights.load(file)[0], weights.load(tmp_path / name)[0])
        assert weights.metadata(file) == weights.metadata(tmp_path / name)
    images = np.zeros((1, 8, 8, 1), np.float32)
    assert_equal(
        vitjax.load(url).logits(images), vitjax.load(digits_run).logits(images)
    )
    found = config_files.load(
        f"configs/finetune.py:ckpt={url},data_dir=photos,classes=2"
    )
    assert found.model_init == url


@on_s3
def test_a_hugging_face_model_is_loaded_with_what_is_beside_it(
    remote, tok_run, tmp_path
):
    folder = tmp_path / "model"
    trained = open_trained(tok_run)
    pretrained_folder.write(trained, folder, trained.image_shape)
    url = remote.hold(folder)
    for path in (url, f"{url}/model.safetensors"):
        assert_equal(weights.load(path)[0], weights.load(folder)[0])
        opened, local = (open_trained(x, head=False) for x in (path, folder))
        assert opened.config == local.config
        assert opened.name == path


@on_s3
def test_shards_are_copied_with_their_index(remote, tmp_path):
    there = bucket.Bucket.open(remote.url)
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    there.put("model.safetensors.index.json", json.dumps(index).encode())
    for number, (name, shard) in enumerate(index["weight_map"].items()):
        files.write(tmp_path / shard, {name: np.full(2, number)}, {})
        there.put(shard, tmp_path / shard)
    for path in (remote.url, f"{remote.url}/model.safetensors.index.json"):
        arrays, _ = files.read(files.split(path)[0])
        assert sorted(arrays) == ["a", "b"]


@on_s3
def test_curves_and_means_of_runs_in_a_bucket(remote, digits_run, tmp_path, capsys):
    copied = tmp_path / "digits_s1"
    shutil.copytree(digits_run, copied)
    urls = [remote.hold(digits_run), remote.hold(copied)]
    picture = tmp_path / "plot.png"
    assert plot.main([*urls, "--out", str(picture)]) == 0
    assert picture.stat().st_size > 10_000
    told = []
    for runs in ([urls[1], f"{urls[0]}/metrics.jsonl"], [copied, digits_run]):
        capsys.readouterr()
        assert compare_runs.main([*map(str, runs)]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    flags = ["--no_evaluation", "--steps", "2:"]
    for number, source in enumerate((urls[0], str(digits_run))):
        out = str(tmp_path / f"mean{number}")
        assert average_checkpoints.main([source, "--out", out, *flags]) == 0
    assert_equal(*(weights.load(tmp_path / f"mean{n}")[0] for n in range(2)))
