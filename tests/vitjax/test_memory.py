"""A device with too little memory: one sentence with what fits, and the workdir as it was."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from tests.helpers import runs
from vitjax import memory, program, train
from vitjax.config.experiment import from_config
from vitjax.config.files import load
from vitjax.devices import failures
from vitjax.devices.stopping import STATUS
from vitjax.evaluators.classification import Classification

FLAGS = [
    *runs.TWELVE_STEPS, "--config.tensorboard=False", "--config.evals.val.batch_size=64",
]  # fmt: skip
GPU = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3221225472 bytes."
TPU = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
    "space hbm. Used 20.10G of 15.75G hbm. Exceeded hbm capacity by 4.35G."
)
SPEC = {"image": ((8, 8, 1), np.dtype(np.uint8)), "label": ((), np.dtype(np.int32))}
SIZES = {"batch_size": 64, "total_steps": 12, "data_size": 1438}


def full(*_, **__):
    raise jax.errors.JaxRuntimeError(GPU)


def files(workdir):
    return {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}


def experiment(**kw):
    overrides = [x.removeprefix("--config.") for x in runs.TWELVE_STEPS]
    e = from_config(load(runs.QUICKSTART, overrides).to_dict())
    model = {**e.model, **kw.pop("model", {})}
    return dataclasses.replace(e, model=model, **kw)


def build(e, mesh):
    return program.build(e, mesh, element_spec=SPEC, **SIZES)


def plan(e, mesh):
    """XLA's plan, read by hand."""
    m = build(e, mesh).lower().compile().memory_analysis()
    size = m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes
    return size - m.alias_size_in_bytes


def test_the_amounts_are_xlas():
    said = failures.full("the training", jax.errors.JaxRuntimeError(GPU), "X9")
    assert said == (
        "the memory of a device (X9) is full: the training asked for 3 GiB, more than "
        "is free"
    )
    said = failures.full("evals.val", jax.errors.JaxRuntimeError(TPU), "TPU v5 lite")
    assert said.endswith("evals.val asked for 20.1 GiB of 15.8 GiB")
    odd = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no space\nat all")
    assert failures.full("x", odd, "X9").endswith("full: RESOURCE_EXHAUSTED: no space")


def test_the_limit_is_a_share_of_what_jax_may_use():
    device = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 1000})
    assert memory.limit(device) == 900
    assert memory.limit(jax.devices()[0]) is None, "a CPU does not tell"


def test_the_first_plan_that_fits_is_proposed(mesh):
    """At each limit: what is proposed fits, and each plan before it does not."""
    e = experiment()
    built = build(e, mesh)
    plans = {
        f"--config.accum_freq={n}": plan(dataclasses.replace(e, accum_freq=n), mesh)
        for n in (2, 4, 8)
    }
    assert len(set(plans.values())) == 3
    assert list(plans.values()) == sorted(plans.values(), reverse=True)
    for flags, planned in plans.items():
        found = memory.remedy(e, built, SPEC, SIZES, planned, fixed=False)
        assert found == (flags, planned)


def test_then_less_is_kept_and_then_products_are_in_bfloat16(mesh, monkeypatch):
    """Nothing fits until the plan says so; only what may change is proposed if fixed."""
    asked = []

    def planned(e, *_):
        asked.append(
            (e.accum_freq, e.model.get("remat_policy"), e.model.get("dtype_mm"))
        )
        fits = e.model.get("dtype_mm") == "bfloat16"
        return (10.0, 5.0) if fits else (1000.0, 990.0)

    monkeypatch.setattr(memory, "_plan", planned)
    e = experiment()
    built = build(e, mesh)
    flags, _ = memory.remedy(e, built, SPEC, SIZES, 50.0, fixed=False)
    assert flags == (
        "--config.accum_freq=8 --config.model.remat_policy=nothing_saveable "
        "--config.model.dtype_mm=bfloat16"
    )
    # 990 of temporaries in 2 parts are 40 in 50 parts: 4 is skipped, 8 the last.
    assert asked == [
        (2, None, None),
        (8, None, None),
        (8, "nothing_saveable", None),
        (8, "nothing_saveable", "bfloat16"),
    ]
    assert memory.remedy(e, built, SPEC, SIZES, 50.0, fixed=True) is None
    assert asked[4:] == asked[:3]
    own = experiment(accum_freq=8, model={"dtype_mm": "bfloat16"})
    asked.clear()
    memory.remedy(own, build(own, mesh), SPEC, SIZES, 5.0, fixed=False)
    assert asked == [(8, "nothing_saveable", "bfloat16")], "no other plan is left"


def test_a_plan_that_the_compiler_refuses_does_not_fit(mesh, monkeypatch):
    """As TPUs do: at compile time, with the amount."""
    refuse(monkeypatch, TPU)
    found = memory._plan(experiment(), mesh, SPEC, SIZES)
    assert found[0] == pytest.approx(20.1 * 2**30)


def refuse(monkeypatch, text):
    lowered = types.SimpleNamespace()

    def compile(compiler_options=None):
        raise jax.errors.JaxRuntimeError(text)

    lowered.compile = compile
    monkeypatch.setattr(program.Program, "lower", lambda self: lowered)


