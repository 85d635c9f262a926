"""Other people's checkpoints as vitjax's parameters, and back.

    params = from_state_dict(state, format="timm")      # a dict of numpy arrays
    state = to_state_dict(params, format="torchvision")
    params, config = load("model.safetensors")          # also .npz, .pth, a workdir
    params, config = load("model_best.pth.tar:state_dict_ema")

Each format is a table (one file) of which tensors hold which parameters. Every name of
both sides is used exactly once and every shape is checked, or a ValueError says which
are left. What a state dict does not say can be given: `num_heads` (a fused matrix has
none; known widths tell it), `pool_type`, `posemb` and `grid` (rows, columns of the
patches). It does
not say either which GELU and which LayerNorm eps it was trained with: each format's
file has its library's.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from flax.traverse_util import unflatten_dict

from vitjax.config.lookup import lookup
from vitjax.models import vit
from vitjax.weights import files, safetensors, state_dicts, trainers
from vitjax.weights.describe import describe
from vitjax.weights.formats import big_vision, huggingface, mup_vit, timm, torchvision
from vitjax.weights.posemb import Grid
from vitjax.weights.table import our_parts

# In the order in which a file is tried: mup-vit's signature is also torchvision's.
FORMATS = {
    "timm": timm.FORMAT,
    "huggingface": huggingface.FORMAT,
    "torchvision": torchvision.FORMAT,
    "mup_vit": mup_vit.FORMAT,
}
# Under this word a .safetensors file keeps what a state dict does not say.
WORD = "vitjax"
BESIDE = ("config", "image_shape", "class_names")
# What a Hugging Face model's folder has its weights in.
FOLDERS = tuple(
    name + end
    for end in ("", files.INDEX)
    for name in ("model.safetensors", "pytorch_model.bin")
)


def warn(notice: str) -> None:
    """Say it on stderr, in one process."""
    if jax.process_index() == 0:
        logging.warning("%s", notice)


def to_state_dict(
    params: Mapping[str, Any],
    *,
    format: str,
    posemb: str | None = None,
    grid: Grid | None = None,
) -> dict[str, np.ndarray]:
    """The state dict, of contiguous numpy arrays, that holds a ViT's parameters.

    Args:
      params: of a `vitjax.models.vit` model, with or without scan.
      format: a key of FORMATS.
      posemb: the model's, where `params` have no pos_embedding: "sincos2d" or "none".
        The formats store the constants of sincos2d, for which they need `grid` (rows,
        columns of patches).

    Raises ValueError, in one sentence, for what the format cannot express.
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
    """vitjax's parameters of a state dict; the tree of the model, in numpy.

    Args:
      state: numpy arrays by key.
      format: a key of FORMATS.
      num_heads: None takes that of the variant (S, B, ...) of the same width.
      posemb: "learn" keeps what position embeddings there are, "sincos2d" says that
        they are those constants, which are no parameters; None finds out.
      grid: rows, columns of patches; needed where they are not a square, or where it
        is open whether the class token has a position.
      scan: stack the blocks, as for a model with scan=True.
      pool_type: "tok" says that the class token is pooled by, anything else that it is
        one more register. None takes a class token to be pooled by; mup-vit's files,
        where it has no name of its own, need an answer.
      model_grid: the patches of the model that the parameters are for, which decides
        what the positions leave open if it is the `grid`.

    A class token's own position is added to the token. Raises ValueError for keys that
    are left, or missing.
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
    """The arguments of `vitjax.models.vit.Model` that parameters tell of their model.

    posemb is "none" for sincos2d too, whose constants are no parameters.
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
    """(params, config) of a file or a run; the config is None where none is stored.

    Args:
      path: a run's workdir or WORKDIR/checkpoints/STEP; big_vision's `file.npz`, or
        `file.npz:sub/tree`; a state dict in .safetensors, .pth, .pt, .bin, .ckpt or
        .pth.tar, or `file.pth:state_dict_ema`, see `vitjax.weights.trainers`; the folder
        of a Hugging Face model, or the index of its shards.
      format: of a state dict; None finds out. For the rest, see `from_state_dict`.
      say: is given the notice of what was chosen, taken off the keys and left out.

    Parameters are numpy's, in the dtype and form (scan or not) that is stored. Raises
    ValueError if there is nothing, or it cannot be read.
    """
    file, asked = files.split(path)
    if file.suffix == ".npz":
        arrays, _ = files.read(file)
        leaves = big_vision.leaves(arrays, asked, grid, model_grid)
        return unflatten_dict(leaves, sep="/"), None
    if not is_file(path):
        from vitjax.checkpoints.read import read_params

        return read_params(path)
    file = _inside(file)
    arrays, words = files.read(file)
    told = json.loads(words[WORD]) if WORD in words else {}
    if told.get("names") == WORD:  # our own parameters, of any model here
        return unflatten_dict(arrays, sep="/"), told.get("config")
    said = told.get("num_heads") or _heads_beside(file)
    if num_heads and said and num_heads != said:
        raise ValueError(f"{str(path)!r} is of {said} heads, not of {num_heads}")
    formats = FORMATS
    if format is not None:
        formats = {format: lookup(FORMATS, format, "format")}
    state, found, notice = trainers.find(arrays, asked, formats, file)
    if notice is not None:
        say(notice)
    params = from_state_dict(
        state,
        format=found,
        num_heads=num_heads or said,
        posemb=posemb or told.get("posemb"),
        grid=grid or told.get("grid"),
        pool_type=pool_type or told.get("pool_type"),
        model_grid=model_grid,
    )
    return params, told.get("config")


