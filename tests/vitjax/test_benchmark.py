"""The benchmark times the trainer's own program."""

import json
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from vitjax import benchmark, program, synthetic
from vitjax.config.experiment import from_config
from vitjax.config.files import load
from vitjax.devices import sharding
from vitjax.estimate import at_hand
from vitjax.step.flops import forward_flops

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
    assert lowered(synthetic.flagship("mu/16", accum_freq=2), mesh) == ours
    other = synthetic.flagship("mu/16", accum_freq=1)
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
        for name in synthetic.PRECISIONS:
            seen.clear()
            assert benchmark.main([*argv, f"--precision={name}"]) == 0
            config = load(f"{FLAGSHIP}:precision={name}", []).to_dict()
            for key in ("dtype_mm", "residual_dtype", "softmax_dtype"):
                assert seen.get(key) == config["model"].get(key)
            assert seen["matmul"] == config.get("matmul_precision")


def test_options_of_xla_are_those_of_the_config(capsys):
    argv = ["--model=mu/16", "--batch_size=8", "--image_size=32", "--steps=1"]
    seen = []

    def measured(e, **_):
        seen.append(e.compiler_options)
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "measure", measured)
        given = ("--compiler_options", "xla_a=True", "xla_b=3", "xla_c=fast")
        assert benchmark.main([*argv, *given]) == 0
    assert seen == [{"xla_a": True, "xla_b": 3, "xla_c": "fast"}]
    capsys.readouterr()
    assert benchmark.main([*argv, "--compiler_options", "xla_no_such=1"]) == 1
    assert "xla_no_such" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        benchmark.main([*argv, "--compiler_options", "xla_a"])
    assert "expected NAME=VALUE, got 'xla_a'" in capsys.readouterr().err


@pytest.mark.aot
def test_it_compiles_for_absent_chips(absent, tmp_path, capsys):
    """Every chip and precision is a row of the table and of the JSON."""
    absent("h100")
    absent("v5e:1x1")
    file = tmp_path / "rows.json"
    argv = ["--compile_only", "--model=mu/16", "--batch_size=16", "--image_size=64"]
    chosen = ["--chip", "h100", "v5e:1x1", "--precision", "float32", "bfloat16_all"]
    assert benchmark.main([*argv, *chosen, f"--json={file}"]) == 0
    printed = capsys.readouterr().out
    rows = json.loads(file.read_text())
    named = [(r["chip"], r["precision"]) for r in rows]
    both = ("float32", "bfloat16_all")
    assert named == [(chip, p) for chip in ("h100", "v5e:1x1") for p in both]
    run = synthetic.build(
        synthetic.flagship("mu/16"),
        sharding.make_mesh(devices=jax.devices()[:1]),
        batch_size=16,
        image_size=64,
    )
    flops = 3 * forward_flops(run.model, run.shapes.params, (64, 64, 3)) * 16
    for row in rows:
        assert f"| {row['chip']} | mu/16 | {row['precision']} | " in printed
        # The first layer's input needs no gradient; cuDNN computes scores again.
        assert row["TFLOP"] * 1e12 == pytest.approx(flops, rel=0.25)
        assert row["images/s"] == pytest.approx(16 / (row["estimate ms"] / 1e3))
    assert rows[1]["traffic GB"] < rows[0]["traffic GB"]
    assert "an estimate, not a measurement" in printed


def test_only_absent_chips_are_compiled_for(capsys):
    assert benchmark.main(["--compile_only", "--chip", "h101"]) == 1
    assert "did you mean 'h100'?" in capsys.readouterr().err
    for argv in (["--chip", "h100"], ["--compile_only"]):
        with pytest.raises(SystemExit):
            benchmark.main(argv)
        assert "--compile_only and --chip go together" in capsys.readouterr().err


def test_the_peak_is_that_of_the_timed_dtype():
    device = types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")

    def peak(dtype, matmul):
        return at_hand.peak_tflops(device, dtype, matmul)[0]

    assert peak("bfloat16", None) == pytest.approx(989.4)
    assert peak("float32", None) == peak("float32", "default")
    assert peak("float32", None) == pytest.approx(494.7)
    assert peak("float32", "highest") == pytest.approx(66.9)


@pytest.mark.parametrize("kind", ["NVIDIA L40", "TPU7x"])
def test_an_unknown_chip_has_no_peak(monkeypatch, capsys, kind):
    """A measured product in TF32 would pass for the peak of bfloat16."""
    unknown = types.SimpleNamespace(device_kind=kind, platform="not a cpu")
    peak = at_hand.peak_tflops
    monkeypatch.setattr(at_hand, "peak_tflops", lambda _, *a: peak(unknown, *a))
    argv = ["--model=mu/16", "--batch_size=8", "--image_size=32", "--steps=1"]
    assert benchmark.main(argv) == 0
    *shown, figures = capsys.readouterr().out.splitlines()
    assert json.loads(figures)["MFU"] is None
    assert ["MFU", "-"] in [line.split() for line in shown]
    assert f"{kind} is not in the table of chips" in "\n".join(shown)


def test_a_trace_is_written_and_memory_is_planned(tmp_path):
    e = synthetic.flagship("mu/16")
    sizes = {"batch_size": 8, "image_size": 32, "steps": 1}
    figures = benchmark.measure(e, **sizes, trace=tmp_path)
    assert list(tmp_path.rglob("*.trace.json.gz"))
    assert 0 < figures["planned memory GiB per device"] < 1
