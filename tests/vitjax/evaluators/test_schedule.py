"""An evaluator's section: what is built from it, and when it is due."""

import pytest

from vitjax.evaluators import schedule


class Norm:
    """An evaluator without data."""

    def __init__(self, predict, make_data, mesh, *, scale: float = 1.0):
        self.scale = scale

    def run(self, state):
        yield "norm", self.scale * state


def make_entries(sections, mesh):
    return schedule.make_entries(
        sections,
        predict=lambda: None,
        make_data=lambda: None,
        mesh=mesh,
        sizes={"data_size": 10, "batch_size": 2, "total_steps": 10},
        batch_size=3,
        missing=KeyError,
        warn=print,
    )


def test_an_evaluator_that_takes_no_batch_size_gets_none(mesh, monkeypatch):
    monkeypatch.setitem(schedule.EVALUATORS, "norm", Norm)
    mine = {"type": "norm", "scale": 2.0, "log_steps": 3}
    [entry] = make_entries({"mine": mine, "off": None}, mesh)
    assert [step for step in range(11) if entry.due(step, 10)] == [0, 3, 6, 9, 10]
    row = schedule.run([entry], 21.0)
    assert row.pop("time/mine") >= 0
    assert row == {"mine/norm": 42.0}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (3, "evals.val must be a section, got 3"),
        ([1], r"evals.val must be a section, got \[1\]"),
        ({"type": []}, r"evals.val.type must be a string, got \[\]"),
        ({"skip_first": "no"}, "evals.val.skip_first must be True or False, got 'no'"),
        ({"log_steps": 1e18}, "evals.val: log_steps is"),
    ],
)
def test_a_wrong_section_is_one_sentence(mesh, monkeypatch, section, words):
    monkeypatch.setitem(schedule.EVALUATORS, "classification", Norm)
    with pytest.raises(ValueError, match=words):
        make_entries({"val": section}, mesh)
