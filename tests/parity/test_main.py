"""`python -m parity`: the ladder and its self-test, each once, in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from parity import report, rungs, self_test
from parity.__main__ import RUNGS, parse_args
from parity.cases import Case
from parity.comparison import Comparison

ROOT = Path(__file__).parents[2]


def python(*args):
    env = {
        **os.environ,
        # Many small programs: compile them once for all runs of the tests.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    return subprocess.run(
        [sys.executable, *args], cwd=ROOT, env=env, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def lines():
    """What --self_test prints; both halves in one process, as imports are slow."""
    done = python("-m", "parity", "--self_test")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_every_rung_passes(lines):
    passed = [line for line in lines if line.startswith("pass")]
    assert len(passed) > 100
    assert not [line for line in lines if line.startswith("FAIL")]
    for rung in RUNGS:
        assert any(f"  {rung}: " in line for line in passed)


def test_float64_bounds_are_not_loose(lines):
    """Whatever is not the schedule, a statistic or a known difference is held to 1e-9."""
    loose = [
        line
        for line in lines
        if line.startswith("pass")
        and "<= 1.0e-09" not in line
        and not re.search("initialisation: |update: (schedule|known)", line)
    ]
    assert not loose


def test_every_fault_is_caught(lines):
    caught = [line for line in lines if line.startswith("caught")]
    assert len(caught) == sum(len(m.rungs) for m in self_test.MUTATIONS)
    for mutation in self_test.MUTATIONS:
        assert any(f"  {mutation.title}  " in line for line in caught)
    assert {rung for m in self_test.MUTATIONS for rung in m.rungs} == set(RUNGS)


def test_known_differences_are_there(lines):
    """A plain torch trainer differs by these: were they 0, nothing was compared."""
    known = [line.split() for line in lines if "known: " in line]
    assert len(known) == 2
    assert all(float(words[1]) > 1e-8 for words in known)


def test_flags_are_read_before_anything_heavy():
    code = (
        "import sys; from parity.__main__ import parse_args; "
        "parse_args(['--only', 'loss']); "
        "assert not {'jax', 'torch', 'numpy'} & set(sys.modules)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_mistyped_flags_are_refused(capsys):
    for argv, message in (
        (["--only", "forward,gradient"], "unknown rung 'gradient'; known are init"),
        (["--batch_size", "1"], "--batch_size must be at least 2"),
    ):
        with pytest.raises(SystemExit) as stop:
            parse_args(argv)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert parse_args(["--only", "forward, loss"]).only == ["forward", "loss"]
    assert list(RUNGS) == list(rungs.RUNGS)


def test_failures_are_counted(monkeypatch, capsys):
    found = [Comparison("a", 1e-9, 1e-9), Comparison("b", 2e-9, 1e-9, "there")]
    found.append(Comparison("c", float("nan"), 1e-9))
    monkeypatch.setitem(rungs.RUNGS, "loss", lambda case: iter(found))
    assert report.run(["loss"], Case()) == 2
    assert [line[:4] for line in capsys.readouterr().out.splitlines()] == [
        "pass",
        "FAIL",
        "FAIL",
    ]


def test_a_missed_fault_is_counted(monkeypatch, capsys):
    """A fault that changes nothing measurable."""
    monkeypatch.setitem(
        rungs.RUNGS, "loss", lambda case: iter([Comparison("a", 1e-8, 1e-9)])
    )
    missed = self_test.run(["loss"], Case())
    out = capsys.readouterr().out.splitlines()
    assert missed == len(out) == 2
    assert all(line.startswith("MISSED") for line in out)
