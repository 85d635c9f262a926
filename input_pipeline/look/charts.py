"""Charts of the augmentations themselves, which need no data set.

The calibration grids and the spectrum are those that revealed the differences between
big_vision's RandAugment and torchvision's (EIFY/mup-vit's README).
"""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from input_pipeline import ops, randaug
from input_pipeline.ops import crop_boxes
from input_pipeline.stream import order
from input_pipeline.tracing import as_written

SIDE, SQUARE = 224, 56  # pixels of the calibration grid
COLOURS = (192, 64, 64), (64, 192, 192)
BLACK_AND_WHITE = (0, 0, 0), (255, 255, 255)
LEVEL = 10  # the ops' level; also the magnitude of the spectrum
SPECTRUM = 200, 2000  # height, width, pixels
SPECTRUM_IMAGES = 2000
CROPS = 20_000  # crops per sampler
SAMPLERS = ("tf", "torchvision", "power(2)", "beta(1, 2)")
CROPPED = 256, 512  # height, width of the image that is cropped


def grid(first: tuple[int, ...], second: tuple[int, ...]) -> np.ndarray:
    """Return the calibration grid of two alternating colours: uint8 [224, 224, 3]."""
    number = np.arange(SIDE) // SQUARE
    odd = (number[:, None] + number) % 2
    return np.array([first, second], np.uint8)[odd]


