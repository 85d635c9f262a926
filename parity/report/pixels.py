"""Pictures of the pixels that the rungs compare, for the report.

h height, w width; images are uint8 [h, w, 3].
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from parity.reference import augment
from parity.rungs import augmentation, decoding, distributions, resizing
from parity.rungs.decoding import levels
from parity.sides import ours_pixels, samples
from parity.sides.others_pixels import FILL, PIL_OPS, to_numpy, to_torch
from parity.sides.samples import Image

LEVEL = 10
CENTRE = (112, 60)  # Cutout's
SPECTRUM = 70, 1000  # height, width, in pixels
SPECTRUM_IMAGES = 1000
CROPPED = (256, 512)


def figures() -> dict[str, Figure]:
    """Return all pictures, by name."""
    whole = samples.augmented()
    return {
        "calibration_grids": operations(whole["colour grid"]),
        "photographs": operations(whole["china"]),
        "spectra": spectra(),
        "crops": crop_densities(),
        "resize": rings(),
        "decoding": fast_decoding(),
    }


def operations(image: Image) -> Figure:
    """Draw each op at level 10 by vitjax, the torch reference and PIL.

    The labels give the largest differences from vitjax.
    """
    names = sorted(augmentation.OURS)
    rows = -(-len(names) // 2)
    figure = Figure(figsize=(10.4, 1.3 * rows + 0.7), dpi=80)
    # A label and three pictures, twice.
    axes = figure.subplots(rows, 8, width_ratios=(1, 1, 1, 1) * 2, squeeze=False)
    top = 1 - 0.62 / figure.get_figheight()
    figure.subplots_adjust(0.005, 0.005, 0.995, top, wspace=0.05, hspace=0.05)
    for axis in axes.flat:
        axis.set_axis_off()
    for at, name in enumerate(names):
        row, first = at % rows, 4 * (at // rows)
        panels = _opinions(image, name)
        ours, *others = panels.values()
        apart = " and ".join(f"{levels(ours, other).max():.0f}" for other in others)
        label = "\n".join(filter(None, [name, _numbers(name), f"apart: {apart}"]))
        axes[row, first].text(0.95, 0.5, label, ha="right", va="center", fontsize=9)
        for axis, (title, panel) in zip(
            axes[row, first + 1 : first + 4], panels.items(), strict=True
        ):
            axis.imshow(panel, interpolation="nearest")
            if row == 0:
                axis.set_title(title, fontsize=9)
    if 2 * rows > len(names):
        axes[-1, 4].text(0.95, 0.5, "unaltered", ha="right", va="center", fontsize=9)
        axes[-1, 5].imshow(image, interpolation="nearest")
    _headline(
        figure,
        f"randaug's ops at level {LEVEL}; apart: the largest difference, in grey levels, "
        "of the torch reference and of PIL from vitjax",
    )
    return figure


def _headline(figure: Figure, text: str) -> None:
    """Add a title, equally near the top of a figure of any height."""
    top = 1 - 0.08 / figure.get_figheight()
    figure.suptitle(text, fontsize=10, y=top, va="top")


def _args(name: str) -> tuple[float | int, ...]:
    args = ours_pixels.arguments(name.removesuffix(" fixed"), LEVEL)
    return (*args, *CENTRE) if name == "Cutout" else args


def _numbers(name: str) -> str:
    return " ".join(f"{number:g}" for number in _args(name))


def _opinions(image: Image, name: str) -> dict[str, Image]:
    args = _args(name)
    if name == "Contrast fixed":
        theirs = augment.contrast_fixed(to_torch(image), *args)
    else:
        theirs = augment.apply(to_torch(image), name, *args)
    return {
        "vitjax": augmentation.OURS[name](image, *args),
        "torch reference": to_numpy(theirs),
        # PIL lacks big_vision's "Contrast"; its own shows how far apart the two are.
        "PIL": PIL_OPS["Contrast fixed" if name == "Contrast" else name](image, *args),
    }


def spectra() -> Figure:
    """Draw all pixels of many augmented black-and-white grids, from black to white."""
    grid = samples.grid(*samples.BLACK_WHITE)
    counts = {
        "vitjax: randaug(2, 10)": _counts(_ours(grid, "legacy")),
        "torch reference": _counts(_reference(grid)),
        "vitjax: randaug(2, 10, contrast='fixed')": _counts(_ours(grid, "fixed")),
        f"torchvision: RandAugment(2, 10, fill={FILL})": _counts(_torchvision(grid)),
    }
    figure = Figure(figsize=(10.4, 1.25 * len(counts) + 0.5), dpi=110)
    axes = figure.subplots(len(counts), 1)
    top = 1 - 0.75 / figure.get_figheight()
    figure.subplots_adjust(0.03, 0.07, 0.97, top, hspace=0.85)
    for axis, (title, of) in zip(axes, counts.items(), strict=True):
        axis.imshow(
            _spectrum(of),
            cmap="gray",
            vmin=0,
            vmax=255,
            aspect="auto",
            extent=(0, 100, 0, 1),
        )
        share, mean = 100 * of / of.sum(), of @ np.arange(256) / of.sum()
        axis.set_title(
            f"{title}: mean {mean:.0f}, {share[0]:.0f} % black, "
            f"{share[FILL]:.0f} % grey {FILL}, {share[255]:.0f} % white",
            fontsize=9,
            loc="left",
        )
        axis.set_yticks([])
        axis.set_xticks(range(0, 101, 10), [f"{x} %" for x in range(0, 101, 10)])
        axis.tick_params(labelsize=8)
    _headline(
        figure,
        f"all pixels of {SPECTRUM_IMAGES} augmented black-and-white calibration grids, "
        "from black to white",
    )
    return figure


def _counts(images: Iterator[Image]) -> Int[np.ndarray, "256"]:
    return sum(
        (np.bincount(image[..., 0].ravel(), minlength=256) for image in images),
        np.zeros(256, np.int64),
    )


def _spectrum(counts: Int[np.ndarray, "256"]) -> Float[np.ndarray, "h w"]:
    """Return the values in order, down each column and then to the right."""
    height, width = SPECTRUM
    ends = np.cumsum(counts) / counts.sum()
    places = (np.arange(height * width) + 0.5) / (height * width)
    return np.searchsorted(ends, places).reshape(width, height).T.astype(np.float64)


def _ours(grid: Image, contrast: str) -> Iterator[Image]:
    pp = f"randaug(2, {LEVEL}, contrast={contrast!r})"
    for batch in ours_pixels.batches(grid, pp, SPECTRUM_IMAGES):
        yield from batch


def _reference(grid: Image) -> Iterator[Image]:
    image, generator = to_torch(grid), torch.Generator().manual_seed(3)
    for _ in range(SPECTRUM_IMAGES):
        yield to_numpy(augment.randaug(image, generator, 2, LEVEL))


def _torchvision(grid: Image) -> Iterator[Image]:
    yield from distributions.torchvision_randaug(grid, SPECTRUM_IMAGES)


def crop_densities() -> Figure:
    """Draw which widths and heights are cropped, and the areas."""
    height, width = CROPPED
    boxes = {
        "vitjax, sampler='tf'": distributions.ours_boxes(height, width, "tf"),
        "torch reference": distributions.reference_boxes(height, width),
        "torchvision": distributions.torchvision_boxes(height, width),
    }
    figure = Figure(figsize=(10.4, 6.2), dpi=110, layout="constrained")
    figure.suptitle(
        f"random crops of an image of {height} x {width}: 5 to 100 % of its area, width "
        "/ height 0.75 to 1.33",
        fontsize=10,
    )
    axes = figure.subplots(2, 3)
    mesh: Any = None
    for axis, (title, of) in zip(axes[0], boxes.items(), strict=True):
        *_, mesh = axis.hist2d(
            of[:, 3] - 0.5,
            of[:, 2] - 0.5,
            bins=(width // 8, height // 8),
            range=((0, width), (0, height)),
            weights=np.full(len(of), 100 / len(of)),
            norm=Normalize(0, 1),
            cmap="magma_r",
        )
        axis.set_xlim(50, 350)
        axis.set_ylim(60, height)
        axis.set_aspect("equal")
        area = (of[:, 2] * of[:, 3]).mean() / (height * width)
        axis.set_title(f"{title}: mean area {area:.3f}", fontsize=9)
        axis.set_xlabel("width", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[0, 0].set_ylabel("height", fontsize=8)
    bar = figure.colorbar(mesh, ax=axes[0], label="% in 8 x 8 pixels", pad=0.01)
    bar.ax.tick_params(labelsize=8)
    labels = {
        "area": "share of the area",
        "ratio": "width / height",
        "left": "left edge",
    }
    for axis, (feature, label) in zip(axes[1], labels.items(), strict=True):
        for (title, of), style in zip(boxes.items(), ("-", "--", ":"), strict=True):
            values = np.sort(distributions.features_of(of, height, width)[feature])
            share = np.arange(1, len(values) + 1) / len(values)
            axis.plot(values, share, style, label=title, linewidth=1.5)
        axis.set_xlabel(label, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    axes[1, 0].set_ylabel("share of crops below", fontsize=8)
    axes[1, 0].legend(fontsize=8)
    return figure


def rings() -> Figure:
    """Draw what each filter makes of rings that are too fine for the smaller image."""
    plate, size = samples.zone_plate(), (160, 160)
    panels = {
        "vitjax, antialiased": ours_pixels.resized(plate, size),
        "PIL": resizing.pil(plate, size),
        "torchvision, antialiased": resizing.torchvision(plate, size),
        "vitjax, not antialiased": ours_pixels.resized(plate, size, antialias=False),
        "vitjax, area": ours_pixels.resized(plate, size, "area", False),
    }
    title = "rings on 448 x 448, resized to 160 x 160: whatever is no ring is aliasing"
    return _row(panels, title)


def fast_decoding() -> Figure:
    """Draw a photograph, and where both of vitjax's decoders differ from PIL's."""
    data = samples.encode(samples.augmented()["china"], quality=90)
    theirs = decoding.pil_pixels(data)
    panels = {"PIL": theirs}
    for title, precise in (("precise", True), ("default", False)):
        difference = levels(ours_pixels.decoded(data, precise), theirs)
        shown = np.clip(difference * 40, 0, 255).astype(np.uint8)
        panels[f"decode {title}: at most {difference.max():.0f}"] = shown
    title = (
        "a JPEG of quality 90, and the difference of vitjax's decoders from PIL, x 40"
    )
    return _row(panels, title)


def _row(panels: dict[str, Image], title: str) -> Figure:
    figure = Figure(figsize=(2.15 * len(panels), 2.75), dpi=110, layout="constrained")
    for axis, (name, image) in zip(
        figure.subplots(1, len(panels)), panels.items(), strict=True
    ):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(name, fontsize=9)
        axis.set_axis_off()
    figure.suptitle(title, fontsize=10)
    return figure
