"""Convert checkpoints of other libraries to vitjax's parameters, and back.

    params = from_state_dict(state, format="timm")      # a dict of numpy arrays
    state = to_state_dict(params, format="torchvision")
    params, config = load("model.safetensors")          # also .npz, .pth, a workdir
    params, config = load("model_best.pth.tar:state_dict_ema")

Each format is a table (one file) that maps the library's tensors to parameters. Every
name of both sides is used exactly once and every shape is checked; a ValueError lists
the names that are left. Arguments supply what a state dict does not contain:
`num_heads` (a fused matrix does not show it; None takes it from a known width),
`pool_type`, `posemb` and `grid` (rows, columns of the patches). The training's GELU and
LayerNorm eps are not in a state dict either; each format's file gives its library's.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from flax.traverse_util import unflatten_dict

from vitjax.config.arguments import lookup
from vitjax.models import vit
from vitjax.weights import files, state_dicts, trainers
from vitjax.weights.describe import describe
from vitjax.weights.formats import big_vision, huggingface, mup_vit, timm, torchvision
from vitjax.weights.posemb import Grid
from vitjax.weights.table import our_parts

# The order matters, because the first match wins: torchvision's files match mup-vit's
# signature too.
FORMATS = {
    "timm": timm.FORMAT,
    "huggingface": huggingface.FORMAT,
    "torchvision": torchvision.FORMAT,
    "mup_vit": mup_vit.FORMAT,
}
# The metadata key of a .safetensors file for what a state dict does not contain.
WORD = "vitjax"
METADATA = ("config", "image_shape", "class_names")


def warn(notice: str) -> None:
    """Log a warning, on one process only."""
    if jax.process_index() == 0:
        logging.warning("%s", notice)


def to_state_dict(
    params: Mapping[str, Any],
    *,
    format: str,
    posemb: str | None = None,
    grid: Grid | None = None,
) -> dict[str, np.ndarray]:
    """Return a ViT's parameters as a state dict of contiguous numpy arrays.

    Args:
      params: of a `vitjax.models.vit` model, with or without scan.
      format: a key of FORMATS.
      posemb: the model's "sincos2d" or "none", if `params` have no pos_embedding.
      grid: rows, columns of patches; needed to store the constants of sincos2d.

    Raises ValueError, in one sentence, if the format cannot express the model.
    """
    fmt = lookup(FORMATS, format, "format")
    return state_dicts.write(params, fmt, posemb=posemb, grid=grid)


def from_state_dict(
    state: Mapping[str, np.ndarray],
    *,
    format: str,
    num_heads: int | None = None,
    posemb: str | None = None,
    grid: Grid | None = None,
    scan: bool = False,
    pool_type: str | None = None,
    model_grid: Grid | None = None,
) -> dict[str, Any]:
    """Return a state dict's weights as the model's parameter tree, in numpy.

    Args:
      state: numpy arrays by key.
      format: a key of FORMATS.
      num_heads: None takes the heads of the variant (S, B, ...) of the same width.
      posemb: "learn" keeps the stored position embeddings; "sincos2d" declares them to
        be those constants, which are not parameters; None detects which they are.
      grid: rows, columns of patches; needed if they are not a square, or if the number
        of positions does not show whether the class token has one.
      scan: stack the blocks, as for a model with scan=True.
      pool_type: "tok" if the model pools by the class token; any other value makes the
        class token one more register. None means "tok" if there is a class token, and
        "gap" for files with a LayerNorm after the pooling. mup-vit's files require a
        value: they do not name the class token.
      model_grid: rows, columns of patches of the model that will get the parameters;
        used to resolve an ambiguous number of positions when it matches.

    The class token's position, if stored, is added to the token. Raises ValueError for
    keys that are left over or missing.
    """
    fmt = lookup(FORMATS, format, "format")
    params = state_dicts.read(
        state,
        fmt,
        num_heads=num_heads,
        posemb=posemb,
        grid=grid,
        pool_type=pool_type,
        model_grid=model_grid,
    )
    return vit.loop_to_scan(params) if scan else params


def model_arguments(params: Mapping[str, Any]) -> dict[str, Any]:
    """Infer the arguments of `vitjax.models.vit.Model` from the parameters.

    posemb is "none" for sincos2d too, because its constants are not parameters.
    """
    leaves = state_dicts.loop_leaves(params)
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    arguments = describe(shapes.__getitem__, our_parts(leaves)).arguments
    return {**arguments, "scan": "encoderblock" in params["Transformer"]}


def load(
    path: str | Path,
    *,
    format: str | None = None,
    num_heads: int | None = None,
    posemb: str | None = None,
    grid: Grid | None = None,
    pool_type: str | None = None,
    model_grid: Grid | None = None,
    say: Callable[[str], None] = warn,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Load (params, config) from a file or a run; config is None if none is stored.

    Args:
      path: a run's workdir or WORKDIR/checkpoints/STEP; big_vision's `file.npz`, or
        `file.npz:sub/tree`; a state dict in .safetensors, .pth, .pt, .bin, .ckpt or
        .pth.tar, or `file.pth:state_dict_ema`, see `vitjax.weights.trainers`; a Hugging
        Face model's folder, or the index of its shards. One in a bucket, gs:// or s3://,
        is copied to this machine.
      format: of a state dict; None detects it. For the rest, see `from_state_dict`.
      say: called with the notice of which state dict was chosen, which prefix was
        removed from the keys and which keys were left out.

    Parameters are numpy arrays in the stored dtype and form (scan or not). Raises
    ValueError if the path does not exist or cannot be read.
    """
    file, asked = files.split(path)
    if file.suffix == ".npz":
        arrays, _ = files.read(file)
        leaves = big_vision.leaves(arrays, asked, grid, model_grid)
        return unflatten_dict(leaves, sep="/"), None
    if not is_file(path):
        from vitjax.checkpoints.read import read_params

        return read_params(path)
    file = file_in(file)
    arrays, header = files.read(file)
    metadata = json.loads(header[WORD]) if WORD in header else {}
    if metadata.get("names") == WORD:  # vitjax's own names, for any model
        return unflatten_dict(arrays, sep="/"), metadata.get("config")
    heads = metadata.get("num_heads") or _heads_in_config(file)
    if num_heads and heads and num_heads != heads:
        raise ValueError(
            f"{str(path)!r} has {heads} heads, but num_heads is {num_heads}"
        )
    formats = FORMATS
    if format is not None:
        formats = {format: lookup(FORMATS, format, "format")}
    state, found, notice = trainers.find(arrays, asked, formats, file)
    if notice is not None:
        say(notice)
    params = from_state_dict(
        state,
        format=found,
        num_heads=num_heads or heads,
        posemb=posemb or metadata.get("posemb"),
        grid=grid or metadata.get("grid"),
        pool_type=pool_type or metadata.get("pool_type"),
        model_grid=model_grid,
    )
    return params, metadata.get("config")


