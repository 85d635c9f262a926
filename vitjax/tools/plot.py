"""Draw the curves of one or several runs in the same axes.

`python -m vitjax.tools.plot runs/a runs/b`
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

from input_pipeline import home, places
from vitjax.tools import command

# Only light imports here, so that --help is fast.
DESCRIPTION = """\
Draw loss, gradient norm, accuracy, learning rate and throughput of several runs in the
same axes, each from the metrics.jsonl of its workdir; a run may still be training.
--metrics selects others. A smoothed curve is drawn over its own pale points: its weights
halve every STEPS steps, so runs that log at different steps can be compared. Learning
rates are not smoothed.

`python -m vitjax.tools.compare_runs` tests whether recipes differ beyond seed noise."""
EXAMPLES = (
    "runs/quickstart",
    "runs/lr1 runs/lr2 --smooth 200 --out lr.png",
    "runs/a runs/b --metrics val/prec@1 l2_params",
)
# Panel title -> its metrics; "*" at the end or start of a name matches any suffix or
# prefix.
PANELS = {
    "training loss": ("training_loss",),
    "evaluation loss": ("*/loss",),
    "accuracy": ("*/prec@1",),
    "gradient norm": ("l2_grads",),
    "learning rate": ("lr*",),
    "images a second": ("img/sec",),
}


def matching(names: Sequence[str], pattern: str) -> list[str]:
    """Return the names that match a panel's pattern."""
    if pattern.startswith("*"):
        return [n for n in names if n.endswith(pattern[1:])]
    if pattern.endswith("*"):
        return [n for n in names if n.startswith(pattern[:-1])]
    return [n for n in names if n == pattern]


def smoothed(steps: Sequence[int], values: Sequence[float], half: float) -> list[float]:
    """Return the running mean of the values; their weights halve in `half` steps."""
    total = weight = 0.0
    found, before = [], None
    for step, value in zip(steps, values, strict=True):
        kept = 0.0 if before is None else 0.5 ** ((step - before) / half)
        total, weight = kept * total + value, kept * weight + 1.0
        found.append(total / weight)
        before = step
    return found


def draw(
    runs: Sequence[str | Path],
    panels: Mapping[str, Sequence[str]],
    smooth: float,
    out: Path,
) -> None:
    """Write the picture; ValueError if a run has no rows, or no metric is found."""
    from vitjax.mirror import copy
    from vitjax.records import jsonl
    from vitjax.records.curves import Line, draw_curves

    rows = {}
    for run in runs:
        rows[run] = jsonl.read_rows(copy.rows(run))
        if not rows[run]:
            raise ValueError(
                f"{run} has no {jsonl.JSONL} with rows: give the workdir of a run"
            )
    names = sorted({name for found in rows.values() for row in found for name in row})
    shown = {
        title: [n for pattern in wanted for n in matching(names, pattern)]
        for title, wanted in panels.items()
    }
    shown = {title: found for title, found in shown.items() if found}
    if not shown:
        asked = ", ".join(n for wanted in panels.values() for n in wanted)
        raise ValueError(
            f"no run has the metrics {asked}: give some of {', '.join(names)}"
        )
    labels = _labels(runs)
    lines: dict[str, list[Line]] = {title: [] for title in shown}
    for title, wanted in shown.items():
        for i, run in enumerate(runs):
            for j, name in enumerate(wanted):
                steps, values = jsonl.series(rows[run], name)
                if not steps:
                    continue
                label = labels[i] if len(wanted) == 1 else f"{labels[i]}: {name}"
                if len(runs) == len(wanted) == 1:
                    label = ""
                style: dict[str, Any] = {
                    "color": f"C{i}",
                    "linestyle": ("-", "--", ":", "-.")[j % 4],
                }
                exact = name.startswith("lr")  # a rate has no noise
                if smooth and len(steps) > 2 and not exact:
                    style["marker"] = None
                    pale = {**style, "alpha": 0.2}
                    lines[title].append(Line("", steps, values, pale))
                    values = smoothed(steps, values, smooth)
                lines[title].append(Line(label, steps, values, style))
    draw_curves(out, lines, log=[title for title in lines if "norm" in title])


def _labels(runs: Sequence[str | Path]) -> list[str]:
    """Return the folder names, or the whole paths if two names are equal."""
    names = [Path(run).resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one sentence on stderr."""
    parser = command.parser("plot", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add(
        "runs", nargs="+", type=places.anywhere, metavar="RUN",
        help="the workdir of a run, also in a bucket",
    )  # fmt: skip
    add("--metrics", nargs="+", metavar="NAME",
        help="names in metrics.jsonl, a panel for each (default: those above)")  # fmt: skip
    add("--smooth", type=float, default=0.0, metavar="STEPS",
        help="how many steps halve a weight; 0 smooths nothing (default: 0)")  # fmt: skip
    command.add_out(parser, "PNG", "the picture", "plot.png", Path("plot.png"))
    flags = parser.parse_args(home.expanded(argv))

    def work() -> None:
        if flags.smooth < 0:
            raise ValueError(f"--smooth must be at least 0 steps, got {flags.smooth}")
        command.check_picture(flags.out)
        panels = {n: (n,) for n in flags.metrics} if flags.metrics else PANELS
        draw(flags.runs, panels, flags.smooth, flags.out)
        print(f"written: {flags.out}")

    return command.run(work)


if __name__ == "__main__":
    sys.exit(main())