@pytest.mark.parametrize("text", [GPU, "NOT_FOUND: no valid config of a kernel"])
def test_a_compiler_that_finds_no_memory_to_try_kernels_says_nothing_of_the_plan(
    mesh, monkeypatch, text
):
    """Not "no plan fits": what usually helps, with the first error's amount."""
    e = experiment()
    built = build(e, mesh)
    refuse(monkeypatch, text)
    monkeypatch.setattr(memory, "limit", lambda device: 1e12)
    error = jax.errors.JaxRuntimeError(GPU)
    said = memory.explain(error, e, built, SPEC, SIZES, fixed=False)
    assert said.endswith(f"asked for 3 GiB, more than is free; {memory.GENERAL}")


@pytest.mark.parametrize(
    ("platform", "options"), [("gpu", {"xla_gpu_autotune_level": 0}), ("tpu", None)]
)
def test_a_plan_tries_no_kernels_on_the_full_gpu(monkeypatch, platform, options):
    """JAX adds the options to those of the step itself."""
    given = []
    compile = lambda compiler_options: given.append(compiler_options)
    lowered = types.SimpleNamespace(compile=compile)
    built = types.SimpleNamespace(lower=lambda: lowered)
    monkeypatch.setattr(program, "build", lambda *_, **__: built)
    monkeypatch.setattr(memory, "memory", lambda compiled: (2.0, 1.0))
    device = types.SimpleNamespace(platform=platform)
    there = types.SimpleNamespace(devices=np.array([device]))
    assert memory._plan(experiment(), there, SPEC, SIZES) == (2.0, 1.0)
    assert given == [options]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of 5 of its 12 steps, with a checkpoint."""
    workdir = tmp_path_factory.mktemp("begun") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.StopSignal, "due", lambda self, step: step == 5)
        assert runs.run(workdir, *FLAGS) == STATUS
    assert (workdir / "checkpoints" / "5").exists()
    return workdir


class Full:
    """A training step that fails after `steps` steps, but can be lowered."""

    def __init__(self, step, steps):
        self.step, self.left = step, steps

    def __call__(self, *args):
        if self.left == 0:
            full()
        self.left -= 1
        return self.step(*args)

    def lower(self, *args):
        return self.step.lower(*args)


def fill(monkeypatch, steps=0, room=None):
    make = program.step.make_train_step
    monkeypatch.setattr(
        program.step, "make_train_step", lambda *a, **kw: Full(make(*a, **kw), steps)
    )
    monkeypatch.setattr(memory, "limit", lambda device: room)
    monkeypatch.delenv("VITJAX_TRACEBACK", raising=False)


def test_a_full_device_in_training(begun, monkeypatch, capsys, mesh):
    """The sentence names the plan; the files of a run that was begun are the same."""
    before = files(begun)
    fill(monkeypatch, room=plan(experiment(accum_freq=4), mesh))
    line = runs.error_of(capsys, begun, *FLAGS)
    assert line.startswith(
        "error: the memory of a device (cpu) is full: the training asked for 3 GiB, "
        "more than is free; --config.accum_freq=4 fits, by a plan that takes "
    )
    assert files(begun) == before
    monkeypatch.undo()
    assert runs.run(begun, *FLAGS, "--config.accum_freq=4") == 0
    assert "resumes from step 5" in capsys.readouterr().out


def test_a_fresh_run_may_start_again_with_another_precision(
    tmp_path, monkeypatch, capsys
):
    fill(monkeypatch, room=1.0)
    line = runs.error_of(capsys, tmp_path / "run", *FLAGS)
    assert "no plan with more microbatches, less kept or smaller types fits" in line
    fill(monkeypatch)
    line = runs.error_of(capsys, tmp_path / "run", *FLAGS)
    assert line.endswith(memory.GENERAL), "a device that does not tell its memory"
    assert not any((tmp_path / "run" / "checkpoints").glob("*"))
    monkeypatch.undo()
    half = ["--config.model.dtype_mm=bfloat16", "--config.total_steps=1"]
    assert runs.run(tmp_path / "run", *FLAGS, *half) == 0


def test_a_full_device_in_an_evaluator(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Classification, "run", full)
    monkeypatch.delenv("VITJAX_TRACEBACK", raising=False)
    line = runs.error_of(capsys, tmp_path / "run", *FLAGS)
    assert line.endswith(
        "the evaluator evals.val asked for 3 GiB, more than is free; "
        "--config.evals.val.batch_size=32 makes its batches smaller"
    )
    line = runs.error_of(
        capsys, tmp_path / "run", *FLAGS, "--config.evals.val.batch_size=8"
    )
    assert line.endswith(
        "--config.evals.val=None leaves it out, as its batches cannot be smaller"
    )


def test_other_errors_of_jax_are_not_explained(tmp_path, monkeypatch, capsys):
    def fault(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: a fault")

    monkeypatch.setattr(train.loop, "run", lambda *_, **__: fault())
    line = runs.error_of(capsys, tmp_path / "run", *FLAGS)
    assert line == "error: JAX stopped: INTERNAL: a fault"