def usual_gelu(path: str | Path, config: Mapping[str, Any] | None) -> str:
    """The GELU that a checkpoint was trained with, as far as it can be told.

    What its `config` (as `load` returns it) says; big_vision's "tanh" for a .npz; "exact"
    for state dicts, the default of all those libraries.
    """
    if config is not None:
        return dict(config.get("model") or {}).get("gelu", vit.ViT.gelu)
    return "tanh" if files.split(path)[0].suffix == ".npz" else "exact"


def beside(path: str | Path) -> dict[str, Any]:
    """What stands beside the parameters that `load` reads, as far as it is there.

    "config" of the run, "image_shape" (height, width, channels) that the model is for,
    "class_names"; of runs and of .safetensors that vitjax wrote. Of a Hugging Face
    model's folder the last.
    """
    file = _inside(files.split(path)[0])
    kept: dict[str, Any] = {}
    if file.suffix == ".safetensors":
        kept = json.loads(safetensors.words(file).get(WORD, "{}"))
    elif not is_file(path):
        from vitjax.checkpoints.read import read_meta

        kept = read_meta(path)
    if not kept:
        kept = {"class_names": _names_beside(file)}
    return {key: kept[key] for key in BESIDE if kept.get(key) is not None}


def is_file(path: str | Path) -> bool:
    """Whether a path is of a file of weights, there or not; else it is of a run."""
    file = _inside(files.split(path)[0])
    return file.is_file() or (file.suffix in files.SUFFIXES and not file.is_dir())


def format_of(state: Mapping[str, Any]) -> str:
    """The format of a state dict, by its keys; ValueError if it is none of FORMATS."""
    found = trainers.prefixes(state, FORMATS).get("")
    if found is None:
        raise trainers.none_of(state, FORMATS)
    return found


def _inside(path: Path) -> Path:
    """The file of weights in the folder of a Hugging Face model; else the path itself."""
    for name in FOLDERS:
        if (path / name).is_file():
            return path / name
    return path


def _names_beside(path: Path) -> list[str] | None:
    """`id2label` of a Hugging Face model's config.json, unless it only counts."""
    labels = huggingface.config_beside(path).get("id2label")
    if not isinstance(labels, dict):
        return None
    names = [name for _, name in sorted(labels.items(), key=lambda x: int(x[0]))]
    counted = names == [f"LABEL_{k}" for k in range(len(names))]
    return None if counted else names


def _heads_beside(path: Path) -> int | None:
    """What the config.json of a Hugging Face model says, if one lies beside."""
    return huggingface.config_beside(path).get("num_attention_heads")
