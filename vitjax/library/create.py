"""Create a model from a name or a config, and describe one as config sections."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from flax import linen as nn
from ml_collections import ConfigDict

from vitjax.config import arguments, files
from vitjax.models import MODELS


def create_model(
    name: str | Mapping[str, Any] | ConfigDict,
    num_classes: int | None = None,
    **model: Any,
) -> nn.Module:
    """Return a linen module: `apply({"params": p}, images, train=False)`.

    Args:
      name: a variant of the ViT ("S/16"), a name of `vitjax.models.MODELS`, a config
        file ("configs/vit_s16_i1k.py:preset=fixed"), or a config as a mapping.
      num_classes: the number of outputs, 1,000 if neither it nor a config says.
      **model: arguments of the model (width=..., pool_type=...), which override the
        config's section `model`.

    `apply` returns (logits (b, classes), intermediates) for images (b, y, x, channels),
    float and normalised. `module.init(key, images)["params"]` makes parameters. Raises
    ValueError for an unknown name or argument.
    """
    sections = _sections(name)
    classes = num_classes or sections.get("num_classes") or 1000
    given = {**(sections.get("model") or {}), **model}
    function = arguments.lookup(MODELS, sections.get("model_name", "vit"), "model")
    return arguments.call("model", function, given, num_classes=classes)


def sections_of(model: nn.Module) -> dict[str, Any]:
    """Return the config's `model_name`, `model` and `num_classes` of a module.

    Raises ValueError if no function of MODELS makes such a module.
    """
    fields = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name")
    }
    classes = fields.pop("num_classes", None)
    for name, function in MODELS.items():
        try:
            made = function(num_classes=classes, **fields)
        except (TypeError, ValueError):
            continue
        if made == model:
            return {"model_name": name, "model": fields, "num_classes": classes}
    raise ValueError(
        f"{type(model).__name__} is not a model that vitjax can name: expected one of "
        f"create_model, or a name of {', '.join(sorted(MODELS))}"
    )


def _sections(name: str | Mapping[str, Any] | ConfigDict) -> Mapping[str, Any]:
    if isinstance(name, Mapping | ConfigDict):
        return name.to_dict() if isinstance(name, ConfigDict) else name
    if name in MODELS:
        return {"model_name": name}
    if re.fullmatch(r"[A-Za-z0-9]+/\d+", name):
        return {"model": {"variant": name}}
    if ".py" in name:
        config, _ = files.from_big_vision(files.load(name))
        return config.to_dict()
    raise ValueError(
        f"unknown model {name!r}: expected a variant such as 'S/16', a config file, or "
        f"one of {', '.join(sorted(MODELS))}"
    )
