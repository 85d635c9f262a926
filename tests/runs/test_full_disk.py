"""Checkpoints that find no room, as a person sees it: whole processes."""

import dataclasses
import os
import subprocess
import sys

import pytest

from tests.helpers.runs import QUICKSTART, ROOT, TWELVE_STEPS, run, values
from vitjax.records.jsonl import read_rows

# Steps without room, and intervals of the checkpoints of 12 steps.
DEVICES = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}  # as this process
CASES = {"once": ("5", 5), "three in a row": ("6,9,12", 3), "the last": ("12", 5)}


@dataclasses.dataclass(frozen=True)
class Ended:
    """What a run left."""

    workdir: object
    status: int
    errors: list[str]

    def said(self):
        """The lines that are ours; compilers and the like may add theirs."""
        text = "\n".join(self.errors)
        assert "Traceback" not in text, text
        ours = ("WARNING:absl:", "error: ", "(VITJAX")
        return [line for line in self.errors if line.startswith(ours)]

    def checkpoints(self):
        return sorted(p.name for p in (self.workdir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """One process for each case, side by side."""
    started = {}
    for case, (steps, interval) in CASES.items():
        workdir = tmp_path_factory.mktemp("full")
        command = [sys.executable, "tests/helpers/full_disk.py", steps]
        command += ["--config", QUICKSTART, "--workdir", str(workdir), *TWELVE_STEPS]
        process = subprocess.Popen(
            [*command, f"--config.ckpt_steps={interval}"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **DEVICES},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        started[case] = workdir, process
    found = {}
    for case, (workdir, process) in started.items():
        errors = process.communicate(timeout=300)[1].splitlines()
        found[case] = Ended(workdir, process.returncode, errors)
    return found


def test_a_full_disk_costs_one_checkpoint(ended, tmp_path):
    """One warning, nothing partial, and the run goes on as if nothing had been."""
    once = ended["once"]
    assert once.status == 0
    [line] = once.said()
    assert "the checkpoint of step 5 cannot be written: " in line
    assert "too large" in line
    assert once.checkpoints() == ["10", "12"]
    assert run(tmp_path) == 0
    assert values(read_rows(once.workdir)) == values(read_rows(tmp_path))


def test_three_failures_in_a_row_end_the_run(ended):
    three = ended["three in a row"]
    assert three.status == 1
    *warnings, line, _ = three.said()
    assert len(warnings) == 3
    assert line.startswith("error: 3 checkpoints in a row could not be written to ")
    assert "the last good checkpoint is of step 3: free some space there" in line
    assert three.checkpoints() == ["1", "3"]


def test_a_last_checkpoint_that_fails_is_an_error(ended):
    last = ended["the last"]
    assert last.status == 1
    *_, line, _ = last.said()
    assert line.startswith("error: the last checkpoint could not be written to ")
    assert "the last good checkpoint is of step 10" in line
    assert last.checkpoints() == ["10", "5"]
