"""Draw predictions: confusion, accuracy per class, calibration, examples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vitjax.files import write_picture
from vitjax.records.pictures import shown
from vitjax.tools import predictions as predictions_lib
from vitjax.tools.predictions import Predictions

MOST_NAMED = 40  # classes: with more, axes show no names
MOST_COUNTED = 15  # classes: with more, the confusion matrix shows no counts


def draw_report(path: Path, predictions: Predictions, title: str) -> None:
    """Draw confusion matrix, accuracy per class (worst first), reliability diagram."""
    from matplotlib.figure import Figure

    k = predictions.logits.shape[1]
    side = min(max(4.5, 0.32 * k), 11)
    figure = Figure(figsize=(2 * side + 5, side + 0.6), layout="constrained")
    axes: Any = figure.subplots(1, 3, width_ratios=(side, side, 4.5))
    _confusion(axes[0], predictions)
    _per_class(axes[1], predictions)
    _reliability(axes[2], predictions)
    figure.suptitle(title)
    write_picture(path, figure, dpi=100)


def _confusion(axis: Any, predictions: Predictions) -> None:
    counts = predictions_lib.confusion(predictions)
    rows = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(rows, cmap="Blues", vmin=0, vmax=1)
    names = predictions.names
    if len(names) <= MOST_NAMED:
        turned = 90 if max(map(len, names)) > 2 else 0
        axis.set_xticks(range(len(names)), names, rotation=turned, fontsize=7)
        axis.set_yticks(range(len(names)), names, fontsize=7)
    if len(names) <= MOST_COUNTED:
        for i, j in np.argwhere(counts):
            colour = "white" if rows[i, j] > 0.5 else "black"
            text = str(counts[i, j])
            axis.text(j, i, text, ha="center", va="center", color=colour, fontsize=7)
    axis.set(title="confusion (counts)", xlabel="predicted", ylabel="true")


def _per_class(axis: Any, predictions: Predictions) -> None:
    rows = [
        r for r in predictions_lib.per_class(predictions) if r["accuracy"] is not None
    ]
    rows.sort(key=lambda row: row["accuracy"])
    shares = [row["accuracy"] for row in rows]
    axis.barh(range(len(rows)), shares, color="tab:blue", height=0.8)
    if len(rows) <= MOST_NAMED:
        labels = [row["class"] for row in rows]
        axis.set_yticks(range(len(rows)), labels, fontsize=7)
    mean = float(predictions.hits(1).mean())
    axis.axvline(mean, color="tab:red", linewidth=1)
    axis.set(
        title=f"accuracy per class (red: of all, {mean:.3f})",
        xlim=(0, 1),
        xlabel="share that is right",
    )


def _reliability(axis: Any, predictions: Predictions) -> None:
    error, rows = predictions_lib.calibration(predictions)
    sure, right = ([r[key] for r in rows] for key in ("confidence", "accuracy"))
    sizes = [20 + 200 * r["examples"] / len(predictions.logits) for r in rows]
    axis.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
    axis.plot(sure, right, color="tab:blue", linewidth=1)
    axis.scatter(sure, right, s=sizes, color="tab:blue", clip_on=False)
    axis.set(
        title=f"calibration (ECE {error:.3f})",
        xlabel="mean confidence",
        ylabel="share that is right",
        xlim=(0, 1),
        ylim=(0, 1),
    )


def draw_samples(
    path: Path,
    images: Float[np.ndarray, "b h w c"],
    predictions: Predictions,
    columns: int = 5,
) -> None:
    """Draw a grid of the first examples as fed to the model, with label and prediction.

    The title is green if the prediction is right, else red.
    """
    from matplotlib.figure import Figure

    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.1 * columns, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    confidence = predictions.probabilities().max(axis=1)
    for axis in axes.flat:
        axis.set_axis_off()
    shown_images: Sequence[Any] = shown(images)
    hits = predictions.hits(1)
    for i, (axis, image) in enumerate(zip(axes.flat, shown_images, strict=False)):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1)
        true, guess = (
            predictions.names[k][:24]
            for k in (predictions.true[i], predictions.predicted[i])
        )
        axis.set_title(
            f"true: {true}\npredicted: {guess} ({confidence[i]:.2f})",
            fontsize=8,
            color="tab:green" if hits[i] else "tab:red",
        )
    write_picture(path, figure, dpi=100)
