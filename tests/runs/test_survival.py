"""Runs survive signals, and a second run on their workdir."""

import dataclasses
import errno
import fcntl
import os
import shutil
import signal
import socket
import time

import jax
import numpy as np
import pytest

from tests.helpers import processes
from tests.helpers.processes import Fork
from tests.helpers.runs import (
    QUICKSTART,
    TWELVE_STEPS,
    error_of,
    params_of,
    run,
    start,
    values,
)
from vitjax import loop
from vitjax.devices.stopping import STATUS
from vitjax.records.jsonl import read_rows
from vitjax.records.workdir import locked


def test_a_signal_ends_a_run_in_good_order(finished, tmp_path):
    """The step in flight ends with a checkpoint, from which the run resumes."""
    argv = ["--config", QUICKSTART, "--workdir", str(tmp_path), *TWELVE_STEPS]
    log = tmp_path.with_suffix(".log")
    argv.append("--config.ckpt_steps=1000")
    fork = Fork(processes.train, argv, log=log, devices=8)
    while "step  2/12" not in fork.text():
        assert fork.alive(), fork.text()
        time.sleep(0.005)
    os.kill(fork.pid, signal.SIGTERM)
    assert fork.status(60) == STATUS, fork.text()
    text = fork.text()
    step = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert f"stopped after step {step}, with a checkpoint" in text
    assert "Traceback" not in text
    assert 2 <= step < 12
    assert run(tmp_path) == 0
    assert values(read_rows(tmp_path)) == values(read_rows(finished))


def test_a_second_run_on_one_workdir_is_refused(tmp_path, capsys):
    with locked(tmp_path):
        line = error_of(capsys, tmp_path)
    assert f"process {os.getpid()} of {socket.gethostname()}, uses" in line
    assert not (tmp_path / "metrics.jsonl").exists()
    assert not tmp_path.exists()  # nothing was written there


def test_a_lock_that_goes_while_one_waits_for_it_is_none(tmp_path, monkeypatch):
    """Its owner removes the file between another's open and lock."""
    real, removed = fcntl.flock, []

    def flock(file, how):
        if not removed:
            removed.append((tmp_path / "lock").unlink())
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text().split()[1] == str(os.getpid())
    assert removed


def test_a_dead_process_holds_no_lock(tmp_path):
    (tmp_path / "lock").write_text(f"{socket.gethostname()} 99999999\n")
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text().split()[1] == str(os.getpid())
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_where_there_are_no_locks_the_recorded_process_decides(
    tmp_path, monkeypatch, number
):
    def flock(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    lock, host = tmp_path / "lock", socket.gethostname()
    with locked(tmp_path):  # nobody was here
        assert lock.read_text() == f"{host} {os.getpid()}\n"
    for dead in ("99999999", str(10**30), "", str(os.getpid())):
        tmp_path.mkdir(exist_ok=True)
        lock.write_text(f"{host} {dead}\n")
        with locked(tmp_path):
            assert lock.read_text() == f"{host} {os.getpid()}\n"
        assert not lock.exists()
    for alive in (f"{host} {os.getppid()}\n", "elsewhere.org 99999999\n"):
        tmp_path.mkdir(exist_ok=True)
        lock.write_text(alive)
        name = f"process {alive.split()[1]} of {alive.split()[0]}.*--force"
        with pytest.raises(ValueError, match=name), locked(tmp_path):
            pass
        assert lock.read_text() == alive
        with locked(tmp_path, force=True):
            assert lock.read_text() == f"{host} {os.getpid()}\n"


def test_a_lock_that_is_owned_counts_whatever_has_its_number_now(tmp_path):
    """Numbers of processes come again, in a container soon."""
    (tmp_path / "lock").write_text(f"{socket.gethostname()} {os.getppid()}\n")
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text().split()[1] == str(os.getpid())


def test_another_host_s_lock_holds_until_force(tmp_path):
    (tmp_path / "lock").write_text("elsewhere.org 77\n")
    with (
        pytest.raises(ValueError, match=r"process 77 of elsewhere.org .* --force"),
        locked(tmp_path),
    ):
        pass
    assert (tmp_path / "lock").read_text() == "elsewhere.org 77\n"
    with locked(tmp_path, force=True):
        pass
    assert not (tmp_path / "lock").exists()


def test_half_a_row_at_the_end_of_the_metrics_is_written_again(finished, tmp_path):
    """As a power cut leaves it: the row of step 12 is torn, its checkpoint is not there."""
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "checkpoints" / "12")
    path = workdir / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    assert run(workdir) == 0
    assert values(read_rows(workdir)) == values(read_rows(finished))


