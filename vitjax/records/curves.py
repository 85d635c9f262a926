"""Draw curves over steps: panels of lines, and a run's curves.png."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitjax.files import write_picture
from vitjax.records.jsonl import read_rows, series


class Line(NamedTuple):
    """One curve of a panel. A line without a label is not in the legend."""

    label: str
    steps: Sequence[int] | np.ndarray
    values: Sequence[float] | np.ndarray
    style: Mapping[str, Any] = {}
    """Keywords of matplotlib's `plot`."""
    half: np.ndarray | None = None
    """Half the height of a band around the curve at each step."""


def draw_curves(
    path: Path,
    panels: Mapping[str, Sequence[Line]],
    *,
    columns: int = 3,
    log: Collection[str] = (),
) -> None:
    """Write a picture with one panel for each title, row by row.

    Panels in `log` have a logarithmic axis. A legend that would repeat the one before
    it is left out.
    """
    from matplotlib.figure import Figure

    columns = max(1, min(columns, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(5.5 * columns, 3.5 * rows), layout="constrained")
    axes: list[Any] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    before: list[str] = []
    for axis, (title, lines) in zip(axes, panels.items(), strict=False):
        for line in lines:
            marker = "o" if len(line.steps) < 30 else None
            style = {"marker": marker, "markersize": 3, **line.style}
            [drawn] = axis.plot(line.steps, line.values, label=line.label, **style)
            if line.half is not None and line.half.any():
                low, high = line.values - line.half, line.values + line.half
                color = drawn.get_color()
                axis.fill_between(line.steps, low, high, color=color, alpha=0.2, lw=0)
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
        if title in log:
            # The first update is exactly zero, which has no logarithm.
            axis.set_yscale("log", nonpositive="mask")
        labels = [line.label for line in lines if line.label]
        if labels and labels != before:
            axis.legend(fontsize="small")
        before = labels
    write_picture(path, figure, dpi=120)


def plot_curves(workdir: Path) -> Path:
    """Draw curves.png from metrics.jsonl: loss, evaluation, norms, learning rate."""
    rows = read_rows(workdir)
    names = sorted({name for row in rows for name in row})
    norms = "gradient and update norm"
    panels = {
        "loss": ["training_loss", *[n for n in names if n.endswith("/loss")]],
        "accuracy": [n for n in names if "/prec@" in n],
        norms: ["l2_grads", "l2_updates"],
        "learning rate": [n for n in names if n.startswith("lr")],
    }
    lines = {
        title: [Line(n, *found) for n in wanted if (found := series(rows, n))[0]]
        for title, wanted in panels.items()
    }
    path = Path(workdir) / "curves.png"
    draw_curves(path, lines, columns=2, log=(norms,))
    return path
