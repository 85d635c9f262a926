"""Running rungs, in one process or two, and printing what they find."""

import itertools
import multiprocessing
import os
import queue
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from parity import ladder
from parity.cases import Case
from parity.comparison import Comparison

SMALL_WIDTH = 128
# Where a line belongs ("forward float32", "decoding"), and the line.
Result: TypeAlias = tuple[str, Comparison]


def setup(case: Case, float64: bool) -> None:
    """Prepare JAX and torch for all rungs of this process; before JAX starts."""
    import jax
    import torch

    if case.width < SMALL_WIDTH:
        # Matrices this small are not worth dividing: threads would wait for each other.
        torch.set_num_threads(1)
        # Nor is their code worth optimising, which takes longer than to run it.
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {flags}"
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", float64)


def results(
    names: Iterable[str], precisions: Sequence[str], case: Case
) -> Iterator[Result]:
    """The lines of these rungs, as they are made, in this process.

    Its precisions are float64 or the other two: JAX decides once for a process.
    """
    from parity import self_test, table

    small = case.width < SMALL_WIDTH
    kept = self_test.EVERYTHING if small else self_test.SHARED  # what memory allows
    with self_test.remembered(*kept):
        for precision, name in itertools.product(precisions, names):
            known = ladder.RUNGS[name].precisions
            if known and precision not in known:
                continue
            if not known and precision != precisions[0]:
                continue  # exact: once is enough
            title = f"{name} {precision}" if known else name
            for comparison in table.RUNGS[name](case.but(precision=precision)):
                yield title, comparison


def all_results(
    names: Sequence[str], precisions: Sequence[str], case: Case
) -> Iterator[Result]:
    """`results` of all precisions: float64 here, the others beside it."""
    setup(case, "float64" in precisions)
    low = [p for p in precisions if p != "float64"]
    if not low or len(low) == len(precisions):
        yield from results(names, precisions, case)
        return
    inexact = [name for name in names if ladder.RUNGS[name].precisions]
    context = multiprocessing.get_context("spawn")
    lines = context.Queue()
    child = context.Process(target=_send, args=(lines, inexact, low, case), daemon=True)
    child.start()
    yield from results(names, ["float64"], case)
    while True:
        try:
            result = lines.get(timeout=1)
        except queue.Empty:
            if child.is_alive():
                continue
            raise RuntimeError(
                f"the process for {', '.join(low)} ended with status {child.exitcode} "
                "before it was done; its own message stands above"
            ) from None
        if result is None:
            break
        yield result
    child.join()


def _send(lines: Any, names: Sequence[str], low: Sequence[str], case: Case) -> None:
    setup(case, float64=False)
    for result in results(names, low, case):
        lines.put(result)
    lines.put(None)  # that was all


def run(names: Sequence[str], precisions: Sequence[str], case: Case) -> list[Result]:
    """Print one line per comparison as it is made; all of them."""
    found = []
    for title, comparison in all_results(names, precisions, case):
        print(line(title, comparison), flush=True)
        found.append((title, comparison))
    return found


def run_self_test(names: Iterable[str], case: Case) -> int:
    """Plant the faults that concern these rungs; the number that went unnoticed."""
    from parity import self_test, table

    rungs = {name: table.RUNGS[name] for name in names}
    return self_test.run(table.MUTATIONS, rungs, case)


def line(title: str, comparison: Comparison) -> str:
    """One comparison as a line of text."""
    verdict = "pass" if comparison.passed else "FAIL"
    numbers = f"{comparison.measured:9.2e} <= {comparison.bound:7.1e}"
    where = f"  at {comparison.detail}" if comparison.detail else ""
    return f"{verdict}  {numbers}  {title}: {comparison.name}{where}"
