"""Fit the parameters of a file or a run to a model that is about to train."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict
from jaxtyping import Float, Shaped

from vitjax import weights
from vitjax.config.arguments import lookup
from vitjax.models import vit
from vitjax.trees import flatten_with_names, map_with_names, match_patterns
from vitjax.weights.checkpoint_model import unlike
from vitjax.weights.posemb import Grid, grid_of, is_sincos2d, resample

Leaves = dict[str, np.ndarray]
KERNEL = "embedding/kernel"


def load_into(
    path: str | Path,
    shapes: Any,
    fresh: Any,
    dont_load: Sequence[str] = (),
    *,
    model: Any = None,
    image_shape: Sequence[int] = (),
    stored_grid: Grid | None = None,
    channels: str | None = None,
) -> Any:
    """Return a model's parameters, loaded with `vitjax.weights.load`.

    Args:
      path: as in `load`.
      shapes, fresh: the model's parameters, as shapes with shardings and as arrays.
      dont_load: regexes of names (full match) that keep their `fresh` value.
      model, image_shape: used for a ViT: stored position embeddings are resampled to
        the grid of its patches, and its num_heads applies to files without one.
      stored_grid: rows, columns of the stored position embeddings, if not a square.
      channels: a key of CHANNELS, for an embedding of another number of channels; None
        refuses it.

    A stored model without a head leaves the head at its fresh value, with a warning.
    Raises ValueError that lists every other parameter that is missing in the file, left
    over in it, or of another shape.
    """
    match_patterns(shapes, dont_load, what="dont_load")  # checks the regexes
    fit_channels = None
    if channels is not None:
        fit_channels = lookup(CHANNELS, channels, "model_init_channels")
    wanted = {name: leaf.shape for name, leaf in flatten_with_names(shapes)}
    grid = num_heads = pool_type = None
    if isinstance(model, vit.ViT):
        (height, width, _), (rows, columns) = image_shape, model.patch_size
        grid, num_heads = (height // rows, width // columns), model.num_heads
        # A model with registers that pools otherwise takes a class token as a register.
        if model.pool_type == "tok" or model.registers:
            pool_type = model.pool_type
    posemb = "learn" if "pos_embedding" in wanted else None
    stored, config = weights.load(
        path,
        num_heads=num_heads,
        posemb=posemb,
        grid=stored_grid,
        pool_type=pool_type,
        model_grid=grid,
    )
    if isinstance(model, vit.ViT) and jax.process_index() == 0:
        for notice in unlike(path, config, model):
            logging.warning("%s", notice)
    leaves = _in_form_of(stored, wanted, str(path))
    if fit_channels is not None and KERNEL in leaves and KERNEL in wanted:
        new, kernel = wanted[KERNEL][2], leaves[KERNEL]
        if kernel.ndim == 4 and kernel.shape[2] != new:
            leaves = {**leaves, KERNEL: fit_channels(kernel, new)}
            if jax.process_index() == 0:
                logging.warning(
                    "the embedding of %s is for %d channels: model_init_channels=%r adapts "
                    "it to %d",
                    path,
                    kernel.shape[2],
                    channels,
                    new,
                )
    leaves = _with_posemb(leaves, wanted, grid, stored_grid, str(path), dont_load)
    skip = _skipped(shapes, leaves, dont_load, str(path))
    skip |= _fresh_head(leaves, wanted.keys() - skip, str(path))
    _check_fit(leaves, wanted, skip, str(path))

    def place(name: str, fresh: Any, shape: Any) -> Any:
        if name in skip:
            return fresh
        value = leaves[name].astype(shape.dtype)
        # Each process places only the shards of its devices.
        return jax.make_array_from_callback(
            shape.shape, shape.sharding, lambda index: value[index]
        )

    return map_with_names(place, fresh, shapes)


def _sum_channels(
    kernel: Shaped[np.ndarray, "y x old d"], new: int
) -> Float[np.ndarray, "y x new d"]:
    """Fit a kernel to `new` channels by timm's rule.

    One channel gets the sum; more channels repeat the old ones, scaled by old / new. An
    image with equal channels keeps its embedding.
    """
    old, kernel = kernel.shape[2], kernel.astype(np.float32)
    if new == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(new) % old] * np.float32(old / new)


CHANNELS = {"sum": _sum_channels}


def _in_form_of(stored: dict[str, Any], wanted: Iterable[str], path: str) -> Leaves:
    """Return the leaves with blocks stacked or unstacked, as in the model."""
    encoder = stored.get("Transformer", {})
    scan = any(name.startswith("Transformer/encoderblock/") for name in wanted)
    if scan and "encoderblock_0" in encoder:
        try:
            stored = vit.loop_to_scan(stored)
        except (ValueError, KeyError):
            raise ValueError(
                f"the blocks of {path!r} differ from each other, or one is missing: they "
                "can't be stacked for a model with scan=True"
            ) from None
    elif not scan and "encoderblock" in encoder:
        stored = vit.scan_to_loop(stored)
    return {k: np.asarray(v) for k, v in flatten_dict(stored, sep="/").items()}


def _with_posemb(
    leaves: Leaves,
    wanted: dict[str, tuple[int, ...]],
    grid: Grid | None,
    stored_grid: Grid | None,
    path: str,
    dont_load: Sequence[str],
) -> Leaves:
    """Resample position embeddings to the model's grid; drop its sincos2d constants."""
    name = "pos_embedding"
    if name not in leaves or any(re.fullmatch(regex, name) for regex in dont_load):
        return leaves
    table = leaves[name]
    if name not in wanted:
        if is_sincos2d(table, stored_grid):
            return {k: v for k, v in leaves.items() if k != name}
        return leaves
    differs = table.ndim == 3 and table.shape[1] != wanted[name][1]
    if grid is None or not (
        differs or (stored_grid is not None and tuple(stored_grid) != grid)
    ):
        return leaves
    old = grid_of(table.shape[1], stored_grid, f"pos_embedding of {path!r}")
    return {**leaves, name: resample(table, old, grid)}


