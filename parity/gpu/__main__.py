"""`python -m parity.gpu`: tests, speed, memory and kernels on a GPU, in minutes.

Each job runs in a process of its own, the most wanted first, until the time is up. The
files gpu.json and gpu.md are written again after every job.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from input_pipeline import home, places
from parity.gpu import jobs, run, table
from parity.gpu.jobs import Job
from vitjax.devices import failures

SECONDS = 460.0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m parity.gpu",
        description="Run the tests marked gpu, and time the training step beside timm's, "
        "on an NVIDIA GPU. Needs JAX with CUDA, flax, optax, orbax, torch, timm and "
        "pytest, and a checkout as the current folder.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--out",
        type=places.local,
        metavar="DIR",
        default=Path("gpu"),
        help="where files go",
    )
    add(
        "--seconds",
        type=float,
        default=SECONDS,
        help="when to end; jobs that do not fit are skipped",
    )
    add("--only", metavar="TEXT", default="", help="only jobs with this in their names")
    add("--tiny", action="store_true", help="small sizes, to try it on any machine")
    return parser.parse_args(home.expanded(argv))


def chosen(groups: Sequence[Sequence[Job]], text: str) -> list[list[Job]]:
    """Return the jobs with `text` in their names, and groups that have one."""
    found = [[job for job in group if text in job.name] for group in groups]
    return [group for group in found if group]


def write(report: dict[str, Any], out: Path) -> None:
    """Write gpu.json and gpu.md into `out`."""
    (out / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "gpu.md").write_text(table.page(report))


def line(row: dict[str, Any]) -> str:
    """Return one line about a row."""
    if jobs.RATE in row:
        said = f"{row[jobs.RATE]:,.0f} img/s"
    elif "tests" in row:
        found = table.counts([row])
        said = f"{found['passed']} passed, {found['FAILED']} failed, {found['skipped']} skipped"
    else:
        said = row.get("failed") or row.get("skipped") or "done"
    return f"{row['seconds']:6.1f} s  {row['name']}: {said}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if a test or a job failed, and 2 without a GPU."""
    args = parse_args(argv)
    began = time.monotonic()
    end = began + args.seconds
    if not Path(jobs.TESTS).is_dir():
        print(f"error: {jobs.TESTS} is not here: run in a checkout", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    out = args.out.resolve()
    [about] = run.run([[jobs.PROBE]], end, out)
    if "failed" in about:
        print(
            f"error: JAX and torch cannot be asked: {about['failed']}", file=sys.stderr
        )
        return 2
    note = ""
    if about["platform"] != "gpu":
        note = (
            f"No GPU: JAX sees only {about['platform']}, so the tests marked gpu are "
            "skipped, and all figures are of this machine."
        )
        if not args.tiny:
            print(
                f"error: JAX sees no GPU, only {about['platform']}: install jax with "
                "CUDA, or try the script with --tiny",
                file=sys.stderr,
            )
            return 2
        print(note, flush=True)
    wanted = jobs.tiny() if args.tiny else jobs.full(about["chip"], about["memory"])
    wanted = chosen(wanted, args.only)
    if not wanted:
        print(f"error: no job has {args.only!r} in its name", file=sys.stderr)
        return 2
    report: dict[str, Any] = {"about": about, "note": note, "rows": []}
    for row in run.run(wanted, end, out):
        report["rows"].append(row)
        report["seconds"] = time.monotonic() - began
        write(report, out)
        print(line(row), flush=True)
    left = sum(row.get("skipped") == run.NO_TIME for row in report["rows"])
    if left:
        print(
            f"{left} jobs had no time left: another call with --only TEXT, --seconds and "
            "another --out runs them"
        )
    found = table.counts(report["rows"])
    print(", ".join(f"{n} {name}" for name, n in found.items()))
    print(f"{args.out / 'gpu.md'} and {args.out / 'gpu.json'} have the results")
    return 1 if found["FAILED"] or found["failed jobs"] else 0


if __name__ == "__main__":
    failures.leave_on_interrupt()
    sys.exit(main())
