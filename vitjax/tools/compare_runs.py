"""Test whether recipes differ beyond seed noise.

`python -m vitjax.tools.compare_runs A_s0 A_s1 B`

The runs of a recipe are its seeds. Each curve is compared by two numbers per run: its
value at the last step that all runs have, and its mean over the 10 % of steps before.
The test is Welch's t (unequal variances, normal across seeds, two-sided), with
Holm's correction over all lines of the table.
"""

import argparse
import dataclasses
import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

import numpy as np

from input_pipeline import home
from vitjax.tools import command
from vitjax.tools.run_files import SYNONYMS, TITLES, Curve, Run, curve, finite, read

DESCRIPTION = """\
Overlay the curves of training runs, and test whether recipes differ beyond seed noise.
Runs whose names differ only in a seed at the end (_s0, -seed1) are one recipe, and so are
all runs with the same NAME."""
EXAMPLES = (
    "runs/a_s0 runs/a_s1 runs/b_s0 runs/b_s1 --out report",
    "ours=runs/a theirs=b.csv --metrics l2_grads",
)
TAIL = 0.1  # the share of the run that the mean is taken over
TAIL_POINTS = 4  # fewer points give no mean, as with an evaluation every few epochs
Samples = Sequence[float] | np.ndarray
LONE = "unknown: one run each shows no seed noise; give 2 or more of each"


@dataclasses.dataclass(frozen=True)
class Test:
    """A difference b - a, half its confidence interval, and p; or `why` there is none.

    If p is present, `why` is "1 run" if the noise of one side was borrowed.
    """

    difference: float
    half: float | None = None
    p: float | None = None
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table: one number of two recipes, for every seed."""

    what: str
    a: str
    b: str
    a_values: np.ndarray
    b_values: np.ndarray
    test: Test


def welch(a: Samples, b: Samples, level: float) -> Test:
    """Test with Welch's t whether two samples have the same mean.

    A single run is assumed to be as noisy as the other recipe's runs. The confidence of
    the interval is 1 - level. Only Student's distribution comes from scipy.
    """
    from scipy.stats import t as student

    difference = float(np.mean(b) - np.mean(a))
    if len(a) < 2 and len(b) < 2:
        return Test(difference, why=LONE)
    variances = [np.var(x, ddof=1) if len(x) > 1 else None for x in (a, b)]
    known = [v for v in variances if v is not None]
    if not any(known):
        return Test(difference, why="unknown: the seeds of a recipe are all equal")
    why = "" if len(known) == 2 else "1 run"
    squares = [
        (known[0] if v is None else v) / len(x)
        for v, x in zip(variances, (a, b), strict=True)
    ]
    se = math.sqrt(sum(squares))
    if len(known) == 1:
        df = max(len(a), len(b)) - 1
    else:
        parts = [q**2 / (len(x) - 1) for q, x in zip(squares, (a, b), strict=True)]
        df = se**4 / sum(parts)
    p = float(2 * student.sf(abs(difference) / se, df))
    return Test(difference, float(student.isf(level / 2, df) * se), p, why)


def holm(ps: Sequence[float]) -> list[float]:
    """Return Holm's (1979) adjusted p values, the least level that rejects each."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


def numbers(curves: Sequence[Curve]) -> tuple[dict[str, np.ndarray], int]:
    """Return ({"final": a value per curve, "last 10 %": likewise}, their last step).

    The last step is the last one that all curves have, or if they share none, the end
    of the shortest. The mean is the area under the curve divided by its width; it is
    left out if there are too few points.
    """
    shared = set.intersection(*(set(c.steps.tolist()) for c in curves))
    end = max(shared) if shared else min(int(c.steps[-1]) for c in curves)
    finals, means = [], []
    for c in curves:
        steps, values = c.steps[c.steps <= end], c.values[c.steps <= end]
        finals.append(values[-1] if len(values) else math.nan)
        tail = steps >= (1 - TAIL) * end
        x, y = steps[tail], values[tail]
        enough = len(x) >= TAIL_POINTS
        means.append(np.trapezoid(y, x) / (x[-1] - x[0]) if enough else math.nan)
    found = {"final": np.array(finals), "last 10 %": np.array(means)}
    return {k: v for k, v in found.items() if np.isfinite(v).all()}, end


def compare(
    runs: Sequence[Run], metrics: Sequence[str], level: float
) -> tuple[list[Line], list[str]]:
    """Return the table's lines, and a note on everything left out or cut short."""
    lines, notes = [], []
    for metric in metrics:
        title = TITLES.get(metric, metric)
        curves = _usable(runs, metric, title, notes)
        if not curves:
            notes.append(f"{title}: no run has it, so it is not compared")
            continue
        found, end = numbers(list(curves.values()))
        ends = sorted((int(c.steps[-1]), name) for (_, name), c in curves.items())
        (least, low), (most, high) = ends[0], ends[-1]
        if least < most:
            notes.append(
                f"{title}: runs differ in length ({low} ends at step {least:,}, {high} at "
                f"{most:,}); compared at step {end:,}"
            )
        if "final" not in found:
            notes.append(
                f"{title}: a run begins after step {end:,}, so it is not compared"
            )
        recipes: dict[str, list[int]] = {}
        for i, (recipe, _) in enumerate(curves):
            recipes.setdefault(recipe, []).append(i)
        for kind, values in found.items():
            of = {recipe: values[rows] for recipe, rows in recipes.items()}
            lines += _lines(f"{title}, {kind}", of, level)
    return lines, notes