def _skipped(
    shapes: Any, leaves: Leaves, dont_load: Sequence[str], path: str
) -> set[str]:
    """Return the names, in the model and in the file, that dont_load matches."""
    names = leaves.keys() | {name for name, _ in flatten_with_names(shapes)}
    skip = set()
    for regex in dont_load:
        found = {name for name in names if re.fullmatch(regex, name)}
        if not found:
            raise ValueError(
                f"dont_load: {regex!r} matches no parameter of the model or of {path!r}"
            )
        skip |= found
    return skip


def _fresh_head(leaves: Leaves, wanted: Iterable[str], path: str) -> set[str]:
    """Return the head's names, with a warning, if the file has none (a backbone)."""
    heads = ("head/", "head_dist/")
    if any(name.startswith(heads) for name in leaves):
        return set()
    head = {name for name in wanted if name.startswith(heads)}
    if head:
        weights.warn(f"{path} has no head: the model's head keeps its initial values")
    return head


def _check_fit(
    leaves: Leaves, wanted: dict[str, tuple[int, ...]], skip: set[str], path: str
) -> None:
    problems = defaultdict(list)
    for name in sorted((wanted.keys() | leaves.keys()) - skip):
        if name not in leaves:
            problems["missing in the file"].append(name)
        elif name not in wanted:
            problems["only in the file"].append(name)
        elif leaves[name].shape != tuple(wanted[name]):
            shapes = f"shape {leaves[name].shape} in the file, {tuple(wanted[name])} in the model"
            if name == KERNEL and leaves[name].shape[2:3] != tuple(wanted[name])[2:3]:
                shapes += ", which model_init_channels='sum' can adapt"
            problems[shapes].append(name)
    if problems:
        lists = [f"{what}: {', '.join(_brief(n))}" for what, n in problems.items()]
        raise ValueError(
            f"model_init {path!r} does not fit the model: set config.model as in that "
            "file, or name parameters to leave at their initial values in dont_load "
            f"(regexes): {'; '.join(lists)}"
        )


def _brief(names: Iterable[str]) -> list[str]:
    """Merge names that differ only in their block into one, "..._{0-2,5}/bias"."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for name in names:
        before, stem, rest = name.rpartition("encoderblock_")
        block, _, end = rest.partition("/")
        if stem and block.isdecimal():
            groups[before + stem, f"/{end}"].append(int(block))
        else:
            groups[name, ""] = []
    return [
        start + (_ranges(sorted(blocks)) if blocks else "") + end
        for (start, end), blocks in groups.items()
    ]


def _ranges(numbers: list[int]) -> str:
    """Format [0, 1, 2, 5] as "{0-2,5}" and [3] as "3"."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    parts = [str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs]
    return parts[0] if len(numbers) == 1 else "{" + ",".join(parts) + "}"
