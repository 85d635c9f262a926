"""The benchmark times the trainer's own program."""

import json
import types
from pathlib import Path

import numpy as np
import pytest

from vitjax import benchmark, program
from vitjax.config.experiment import from_config
from vitjax.config.files import load
from vitjax.estimate import at_hand

pytestmark = pytest.mark.slow

FLAGSHIP = str(Path(__file__).resolve().parents[2] / "configs" / "vit_s16_i1k.py")
# An example after the flagship's input.pp; test_imagenet.py checks it.
ELEMENT_SPEC = {
    "image": ((224, 224, 3), np.dtype(np.uint8)),
    "label": ((), np.dtype(np.int64)),
}


def lowered(experiment, mesh):
    run = program.build(
        experiment,
        mesh,
        element_spec=ELEMENT_SPEC,
        batch_size=16,
        total_steps=112_603,
        data_size=1_281_167,
    )
    return run.lower().as_text()


def test_its_program_is_the_trainers(mesh):
    e = from_config(load(FLAGSHIP + ":variant=mu/16", ["accum_freq=2"]).to_dict())
    ours = lowered(e, mesh)
    assert lowered(benchmark.flagship("mu/16", accum_freq=2), mesh) == ours
    other = benchmark.flagship("mu/16", accum_freq=1)
    assert lowered(other, mesh) != ours


def test_the_figures_are_printed_and_written(tmp_path, capsys):
    file = tmp_path / "figures.json"
    argv = ["--model=mu/16", "--batch_size=16", "--image_size=32", "--steps=2"]
    assert benchmark.main([*argv, f"--json={file}"]) == 0
    out = capsys.readouterr().out
    figures = json.loads(file.read_text())
    for name in ("ms/step", "img/s per device", "MFU", "peak memory GiB per device"):
        assert figures[name] > 0
        assert name in out
    assert json.loads(out.splitlines()[-1]) == figures
    rate = figures["img/s per device"] * figures["ms/step"] / 1000 * 8
    assert rate == pytest.approx(16)


def test_a_wrong_model_or_batch_is_one_sentence(capsys):
    assert benchmark.main(["--model=Z/16"]) == 1
    assert benchmark.main(["--model=mu/16", "--batch_size=12"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "Z" in lines[0]
    assert "batch_size 12" in lines[1]


def test_a_precision_sets_the_dtypes_and_the_precision_of_products(capsys):
    argv = ["--model=mu/16", "--batch_size=8", "--image_size=32", "--steps=1"]
    seen = {}

    def measured(e, **_):
        seen.update(e.model, matmul=e.matmul_precision)
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "measure", measured)
        for name in benchmark.PRECISIONS:
            seen.clear()
            assert benchmark.main([*argv, f"--precision={name}"]) == 0
            config = load(f"{FLAGSHIP}:precision={name}", []).to_dict()
            for key in ("dtype_mm", "residual_dtype", "softmax_dtype"):
                assert seen.get(key) == config["model"].get(key)
            assert seen["matmul"] == config.get("matmul_precision")


def test_the_peak_is_that_of_the_timed_dtype():
    device = types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")

    def peak(dtype, matmul):
        return at_hand.peak_tflops(device, dtype, matmul)[0]

    assert peak("bfloat16", None) == pytest.approx(989.4)
    assert peak("float32", None) == peak("float32", "default")
    assert peak("float32", None) == pytest.approx(494.7)
    assert peak("float32", "highest") == pytest.approx(66.9)


def test_a_trace_is_written_and_memory_is_planned(tmp_path):
    e = benchmark.flagship("mu/16")
    sizes = {"batch_size": 8, "image_size": 32, "steps": 1}
    figures = benchmark.measure(e, **sizes, trace=tmp_path)
    assert list(tmp_path.rglob("*.trace.json.gz"))
    assert 0 < figures["planned memory GiB per device"] < 1