def test_a_run_goes_on_from_before_a_damaged_checkpoint(finished, tmp_path, caplog):
    """The newest one is cut: told, set aside, and the end is the same to the bit."""
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    files = (workdir / "checkpoints" / "12" / "state").rglob("*")
    largest = max((f for f in files if f.is_file()), key=lambda f: f.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-100])
    assert run(workdir) == 0
    assert "resuming from step 10" in caplog.text
    assert [p.name for p in (workdir / "damaged").iterdir()] == ["12-0"]
    assert values(read_rows(workdir)) == values(read_rows(finished))
    for a, b in zip(
        jax.tree.leaves(params_of(workdir, 12)),
        jax.tree.leaves(params_of(finished, 12)),
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_run_needs_no_reader_of_what_it_prints(tmp_path):
    """Ctrl-C on `... | tee log` ends tee first; the run still saves a checkpoint."""
    with start(
        tmp_path, 8, "--config.ckpt_steps=1000", "--config.total_steps=500"
    ) as p:
        for line in p.stdout:
            if line.startswith("step   2/"):
                break
        p.stdout.close()
        time.sleep(0.5)
        p.send_signal(signal.SIGINT)
        assert p.wait(120) == STATUS
    assert max(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) > 1


@pytest.mark.parametrize("at", [6, 7, 10])
def test_nan_at_one_step_stops_before_it_is_saved(tmp_path, capsys, monkeypatch, at):
    """Logged at even steps, saved at 5 and 10: found at the first of these."""
    real = loop.run

    def poisoned(state, program, batches, **kw):
        def train_step(state, batch, key):
            seen.append(None)
            if len(seen) == at:
                nan = jax.tree.map(lambda x: x / (x - x), state.params)
                state = dataclasses.replace(state, params=nan)
            return program.train_step(state, batch, key)

        seen = []
        with_nan = dataclasses.replace(program, train_step=train_step)
        return real(state, with_nan, batches, **kw)

    monkeypatch.setattr(loop, "run", poisoned)
    line = error_of(capsys, tmp_path, "--config.evals=None")
    # What was finite last: the row of step 4, the checkpoint of 5, the row of 6, of 8.
    words = {6: "steps 6 and 6", 7: "steps 7 and 8", 10: "steps 9 and 10"}[at]
    assert f"non-finite between {words} (" in line
    assert "the last good checkpoint is of step 5;" in line
    assert max(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == 5


@pytest.mark.parametrize("workdir", ["/proc/vitjax", "/dev/null/vitjax"])
def test_a_workdir_that_cannot_be_made_is_one_sentence(workdir, capsys):
    assert workdir in error_of(capsys, workdir)


def test_the_best_checkpoint_stays(tmp_path, capsys):
    best = "--config.ckpt_best={'metric': 'val/loss', 'mode': 'min'}"
    assert run(tmp_path, best, "--config.evals.val.log_steps=3") == 0
    losses = {r["step"]: r["val/loss"] for r in read_rows(tmp_path) if "val/loss" in r}
    lowest = min((s for s in losses if s), key=losses.get)
    assert [p.name for p in (tmp_path / "best" / "checkpoints").iterdir()] == [
        str(lowest)
    ]
    other = tmp_path / "from_best"
    assert run(other, f"--config.model_init={tmp_path / 'best'}") == 0
    first = next(r for r in read_rows(other) if "val/loss" in r)
    assert first["val/loss"] == losses[lowest]
    for value, word in (
        ("{'metric': 'vall/loss'}", "'vall/loss' is not a metric of this run's"),
        ("{'metric': 'val/los'}", "no metric 'val/los', only val/loss,"),
        ("{'metric': 'val/loss', 'mode': 'least'}", "mode"),
    ):
        line = error_of(capsys, tmp_path / "new", f"--config.ckpt_best={value}")
        assert word in line
