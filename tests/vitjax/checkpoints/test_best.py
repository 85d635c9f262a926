"""The best checkpoint, among the others and after failures."""

import pytest

from tests.helpers.runs import run
from tests.vitjax.checkpoints.test_checkpointer import make_state
from vitjax.checkpoints.best import Best
from vitjax.checkpoints.checkpointer import Checkpointer

pytestmark = pytest.mark.slow


def kept(workdir):
    return [path.name for path in (workdir / "best" / "checkpoints").glob("*")]


def test_the_best_one_is_whole_before_the_checkpoint_of_its_step_begins(
    tmp_path, monkeypatch
):
    """A run that goes on from that checkpoint would not evaluate the step again."""
    save, order = Checkpointer.save, []

    def watched(self, step, *args):
        if self.path.parent == tmp_path:
            order.append((step, kept(tmp_path)))
        return save(self, step, *args)

    monkeypatch.setattr(Checkpointer, "save", watched)
    # Every evaluation is better than the one before, and each is checkpointed.
    best = "--config.ckpt_best={'metric': 'val/prec@5', 'mode': 'min'}"
    monkeypatch.setattr("vitjax.evaluators.schedule.run", falling())
    assert run(tmp_path, best, "--config.tensorboard=False") == 0
    assert order == [(1, []), (5, ["5"]), (10, ["10"]), (12, ["12"])]


def falling():
    values = iter([0.9, 0.8, 0.7, 0.6])
    return lambda entries, state: {"val/prec@5": next(values)}


def test_one_that_cannot_be_written_is_not_the_best(tmp_path, monkeypatch, caplog):
    best = Best(workdir=tmp_path, metric="val/loss", mode="min")
    best.offer(1, {"val/loss": 3.0}, make_state(), {})
    best.settle()
    with monkeypatch.context() as patch:
        patch.setattr(
            best._checkpointer._manager, "save", lambda *a, **k: 1 / 0, raising=True
        )
        best.offer(2, {"val/loss": 1.0}, make_state(), {})
        best.settle()
    assert "step 2 cannot be written" in caplog.text
    assert kept(tmp_path) == ["1"]
    best.offer(3, {"val/loss": 4.0}, make_state(), {})  # no better than the first
    best.settle()
    assert kept(tmp_path) == ["1"]
    best.offer(4, {"val/loss": 2.0}, make_state(), {})  # better than what there is
    best.settle()
    assert kept(tmp_path) == ["4"]
    best.close()


@pytest.mark.parametrize(("mode", "left"), [("max", "2"), ("min", "3")])
def test_a_later_start_goes_on_from_the_value_that_is_kept(tmp_path, mode, left):
    for step, loss in ((1, 2.0), (2, 3.0), (3, 1.0), (4, 2.5)):
        best = Best(workdir=tmp_path, metric="val/loss", mode=mode)
        best.offer(step, {"val/loss": loss}, make_state(), {})
        best.settle()
        best.close()
    assert kept(tmp_path) == [left]


def test_a_value_that_is_not_finite_is_never_the_best(tmp_path):
    best = Best(workdir=tmp_path, metric="val/loss", mode="min")
    for step, loss in ((1, float("nan")), (2, float("-inf")), (3, 2.0)):
        best.offer(step, {"val/loss": loss}, make_state(), {})
        best.settle()
        assert kept(tmp_path) == (["3"] if step == 3 else [])
    best.close()


def test_a_start_from_before_the_best_one_may_find_a_better_one(tmp_path):
    """Of the same step, on other devices, or earlier."""
    for step, loss in ((9, 2.0), (9, 1.5), (6, 1.0)):
        best = Best(workdir=tmp_path, metric="val/loss", mode="min")
        best.offer(step, {"val/loss": loss}, make_state(), {})
        best.settle()
        best.close()
        assert kept(tmp_path) == [str(step)]
        assert Checkpointer(tmp_path / "best").meta(step)["value"] == loss


def test_a_damaged_best_one_is_set_aside(tmp_path, caplog):
    best = Best(workdir=tmp_path, metric="val/loss", mode="min")
    best.offer(3, {"val/loss": 1.0}, make_state(), {})
    best.settle()
    best.close()
    meta = tmp_path / "best" / "checkpoints" / "3" / "meta" / "metadata"
    meta.write_text(meta.read_text().replace("1.0", "0.0"))
    best = Best(workdir=tmp_path, metric="val/loss", mode="min")
    assert "is damaged" in caplog.text
    assert kept(tmp_path) == []
    assert [p.name for p in (tmp_path / "best" / "damaged").iterdir()] == ["3-0"]
    best.offer(4, {"val/loss": 2.0}, make_state(), {})
    best.settle()
    best.close()
    assert kept(tmp_path) == ["4"]


def test_what_a_killed_process_has_begun_to_write_goes(tmp_path):
    for home in (tmp_path, tmp_path / "best"):
        (home / "checkpoints" / "7.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    best = "--config.ckpt_best={'metric': 'val/loss', 'mode': 'min'}"
    assert run(tmp_path, best, "--config.total_steps=2") == 0
    for home in (tmp_path, tmp_path / "best"):
        assert not list((home / "checkpoints").glob("7*"))
