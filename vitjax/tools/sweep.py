"""Train a config with every combination of some arguments; compare the results.

`python -m vitjax.tools.sweep --config configs/fmnist_vit.py --matrix layer=4,8 head=8,16`
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

from vitjax.config.files import parse_with_overrides
from vitjax.files import or_without, write_whole
from vitjax.tools import command

# Only light imports here, so that --help is fast.
DONE = "sweep.json"  # in a finished run's workdir: the arguments it ran with
DESCRIPTION = f"""\
Train CONFIG once for each combination of the matrix's values, one after the other, each
in its own workdir, OUT/NAME=VALUE,.... Then write OUT/table.md, a row for each run with
the last value of every metric of its evaluators, and OUT/curves.png.

The same command again skips finished runs and runs the rest; values can be added. The row
of a failed run is marked, and the exit status is 1. After Ctrl-C the current run writes a
checkpoint first.

{command.OVERRIDES}"""
EXAMPLES = (
    "--config configs/fmnist_vit.py --matrix layer=4,8 head=8,16",
    "--config configs/quickstart.py:epochs=10\n"
    "--matrix batch=64,128 --config.lr=0.001 --out runs/batches",
)
AGAIN = "the same command resumes"


def combinations(matrix: Sequence[str]) -> list[dict[str, str]]:
    """Return the product of "name=value,value" items; the last name changes fastest.

    Raises ValueError for an item of another form, or a repeated name or value.
    """
    values = {}
    for item in matrix:
        name, equals, text = item.partition("=")
        # Split at commas, but not inside parentheses, as in beta(1, 2).
        choices = [v.strip() for v in re.split(r",(?![^()]*\))", text)]
        if not equals or not name or not all(choices):
            raise ValueError(f"--matrix must be NAME=VALUE,VALUE items, got {item!r}")
        if name in values or len(set(choices)) < len(choices):
            raise ValueError(f"--matrix gives a name or a value twice: {item!r}")
        values[name] = choices
    return [
        dict(zip(values, row, strict=True))
        for row in itertools.product(*values.values())
    ]


def _spec(config: str, chosen: Mapping[str, str]) -> str:
    from vitjax.config.files import split_spec

    path, arg = split_spec(config)
    return f"{path}:{','.join(filter(None, [arg, _name(chosen)]))}"


def _name(chosen: Mapping[str, str]) -> str:
    return ",".join(f"{k}={v}" for k, v in chosen.items())


def train(
    config: str, chosen: Mapping[str, str], workdir: Path, flags: Sequence[str]
) -> int:
    """Train one combination in a subprocess, unless it is already finished.

    Returns its exit status. `config` may have arguments; those of `chosen` follow them.
    """
    spec = _spec(config, chosen)
    argv = [sys.executable, "-m", "vitjax.train", "--config", spec]
    argv += ["--workdir", str(workdir), *flags]
    record = json.dumps({"config": spec, "flags": list(flags)}) + "\n"
    done = workdir / DONE
    if done.exists() and done.read_text() == record:
        return 0
    print(f"\n{' '.join(argv)}", flush=True)
    status = _status(argv)
    if status == 0:
        write_whole(done, record)
    return status


def _status(argv: Sequence[str]) -> int:
    """Run a command and return its exit status; after Ctrl-C, wait for it too.

    The terminal sends Ctrl-C to the command as well, which then stops cleanly. If only
    this process got the signal, as by `kill -INT`, a second signal terminates the
    command.
    """
    child = subprocess.Popen(argv)
    try:
        return child.wait()
    except KeyboardInterrupt:
        try:
            child.wait()
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
        raise


def last_values(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the last value of each evaluator's metrics."""
    return {
        name: value
        for row in rows
        for name, value in row.items()
        if "/" in name and not name.startswith(("time/", "img/sec"))
    }


def table(runs: Sequence[tuple[Mapping[str, str], Path, bool]]) -> str:
    """Format a Markdown table: a column per argument, then one per metric."""
    from vitjax.records import jsonl

    found = [last_values(jsonl.read_rows(w)) if ok else {} for _, w, ok in runs]
    # Without metrics, one column remains, to mark failed runs.
    names = sorted({name for values in found for name in values}) or ["metrics"]
    head = [*runs[0][0], *names]
    rows = []
    for (chosen, _, ok), values in zip(runs, found, strict=True):
        shown = [_number(values[n]) if n in values else "" for n in names]
        if not ok:
            shown[0] = "failed"
        rows.append([*chosen.values(), *shown])
    return command.table(head, rows) + "\n"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def draw(runs: Sequence[tuple[Mapping[str, str], Path, bool]], path: Path) -> None:
    """Draw a panel per evaluator metric, with a curve per run."""
    from vitjax.records import jsonl
    from vitjax.records.curves import Line, draw_curves

    rows = {_name(chosen): jsonl.read_rows(workdir) for chosen, workdir, _ in runs}
    names = sorted({name for run in rows.values() for name in last_values(run)})
    panels = {
        name: [Line(label, *jsonl.series(run, name)) for label, run in rows.items()]
        for name in names
    }
    draw_curves(path, panels)


def sweep(
    config: str, chosen: Sequence[Mapping[str, str]], out: Path, flags: Sequence[str]
) -> int:
    """Train every combination; write table and picture; return the exit status."""
    from vitjax.config.files import load
    from vitjax.devices.stopping import STATUS

    for combination in chosen:  # a bad config raises before any run starts
        load(_spec(config, combination))
    out.mkdir(parents=True, exist_ok=True)
    runs = []
    for combination in chosen:
        workdir = out / _name(combination).replace(os.sep, "_")
        status = train(config, combination, workdir, flags)
        if status == STATUS:
            print(f"stopped: {AGAIN}", file=sys.stderr)
            return STATUS
        runs.append((combination, workdir, status == 0))
        write_whole(out / "table.md", table(runs))
    written = [out / "table.md"]
    if any(ok for _, _, ok in runs):
        with or_without("curves.png"):
            draw(runs, out / "curves.png")
            written.append(out / "curves.png")
    print(f"\n{written[0].read_text()}\n{', '.join(map(str, written))}")
    return int(not all(ok for _, _, ok in runs))


def parse_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse a command line into (flags, arguments for every run)."""
    parser = command.parser("sweep", DESCRIPTION, EXAMPLES)
    command.add_config(parser)
    parser.add_argument(
        "--matrix", nargs="+", required=True, metavar="NAME=VALUE,...",
        help="arguments of the config with the values to try, as in layer=4,8",
    )  # fmt: skip
    command.add_out(parser, "DIR", "everything", "runs/CONFIG-sweep")
    flags, overrides = parse_with_overrides(parser, argv)
    return flags, [f"--config.{text}" for text in overrides]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    It is 0; 1 after one sentence on stderr, or if a run failed; 130 after Ctrl-C;
    `vitjax.devices.stopping.STATUS` if a signal stopped a run cleanly.
    """
    flags, overrides = parse_flags(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        from vitjax.config.files import split_spec

        out = flags.out or Path("runs") / f"{split_spec(flags.config)[0].stem}-sweep"
        command.check_folder("--out", out)
        return sweep(flags.config, combinations(flags.matrix), out, overrides)

    return command.run(work, f"interrupted: {AGAIN}")


if __name__ == "__main__":
    sys.exit(main())
