"""Draw the curves of several recipes in the same axes, with a band over seeds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vitjax import markdown
from vitjax.files import write_whole
from vitjax.records.curves import Line, draw_curves
from vitjax.tools.run_files import TITLES, Curve, Run, curve, finite

BINS = 100  # a curve of more than twice as many points is averaged into this many


def on_grid(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Return steps (n,) and the curves' values (curves, n), NaN outside their range.

    Long curves are averaged in `BINS` equal parts of the longest run, so that the noise
    of single batches does not hide differences of recipes; short ones are interpolated.
    """
    first = float(min(c.steps[0] for c in curves))
    last = float(max(c.steps[-1] for c in curves))
    if max(len(c.steps) for c in curves) > 2 * BINS:
        width = (last - first) / BINS
        curves = [_binned(c, first, width) for c in curves]
    grid = np.unique(np.concatenate([c.steps for c in curves]))
    rows = [
        np.interp(grid, c.steps, c.values, left=np.nan, right=np.nan) for c in curves
    ]
    return grid, np.stack(rows)


def _binned(c: Curve, first: float, width: float) -> Curve:
    part = np.minimum(((c.steps - first) / width).astype(int), BINS - 1)
    count = np.bincount(part, minlength=BINS)
    total = np.bincount(part, weights=c.values, minlength=BINS)
    some = count > 0
    centres = first + width * (np.arange(BINS) + 0.5)
    return Curve(centres[some], total[some] / count[some])


def draw(path: Path, runs: Sequence[Run], metrics: Sequence[str]) -> None:
    """Draw each metric of all recipes, and below it each recipe minus the first.

    Thin lines are runs. A thick line is a recipe's mean. Its band is one standard
    deviation of the seeds to each side; below, one standard error of the difference.
    """
    recipes = list(dict.fromkeys(run.recipe for run in runs))
    shown = [m for m in metrics if any(curve(run, m) for run in runs)]
    above: dict[str, list[Line]] = {}
    below: dict[str, list[Line]] = {}
    for metric in shown:
        title = TITLES.get(metric, metric)
        above[title], difference, base = _lines(runs, recipes, metric)
        below[f"{title}, less {base}"] = difference
    panels = above | below if len(recipes) > 1 else above
    draw_curves(path, panels, columns=len(shown), log=[TITLES["l2_grads"]])


def _lines(
    runs: Sequence[Run], recipes: Sequence[str], metric: str
) -> tuple[list[Line], list[Line], str]:
    """Return the lines of a metric, their differences from a recipe, and its name."""
    found = [(run.recipe, finite(c)) for run in runs if (c := curve(run, metric))]
    found = [(recipe, c) for recipe, c in found if len(c.steps)]
    if not found:
        return [], [], recipes[0]
    grid, values = on_grid([c for _, c in found])
    above, below, base = [], [], None
    for i, recipe in enumerate(recipes):
        own = values[[r == recipe for r, _ in found]]
        if not len(own):
            continue
        thick = {"color": f"C{i}", "linewidth": 1.6}
        if len(own) > 1:
            thin = {"color": f"C{i}", "linewidth": 0.5, "alpha": 0.5, "marker": None}
            above += [Line("", grid, row, thin) for row in own]
        mean = own.mean(axis=0)  # NaN where a seed is missing
        spread = own.std(axis=0, ddof=1) if len(own) > 1 else np.zeros_like(mean)
        above.append(Line(f"{recipe} ({len(own)})", grid, mean, thick, spread))
        error = spread / np.sqrt(len(own))
        if base is None:
            base = mean, error, recipe
            zero = {"color": f"C{i}", "linewidth": 1, "marker": None}
            below.append(Line("", grid, np.zeros(len(grid)), zero))
        else:
            both = np.hypot(error, base[1])
            below.append(Line(recipe, grid, mean - base[0], thick, both))
    return above, below, base[2] if base else recipes[0]


def write(
    folder: Path,
    runs: Sequence[Run],
    metrics: Sequence[str],
    summary: Sequence[str],
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
) -> Path:
    """Write runs.png, and runs.md with the table and all notes; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    draw(folder / "runs.png", runs, metrics)
    caption = (
        "Thin: runs. Thick: the mean of a recipe's seeds, with one standard deviation to "
        "each side. Below: each recipe less the first, with one standard error."
    )
    lines = [
        "# Runs compared",
        "\n".join(f"- {text}" for text in summary),
        markdown.table(head, rows) if rows else "",
        *notes,
        "![Curves](runs.png)",
        caption,
    ]
    path = folder / "runs.md"
    write_whole(path, "\n\n".join(filter(None, lines)) + "\n")
    return path
