"""The host benchmark: its JPEGs are like ImageNet's, and it reports every stage."""

import json

import numpy as np
import PIL.Image
import pytest

from input_pipeline import benchmark

pytestmark = pytest.mark.slow


def test_the_jpegs_are_like_imagenets_and_the_same_each_time(tmp_path):
    kilobytes = benchmark.write_jpegs(tmp_path / "a", 8)
    assert abs(kilobytes - benchmark.KILOBYTES) < 25
    benchmark.write_jpegs(tmp_path / "b", 8)
    files = sorted((tmp_path / "a").rglob("*.jpg"))
    assert len(files) == 8
    for path in files:
        with PIL.Image.open(path) as image:
            assert image.size == (500, 375)
            assert image.layer == [(1, 2, 2, 0), (2, 1, 1, 1), (3, 1, 1, 1)]  # 4:2:0
        other = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.read_bytes() == other.read_bytes()
    total = sum(path.stat().st_size for path in files)
    np.testing.assert_allclose(kilobytes, total / 8 / 1000)


def test_a_run_prints_every_stage_and_op(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "_ROUNDS", 1)
    monkeypatch.setattr(benchmark, "_JPEGS", 8)
    monkeypatch.setattr(benchmark, "_core_milliseconds", lambda function: 0.5)
    path = tmp_path / "out.json"
    argv = ["--batch_size", "8", "--batches", "1", "--json", str(path)]
    pp = "decode_jpeg_and_inception_crop(32)|flip_lr|randaug(1, 10)"
    assert benchmark.main([*argv, "--pp", pp]) == 0
    out = capsys.readouterr().out
    figures = json.loads(path.read_text())
    names = [row["stage"] for row in figures["stages"]]
    assert [name[:3] for name in names[:4]] == ["(a)", "(b)", "(c)", "(d)"]
    assert names[4:] == list(benchmark.PRESETS)  # pp is none of them
    for row in figures["stages"]:  # one round
        for name, of in (("(a)", 0), ("(b)", 1)):
            share = row["images/s"] / figures["stages"][of]["images/s"]
            np.testing.assert_allclose(row[f"fraction of {name}"], share)
    for row in figures["stages"]:
        assert row["stage"] in out
        np.testing.assert_allclose(
            row["core-ms per image"] * row["images/s per busy core"], 1000
        )
    assert len(figures["core-ms of ops"]) == 17 + len(benchmark.OTHERS)
    assert figures["pp"] == pp


def test_a_wrong_op_is_one_sentence(capsys):
    assert benchmark.main(["--pp", "decod"]) == 1
    assert "did you mean 'decode'" in capsys.readouterr().err
