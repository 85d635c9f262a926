"""What a run survives: signals, a second run, a full disk."""

import contextlib
import os
import resource
import signal
import socket
import time

import pytest

from tests.vitjax.test_train import (  # noqa: F401 (finished is a fixture)
    error_of,
    finished,
    run,
    start,
    values,
)
from vitjax.checkpoint import Checkpointer
from vitjax.interrupts import STATUS
from vitjax.metrics import read_rows
from vitjax.workdir import locked


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_in_good_order(finished, tmp_path, number):  # noqa: F811
    """After the step in flight there is a checkpoint, and the run goes on from it."""
    with start(tmp_path, 8, "--config.ckpt_steps=1000") as p:
        lines = []
        for line in p.stdout:
            lines.append(line)
            if line.startswith("step  2/12"):
                p.send_signal(number)
        assert p.wait(60) == STATUS, lines
    step = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    text = "".join(lines)
    assert f"stopped after step {step}, with a checkpoint" in text
    assert "Traceback" not in text
    assert 2 <= step < 12
    assert not (tmp_path / "lock").exists()
    assert run(tmp_path) == 0
    assert values(read_rows(tmp_path)) == values(read_rows(finished))


def test_a_second_run_on_one_workdir_is_refused(tmp_path, capsys):
    with locked(tmp_path):
        line = error_of(capsys, tmp_path)
    assert f"process {os.getpid()} of {socket.gethostname()} is at work" in line
    assert not (tmp_path / "metrics.jsonl").exists()
    assert not (tmp_path / "lock").exists()


def test_a_dead_process_holds_no_lock(tmp_path):
    (tmp_path / "lock").write_text(f"{socket.gethostname()} 99999999\n")
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text().split()[1] == str(os.getpid())
    assert not (tmp_path / "lock").exists()


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


@contextlib.contextmanager
def no_file_above(size):
    """As on a full disk: a write that makes a file larger fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def full_at(monkeypatch):
    """Makes the disk full while the checkpoints of some steps are written."""

    def fill(*steps):
        save = Checkpointer.save

        def save_on_full_disk(self, step, *args):
            if step not in steps:
                return save(self, step, *args)
            self.poll(wait=True)
            with no_file_above(500):
                save(self, step, *args)
                while self._manager.is_saving_in_progress():
                    time.sleep(0.01)

        monkeypatch.setattr(Checkpointer, "save", save_on_full_disk)

    return fill


FULL = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
BARE = ("--config.tensorboard=False",)  # its own thread would meet the full disk, too


@FULL
def test_a_full_disk_costs_one_checkpoint(finished, tmp_path, full_at, caplog):  # noqa: F811
    full_at(5)
    assert run(tmp_path, *BARE) == 0
    [text] = [r.getMessage() for r in caplog.records if "cannot be written" in r.msg]
    assert text.startswith("the checkpoint of step 5 cannot be written: ")
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["10", "12"]
    assert values(read_rows(tmp_path)) == values(read_rows(finished))


@FULL
def test_what_was_partly_written_goes_at_once(tmp_path, full_at):
    full_at(5)
    seen = []
    poll = Checkpointer.poll

    def watched(self, wait=False):
        result = poll(self, wait)
        if self.path.is_dir():
            seen.append(sorted(path.name for path in self.path.iterdir()))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpointer, "poll", watched)
        assert run(tmp_path, *BARE, "--config.total_steps=8") == 0
    assert seen[0] == [] or not seen[0][0].startswith("5")


@FULL
def test_three_failures_in_a_row_end_the_run(tmp_path, full_at, capsys):
    full_at(6, 9, 12)
    line = error_of(capsys, tmp_path, *BARE, "--config.ckpt_steps=3")
    assert "3 checkpoints in a row could not be written" in line
    assert "the last good one is of step 3" in line
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]


@FULL
def test_a_last_checkpoint_that_fails_is_an_error(tmp_path, full_at, capsys):
    full_at(12)
    line = error_of(capsys, tmp_path, *BARE)
    assert "the last checkpoint could not be written" in line
    assert "the last good one is of step 10" in line


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
        ("{'metric': 'vall/loss'}", "'vall/loss' is no metric of an evaluator"),
        ("{'metric': 'val/los'}", "no metric 'val/los', but there are val/loss,"),
        ("{'metric': 'val/loss', 'mode': 'least'}", "mode"),
    ):
        line = error_of(capsys, tmp_path / "new", f"--config.ckpt_best={value}")
        assert word in line
