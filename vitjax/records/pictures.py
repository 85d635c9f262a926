"""Draw the images that the model gets in training: train_batch.png."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from vitjax.files import or_without, write_picture


def _caption(labels: np.ndarray, class_names: Sequence[str] | None) -> str:
    """Return the one or two classes of a (mixed) label row, with their weights."""
    top = [int(k) for k in np.argsort(-labels)[:2] if labels[k] > 0.005]
    names = [str(k) if class_names is None else class_names[k] for k in top]
    if len(top) == 1:
        return names[0]
    shares = [f"{labels[k]:.2f} {n}" for k, n in zip(top, names, strict=True)]
    return "\n+ ".join(shares) if top else "no label"


def shown(images: Float[np.ndarray, "b h w c"]) -> list[np.ndarray]:
    """Convert images for matplotlib, to [0, 1], grey ones without a channel axis.

    Values in [-1, 1] or [0, 1] keep their meaning. Other values, which may be
    normalised by channel, are stretched to the range of each channel. At most three
    channels are shown.
    """
    low, high = float(images.min()), float(images.max())
    if low >= -1.001 and high <= 1.001:
        bottom, span = (-1.0, 2.0) if low < 0 else (0.0, 1.0)
    else:
        bottom = images.min((0, 1, 2), keepdims=True)
        span = np.maximum(images.max((0, 1, 2), keepdims=True) - bottom, 1e-6)
    scaled = np.clip((images.astype(np.float32) - bottom) / span, 0, 1)
    return [x[..., 0] if x.shape[-1] == 1 else x[..., :3] for x in scaled]


def first_batch(
    workdir: Path, program: Any, class_names: Sequence[str] | None
) -> Callable[[Any], None]:
    """Return draw(batch), which draws train_batch.png from the first batch.

    The picture shows the model's input. All processes must call draw. `program` is a
    `vitjax.program.Program`.
    """

    def draw(batch: Any) -> None:
        step = jax.device_put(np.int32(0), program.key.sharding)
        image, labels = program.preview(batch, program.key, step)
        if jax.process_index() == 0:
            image, labels = jax.device_get((image, labels))
            with or_without("train_batch.png"):
                draw_batch(workdir / "train_batch.png", image, labels, class_names)

    return draw


def draw_batch(
    path: Path,
    images: Float[np.ndarray, "b h w c"],
    labels: Float[np.ndarray, "b k"],
    class_names: Sequence[str] | None,
) -> None:
    """Draw images with their labels in a grid of eight columns."""
    from matplotlib.figure import Figure

    columns = 8
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.6 * columns, 2.1 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, label in zip(axes.flat, shown(images), labels, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1)
        axis.set_title(_caption(label, class_names), fontsize=8)
    figure.suptitle("the first training batch, as fed to the model")
    write_picture(path, figure, dpi=100)
