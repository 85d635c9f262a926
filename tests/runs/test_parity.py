"""`python -m parity`: the ladder and its self-test, each once, in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from parity.__main__ import parse_args
from parity.faults import self_test
from parity.faults.models import faults
from parity.report import run as report
from parity.rungs import ladder
from parity.rungs.comparison import Comparison
from parity.sides.cases import Case

ROOT = Path(__file__).parents[2]
OWN_BOUND = "update float64: (schedule|known)|trajectory float64: known|by example"


def python(*args):
    env = {
        **os.environ,
        # Many small programs: compile them once for all runs of the tests.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    return subprocess.run(
        [sys.executable, *args], cwd=ROOT, env=env, capture_output=True, text=True
    )


# test_pixels.py has the others, and their faults.
MODELS = [name for name, rung in ladder.RUNGS.items() if not rung.pixels]


@pytest.fixture(scope="module")
def lines():
    """The output of --self_test, from one run, since imports are slow."""
    done = python("-m", "parity", "--self_test", "--only", ",".join(MODELS))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


# As the specification lists them, in its order, by the titles here.
REQUIRED = (
    "exact GELU for tanh",
    "LayerNorm eps 1e-5",
    "post-LN for pre-LN",
    "xavier bound of the fused in_proj",
    "untruncated normal",
    "decay multiplied by lr",
    "decay on biases",
    "warm-up from 1 / warmup_steps",
    "clip after Adam",
    "mean over padded rows",
    "the mean for the legacy contrast",
    "torchvision crop for tf crop",
    "x and y swapped in sincos2d",
    "H and W transposed",
    "a register among the pooled tokens",
)


def test_required_faults_are_planted():
    titles = [fault.title for fault in faults(ladder.RUNGS)]
    assert set(REQUIRED) <= set(titles)
    assert len(set(titles)) == len(titles)


def test_the_initialisation_is_printed_once(lines):
    found = [x for x in lines if x.startswith("pass") and "  initialisation: " in x]
    names = [line.split("initialisation: ")[1] for line in found]
    assert len(names) > 20
    assert len(set(names)) == len(names)


def test_rungs_are_summed_up(lines):
    at = lines.index("passed of   largest measured / bound")
    assert lines[0] == report.HEADER
    assert re.search(r" 10 of 10 .* loss float64: ", "\n".join(lines[at:]))


def passed_in(lines, precision):
    return [line for line in lines if re.search(f"^pass .* {precision}: ", line)]


def test_every_rung_passes_in_its_precisions(lines):
    assert not [line for line in lines if line.startswith("FAIL")]
    for name, rung in ladder.RUNGS.items():
        for precision in rung.precisions:
            found = [x for x in passed_in(lines, precision) if f"  {name} " in x]
            assert len(found) >= 5, (name, precision)


def test_float64_bounds_are_not_loose(lines):
    """All but the schedule, statistics and known differences has the bound 1e-9."""
    loose = [
        line
        for line in passed_in(lines, "float64")
        if "<= 1.0e-09" not in line and not re.search(OWN_BOUND, line)
    ]
    assert not loose


@pytest.mark.parametrize(
    ("rung", "precision", "limit"),
    [
        ("forward", "float32", 2e-5),
        ("gradients", "float32", 2e-5),
        ("update", "float32", 3e-5),
        ("trajectory", "float32", 1e-4),
        ("devices", "float32", 5e-4),
        ("evaluation", "float32", 1e-4),
        ("forward", "bfloat16", 0.2),
        ("gradients", "bfloat16", 0.3),
        ("trajectory", "bfloat16", 0.5),
    ],
)
def test_measured_bounds_are_not_loose(lines, rung, precision, limit):
    """A control that had gone wrong would let everything pass."""
    found = [
        float(re.search("<= +([^ ]+)", line)[1])
        for line in passed_in(lines, precision)
        if f"  {rung} " in line
        and not re.search("without effect|known: |by example", line)
    ]
    assert found
    assert max(found) < limit
    assert min(found) >= 4 * 2**-23 * 0.99


def test_accuracy_is_that_of_a_trained_model(lines):
    what = "evaluation float64: prec@1, 1 device"
    # The table of the closest comparisons may name it again.
    (line,) = [x for x in lines if x.startswith("pass ") and what in x]
    assert float(re.search("at ([0-9.]+) of 1797", line)[1]) > 0.3


def test_evaluations_agree_example_by_example(lines):
    """In float32 too: no other order of sums changes a hit."""
    found = [x for x in lines if re.search("evaluation float.*by example", x)]
    assert len(found) == 2 * 2 * 2
    assert all(x.startswith("pass   0.00e+00 <= 0.0e+00") for x in found)


def test_every_fault_is_caught(lines):
    caught = [line for line in lines if line.startswith("caught")]
    planted = faults(MODELS)
    assert len(caught) == sum(len(m.rungs) for m in planted)
    for mutation in planted:
        assert any(f"  {mutation.title}  " in line for line in caught)


def test_every_rung_has_a_fault_that_it_notices():
    planted = faults(ladder.RUNGS)
    assert {rung for m in planted for rung in m.rungs} == set(ladder.RUNGS)


def test_known_differences_are_there(lines):
    """A plain torch trainer differs by these: were they 0, nothing was compared."""
    known = [x.split() for x in lines if x.startswith("pass ") and "known: " in x]
    assert len(known) == 4
    assert all(float(words[1]) > 1e-8 for words in known)


def test_flags_are_read_before_anything_heavy():
    code = (
        "import sys; from parity.__main__ import parse_args; "
        "parse_args(['--only', 'loss']); "
        "assert not {'jax', 'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_help_explains_every_rung(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in ladder.RUNGS)


def test_mistyped_flags_are_refused(capsys):
    for argv, message in (
        (["--only", "forward,gradient"], "unknown rung 'gradient'; known are init"),
        (["--precision", "float16"], "unknown precision 'float16'; known are float64"),
        (["--precision", "float32", "--self_test"], "--self_test needs float64"),
        (["--batch_size", "1"], "--batch_size must be at least 2"),
    ):
        with pytest.raises(SystemExit) as stop:
            parse_args(argv)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert parse_args(["--only", "forward, loss"]).only == ["forward", "loss"]
    assert list(ladder.rungs(ladder.RUNGS)) == list(ladder.RUNGS)


def test_failures_are_counted_and_nan_is_one(monkeypatch, capsys):
    found = [Comparison("a", 1e-9, 1e-9), Comparison("b", 2e-9, 1e-9, "there")]
    found.append(Comparison("c", float("nan"), 1e-9))
    monkeypatch.setattr(ladder, "rungs", lambda names: {"loss": lambda case: found})
    monkeypatch.setattr(report, "setup", lambda case, float64: None)
    results = report.run(["loss"], ["float64"], Case())
    assert results == [("loss float64", line) for line in found[:2]] + results[2:]
    assert [line.passed for _, line in results] == [True, False, False]
    header, *out, titles, total = capsys.readouterr().out.splitlines()
    assert header == report.HEADER
    assert [line[:4] for line in out] == ["pass", "FAIL", "FAIL"]
    assert out[1].endswith("loss float64: b  at there")
    assert titles.startswith("passed")
    assert total.split() == ["1", "of", "3", "inf", "loss", "float64:", "c"]


def test_a_rung_of_pixels_runs_once_in_a_process_of_its_own(tmp_path):
    """From the command to the page."""
    out = tmp_path / "page"
    done = python("-m", "parity", "--only", "decoding,loss", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("pass ")]
    names = [line.split(": ")[0].split()[4:] for line in lines]
    assert {" ".join(name) for name in names} == {
        "loss float64", "loss float32", "decoding",
    }  # fmt: skip
    assert len(set(lines)) == len(lines)
    text = (out / "index.html").read_text()
    assert "calibration" in text


def test_a_missed_fault_is_counted(capsys):
    """A fault that changes nothing measurable."""
    rungs = {"loss": lambda case: iter([Comparison("a", 1e-8, 1e-9)])}
    missed = self_test.run(faults(["loss"]), rungs, Case())
    out = capsys.readouterr().out.splitlines()
    assert missed == len(out) == 2
    assert all(line.startswith("MISSED") for line in out)


def test_a_child_that_dies_is_an_error(monkeypatch):
    """It is neither an endless wait nor a report without half of its lines."""
    monkeypatch.setattr(report, "setup", lambda case, float64: None)
    monkeypatch.setattr(report, "results", lambda *args: iter(()))
    monkeypatch.setattr(report, "_send", _die)
    with pytest.raises(RuntimeError, match="float32 ended with status 3"):
        list(report.all_results(["loss"], ["float64", "float32"], Case()))


def _die(*args):
    os._exit(3)
