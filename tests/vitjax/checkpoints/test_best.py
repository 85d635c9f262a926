"""The best checkpoint, among the others and after failures."""

import contextlib
import shutil

import pytest

from tests.helpers.checkpoints import make_state
from tests.helpers.runs import error_of, run, values
from vitjax.checkpoints.best import Best, best_of
from vitjax.checkpoints.checkpointer import Checkpointer
from vitjax.records.jsonl import read_rows

pytestmark = pytest.mark.slow


def kept(workdir):
    return [path.name for path in (workdir / "best" / "checkpoints").glob("*")]


def newest(workdir):
    return max(int(path.name) for path in (workdir / "checkpoints").glob("*"))


@contextlib.contextmanager
def opened(workdir, mode="min"):
    """A function that offers a loss and waits until the state is written."""
    best = Best(workdir=workdir, metric="val/loss", mode=mode)

    def offer(step, loss):
        best.offer(step, {"val/loss": loss}, make_state(), {})
        best.settle()
        return kept(workdir)

    offer.best = best
    with contextlib.closing(best):
        yield offer


def test_the_best_one_is_whole_before_the_checkpoint_of_its_step_begins(
    tmp_path, monkeypatch
):
    """A run that resumes from that checkpoint would not evaluate the step again."""
    save, order = Checkpointer.save, []

    def watched(self, step, *args):
        if self.path.parent == tmp_path:
            order.append((step, kept(tmp_path)))
        return save(self, step, *args)

    monkeypatch.setattr(Checkpointer, "save", watched)
    # Every evaluation is better than the one before, and each is checkpointed.
    falling = iter([0.9, 0.8, 0.7, 0.6])
    evaluate = lambda entries, state: {"val/prec@5": next(falling)}
    monkeypatch.setattr("vitjax.evaluators.schedule.run", evaluate)
    # A killed process has begun to write these.
    for home in (tmp_path, tmp_path / "best"):
        (home / "checkpoints" / "7.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    best = "--config.ckpt_best={'metric': 'val/prec@5', 'mode': 'min'}"
    assert run(tmp_path, best, "--config.tensorboard=False") == 0
    assert order == [(1, []), (5, ["5"]), (10, ["10"]), (12, ["12"])]
    for home in (tmp_path, tmp_path / "best"):
        assert not list((home / "checkpoints").glob("7*"))


def test_one_that_cannot_be_written_is_not_the_best(tmp_path, monkeypatch, caplog):
    with opened(tmp_path) as offer:
        offer(1, 3.0)
        with monkeypatch.context() as patch:
            manager = offer.best._checkpointer._manager
            patch.setattr(manager, "save", lambda *a, **k: 1 / 0, raising=True)
            assert offer(2, 1.0) == ["1"]
        assert "step 2 cannot be written" in caplog.text
        assert offer(3, 4.0) == ["1"]  # no better than the first
        assert offer(4, 2.0) == ["4"]  # better than what there is


@pytest.mark.parametrize(("mode", "left"), [("max", "2"), ("min", "3")])
def test_a_later_start_compares_with_the_value_that_is_kept(tmp_path, mode, left):
    for step, loss in ((1, 2.0), (2, 3.0), (3, 1.0), (4, 2.5)):
        with opened(tmp_path, mode) as offer:
            offer(step, loss)
    assert kept(tmp_path) == [left]


def test_a_value_that_is_not_finite_is_never_the_best(tmp_path):
    with opened(tmp_path) as offer:
        assert offer(1, float("nan")) == offer(2, float("-inf")) == []
        assert offer(3, 2.0) == ["3"]


def test_a_start_from_before_the_best_one_may_find_a_better_one(tmp_path):
    """At the same step, on other devices, or earlier."""
    for step, loss in ((9, 2.0), (9, 1.5), (6, 1.0)):
        with opened(tmp_path) as offer:
            assert offer(step, loss) == [str(step)]
        assert Checkpointer(tmp_path / "best").meta(step)["value"] == loss


def test_a_damaged_best_one_is_set_aside(tmp_path, caplog):
    with opened(tmp_path) as offer:
        offer(3, 1.0)
    meta = tmp_path / "best" / "checkpoints" / "3" / "meta" / "metadata"
    meta.write_text(meta.read_text().replace("1.0", "0.0"))
    with opened(tmp_path) as offer:
        assert "is damaged" in caplog.text
        assert kept(tmp_path) == []
        assert [p.name for p in (tmp_path / "best" / "damaged").iterdir()] == ["3-0"]
        assert offer(4, 2.0) == ["4"]


def test_a_run_stops_early_wherever_it_was_killed(tmp_path, monkeypatch, capsys):
    """After two evaluations without a better one; all evaluators have the last word."""
    losses = {0: 0.1, 2: 0.9, 4: 0.8, 6: 0.85, 8: float("nan"), 10: 0.1, 12: 0.0}

    def evaluate(entries, state):
        names = [entry.name for entry in entries]
        return {f"{name}/loss": losses[int(state.step)] for name in names}

    monkeypatch.setattr("vitjax.evaluators.schedule.run", evaluate)
    flags = ["--config.evals.val.log_steps=2", "--config.tensorboard=False"]
    flags += ["--config.max_to_keep=None"]
    flags += ["--config.evals.end=like('val', log_steps=99, skip_first=True)"]
    best = "--config.ckpt_best={'metric': 'val/loss', 'mode': 'min', 'patience': %d}"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, *flags, best % 2) == 0
    said = "val/loss was not better in the last 2 evaluations than the 0.8000 of step 4"
    assert f"stopped early after step 8: {said}" in capsys.readouterr().out
    assert newest(whole) == 8
    assert kept(whole) == ["4"]
    assert (whole / "curves.png").exists()
    # The best one is of step 4, and the run resumes from step 1.
    shutil.copytree(whole, killed)
    for step in (5, 8):
        shutil.rmtree(killed / "checkpoints" / str(step))
    assert run(killed, *flags, best % 2) == 0
    assert values(read_rows(killed)) == values(read_rows(whole))
    assert {(8, "val/loss"), (8, "end/loss")} <= values(read_rows(whole)).keys()
    capsys.readouterr()
    assert run(whole, *flags, best % 2) == 0
    assert f"already stopped early: {said}" in capsys.readouterr().out
    assert newest(whole) == 8
    assert run(whole, *flags, best % 3) == 0
    assert newest(whole) == 12


def test_patience_is_checked_before_anything_is_opened(tmp_path, capsys):
    best = "--config.ckpt_best={'metric': 'val/loss', 'patience': 0}"
    gone = "--config.input.data={'kind': 'folder', 'data_dir': '/no', 'split': 'a'}"
    assert "patience must be at least 1" in error_of(capsys, tmp_path, best, gone)


def test_without_evaluators_there_is_none(tmp_path, caplog):
    """As with --config.evals=None."""
    with best_of({"metric": "val/loss"}, tmp_path, []) as best:
        assert best is None
    [notice] = caplog.messages
    assert "has no effect" in notice
    assert not list(tmp_path.iterdir())
