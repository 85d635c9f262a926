"""Several real processes on one machine: one curve, one set of records, one end."""

import contextlib
import dataclasses
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.helpers import processes
from tests.helpers.checkpoints import state_of
from tests.helpers.processes import Fork, finish, start
from vitjax import program, step, train
from vitjax.config import experiment
from vitjax.config.files import load
from vitjax.devices.stopping import STATUS
from vitjax.models import vit
from vitjax.optim import make_optimizer
from vitjax.records.jsonl import read_rows
from vitjax.trees import flatten_with_names

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = str(ROOT / "configs" / "quickstart.py")
TINY = [
    "--config", QUICKSTART,
    "--config.total_steps=60",
    "--config.input.batch_size=64",
    "--config.model.width=16",
    "--config.model.depth=1",
    "--config.model.mlp_dim=32",
    "--config.model.num_heads=2",
    "--config.log_training_steps=1",
    "--config.ckpt_steps=10",
    "--config.keep_ckpt_steps=30",
    "--config.evals.val.log_steps=30",
    "--config.tensorboard=False",
    "--config.lr=0.01",
]  # fmt: skip


def values(workdir):
    """(step, name) -> value, without timing."""
    pairs = [
        ((row["step"], name), value)
        for row in read_rows(workdir)
        for name, value in row.items()
        if name != "step" and not name.startswith(("time/", "img/sec"))
    ]
    assert len(dict(pairs)) == len(pairs), "a metric twice under one step"
    return dict(pairs)


def assert_curves_agree(got, expected, last_step=30):
    """The bound is 1e-5 in float32; the first steps, of big gradients, have more."""
    assert got.keys() == expected.keys()
    for (k, name), value in expected.items():
        if k <= last_step:
            rtol = 0 if "prec@" in name else 1e-5
            np.testing.assert_allclose(
                got[k, name], value, rtol=rtol, atol=1e-9, err_msg=f"{name} of step {k}"
            )


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The workdir of one process with 8 devices."""
    workdir = tmp_path_factory.mktemp("one")
    assert train.cli([*TINY, "--workdir", str(workdir)]) == 0
    return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The workdir and output of two processes, by the recipe for SLURM.

    `srun` is a stand-in that starts them here, with the variables of SLURM's.
    """
    folder = tmp_path_factory.mktemp("two")
    return folder / "run", run_sbatch(folder, TINY[1:])


def job_id():
    """One whose port, as JAX computes it, is free."""
    for job in itertools.count(os.getpid() % 4096):
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("localhost", 61440 + job % 4096))
            return job
    raise AssertionError


def run_sbatch(folder, flags):
    srun = folder / "srun"
    srun.write_text(
        "#!/bin/bash\n"
        "[ $SLURM_JOB_NUM_NODES = 2 ] || exit 9\n"
        "while [[ $1 = -* ]]; do shift; done\n"
        "for i in 0 1; do\n"
        "  SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NUM_NODES=2 SLURM_NTASKS=2 \\\n"
        "  SLURM_STEP_NODELIST=localhost SLURM_PROCID=$i SLURM_LOCALID=0 \\\n"
        '  "$@" &\n'
        "  pids+=($!)\n"
        "done\n"
        'for pid in "${pids[@]}"; do wait $pid || exit $?; done\n'
    )
    srun.chmod(0o755)
    config, *overrides = flags
    env = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "SLURM_JOB_ID": str(job_id()),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "CONFIG": config,
        "WORKDIR": str(folder / "run"),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
    }
    done = subprocess.run(
        ["bash", ROOT / "recipes" / "slurm.sbatch", *overrides],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_processes_by_the_recipe_train_and_evaluate_like_one(one, two):
    workdir, output = two
    assert_curves_agree(values(workdir), values(one))
    assert "2 x cpu" in output
    assert "2 process(es)" in output
    # The second reports nothing.
    assert output.count("step 30/60: loss") == 1
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(read_rows(one))


def test_checkpoints_are_written_by_all(two):
    state = two[0] / "checkpoints" / "60" / "state"
    assert {p.name for p in state.glob("ocdbt.process_*")} == {
        "ocdbt.process_0", "ocdbt.process_1",
    }  # fmt: skip


STEPS64 = 200


def run_then_float64(number, argv, folder):
    """Run `argv` in so many processes; after it, the curve in float64."""
    folder.mkdir()
    curve = folder / "curve.npy"
    forks = start(
        number,
        [*argv, "--workdir", str(folder / "run")],
        folder,
        function=processes.train_then_float64,
        last=dict.fromkeys(range(number), (str(curve), STEPS64)),
    )
    assert finish(forks) == [0] * number, forks[0].text()
    return values(folder / "run"), np.load(curve)


def assert_float64_curves_agree(got, expected):
    assert expected.shape == (STEPS64,)
    assert expected[-20:].mean() < expected[0] - 0.1, "it learns"
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)
    assert (got != expected).any(), "one summation, not two"


