"""An evaluator's section: the evaluator, and the steps at which it is due."""

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


def test_a_probe_is_fed_as_the_evaluator_that_classifies(mesh, monkeypatch):
    """As "val" if it is there; a pp_fn of its own comes without another's device_pp."""

    class Probe(Norm):
        def __init__(
            self, predict, make_data, mesh, *, fit_data, pp_fn="", device_pp=""
        ):
            self.fed = fit_data, pp_fn, device_pp

    monkeypatch.setitem(schedule.EVALUATORS, "probe", Probe)
    data = {"fit_data": 1}
    first = {"pp_fn": "a", "device_pp": "b", "type": "classification", **data}
    monkeypatch.setitem(schedule.EVALUATORS, "classification", Probe)
    evals = {"first": first, "probe": {"type": "probe", **data}}
    assert make_entries(evals, mesh)[1].evaluator.fed == (1, "a", "b")
    evals["val"] = first | {"pp_fn": "c"}
    assert make_entries(evals, mesh)[1].evaluator.fed == (1, "c", "b")
    evals["probe"] = {"type": "probe", "pp_fn": "own", **data}
    assert make_entries(evals, mesh)[1].evaluator.fed == (1, "own", "")
    del evals["first"], evals["val"], evals["probe"]["pp_fn"]
    assert make_entries(evals, mesh)[0].evaluator.fed == (1, "", "")
