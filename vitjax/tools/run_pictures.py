"""Draw the curves of several recipes in the same axes, with a band over seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vitjax.files import write_picture, write_whole
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


def draw(runs: Sequence[Run], metrics: Sequence[str]) -> Figure:
    """Draw each metric of all recipes, and below it each recipe minus the first.

    Thin lines are runs. A thick line is a recipe's mean. Its band is one standard
    deviation of the seeds to each side; below, one standard error of the difference.
    """
    recipes = list(dict.fromkeys(run.recipe for run in runs))
    shown = [m for m in metrics if any(curve(run, m) for run in runs)]
    num_rows = 2 if len(recipes) > 1 else 1
    size = (5.5 * max(1, len(shown)), 1 + 3.2 * num_rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(num_rows, max(1, len(shown)), squeeze=False)
    for metric, column in zip(shown, axes.T, strict=False):
        _draw_metric(runs, recipes, metric, column)
    return figure


def _draw_metric(
    runs: Sequence[Run], recipes: Sequence[str], metric: str, column: Any
) -> None:
    found = [(run.recipe, finite(c)) for run in runs if (c := curve(run, metric))]
    found = [(recipe, c) for recipe, c in found if len(c.steps)]
    title = TITLES.get(metric, metric)
    column[0].set(title=title, xlabel="step")
    column[0].grid(alpha=0.3)
    if metric == "l2_grads":
        column[0].set_yscale("log", nonpositive="mask")
    if not found:
        return
    grid, values = on_grid([c for _, c in found])
    base = None
    for i, recipe in enumerate(recipes):
        own = values[[r == recipe for r, _ in found]]
        if not len(own):
            continue
        color = f"C{i}"
        if len(own) > 1:
            for row in own:
                column[0].plot(grid, row, color=color, linewidth=0.5, alpha=0.5)
        mean = own.mean(axis=0)  # NaN where a seed is missing
        spread = own.std(axis=0, ddof=1) if len(own) > 1 else np.zeros_like(mean)
        label = f"{recipe} ({len(own)})"
        _band(column[0], grid, mean, spread, color, label)
        if len(column) > 1:
            error = spread / np.sqrt(len(own))
            if base is None:
                base = mean, error, recipe
                column[1].axhline(0, color=color, linewidth=1)
                column[1].set(title=f"{title}, less {recipe}", xlabel="step")
                column[1].grid(alpha=0.3)
            else:
                both = np.hypot(error, base[1])
                _band(column[1], grid, mean - base[0], both, color, recipe)
    column[0].legend(fontsize="small")


def _band(
    axis: Any,
    x: np.ndarray,
    mean: np.ndarray,
    half: np.ndarray,
    color: str,
    label: str,
) -> None:
    marker = "o" if len(x) < 30 else None
    axis.plot(x, mean, color=color, linewidth=1.6, label=label, marker=marker, ms=3)
    if half.any():
        axis.fill_between(x, mean - half, mean + half, color=color, alpha=0.2, lw=0)


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
    write_picture(folder / "runs.png", draw(runs, metrics), dpi=140)
    caption = (
        "Thin: runs. Thick: the mean of a recipe's seeds, with one standard deviation to "
        "each side. Below: each recipe less the first, with one standard error."
    )
    table = [head, ["---"] * len(head), *rows] if rows else []
    lines = [
        "# Runs compared",
        "\n".join(f"- {text}" for text in summary),
        "\n".join(f"| {' | '.join(_cell(x) for x in row)} |" for row in table),
        *notes,
        "![Curves](runs.png)",
        caption,
    ]
    path = folder / "runs.md"
    write_whole(path, "\n\n".join(filter(None, lines)) + "\n")
    return path


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
