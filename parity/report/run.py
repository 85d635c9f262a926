"""Run the rungs, in processes of several kinds, and print their lines."""

import dataclasses
import multiprocessing
import os
import queue
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from parity.rungs import ladder
from parity.rungs.comparison import Comparison
from parity.sides.cases import Case

SMALL_WIDTH = 128
# The rung and its precision ("forward float32", "decoding"), and the line.
Result: TypeAlias = tuple[str, Comparison]


def is_wide(case: Case) -> bool:
    """Return True if the model is so wide that memory is short.

    Little is then cached, and processes run one after another.
    """
    return case.width >= SMALL_WIDTH


def check_libraries(names: Iterable[str] = ()) -> None:
    """Raise `vitjax.weights.libraries.Unusable` if a library cannot be imported.

    The libraries are torch, and torchvision if a rung needs it. This check comes first:
    otherwise each process of the rungs would fail separately.
    """
    from vitjax.weights import libraries

    with libraries.importing("torch"):
        import torch._dynamo  # noqa: F401  # torch's optimizers import it, and triton
    if any(ladder.RUNGS[name].pixels for name in names):
        libraries.import_torchvision()


def setup(case: Case, float64: bool) -> None:
    """Prepare JAX and torch for all rungs of this process; call before JAX starts."""
    import jax
    import torch

    if not is_wide(case):
        # Matrices this small are not worth splitting: threads would wait for each other.
        torch.set_num_threads(1)
        # Optimising their code would take longer than running it.
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {flags}"
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", float64)


def setup_pixels() -> None:
    """Prepare TensorFlow and torch for the rungs about pixels, as for training."""
    import torch

    torch.set_num_threads(1)  # images are small: threads would wait for each other


def results(
    names: Sequence[str], precisions: Sequence[str], case: Case
) -> Iterator[Result]:
    """Yield the lines of these rungs, as they are computed, in this process.

    `precisions` is float64 or the other two: JAX has one setting for a whole process.
    The rungs without precisions run once, first.
    """
    from parity.faults import self_test

    rungs = ladder.rungs(names)
    if is_wide(case):
        kept, briefly = self_test.SHARED, self_test.OF_A_RUNG
    else:
        kept, briefly = self_test.EVERYTHING, ()
    for name in names:
        if not ladder.RUNGS[name].precisions:
            for line in rungs[name](case):
                yield name, line
    for precision in precisions:
        with self_test.remembered(*kept):
            for name in names:
                if precision in ladder.RUNGS[name].precisions:
                    with self_test.remembered(*briefly):
                        for line in rungs[name](case.but(precision=precision)):
                            yield f"{name} {precision}", line


@dataclasses.dataclass(frozen=True)
class _Job:
    """The rungs and precisions of one process."""

    names: Sequence[str]
    precisions: Sequence[str]

    def prepare(self, case: Case) -> None:
        """Prepare this process."""
        if self.precisions:
            setup(case, "float64" in self.precisions)
        else:
            setup_pixels()

    def run(self, case: Case) -> Iterator[Result]:
        self.prepare(case)
        return results(self.names, self.precisions, case)


def _jobs(names: Sequence[str], precisions: Sequence[str]) -> list[_Job]:
    """Return the jobs: float64, lower precisions and pixels, as far as requested."""
    pixels = [name for name in names if ladder.RUNGS[name].pixels]
    models = [name for name in names if name not in pixels]
    several = [name for name in models if ladder.RUNGS[name].precisions]
    low = [p for p in precisions if p != "float64"]
    found = []
    if models and "float64" in precisions:
        found.append(_Job(models, ["float64"]))
        models = several  # rungs without precisions run once
    if models and low:
        found.append(_Job(models, low))
    return found + ([_Job(pixels, [])] if pixels else [])


def all_results(
    names: Sequence[str], precisions: Sequence[str], case: Case
) -> Iterator[Result]:
    """Yield `results` of all precisions, the first job here and the others in parallel.

    The jobs of a wide model run one after another, each in a process that frees its
    memory at its end: two S/16 at once may not fit.
    """
    jobs = _jobs(names, precisions)
    if is_wide(case):
        # Otherwise glibc keeps much of the memory that large arrays have freed.
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**20))
        for job in jobs:
            yield from _received(*_started(job, case))
        return
    first, *others = jobs
    # Start them before this process changes its environment.
    waiting = [_started(job, case) for job in others]
    yield from first.run(case)
    for child in waiting:
        yield from _received(*child)


def _started(job: _Job, case: Case) -> tuple[_Job, Any, Any]:
    """Start a process; return the job, the queue of its lines, and the process."""
    context = multiprocessing.get_context("spawn")
    lines = context.Queue()
    child = context.Process(target=_send, args=(lines, job, case), daemon=True)
    child.start()
    return job, lines, child


def _received(job: _Job, lines: Any, child: Any) -> Iterator[Result]:
    while True:
        try:
            line = lines.get(timeout=1)
        except queue.Empty:
            if child.is_alive():
                continue
            raise RuntimeError(
                f"the process for {', '.join(job.precisions or job.names)} ended with "
                f"status {child.exitcode} before it was done; its own message is above"
            ) from None
        if line is None:
            break
        yield line
    child.join()


def _send(lines: Any, job: _Job, case: Case) -> None:
    for line in job.run(case):
        lines.put(line)
    lines.put(None)


def run(names: Sequence[str], precisions: Sequence[str], case: Case) -> list[Result]:
    """Print a line per comparison as it is made, and a summary; return all of them."""
    found = []
    print(HEADER, flush=True)
    for title, comparison in all_results(names, precisions, case):
        print(line(title, comparison), flush=True)
        found.append((title, comparison))
    print(*summary(found), sep="\n", flush=True)
    return found


HEADER = "verdict  measured <= bound  rung precision: name  at where it is the largest"


def summary(found: Sequence[Result]) -> list[str]:
    """Return a line per rung and precision: how many passed, the largest factor."""
    rungs: dict[str, list[Comparison]] = {}
    for title, comparison in found:
        rungs.setdefault(title, []).append(comparison)
    lines = ["passed of   largest measured / bound"]
    for title, of_rung in rungs.items():
        passed = sum(c.passed for c in of_rung)
        top = max(of_rung, key=lambda c: c.factor)
        counts = f"{passed:6d} of {len(of_rung):<4d}"
        lines.append(f"{counts}  {top.factor:9.2e}  {title}: {top.name}")
    return lines


def run_self_test(names: Sequence[str], case: Case) -> int:
    """Plant the faults that concern these rungs; return the number missed."""
    from parity.faults import self_test
    from parity.faults.models import faults

    if is_wide(case):  # other processes did everything so far
        _jobs(names, ["float64"])[0].prepare(case)
    return self_test.run(faults(names), ladder.rungs(names), case)


def line(title: str, comparison: Comparison) -> str:
    """Return one comparison as a line of text."""
    verdict = "pass" if comparison.passed else "FAIL"
    numbers = f"{comparison.measured:9.2e} <= {comparison.bound:7.1e}"
    where = f"  at {comparison.detail}" if comparison.detail else ""
    return f"{verdict}  {numbers}  {title}: {comparison.name}{where}"
