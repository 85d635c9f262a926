"""Draw a plan: the learning rate, and which part of the step moves how many bytes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitjax.files import write_picture

# Phases of a step, and colours that people with colour blindness can tell apart.
COLOURS = {
    "forward": "#0072B2",
    "backward": "#E69F00",
    "recomputed": "#CC79A7",
    "other": "#999999",
}
SHARE = 0.005  # of all traffic; smaller parts are drawn as one


def draw_rates(path: Path, rates: Mapping[str, Any], title: str) -> None:
    """Draw the learning rate of every step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, values in rates.items():
        if not name.startswith("global_"):
            axis.plot(range(1, len(values) + 1), values, label=name)
    axis.set(xlabel="step", ylabel="learning rate")
    figure.suptitle(title, x=0.02, ha="left", fontsize=9)
    axis.grid(alpha=0.3)
    axis.legend()
    write_picture(path, figure, dpi=110)


def traffic(row: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return GB by layer and phase of a step's figures, the largest layer first."""
    found: dict[str, dict[str, float]] = {}
    for part in row["parts"]:
        name = part["layer"].removeprefix("Transformer/")
        phases = found.setdefault(name, dict.fromkeys(COLOURS, 0.0))
        phases[part["phase"]] += part["bytes"] / 1e9
    least = SHARE * row["traffic GB"]
    small = [name for name, phases in found.items() if sum(phases.values()) < least]
    rest = [found.pop(name) for name in small]
    ordered = dict(sorted(found.items(), key=lambda item: -sum(item[1].values())))
    if rest:
        name = f"{len(rest)} parts under {SHARE:.1%} each"
        ordered[name] = {phase: sum(r[phase] for r in rest) for phase in COLOURS}
    return ordered


def draw_traffic(path: Path, row: Mapping[str, Any], title: str) -> None:
    """Draw the traffic of a step, of one device, by part of the model and phase."""
    from matplotlib.figure import Figure

    layers = traffic(row)
    names = list(layers)[::-1]  # the first is on top
    figure = Figure(figsize=(9, 1.6 + 0.3 * len(names)), layout="constrained")
    axis = figure.subplots()
    left = dict.fromkeys(names, 0.0)
    for phase, colour in COLOURS.items():
        widths = [layers[name][phase] for name in names]
        if any(widths):
            axis.barh(
                names, widths, left=list(left.values()), color=colour, label=phase
            )
        left = {name: left[name] + layers[name][phase] for name in names}
    whole = row["traffic GB"]
    for name, total in left.items():
        axis.annotate(
            f"{total:.3g} GB, {total / whole:.0%}", (total, name),
            xytext=(4, 0), textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    axis.set_xlim(0, 1.18 * max(left.values()))
    axis.set(xlabel="GB to and from the memory of one device, a step")
    figure.suptitle(f"{title}: {whole:,.4g} GB", x=0.02, ha="left", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="y", labelsize=8)
    axis.legend(loc="lower right", frameon=False)
    write_picture(path, figure, dpi=110)