def test_1_and_2_processes_go_on_from_each_other_and_agree_in_float64(
    one, two, tmp_path
):
    """Without dropout, losses after the resume differ by float32 rounding."""
    curves = {}
    for number, before in ((1, two[0]), (2, one)):
        argv = [*TINY, f"--config.resume={before}/checkpoints/30"]
        got, curves[number] = run_then_float64(number, argv, tmp_path / str(number))
        assert min(k for k, _ in got) == 30
        assert len(got) > 100
        expected = {k: v for k, v in values(before).items() if k in got}
        assert_curves_agree(got, expected, 45)
    assert_float64_curves_agree(curves[2], curves[1])


def test_four_processes_train_and_evaluate_like_one(tmp_path):
    argv = [*TINY, "--config.total_steps=30"]
    assert train.cli([*argv, "--workdir", str(tmp_path / "one")]) == 0
    forks = start(4, [*argv, "--workdir", str(tmp_path / "four")], tmp_path)
    assert finish(forks) == [0] * 4, forks[0].text()
    assert_curves_agree(values(tmp_path / "four"), values(tmp_path / "one"))
    assert "4 process(es)" in forks[0].text()
    assert "loss" not in "".join(fork.text() for fork in forks[1:])


@pytest.mark.soak
def test_two_processes_augment_in_the_step_like_one(tmp_path):
    """Each augments its own rows: the same pictures and curve, with mixup.

    It compiles for minutes; test_device.py shows that no device needs another's rows,
    and test_pipeline.py that the batches are those of one process. A wrong pixel would change a loss by more than rounding does.
    """
    images = "grayscale_to_rgb|resize(16)|randaug_plan(2)"
    argv = [
        *TINY, "--config.total_steps=4", "--config.evals=None",
        "--config.model.patch_size=(8, 8)", "--config.mixup.p=0.2",
        f"--config.input.pp={images}|keep('image', 'label', 'randaug_plan')",
        "--config.device_pp=randaug(2, 10, contrast='fixed')|value_range(-1, 1)"
        "|onehot(10, key='label', key_result='labels')|keep('image', 'labels')",
    ]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    assert train.cli([*argv, "--workdir", str(one)]) == 0
    forks = start(2, [*argv, "--workdir", str(two)], tmp_path)
    assert finish(forks) == [0] * 2, forks[0].text()
    assert_curves_agree(values(two), values(one))
    assert (one / "train_batch.png").read_bytes() == (
        two / "train_batch.png"
    ).read_bytes()


@pytest.mark.soak
def test_four_processes_agree_with_one_in_float64(tmp_path):
    """It takes two minutes of CPU; four processes on two cores mostly wait."""
    argv = [*TINY, "--config.total_steps=10", "--config.evals=None"]
    _, one = run_then_float64(1, argv, tmp_path / "one")
    _, four = run_then_float64(4, argv, tmp_path / "four")
    assert_float64_curves_agree(four, one)


def wait_for_step(fork, step):
    while f"step {step:2}/" not in fork.text():
        assert fork.alive(), fork.text()
        time.sleep(0.005)


def checkpoints(workdir):
    found = (p.name for p in (workdir / "checkpoints").iterdir())
    return sorted(int(name) for name in found if name.isdigit())


