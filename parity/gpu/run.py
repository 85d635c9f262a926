"""Run jobs until the time is up, each in a process group of its own."""

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

from parity.gpu import jobs, kernels
from parity.gpu.jobs import Job

MARGIN = 5.0  # seconds, to end a process and write the last files
# Two names of one share of the memory: jaxlib refuses both beside each other.
FRACTION = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
STAND_INS = Path(__file__).parent / "stand_ins"
NO_TIME = "no time left"
STOPPED = "stopped, because its time was up"


def slug(name: str) -> str:
    """Return a name as a file's."""
    return re.sub(r"[^\w]+", "-", name).strip("-")


def start(job: Job, seconds: float, out: Path) -> str | None:
    """Run a job's command for `seconds` at most; return why it failed, or None.

    What it prints is in `out`/logs; its result is in `out`/results. The whole process
    group ends with it, since a compiler may have started processes.
    """
    log, file = paths(job, out)
    *words, last = job.command
    command = [sys.executable, "-m", *words, f"{last}{file}"]
    with log.open("w") as text:
        child = subprocess.Popen(
            command,
            stdout=text,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment(job),
            start_new_session=True,
        )
        try:
            status = child.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if status is None:
        return f"{STOPPED} after {seconds:.0f} s"
    # pytest ends with 1 after a failed test, and its report says which.
    if status == 0 or (job.kind == "tests" and status == 1 and file.exists()):
        return None
    return f"status {status}: {_last_line(log)}"


def environment(job: Job) -> dict[str, str]:
    """Return the variables of a job's process.

    JAX takes 75 % of a GPU's memory by default. A job that times something has the GPU
    for itself and may take 92 %; the others take what they need.
    """
    found = dict(os.environ)
    flags = f"{found.get('XLA_FLAGS', '')} {job.xla_flags}".strip()
    if flags:
        found["XLA_FLAGS"] = flags
    if job.kind in ("speed", "trace"):
        if not any(name in found for name in FRACTION):
            found[FRACTION[0]] = "0.92"
    else:
        found.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if importlib.util.find_spec("jaxtyping") is None:
        given = found.get("PYTHONPATH")
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (given, str(STAND_INS))))
    return found


def paths(job: Job, out: Path) -> tuple[Path, Path]:
    """Return the files of a job's log and of its result, below `out`."""
    places = (out / "logs", out / "results")
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    return places[0] / f"{slug(job.name)}.txt", places[1] / f"{slug(job.name)}.json"


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it printed nothing"


def perform(job: Job, seconds: float, out: Path) -> dict[str, Any]:
    """Run one job and return its row: its result, or "failed" with the reason."""
    _, file = paths(job, out)
    file.unlink(missing_ok=True)
    failed = start(job, seconds, out)
    found: dict[str, Any] = {}
    if failed is None:
        try:
            found = jobs.result(job, file)
        except (OSError, ValueError) as error:
            failed = str(error)
    return found if failed is None else {"failed": failed}


Perform: TypeAlias = Callable[[Job, float, Path], dict[str, Any]]


def run(
    groups: Iterable[Sequence[Job]],
    end: float,
    out: Path,
    perform: Perform = perform,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[dict[str, Any]]:
    """Yield a row for each job, in order, until the time `end` of `clock`.

    The jobs of a group run at the same time, and groups one after another. A job that
    has too little time left is skipped, and shorter ones may follow. The job "trace"
    repeats the fastest of the rows before its group.
    """
    rows: list[dict[str, Any]] = []
    commands: dict[str, tuple[str, ...]] = {}

    def row(job: Job) -> dict[str, Any]:
        found: dict[str, Any] = {"name": job.name, "kind": job.kind}
        began = clock()
        left = end - began - MARGIN
        if left < job.least:
            found["skipped"] = NO_TIME
        elif job.kind == "trace":
            found |= _traced(before, commands, min(left, job.most), out, perform)
        else:
            found |= perform(job, min(left, job.most), out)
        return found | {"seconds": clock() - began}

    for group in groups:
        before = tuple(rows)
        with ThreadPoolExecutor(len(group)) as pool:
            for found in pool.map(row, group):
                rows.append(found)
                yield found
        commands |= {job.name: job.command for job in group}


def _traced(
    rows: Iterable[dict[str, Any]],
    commands: dict[str, tuple[str, ...]],
    seconds: float,
    out: Path,
    perform: Perform,
) -> dict[str, Any]:
    best = jobs.fastest(rows)
    if best is None:
        return {"skipped": "nothing was timed before it"}
    folder = out / "trace"
    found = perform(jobs.tracing(commands[best["name"]], folder), seconds, out)
    if "failed" in found:
        return found
    try:
        summary = kernels.summarise(kernels.read(folder), found["traced steps"])
    except ValueError as error:
        return {"failed": str(error)}
    return {
        "of": best["name"],
        "kernels ms/step": summary.ms,
        "busy": summary.busy,
        "by kind": summary.by_kind(),
        "kernels": [vars(row) for row in summary.rows],
    }