def usual_gelu(path: str | Path, config: Mapping[str, Any] | None) -> str:
    """Return the GELU that a checkpoint was probably trained with.

    The `config` (as `load` returns it) decides. Without one, it is big_vision's "tanh"
    for a .npz, and "exact" for state dicts, the default of all those libraries.
    """
    if config is not None:
        return dict(config.get("model") or {}).get("gelu", vit.ViT.gelu)
    return "tanh" if files.split(path)[0].suffix == ".npz" else "exact"


def metadata(path: str | Path) -> dict[str, Any]:
    """Return the metadata stored with a checkpoint; missing keys are left out.

    Runs, and .safetensors that vitjax wrote, have "config", "image_shape" (the model's
    height, width, channels) and "class_names". A Hugging Face model's folder has
    "class_names" only.
    """
    file = file_in(files.split(path)[0])
    kept: dict[str, Any] = {}
    if file.suffix == ".safetensors":
        kept = json.loads(files.safetensors_metadata(file).get(WORD, "{}"))
    elif not is_file(path):
        from vitjax.checkpoints.read import read_meta

        kept = read_meta(path)
    if not kept:
        kept = {"class_names": _names_in_config(file)}
    return {key: kept[key] for key in METADATA if kept.get(key) is not None}


def is_file(path: str | Path) -> bool:
    """Return True if a path names a weight file (existing or not), False for a run."""
    file = file_in(files.split(path)[0])
    return file.is_file() or (file.suffix in files.SUFFIXES and not file.is_dir())


def format_of(state: Mapping[str, Any]) -> str:
    """Detect a state dict's format by its keys; ValueError if none of FORMATS fits."""
    found = trainers.prefixes(state, FORMATS).get("")
    if found is None:
        raise trainers.none_of(state, FORMATS)
    return found


def file_in(path: Path) -> Path:
    """Return the weight file in a Hugging Face model's folder, else the path itself."""
    for name in files.FOLDERS:
        if (path / name).is_file():
            return path / name
    return path


def _names_in_config(path: Path) -> list[str] | None:
    """Return `id2label` of a Hugging Face config.json; None if it has only LABEL_i."""
    labels = huggingface.config_json(path).get("id2label")
    if not isinstance(labels, dict):
        return None
    names = [name for _, name in sorted(labels.items(), key=lambda x: int(x[0]))]
    counted = names == [f"LABEL_{k}" for k in range(len(names))]
    return None if counted else names


def _heads_in_config(path: Path) -> int | None:
    """Return num_attention_heads of a Hugging Face config.json, else None."""
    return huggingface.config_json(path).get("num_attention_heads")