def test_what_ends_one_process_ends_both_and_they_go_on_to_the_same_bits(two, tmp_path):
    """One run with seven starts: kill each one, at a step and in a checkpoint; signals."""
    workdir = tmp_path / "run"
    argv = [*TINY, "--workdir", str(workdir), "--config.evals=None"]
    starts = itertools.count()

    def both(**kwargs):
        folder = tmp_path / f"start{next(starts)}"
        folder.mkdir()
        return start(2, argv, folder, **kwargs)

    def assert_one_died(forks, victim):
        survivor = forks[1 - victim]
        begin = time.monotonic()
        assert forks[victim].status() == -signal.SIGKILL
        assert survivor.status(timeout=60) == STATUS, survivor.text()
        print(f"survivor {1 - victim} gone after {time.monotonic() - begin:.1f} s")
        text = survivor.text()
        last = checkpoints(workdir)[-1]
        [line] = [s for s in text.splitlines() if s.startswith("a peer of process")]
        assert f"the last checkpoint is of step {last}: start all" in line
        assert "Traceback" not in text
        return last

    last = 0
    for asked, number in ((1, signal.SIGTERM), (0, signal.SIGINT)):
        forks = both()
        wait_for_step(forks[0], last + 3)
        os.kill(forks[asked].pid, number)
        assert finish(forks) == [STATUS, STATUS], forks[asked].text()
        said = [re.search(r"stopped after step (\d+)", fork.text()) for fork in forks]
        before, last = last, checkpoints(workdir)[-1]
        assert [int(found[1]) for found in said] == [last, last]
        assert before + 3 <= last < 60

    for victim in (1, 0):
        forks = both()
        wait_for_step(forks[0], last + 3)
        os.kill(forks[victim].pid, signal.SIGKILL)
        last = assert_one_died(forks, victim)

    for victim in (1, 0):
        unfinished = last // 10 * 10 + 10
        forks = both(last={victim: (f"{workdir}/checkpoints/{unfinished}.*",)})
        assert assert_one_died(forks, victim) == last < unfinished

    forks = both()
    assert finish(forks) == [0, 0], forks[0].text() + forks[1].text()
    training = {k: v for k, v in values(two[0]).items() if "/" not in k[1]}
    assert values(workdir) == training
    got, expected = (flatten_with_names(state_of(w, 60)) for w in (workdir, two[0]))
    for (name, value), (same, other) in zip(got, expected, strict=True):
        assert name == same
        np.testing.assert_array_equal(value, other, err_msg=name)


def test_who_has_finished_does_not_miss_the_others(tmp_path):
    """JAX takes the first process for dead where it leaves a moment early."""
    argv = [*TINY, "--workdir", str(tmp_path / "run"), "--config.total_steps=2"]
    forks = start(
        2, [*argv, "--config.evals=None"], tmp_path,
        function=processes.train_and_first_gone,
    )  # fmt: skip
    assert finish(forks) == [0, 0], forks[1].text()
    assert "a peer of process" not in forks[1].text()


def test_a_checkpoint_damaged_for_one_process_is_damaged_for_both(tmp_path):
    """Both resume from the one before; the second's log gives the reason."""
    workdir = tmp_path / "run"
    forks = start(
        2,
        ["--config", QUICKSTART],
        tmp_path,
        function=processes.go_on_from_damaged,
        last=dict.fromkeys(range(2), (str(workdir),)),
    )
    assert finish(forks, timeout=60) == [0, 0], forks[0].text() + forks[1].text()
    for fork in forks:
        assert "went on from 1" in fork.text()
        assert f"checkpoint {workdir}/checkpoints/2 " in fork.text()
    assert [p.name for p in (workdir / "damaged").iterdir()] == ["2-0"]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_checkpoint_that_one_process_cannot_write_costs_both_that_one(
    tmp_path, victim
):
    workdir = tmp_path / "run"
    forks = start(
        2,
        ["--config", QUICKSTART],
        tmp_path,
        function=processes.save_where_one_disk_is_full,
        last=dict.fromkeys(range(2), (str(workdir), victim)),
    )
    assert finish(forks, timeout=60) == [0, 0], forks[0].text() + forks[1].text()
    assert "step 2 cannot be written: " in forks[victim].text()
    assert (
        f"step 2 cannot be written: process {victim} could not"
        in forks[1 - victim].text()
    )
    assert checkpoints(workdir) == [1, 3]


def test_a_second_signal_ends_a_process_of_several_at_once(tmp_path):
    argv = ["--config", QUICKSTART]
    forks = start(2, argv, tmp_path, function=processes.asked_twice)
    ended = finish(forks, timeout=60)
    assert ended == [128 + signal.SIGTERM] * 2, forks[0].text() + forks[1].text()
    said = {re.findall(r"due at \d+", fork.text())[0] for fork in forks}
    assert len(said) == 1, "both at the same step"


def test_an_unexpected_error_ends_both(tmp_path):
    """It keeps its traceback, and the other process says that a peer is gone."""
    forks = start(
        2,
        [*TINY, "--workdir", str(tmp_path / "run"), "--config.evals=None"],
        tmp_path,
        function=processes.fail,
        last=dict.fromkeys(range(2), (0, OverflowError("too large a number"))),
    )
    assert finish(forks, timeout=90) == [1, STATUS], forks[0].text() + forks[1].text()
    assert "OverflowError: too large a number" in forks[0].text()
    assert "a peer of process 1 died or cannot be reached" in forks[1].text()


