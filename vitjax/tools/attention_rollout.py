"""Draw what a trained model attends to in a photo.

`python -m vitjax.tools.attention_rollout --ckpt runs/vit --image photo.jpg --out out.png`
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

import numpy as np
from jaxtyping import Float

from input_pipeline import places
from vitjax.config.files import parse_with_overrides
from vitjax.files import write_picture
from vitjax.tools import command

if TYPE_CHECKING:
    from vitjax.tools.trained import Trained

# Only light imports here, so that --help is fast.
DESCRIPTION = f"""\
Draw three panels: the photo as the model sees it, the attention rollout over all layers
(arXiv:2005.00928: the product of the mean over the heads plus the identity), and the last
layer's mean over the heads. A map shows how much each patch gives to the class token, or
to the mean patch of a model without one; red is most. The photo is prepared by pp_fn and
device_pp of the run's first evaluator of the type "classification".

--posemb draws the cosine similarity of the model's learned position embeddings: a matrix
of all pairs, and for each patch a map at its own place.

{command.OVERRIDES}"""
EXAMPLES = (
    "--ckpt runs/vit --image cat.jpg --out cat.png",
    "--ckpt runs/nanovit/best --posemb positions.png",
    "--ckpt runs/vit --image cat.jpg --out cat.png\n"
    "--config.evals.val.pp_fn='decode|resize_small(256)|central_crop(224)'",
)


# Shapes below: b batch, n tokens, y x the grid of patches.
def rollout(
    layers: Sequence[Float[np.ndarray, "b _ n n"]],
) -> Float[np.ndarray, "b n n"]:
    """Return the share of each token (column) in each token (row) after all layers.

    It is the product of (mean over the heads + identity) of all layers, the first one
    rightmost, with rows scaled to sum to 1. It is computed in float64.
    """
    if not layers:
        raise ValueError("attention rollout needs at least one layer")
    total = np.eye(layers[0].shape[-1])[None]
    for probs in layers:
        mean = probs.astype(np.float64).mean(axis=1)
        # Halving keeps entries bounded over many layers; the row scaling cancels it.
        total = (mean @ total + total) / 2
    return total / total.sum(axis=-1, keepdims=True)


def patch_map(
    weights: Float[np.ndarray, "b n n"], grid: tuple[int, int], cls: bool
) -> Float[np.ndarray, "b y x"]:
    """Return each patch's weight in the class token, or without one in the mean patch.

    Patches follow the class token, row by row. Later tokens (registers) are left out,
    as columns and as rows.
    """
    first, size = int(cls), grid[0] * grid[1]
    if weights.shape[-1] < first + size:
        raise ValueError(
            f"{weights.shape[-1]} tokens are too few for {grid[0]} x {grid[1]} patches"
        )
    patches = slice(first, first + size)
    rows = weights[:, 0] if cls else weights[:, patches].mean(axis=1)
    return rows[:, patches].reshape(-1, *grid)


def cosine_similarity(table: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """Return the cosine similarity of every pair of rows, such as positions."""
    table = table.astype(np.float64)
    length = np.linalg.norm(table, axis=-1, keepdims=True)
    unit = table / np.maximum(length, np.finfo(np.float64).tiny)
    return unit @ unit.T


def attention_maps(trained: "Trained", image: Any) -> dict[str, Any]:
    """Return the model's attention maps for a preprocessed image (1, y, x, ch).

    "rollout" and "last" are maps (rows, columns of patches) whose values are shares of
    the attention to all tokens. "layers" is the number of layers, "heads" the number of
    heads of the last layer, "logits" is (c,). Raises ValueError if the model has no
    attention, or does not return it.
    """
    import jax

    try:
        trained = trained.replace(return_attn=True)
    except ValueError:
        name = trained.experiment.model_name
        raise ValueError(
            f"the model {name!r} has no attention to show: give the checkpoint of a ViT"
        ) from None
    logits, out = jax.device_get(trained.apply(image))
    encoder = out.get("encoder") or {}
    found = {
        int(name.removeprefix("block")): block["attn"]
        for name, block in encoder.items()
        if re.fullmatch(r"block\d+", name) and "attn" in block
    }
    if not found or trained.patch_size is None:
        raise ValueError(
            f"the model {trained.experiment.model_name!r} shows no attention: with "
            "return_attn=True it must return out['encoder']['block00']['attn'], of shape "
            "(b, heads, tokens, tokens), and so on, and have a patch_size (rows, columns)"
        )
    blocks = [found[number] for number in sorted(found)]
    (ph, pw), (_, height, width, _) = trained.patch_size, image.shape
    grid, cls = (height // ph, width // pw), "cls" in trained.params
    last = np.asarray(blocks[-1], np.float64).mean(axis=1)
    return {
        "rollout": patch_map(rollout(blocks), grid, cls)[0],
        "last": patch_map(last, grid, cls)[0],
        "layers": len(blocks),
        "heads": blocks[-1].shape[1],
        "logits": logits[0],
    }


def draw(path: Path, image: Any, maps: dict[str, Any], title: str) -> None:
    """Draw the image (y, x, ch) as fed to the model, alone and under each map."""
    import jax
    from matplotlib.figure import Figure

    from vitjax.records.pictures import shown

    [photo] = shown(image[None])
    height, width = photo.shape[:2]

    figure = Figure(
        figsize=(12.4, 4.9 * max(0.5, height / width)), layout="constrained"
    )
    axes = figure.subplots(1, 3)
    titles = (
        f"as fed to the model, {height} x {width}",
        f"attention rollout, {maps['layers']} layers",
        f"last layer, mean of {maps['heads']} heads",
    )
    picture: Any = None
    for axis, text, name in zip(axes, titles, ("", "rollout", "last"), strict=True):
        axis.set_title(text, fontsize=11)
        axis.set(xticks=[], yticks=[])
        axis.imshow(photo, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        if not name:
            continue
        weights = maps[name]
        times = -(-256 // max(height, width))  # small images need upsampling
        size = (times * height, times * width)
        fine = np.asarray(jax.image.resize(weights, size, "bilinear"))
        spread = float(np.ptp(fine))
        fine = (fine - fine.min()) / (spread or 1.0)
        picture = axis.imshow(
            fine,
            cmap="jet",
            alpha=0.5,
            vmin=0,
            vmax=1,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        )
        rows, columns = weights.shape
        axis.set_xlabel(
            f"{rows} x {columns} patches, each with {weights.min():.2%} to "
            f"{weights.max():.2%} of the weight",
            fontsize=9,
        )
    bar = figure.colorbar(picture, ax=axes, shrink=0.85, pad=0.01, ticks=[0, 1])
    bar.ax.set_yticklabels(["least", "most"])
    figure.suptitle(title, fontsize=11)
    write_picture(path, figure, dpi=110)


def draw_posemb(path: Path, trained: "Trained") -> None:
    """Draw the position embeddings' similarity; ValueError if none are learned."""
    from matplotlib.figure import Figure

    if "pos_embedding" not in trained.params:
        raise ValueError(
            f"the model of {trained.name} has no learned position embeddings to draw: "
            "leave out --posemb"
        )
    table = np.asarray(trained.params["pos_embedding"])
    if table.ndim != 3:
        raise ValueError(
            f"the pos_embedding of {trained.name} must have the shape (1, tokens, width) "
            f"to be drawn, got {table.shape}"
        )
    [table] = table
    similar = cosine_similarity(table)
    figure = Figure(figsize=(11.6, 5.4), layout="constrained")
    axes = figure.subplots(1, 2)
    axes[0].set_title(f"cosine of each two of {len(table)} positions", fontsize=11)
    picture = axes[0].imshow(similar, cmap="viridis", vmin=-1, vmax=1)
    axes[1].set_axis_off()
    shape, patch = trained.image_shape, trained.patch_size
    if shape is not None and patch is not None:
        (ph, pw), (height, width, _) = patch, shape
        h, w = height // ph, width // pw
        first = len(table) - h * w  # 1 if the class token has a position too
        tiles = similar[first:, first:].reshape(h, w, h, w)
        gaps = ((0, 0), (0, 0), (0, 1), (0, 1))
        tiles = np.pad(tiles, gaps, constant_values=np.nan).swapaxes(1, 2)
        tiles = tiles.reshape(h * (h + 1), w * (w + 1))
        axes[1].imshow(tiles, vmin=-1, vmax=1, interpolation="nearest")
        axes[1].set_title(f"of each patch with all {h} x {w}", fontsize=11)
    figure.colorbar(picture, ax=axes, shrink=0.85, pad=0.01)
    figure.suptitle(f"position embeddings of {trained.name}")
    write_picture(path, figure, dpi=110)


