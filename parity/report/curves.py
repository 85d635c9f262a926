"""The curves of a training on both sides, and of their difference."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from parity.rungs.comparison import Comparison


def figures(results: Iterable[tuple[str, Comparison]]) -> dict[str, Figure]:
    """Return one figure per rung and precision that has curves, by its title.

    The upper row shows both sides over the steps. The lower row shows their difference,
    relative to the largest value, and that of the reference in another summation order.
    """
    lines: dict[str, list[Comparison]] = {}
    for title, comparison in results:
        if comparison.curves:
            lines.setdefault(title, []).append(comparison)
    return {title: _figure(title, members) for title, members in lines.items()}


def _figure(title: str, lines: list[Comparison]) -> Figure:
    figure = Figure(figsize=(4 * len(lines), 6), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(2, len(lines), sharex=True, squeeze=False)
    for (above, below), line in zip(axes.T, lines, strict=True):
        ours, theirs, *controls = line.curves
        steps = np.arange(1, len(theirs) + 1)
        above.plot(steps, theirs, label="torch", linewidth=3, alpha=0.5)
        above.plot(steps, ours, label="vitjax", linewidth=1)
        above.set_title(line.name)
        top = np.abs(theirs).max()
        _difference(below, steps, (ours - theirs) / top, "vitjax - torch", "C1")
        for control in controls:
            change = (control - theirs) / top
            _difference(below, steps, change, "torch reordered - torch", "C2")
        below.axhline(line.bound, color="black", linestyle=":", label="bound")
        below.set_yscale("log")
        below.set_xlabel("step")
    axes[0, 0].set_ylabel("value")
    axes[1, 0].set_ylabel("relative difference")
    axes[0, 0].legend()
    axes[1, 0].legend()
    return figure


def _difference(
    axes: Any, steps: np.ndarray, values: np.ndarray, label: str, color: str
) -> None:
    # A logarithmic axis cannot show a difference of 0: leave it out.
    values = np.abs(values)
    values = np.where(values > 0, values, np.nan)
    axes.plot(steps, values, label=label, color=color, linewidth=1)