def slurm(index, job):
    return {
        "SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1",
        "SLURM_PROCID": str(index), "SLURM_LOCALID": str(index),
    }  # fmt: skip


def open_mpi(index, job):
    return {
        "OMPI_MCA_orte_hnp_uri": f"{job * 4096}.0;tcp://127.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(index), "OMPI_COMM_WORLD_LOCAL_RANK": str(index),
    }  # fmt: skip


@pytest.mark.parametrize("scheduler", [slurm, open_mpi])
def test_processes_of_a_scheduler_find_each_other(tmp_path, scheduler):
    job = job_id()
    forks = [
        Fork(processes.agree, log=tmp_path / str(i), devices=2, env=scheduler(i, job))
        for i in range(2)
    ]
    assert finish(forks) == [0, 0], forks[0].text()
    for fork in forks:
        assert "sum 6.0 processes 2" in fork.text()


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [(0, 0, False), (1, 0, False), (75, 0, True), (137, 19, True), (137, 20, False)],
)
def test_slurm_queues_again_what_was_stopped_but_not_for_ever(
    tmp_path, status, restarts, requeued
):
    for name, does in (
        ("srun", f"exit {status}"),
        ("scontrol", f'echo "$@" cpus $SRUN_CPUS_PER_TASK > {tmp_path}/asked'),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    env = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "64",
        "SLURM_RESTART_COUNT": str(restarts),
    }  # fmt: skip
    done = subprocess.run(["bash", ROOT / "recipes" / "slurm.sbatch"], env=env)
    assert done.returncode == status
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else "") == (
        "requeue 7 cpus 64\n" if requeued else ""
    )


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").iterdir()), ids=str)
def test_recipes_are_bash(recipe):
    subprocess.run(["bash", "-n", recipe], check=True)
    assert recipe.name in (ROOT / "docs" / "operations.md").read_text()


def test_fsdp_leaves_an_eighth_of_parameters_and_moments_on_a_device(mesh):
    """Shapes and shardings of ViT-B/16 suffice; a small state shows that they hold."""
    # Arrays under 1 MiB stay whole; at big_vision's 4, the attention's would.
    strategy = [(".*", 'fsdp("data", 1)')]
    model = vit.Model(1000, variant="B/16", pool_type="gap")
    shapes = step.param_shapes(model, (224, 224, 3))
    adam = {"lr": 1e-3, "optax_name": "scale_by_adam", "schedule": None}
    tx, _ = make_optimizer(shapes, total_steps=10, batch_size=8, data_size=100, **adam)
    _, state, shardings = step.init_state(
        model,
        tx,
        (224, 224, 3),
        mesh=mesh,
        sharding_strategy=strategy,
    )
    names = [name for name, _ in flatten_with_names(state)]
    leaves = zip(names, jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True)
    whole, part = {}, {}
    for name, leaf, home in leaves:
        kind = re.search("params|/mu/|/nu/|$", name)[0]
        size = leaf.dtype.itemsize
        whole[kind] = whole.get(kind, 0) + size * leaf.size
        part[kind] = part.get(kind, 0) + size * np.prod(home.shard_shape(leaf.shape))
    assert {"params", "/mu/", "/nu/"} <= whole.keys()
    for kind in ("params", "/mu/", "/nu/"):
        assert whole[kind] > 86e6 * 4
        assert part[kind] == pytest.approx(whole[kind] / 8, rel=0.1)


def test_shards_are_as_large_as_their_shardings_say(mesh):
    e = experiment.from_config(load(QUICKSTART, []).to_dict())
    made = program.build(
        dataclasses.replace(e, sharding_strategy=[(".*", "fsdp('data', 0.01)")]),
        mesh,
        element_spec={
            "image": ((8, 8, 1), np.dtype(np.uint8)), "label": ((), np.dtype(np.int64)),
        },
        batch_size=64,
        total_steps=10,
        data_size=100,
    )  # fmt: skip
    state = made.init()
    split = 0
    for leaf, home in zip(
        jax.tree.leaves(state), jax.tree.leaves(made.shardings), strict=True
    ):
        sizes = {shard.data.nbytes for shard in leaf.addressable_shards}
        assert sizes == {leaf.dtype.itemsize * np.prod(home.shard_shape(leaf.shape))}
        split += sizes != {leaf.nbytes}
    assert split > 20
