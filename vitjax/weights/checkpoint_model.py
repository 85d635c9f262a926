"""Which ViT a checkpoint is of, whatever wrote it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vitjax import weights
from vitjax.models import vit
from vitjax.weights import files, posemb
from vitjax.weights.formats import huggingface

# Hugging Face's words for the GELUs.
HIDDEN_ACTS = {"gelu": "exact", "gelu_pytorch_tanh": "tanh", "quick_gelu": "quick"}
CLIP_EPS = 1e-5  # of timm's models with pre_norm


def model_of(
    path: str | Path, *, num_heads: int | None = None, pool_type: str | None = None
) -> dict[str, Any]:
    """The arguments of `vitjax.models.vit.Model` for a checkpoint, but for num_classes.

    Of a run, or a file that keeps its config, those of the config. Of others what shapes
    and format tell: a .npz that stores no positions is taken to have those of sincos2d,
    a GELU is the usual one of the format. `num_heads` and `pool_type` are as `load` takes
    them. Raises ValueError as that does, and for a model that is no ViT.
    """
    config = weights.beside(path).get("config")
    if config is not None:
        name = config.get("model_name", "vit")
        if name != "vit":
            raise ValueError(f"{str(path)!r} is of a model {name!r}, not of a ViT")
        return dict(config.get("model") or {})
    given: dict[str, Any] = {"num_heads": num_heads, "pool_type": pool_type}
    # What is chosen in the file is said where it is loaded.
    given |= {"posemb": "learn", "say": lambda notice: None}
    try:
        params, told = weights.load(path, **given)
    except posemb.GridUnknown as error:  # which changes no argument
        params, told = weights.load(path, grid=(1, error.stored), **given)
    arguments = weights.model_arguments(params)
    del arguments["num_classes"]
    file, _ = files.split(path)
    arguments["posemb"] = _posemb(params, file.suffix == ".npz")
    return arguments | settings_of(path, told, arguments["pre_norm"])


def settings_of(
    path: str | Path, config: Mapping[str, Any] | None, pre_norm: bool
) -> dict[str, Any]:
    """What shapes do not tell: "gelu", and "norm_eps" where another than 1e-6 is known.

    As far as the file's `config` (as `load` returns it), its format and the config.json
    of a Hugging Face model tell; `pre_norm` is the model's, which is CLIP's.
    """
    found: dict[str, Any] = {"gelu": weights.usual_gelu(path, config)}
    if config is not None:
        return found
    if pre_norm:
        found["norm_eps"] = CLIP_EPS
    return found | told_beside(path)


def unlike(
    path: str | Path, config: Mapping[str, Any] | None, model: vit.ViT
) -> Iterator[str]:
    """A sentence for each of `settings_of` that a model has otherwise.

    None for gelu="quick", which is never a default, and which no file of timm tells.
    """
    for key, usual in settings_of(path, config, model.pre_norm).items():
        own = getattr(model, key)
        if own not in (usual, "quick"):
            yield (
                f"{path} was probably trained with {key}={usual!r}, but the model has "
                f"{key}={own!r}: set config.model.{key} unless this is meant"
            )


def told_beside(path: str | Path) -> dict[str, Any]:
    """GELU and eps that the config.json beside a Hugging Face model's weights tells."""
    config = huggingface.config_beside(files.split(path)[0])
    found = {}
    if config.get("hidden_act") in HIDDEN_ACTS:
        found["gelu"] = HIDDEN_ACTS[config["hidden_act"]]
    if "layer_norm_eps" in config:
        found["norm_eps"] = config["layer_norm_eps"]
    return found


def _posemb(params: Mapping[str, Any], npz: bool) -> str:
    table = params.get("pos_embedding")
    if table is None:
        return "sincos2d" if npz else "none"
    return "learn" if posemb.is_sincos2d(table) is None else "sincos2d"
