"""The timed sides compute the same, and the command prints what was measured."""

import json

import numpy as np
import pytest
import torch

from parity.faults import models
from parity.reference import vit
from parity.sides.cases import Case
from parity.speed import __main__ as speed
from parity.speed.sides import Problem, Side, make_side, peak_bytes

pytestmark = pytest.mark.slow

NAMES = ("torch eager", "torch.compile", "vitjax")


def problem(steps=12):
    return Problem(Case(batch_size=4, depth=1), "cpu", steps)


def losses(name, given, steps=10):
    side = make_side(name, given)
    return [float(side.step(i)) for i in range(steps)]


@pytest.fixture(scope="module")
def ours():
    """vitjax's losses, computed once: the step takes long to compile."""
    return losses("vitjax", problem())


def test_all_sides_take_the_same_steps(ours):
    """Ten steps, so that clipping, Adam, decay and schedule act on the losses."""
    np.testing.assert_allclose(losses("torch eager", problem()), ours, rtol=2e-5)
    assert np.ptp(ours) > 0.1
    assert len(set(np.round(problem().lambdas, 6))) == 12


@pytest.mark.parametrize("fault", ["model", "lambda", "optimizer"])
def test_a_side_that_computes_something_else_is_noticed(monkeypatch, ours, fault):
    wrong = problem()
    if fault == "model":
        monkeypatch.setattr(vit.EncoderBlock, "forward", models._post_ln)
    elif fault == "lambda":
        wrong.__dict__["lambdas"] = [1.0] * 12
    else:
        monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    found = {"vitjax": ours[:2], "torch eager": losses("torch eager", wrong, 2)}
    with pytest.raises(
        ValueError, match="torch eager and vitjax must compute the same"
    ):
        speed.check(found, speed.TOLERANCE["float32"])


def test_the_sides_take_turns_in_each_round(monkeypatch):
    calls = []

    def fake(name, _):
        return Side(lambda i: calls.append((name, i)) or 1.0, lambda loss: None)

    monkeypatch.setattr(speed, "make_side", fake)
    found = speed.measure(problem(), NAMES, block=2)
    assert found["largest difference of the first losses"] == 0
    assert list(found["sides"]) == list(NAMES)
    for figures in found["sides"].values():
        assert 0 < figures["slowest img/s"] <= figures["img/s"]
        assert figures["img/s"] <= figures["fastest img/s"]
        assert figures["img/s"] == pytest.approx(4 / figures["ms/step"] * 1000)
    for name in NAMES:  # the checked steps, then two in each round
        assert [i for who, i in calls if who == name] == list(range(2 + 2 * 5))
    starts = [name for name, _ in calls[6::6]]
    assert starts == [*NAMES, *NAMES[:2]]


def test_losses_are_compared_with_vitjaxs():
    losses = {"torch eager": [1.0, 2.02], "vitjax": [1.0, 2.0]}
    assert speed.check(losses, 0.02) == pytest.approx(0.01)
    with pytest.raises(ValueError, match=r"\[1.0, 2.02\] and \[1.0, 2.0\]"):
        speed.check(losses, 1e-4)
    with pytest.raises(ValueError, match="nan"):
        speed.check({"torch eager": [float("nan")], "vitjax": [1.0]}, 1.0)


def test_a_missing_compiler_is_one_line(monkeypatch, capsys):
    def compile(fn):
        raise RuntimeError("no working C++ compiler\n  in a long trace")

    def real_or_fake(name, given):
        real = name == "torch.compile"
        return make_side(name, given) if real else Side(lambda i: 1.0, lambda loss: 0)

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(speed, "make_side", real_or_fake)
    found = speed.measure(problem(), NAMES, 1)
    assert list(found["sides"]) == ["torch eager", "vitjax"]
    assert capsys.readouterr().out == (
        "torch.compile is left out, because it failed: RuntimeError: no working C++ compiler\n"
    )


def test_torch_compile_gets_the_loss(monkeypatch, ours):
    """The compiler itself takes too long for a test."""
    given = []
    monkeypatch.setattr(torch, "compile", lambda fn: given.append(fn) or fn)
    found = losses("torch.compile", problem(), 2)
    np.testing.assert_allclose(found, ours[:2], rtol=1e-5)
    assert len(given) == 1


def test_the_command_prints_and_writes_the_figures(monkeypatch, tmp_path, capsys):
    sizes = {"torch eager": 3 * 2**20, "vitjax": None}
    monkeypatch.setattr(speed, "peak_elsewhere", lambda name, argv: sizes[name])
    path = tmp_path / "speed.json"
    argv = ["--variant=mu/4", "--batch_size=2", "--steps=3", "--no_compile"]
    assert speed.main([*argv, f"--json={path}"]) == 0
    report = json.loads(path.read_text())
    assert report["steps"] == 5  # one step at least in each of five turns
    assert report["dtype"] == "float32"
    assert report["sides"]["torch eager"]["ratio to torch eager"] == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mu/4, batches of 2 images of 56 x 56, float32, 5 steps")
    assert lines[3].split()[-3] == "3"
    assert lines[4].split()[0] == "vitjax"
    assert lines[4].split()[-3] == "n/a"


def test_memory_grows_by_what_a_side_holds():
    huge = problem()
    huge.case = huge.case.but(mlp_dim=200_000)  # two matrices of 19 MB
    matrices = 2 * 4 * huge.case.width * huge.case.mlp_dim
    # Weights, gradients and both moments.
    assert peak_bytes(huge, "torch eager") >= 4 * matrices
    assert speed.peak_elsewhere("vitjax", ["--variant", "none/4"]) is None


def test_mistakes_end_the_command_with_one_line(capsys):
    assert speed.main(["--variant", "none/4", "--no_compile"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(SystemExit):
        speed.parse_args(["--steps", "0"])
    assert "--steps must be at least 1" in capsys.readouterr().err
