"""Infer the ViT's arguments from a checkpoint of any supported kind."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vitjax import weights
from vitjax.config.arguments import lookup
from vitjax.models import vit
from vitjax.weights import files, posemb
from vitjax.weights.formats import huggingface

# Hugging Face's names for the GELUs.
HIDDEN_ACTS = {
    "gelu": "exact",
    "gelu_python": "exact",
    # Three spellings of one formula.
    "gelu_pytorch_tanh": "tanh",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
    "quick_gelu": "quick",
}
CLIP_EPS = 1e-5  # LayerNorm eps of timm's models with pre_norm


def model_of(
    path: str | Path, *, num_heads: int | None = None, pool_type: str | None = None
) -> dict[str, Any]:
    """Return a checkpoint's arguments of `vitjax.models.vit.Model`, but num_classes.

    They come from the config of a run, or of a file that stores one. Otherwise the
    shapes and the format determine them: a .npz without stored positions is taken to
    use sincos2d, and the GELU is the format's usual one. `num_heads` and `pool_type`
    are as in `load`. Raises ValueError as `load` does, and if the model is not a ViT.
    """
    config = weights.metadata(path).get("config")
    if config is not None:
        name = config.get("model_name", "vit")
        if name != "vit":
            raise ValueError(f"{str(path)!r} holds a model {name!r}, expected a ViT")
        return dict(config.get("model") or {})
    given: dict[str, Any] = {"num_heads": num_heads, "pool_type": pool_type}
    # Silent: the caller that loads the parameters reports the choice in the file.
    given |= {"posemb": "learn", "say": lambda notice: None}
    try:
        params, stored = weights.load(path, **given)
    except posemb.GridUnknown as error:  # the grid affects no argument
        params, stored = weights.load(path, grid=(1, error.stored), **given)
    arguments = weights.model_arguments(params)
    del arguments["num_classes"]
    file, _ = files.split(path)
    arguments["posemb"] = _posemb(params, file.suffix == ".npz")
    return arguments | settings_of(path, stored, arguments["pre_norm"])


def settings_of(
    path: str | Path, config: Mapping[str, Any] | None, pre_norm: bool
) -> dict[str, Any]:
    """Return "gelu", and "norm_eps" if known to differ from the default 1e-6.

    Shapes do not show these two. They come from the file's `config` (as `load` returns
    it), its format and the config.json of a Hugging Face model. `pre_norm` is the
    model's argument; it marks a CLIP model, whose eps is CLIP_EPS.
    """
    found: dict[str, Any] = {"gelu": weights.usual_gelu(path, config)}
    if config is not None:
        return found
    if pre_norm:
        found["norm_eps"] = CLIP_EPS
    return found | from_config_json(path)


def unlike(
    path: str | Path, config: Mapping[str, Any] | None, model: vit.ViT
) -> Iterator[str]:
    """Yield a sentence for each of `settings_of` from which the model differs.

    gelu="quick" yields none: it is never a default, and timm's files do not record it.
    """
    for key, usual in settings_of(path, config, model.pre_norm).items():
        own = getattr(model, key)
        if own not in (usual, "quick"):
            yield (
                f"{path} was probably trained with {key}={usual!r}, but the model has "
                f"{key}={own!r}: set config.model.{key} unless this is intended"
            )


def from_config_json(path: str | Path) -> dict[str, Any]:
    """Return the GELU and eps in the config.json next to Hugging Face weights."""
    config = huggingface.config_json(files.split(path)[0])
    found = {}
    if "hidden_act" in config:
        found["gelu"] = lookup(
            HIDDEN_ACTS, str(config["hidden_act"]), "hidden_act of config.json"
        )
    if "layer_norm_eps" in config:
        found["norm_eps"] = config["layer_norm_eps"]
    return found


def _posemb(params: Mapping[str, Any], npz: bool) -> str:
    table = params.get("pos_embedding")
    if table is None:
        return "sincos2d" if npz else "none"
    return "learn" if posemb.is_sincos2d(table) is None else "sincos2d"