def calibration(before: np.ndarray) -> dict[str, np.ndarray]:
    """Return a grid by title: unchanged, and after each op of randaug at level 10."""
    panels = {"before": before}
    for name, numbers in randaug.level_arguments(float(LEVEL)).items():
        title = " ".join([name, *(f"{number:g}" for number in numbers)])
        if name == "Cutout":
            title += " (half of the side)"
            numbers = (*numbers, SIDE // 2, SIDE // 2)
        op = randaug.OPS[name]
        for contrast in ("legacy", "fixed") if name == "Contrast" else (None,):
            keywords = {} if contrast is None else {"contrast": contrast}
            after = op(before, *numbers, **keywords)
            panels[f"{title}, {contrast}" if contrast else title] = np.asarray(after)
    return panels


def spectrum_counts(contrast: str, images: int) -> np.ndarray:
    """Return how many pixels have each value, int64 [256], after randaug(2, 10).

    It counts `images` black-and-white grids, all of whose pixels stay colourless. The
    plans are the same for both values of `contrast`.
    """
    preprocess = ops.get_preprocess_fn(f"randaug(2, {LEVEL}, contrast={contrast!r})")
    seeds = _seeds(images)
    image = tf.constant(grid(*BLACK_AND_WHITE))

    def count(plan: Any) -> tf.Tensor:
        values = preprocess({"image": image, **plan})["image"][..., 0]
        return tf.math.bincount(tf.cast(values, tf.int32), minlength=256)

    counts = _mapped(preprocess.draw(seeds, seeds), count, images)
    return counts.astype(np.int64).sum(0)


def spectrum(counts: np.ndarray) -> np.ndarray:
    """Return all pixels from black to white, float [200, 2000]: down, then right.

    Each entry is the mean of an equal share of the sorted pixels.
    """
    height, width = SPECTRUM
    pixels = np.concatenate([[0], np.cumsum(counts)])
    sums = np.concatenate([[0], np.cumsum(counts * np.arange(256))])
    edges = np.linspace(0, pixels[-1], height * width + 1)
    means = np.diff(np.interp(edges, pixels, sums)) / edges[1]
    return means.reshape(width, height).T


def crop_sizes(sampler: str, count: int) -> np.ndarray:
    """Return (height, width) of random crops of an image of 256 x 512, int [count, 2].

    They have inception_crop's defaults: 5 to 100 % of the area, width / height 0.75 to
    1.33.
    """
    sample = crop_boxes.sampler_law(sampler)
    shape = tf.constant([*CROPPED, 3])

    def size(seed: tf.Tensor) -> tf.Tensor:
        _, _, height, width = sample(shape, seed, (0.05, 1.0), (0.75, 1.33))
        return tf.stack([height, width])

    return _mapped(_seeds(count), size, count)


def _seeds(count: int) -> tf.Tensor:
    return order.example_seed(
        tf.zeros([count], tf.int64), tf.range(count, dtype=tf.int64), seed=0
    )


def _mapped(elements: Any, fn: Any, count: int) -> np.ndarray:
    """Return fn of each element, stacked; far faster than eagerly."""
    data = tf.data.Dataset.from_tensor_slices(elements)
    fn = as_written(fn)
    data = data.map(fn, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return next(data.batch(count).as_numpy_iterator())


def draw_calibration(path: Path) -> None:
    """Draw both grids before and after each op."""
    panels = [
        (title, "", image)
        for colours in (COLOURS, BLACK_AND_WHITE)
        for title, image in calibration(grid(*colours)).items()
    ]
    title = (
        f"randaug's ops at level {LEVEL}, on calibration grids of {SIDE} x {SIDE} "
        "(half the time, Rotate, Shear and Translate go the other way)"
    )
    draw_images(path, title, panels, columns=6)


def draw_spectrum(path: Path) -> None:
    """Draw both spectra, and how often each value occurs."""
    from matplotlib.figure import Figure

    height, width = SPECTRUM
    figure = Figure(figsize=(22, 10.8), dpi=100)

    def axes(bottom: float, inches: float) -> Any:
        # One pixel per entry of the spectrum, so that none is resampled.
        tall = figure.get_figheight()
        return figure.add_axes((1.2 / 22, bottom / tall, width / 2200, inches / tall))

    places = {"legacy": axes(7.9, height / 100), "fixed": axes(4.9, height / 100)}
    shares = axes(0.9, 3.2)
    for (contrast, place), width_, colour in zip(
        places.items(), (1.0, 0.45), ("tab:orange", "tab:blue"), strict=True
    ):
        counts = spectrum_counts(contrast, SPECTRUM_IMAGES)
        percent = 100 * counts / counts.sum()
        mean = counts @ np.arange(256) / counts.sum()
        place.imshow(
            spectrum(counts),
            cmap="gray",
            vmin=0,
            vmax=255,
            aspect="auto",
            interpolation="none",
            extent=(0, 100, 0, 1),
        )
        place.set_yticks([])
        place.set_xticks(range(0, 101, 10), [f"{x} %" for x in range(0, 101, 10)])
        place.tick_params(labelsize=14)
        place.set_title(
            f"contrast={contrast!r}: mean {mean:.1f}, {percent[0]:.1f} % black, "
            f"{percent[128]:.1f} % grey 128, {percent[255]:.1f} % white",
            fontsize=18,
            loc="left",
        )
        shares.bar(np.arange(256), percent, width_, color=colour, label=contrast)
    shares.set_yscale("log")
    shares.set_ylim(1e-3, 100)
    shares.set_yticks(
        [0.001, 0.01, 0.1, 1, 10, 100], ["0.001", "0.01", "0.1", "1", "10", "100"]
    )
    shares.set_xlim(-2, 257)
    shares.tick_params(labelsize=14)
    shares.set_xlabel("value", fontsize=16)
    shares.set_ylabel("% of the pixels", fontsize=16)
    shares.legend(
        title="contrast", loc=(0.24, 0.73), ncols=2, fontsize=16, title_fontsize=16
    )
    figure.suptitle(
        f"all pixels of {SPECTRUM_IMAGES:,} black-and-white calibration grids after "
        f"randaug(2, {LEVEL}), from black to white",
        fontsize=22,
        y=0.99,
    )
    figure.savefig(path)


def draw_crops(path: Path) -> None:
    """Draw the density of widths and heights for each sampler."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    height, width = CROPPED
    figure = Figure(figsize=(12, 8.4), dpi=100, layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    scale = ScalarMappable(Normalize(0, 1), "magma_r")
    for axis, sampler in zip(grid.flat, SAMPLERS, strict=True):
        sizes = crop_sizes(sampler, CROPS)
        area = sizes.prod(1).mean() / (height * width)
        axis.hist2d(
            sizes[:, 1] - 0.5,
            sizes[:, 0] - 0.5,
            bins=(width // 8, height // 8),
            range=((0, width), (0, height)),
            weights=np.full(len(sizes), 100 / len(sizes)),
            norm=scale.norm,
            cmap=scale.cmap,
        )
        # No crop is smaller, or as wide as the image.
        axis.set_xlim(50, 350)
        axis.set_ylim(60, height)
        axis.set_aspect("equal")
        axis.set_title(f"{sampler}: mean area {area:.3f} of the image", fontsize=13)
    for axis in grid[-1]:
        axis.set_xlabel("width of the crop")
    for axis in grid[:, 0]:
        axis.set_ylabel("height of the crop")
    figure.colorbar(scale, ax=grid, label="% of the crops, in 8 x 8 pixels", aspect=40)
    figure.suptitle(
        f"sizes of inception crops of an image of {height} x {width}: 5 to 100 % of "
        "its area, width / height 0.75 to 1.33",
        fontsize=15,
    )
    figure.savefig(path)


def draw_images(
    path: Path, title: str, panels: list[tuple[str, str, np.ndarray]], columns: int
) -> None:
    """Draw a grid of (title, text below, image [h, w(, c)]) from the top left."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.text import Text

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    notes = max(text.count("\n") + 1 if text else 0 for _, text, _ in panels)
    wrapped = [textwrap.wrap(name, 30, max_lines=4) for name, _, _ in panels]
    lines = max(map(len, wrapped)) + notes
    size = (max(2.4 * columns, 6), (2.35 + 0.17 * lines) * rows + 0.4)
    figure = Figure(figsize=size, dpi=100, layout=ConstrainedLayoutEngine(h_pad=0.1))
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, name, (_, text, image) in zip(axes.flat, wrapped, panels, strict=False):
        axis.imshow(_visible(image), interpolation="nearest")
        axis.set(xticks=[], yticks=[])  # the frame shows where white images end
        axis.set_title("\n".join([*name, text]).strip(), fontsize=9)
    figure.suptitle(title, fontsize=12)
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a class may be called "$5_to_$10"
    figure.savefig(path)


def _visible(image: np.ndarray) -> np.ndarray:
    """Return the image as uint8 [h, w, 3].

    Floats from -1 (or 0) to 1 are shown as they are; other ranges are stretched.
    """
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        if low >= -1.001 and high <= 1.001:
            low, high = (-1.0 if low < 0 else 0.0), 1.0
        scaled = (image.astype(np.float32) - low) / max(high - low, 1e-6)
        image = np.clip(scaled * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(image, 3, -1) if image.shape[-1] == 1 else image[..., :3]
