"""Train a config with combinations of arguments and keys; compare the results.

`python -m vitjax.tools.sweep --config configs/fmnist_vit.py --matrix layer=4,8 head=8,16`
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

from vitjax import markdown
from vitjax.config.files import parse_with_overrides
from vitjax.files import or_without, write_whole
from vitjax.tools import command, sweep_matrix

# Only light imports here, so that --help is fast.
DONE = "sweep.json"  # in a finished run's workdir: the arguments it ran with
DESCRIPTION = f"""\
Train CONFIG once for each combination of the matrix's values, one after the other, each
in its own workdir, OUT/NAME=VALUE,.... Then write OUT/table.md, a row for each run with
the last value of every metric of its evaluators, and OUT/curves.png.

NAME is an argument of the config file, or config.KEY, any key of the config. Commas
inside brackets or quotes do not separate values: crop=tf,beta(1,2) has two values. A
config key's value is a Python literal, or text: in quotes, "'a,b'", it is always text.

--random N draws N combinations instead: of a list each value equally often, and from
log(A,B), whose logarithm is uniform, uniform(A,B) and int(A,B). --seed chooses the draws;
a larger N keeps the first ones.

The same command again skips finished runs and runs the rest; values can be added. The row
of a failed run is marked, and the exit status is 1. After Ctrl-C the current run writes a
checkpoint first.

{command.OVERRIDES}"""
EXAMPLES = (
    "--config configs/fmnist_vit.py --matrix layer=4,8 head=8,16",
    "--config configs/quickstart.py:epochs=10\n"
    "--matrix batch=64,128 config.lr=1e-3,3e-3 --config.wd=0.01 --out runs/rates",
    "--config configs/quickstart.py --random 20\n"
    "--matrix 'config.lr=log(1e-4,1e-2)' 'config.mixup.p=uniform(0,0.5)'",
)
AGAIN = "the same command resumes"


def _spec(config: str, arguments: str) -> str:
    """Return "FILE:ARG" of a config with further arguments, "a=1,b=2" or ""."""
    from vitjax.config.files import split_spec

    path, arg = split_spec(config)
    both = ",".join(filter(None, [arg, arguments]))
    return f"{path}:{both}" if both or arg is not None else str(path)


def check(config: str, chosen: Mapping[str, str], overrides: Sequence[str]) -> None:
    """Raise ValueError if a combination's config has an unknown or a wrong key.

    Everything is checked that needs neither data nor devices: the config file, the
    program, the names of the evaluators, and the keys of the input and its data.
    """
    from input_pipeline import pipeline
    from vitjax import start
    from vitjax.config import arguments, experiment, files, names

    sweep_matrix.check_overrides(chosen, overrides)
    own, keys = sweep_matrix.split(chosen)
    loaded = files.load(_spec(config, own), [*overrides, *keys])
    changed = files.from_big_vision(loaded)[0].to_dict()
    e = experiment.from_config(names.full_names(changed))
    start.check(e)
    given = ("seed", "start_step", "process_index", "process_count")
    arguments.check("input", pipeline.make_train, e.input, given)
    pipeline.check_data(e.input["data"])


def train(
    config: str, chosen: Mapping[str, str], workdir: Path, overrides: Sequence[str]
) -> int:
    """Train one combination in a subprocess, unless it is already finished.

    Returns its exit status. The arguments and keys of `chosen` follow those of `config`
    and `overrides`.
    """
    own, keys = sweep_matrix.split(chosen)
    spec = _spec(config, own)
    flags = [f"--config.{text}" for text in (*overrides, *keys)]
    argv = [sys.executable, "-m", "vitjax.train", "--config", spec]
    argv += ["--workdir", str(workdir), *flags]
    record = json.dumps({"config": spec, "flags": flags}) + "\n"
    done = workdir / DONE
    if done.exists() and done.read_text() == record:
        return 0
    print(f"\n{shlex.join(argv)}", flush=True)
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
    return markdown.table(head, rows) + "\n"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def draw(runs: Sequence[tuple[Mapping[str, str], Path, bool]], path: Path) -> None:
    """Draw a panel per evaluator metric, with a curve per run."""
    from vitjax.records import jsonl
    from vitjax.records.curves import Line, draw_curves

    rows = {workdir.name: jsonl.read_rows(workdir) for _, workdir, _ in runs}
    names = sorted({name for run in rows.values() for name in last_values(run)})
    panels = {
        name: [Line(label, *jsonl.series(run, name)) for label, run in rows.items()]
        for name in names
    }
    draw_curves(path, panels)


def sweep(
    config: str,
    chosen: Sequence[Mapping[str, str]],
    out: Path,
    overrides: Sequence[str],
) -> int:
    """Train every combination; write table and picture; return the exit status."""
    from vitjax.devices.stopping import STATUS

    for combination in chosen:  # a bad config raises before any run starts
        check(config, combination, overrides)
    out.mkdir(parents=True, exist_ok=True)
    runs = []
    for combination, name in zip(chosen, sweep_matrix.names(chosen), strict=True):
        status = train(config, combination, out / name, overrides)
        if status == STATUS:
            print(f"stopped: {AGAIN}", file=sys.stderr)
            return STATUS
        runs.append((combination, out / name, status == 0))
        write_whole(out / "table.md", table(runs))
    written = [out / "table.md"]
    if any(ok for _, _, ok in runs):
        with or_without("curves.png"):
            draw(runs, out / "curves.png")
            written.append(out / "curves.png")
    print(f"\n{written[0].read_text()}\n{', '.join(map(str, written))}")
    return int(not all(ok for _, _, ok in runs))


def parse_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse a command line into (flags, config overrides for every run)."""
    parser = command.parser("sweep", DESCRIPTION, EXAMPLES)
    command.add_config(parser)
    add = parser.add_argument
    add("--matrix", nargs="+", required=True, metavar="NAME=VALUE,...",
        help="arguments of the config file, or config.KEY, with the values to try, as in "
        "layer=4,8 config.lr=1e-3,3e-3")  # fmt: skip
    add("--random", type=int, metavar="N",
        help="number of combinations to draw (default: all combinations)")  # fmt: skip
    add("--seed", type=int, metavar="N", help="of --random (default: 0)")
    command.add_out(parser, "DIR", "everything", "runs/CONFIG-sweep")
    flags, overrides = parse_with_overrides(parser, argv)
    if flags.random is not None and flags.random < 1:
        parser.error(f"--random must be at least 1, got {flags.random}")
    if flags.seed is not None and flags.random is None:
        parser.error("--seed is for --random: give both")
    return flags, overrides


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
        if flags.random is None:
            chosen = sweep_matrix.grid(flags.matrix)
        else:
            chosen = sweep_matrix.draws(flags.matrix, flags.random, flags.seed or 0)
        return sweep(flags.config, chosen, out, overrides)

    return command.run(work, f"interrupted: {AGAIN}")


if __name__ == "__main__":
    sys.exit(main())
