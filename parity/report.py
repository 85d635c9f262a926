"""Running rungs and printing what they find."""

from collections.abc import Iterable

import torch

from parity import rungs
from parity.cases import Case

SMALL_WIDTH = 128


def run(names: Iterable[str], case: Case) -> int:
    """Print one line per comparison as it is made; the number that failed."""
    if case.width < SMALL_WIDTH:
        # Matrices this small are not worth dividing: threads would wait for each other.
        torch.set_num_threads(1)
    failed = 0
    for name in names:
        for comparison in rungs.RUNGS[name](case):
            failed += not comparison.passed
            print(line(name, comparison), flush=True)
    return failed


def line(rung: str, comparison: rungs.Comparison) -> str:
    """One comparison as a line of text."""
    verdict = "pass" if comparison.passed else "FAIL"
    numbers = f"{comparison.measured:9.2e} <= {comparison.bound:7.1e}"
    where = f"  at {comparison.detail}" if comparison.detail else ""
    return f"{verdict}  {numbers}  {rung}: {comparison.name}{where}"