def _lines(what: str, of: Mapping[str, np.ndarray], level: float) -> Iterator[Line]:
    for a, b in itertools.combinations(of, 2):
        yield Line(what, a, b, of[a], of[b], welch(of[a], of[b], level))


def _usable(
    runs: Sequence[Run], metric: str, title: str, notes: list[str]
) -> dict[tuple[str, str], Curve]:
    """Return curves with a finite end by (recipe, run); append a note on the others."""
    usable, missing = {}, []
    for run in runs:
        found = curve(run, metric)
        if found is None:
            missing.append(run.name)
            continue
        clean = finite(found)
        lost = len(found.steps) - len(clean.steps)
        if not math.isfinite(found.values[-1]):
            notes.append(
                f"{title}: {run.name} is not finite at its end (step "
                f"{found.steps[-1]:,}); it diverged and is not among the seeds"
            )
            continue
        if lost:
            notes.append(f"{title}: {lost} value(s) of {run.name} are not finite")
        usable[run.recipe, run.name] = clean
    if missing and usable:
        notes.append(f"{title}: not in {', '.join(missing)}")
    return usable


def table(lines: Sequence[Line], level: float) -> tuple[list[str], list[list[str]]]:
    """Return head and rows as text."""
    adjusted = iter(holm([x.test.p for x in lines if x.test.p is not None]))
    head = ["metric", "recipe A", "recipe B", "B - A", "p", "p (Holm)", "verdict"]
    rows = []
    for x in lines:
        t = x.test
        row = [x.what, _spread(x.a, x.a_values), _spread(x.b, x.b_values)]
        if t.p is None:
            rows.append([*row, f"{t.difference:+.4g}", "", "", t.why])
            continue
        p = next(adjusted)
        verdict = "differ" if p <= level else "no difference shown"
        between = f"{t.difference:+.4g} ± {t.half:.2g}"
        why = f" ({t.why})" if t.why else ""
        rows.append([*row, between, f"{t.p:.2g}", f"{p:.2g}", verdict + why])
    return head, rows


def _spread(name: str, values: np.ndarray) -> str:
    spread = f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
    return f"{name}: {np.mean(values):.4g}{spread} ({len(values)})"


def as_text(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format the table in aligned columns."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    )


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the flags."""
    parser = command.parser("compare_runs", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="[NAME=]PATH",
        help="a workdir, a metrics.jsonl, or a CSV export of wandb or TensorBoard; also in a "
        "bucket, gs:// or s3://",
    )
    command.add_out(parser, "DIR", "runs.png with runs.md", "nowhere")
    parser.add_argument(
        "--metrics",
        default=",".join(SYNONYMS),
        metavar="NAME,...",
        help="metrics to compare, under any of their usual names (default: %(default)s)",
    )
    parser.add_argument(
        "--level",
        type=float,
        default=0.05,
        help="the largest chance that the table says 'differ' of equal recipes "
        "(default: %(default)s)",
    )
    args = parser.parse_args(home.expanded(argv))
    args.metrics = [name.strip() for name in args.metrics.split(",")]
    if not 0 < args.level < 1:
        parser.error(f"--level must be between 0 and 1, got {args.level:g}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one sentence on stderr."""
    args = parse_args(argv)
    return command.run(lambda: _work(args))


def _work(args: argparse.Namespace) -> None:
    runs = read(args.runs)
    recipes: dict[str, list[str]] = {}
    for run in runs:
        recipes.setdefault(run.recipe, []).append(run.name)
    summary = [f"{name}: {', '.join(names)}" for name, names in recipes.items()]
    lines, notes = compare(runs, args.metrics, args.level)
    head, rows = table(lines, args.level)
    method = (
        f"B - A is given with half of its {1 - args.level:.0%} interval. 'differ' means "
        f"that p by Welch's t, corrected by Holm's method for the {len(lines)} line(s), is "
        f"at most {args.level:g}. 'no difference shown' does not mean that the recipes "
        "are equal."
    )
    if any(x.test.why == "1 run" for x in lines):
        method += " A single run is assumed to be as noisy as the other recipe's runs."
    if len(recipes) < 2:
        method = "There is one recipe only; give another to compare it with."
    print("\n".join(["recipes and their runs:", *(f"  {s}" for s in summary), ""]))
    if rows:
        print(as_text(head, rows) + "\n")
    print("\n".join([*(f"note: {note}" for note in notes), method]))
    if args.out:
        from vitjax.tools import run_pictures

        path = run_pictures.write(
            args.out, runs, args.metrics, summary, head, rows, [*notes, method]
        )
        print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
