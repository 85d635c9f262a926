"""Checkpoints that find no room, as a person sees it: whole processes."""

import dataclasses

import pytest

from tests.helpers import full_disk
from tests.helpers.processes import Fork
from tests.helpers.runs import QUICKSTART, TWELVE_STEPS, values
from vitjax.records.jsonl import read_rows

# Steps without room, and intervals of the checkpoints of 12 steps.
CASES = {"once": ({5}, 5), "three in a row": ({6, 9, 12}, 3), "the last": ({12}, 5)}


@dataclasses.dataclass(frozen=True)
class Ended:
    """The end of a run: its workdir, its exit status and what it printed."""

    workdir: object
    status: int
    text: str

    def said(self):
        """Our own warnings and errors; compilers and the like may add theirs."""
        assert "Traceback" not in self.text, self.text
        ours = ("WARNING:absl:", "error: ", "(VITJAX")
        return [line for line in self.text.splitlines() if line.startswith(ours)]

    def checkpoints(self):
        return sorted(p.name for p in (self.workdir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """One process for each case, at the same time; as many devices as in `finished`."""
    started = {}
    for case, (steps, interval) in CASES.items():
        workdir = tmp_path_factory.mktemp("full")
        argv = ["--config", QUICKSTART, "--workdir", str(workdir), *TWELVE_STEPS]
        argv.append(f"--config.ckpt_steps={interval}")
        log = workdir.with_suffix(".log")
        started[case] = workdir, Fork(full_disk.run, steps, argv, log=log, devices=8)
    return {
        case: Ended(workdir, fork.status(), fork.text())
        for case, (workdir, fork) in started.items()
    }


def test_a_full_disk_costs_one_checkpoint(ended, finished):
    """One warning, nothing partial, and the same rows as with room."""
    once = ended["once"]
    assert once.status == 0
    [line] = once.said()
    assert "the checkpoint of step 5 cannot be written: " in line
    assert "too large" in line
    assert once.checkpoints() == ["10", "12"]
    assert values(read_rows(once.workdir)) == values(read_rows(finished))


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