def parse_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse a command line into (flags, config overrides)."""
    parser = command.parser("attention_rollout", DESCRIPTION, EXAMPLES)
    command.add_ckpt(parser)
    add = parser.add_argument
    add("--image", type=places.local, metavar="FILE",
        help="the photo: JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF")  # fmt: skip
    command.add_out(
        parser, "PNG", "the picture of the photo", "none; needed with --image"
    )
    add("--posemb", type=places.local, metavar="PNG",
        help="where the picture of the position embeddings is written (default: none)")  # fmt: skip
    flags, overrides = parse_with_overrides(parser, argv)
    if (flags.image is None) != (flags.out is None):
        parser.error("--image and --out go together")
    if flags.image is None and flags.posemb is None:
        parser.error("nothing to draw: give --image and --out, or --posemb")
    return flags, overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one sentence on stderr."""
    flags, overrides = parse_flags(sys.argv[1:] if argv is None else argv)

    def work() -> None:
        import jax

        jax.config.update("jax_platforms", "cpu")  # one image needs no accelerator
        for path in filter(None, (flags.out, flags.posemb)):
            command.check_picture(path)
        _draw(flags, overrides)

    return command.run(work)


def _draw(flags: argparse.Namespace, overrides: Sequence[str]) -> None:

    trained = command.open_ckpt(flags, overrides)
    if flags.posemb is not None:
        draw_posemb(flags.posemb, trained)
        print(flags.posemb)
    if flags.image is not None:
        from vitjax.tools import photos

        name, section = trained.evaluator()
        image = photos.feed(flags.image, section)
        maps = attention_maps(trained, image)
        best = int(maps["logits"].argmax())
        names = trained.names_in_words()
        label = f"class {best}" if names is None else f"{names[best]} (class {best})"
        title = f"{flags.image.name}, prepared as for evals.{name}: {label} for {trained.name}"
        draw(flags.out, np.asarray(image[0]), maps, title)
        print(f"{flags.out}: {label}")


if __name__ == "__main__":
    sys.exit(main())
