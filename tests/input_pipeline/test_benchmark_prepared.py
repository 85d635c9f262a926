"""The benchmark of prepared data: its photographs, presets, distances and print."""

import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from configs import vit_s16_i1k
from input_pipeline import benchmark, benchmark_prepared


@pytest.mark.parametrize("size", [(400, 350), (1200, 900)])
def test_the_photographs_have_the_size_and_are_the_same_each_time(tmp_path, size):
    for name in "ab":
        mean = benchmark_prepared.write_photographs(tmp_path / name, size, 3)
        files = sorted((tmp_path / name).rglob("*.jpg"))
        assert len(files) == 3
        assert mean == pytest.approx(sum(p.stat().st_size for p in files) / 3000)
        for path in files:
            with Image.open(path) as photo:
                assert photo.size == size
                assert photo.layer[0][1:3] == (2, 2)  # 4:2:0
            other = tmp_path / "a" / path.relative_to(tmp_path / name)
            assert path.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", benchmark.PRESETS)
def test_the_presets_are_the_flagships(name):
    """As what they do: the same ops with the same arguments, defaults included."""
    from input_pipeline import ops

    preset, *off = name.split(", ")
    crop = ",crop=torchvision" if preset == "mup_vit" else ""
    randaug = ",randaug=off" if off else ""
    config = vit_s16_i1k.get_config(f"preset={preset}{crop}{randaug}")

    def after(spec):
        data = tf.io.encode_jpeg(
            (np.arange(90_000) % 251).reshape(150, 200, 3).astype("u1")
        )
        features = {"image": data, "seed": tf.constant([1, 2]), "label": 0}
        features["batch_seed"] = features["seed"]
        return ops.get_preprocess_fn(spec)(features)["image"].numpy()

    ours = after(benchmark.PRESETS[name] + "|keep('image', 'label')")
    np.testing.assert_array_equal(ours, after(config.input.pp))
    if name in benchmark_prepared.EVALUATE:
        spec = config.evals.val.pp_fn.replace("|keep('image', 'label')", "")
        np.testing.assert_array_equal(
            after(benchmark_prepared.EVALUATE[name]), after(spec)
        )


def test_distances_are_levels():
    """Of flat grey images the difference is known."""
    files = [
        tf.io.encode_png(np.full((300, 400, 3), level, np.uint8)).numpy()
        for level in (100, 103)
    ]
    found = benchmark_prepared.distances(files, [files[0], files[0]])
    # Weights that add up to less than 1, and truncation, take a level of some pixels.
    assert found == pytest.approx({"big_vision": 1.5, "fixed": 1.5}, abs=0.02)


@pytest.mark.slow
def test_it_prints_bytes_rates_and_pixels(monkeypatch, capsys):
    from input_pipeline.prepare import work
    from tests.input_pipeline.prepare.conftest import Inline

    monkeypatch.setattr(work, "Workers", Inline)
    monkeypatch.setattr(benchmark_prepared, "SIZES", ((90, 60),))
    pp = "decode_jpeg_and_inception_crop(16)"
    monkeypatch.setattr(benchmark_prepared, "TRAIN", {"crop and resize": pp})
    argv = "--short_side 40 --images 4 --batch_size 4 --batches 1 --rounds 1"
    assert benchmark_prepared.main(argv.split()) == 0
    out = capsys.readouterr().out
    assert "90 x 60, shorter side to 40" in out
    assert "core-ms an image" in out
    assert "evaluation of fixed:" in out


def test_it_compares_filters_and_colours(monkeypatch, capsys):
    monkeypatch.setattr(benchmark_prepared, "SIZES", ((400, 350),))
    assert (
        benchmark_prepared.main(["--pixels", "--images", "3", "--short_side", "240"])
        == 0
    )
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("400 x 350, ")
    found = {}
    for line in lines:
        name, kilobytes, *levels = re.findall(
            r"[a-z]+, 4:\d:\d|[\d.]+(?= KB| lev)", line
        )
        found[name] = [float(x) for x in (kilobytes, *levels)]
    bicubic, lanczos, whole = found.values()
    assert [*found] == ["bicubic, 4:2:0", "lanczos, 4:2:0", "bicubic, 4:4:4"]
    # The filters are nearly alike; all of the colours take more bytes and are nearer.
    assert abs(bicubic[0] / lanczos[0] - 1) < 0.1
    assert whole[0] > 1.1 * bicubic[0]
    assert whole[2] < bicubic[2]
