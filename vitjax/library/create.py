"""Create a model from a name or a config, and describe one as config sections."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from flax import linen as nn
from ml_collections import ConfigDict

from input_pipeline import parts
from vitjax import program
from vitjax.config import files, shipped
from vitjax.models import MODELS


def create_model(
    name: str | Mapping[str, Any] | ConfigDict,
    num_classes: int | None = None,
    **model: Any,
) -> nn.Module:
    """Return a linen module: `apply({"params": p}, images, train=False)`.

    Args:
      name: a variant of the ViT ("S/16"), a name of `vitjax.models.MODELS`, a model of
        one's own ("mine.vit2"), a config file ("vit_s16_i1k:preset=fixed",
        "configs/mine.py"), or a config as a mapping.
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
    return program.model_of(sections.get("model_name", "vit"), given, classes)


def sections_of(model: nn.Module) -> dict[str, Any]:
    """Return the config's `model_name`, `model` and `num_classes` of a module.

    A model of one's own is named by its class. Raises ValueError if its class cannot be
    found under its name, such as a class that a function makes.
    """
    fields = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.init and field.name not in ("parent", "name")
    }
    classes = fields.pop("num_classes", None)
    own = f"{type(model).__module__}.{type(model).__qualname__}"
    for name in (*MODELS, own):
        try:
            made = program.model_of(name, fields, classes)
        except (TypeError, ValueError):
            continue
        if made == model:
            return {"model_name": name, "model": fields, "num_classes": classes}
    raise ValueError(
        f"the model's class {own} cannot be made again from its name and its fields: "
        "define it at the top of a module, with a field num_classes"
    )


def _sections(name: str | Mapping[str, Any] | ConfigDict) -> Mapping[str, Any]:
    if isinstance(name, Mapping | ConfigDict):
        return name.to_dict() if isinstance(name, ConfigDict) else name
    if name in MODELS:
        return {"model_name": name}
    if re.fullmatch(r"[A-Za-z0-9]+/\d+", name):
        return {"model": {"variant": name}}
    if parts.is_dotted(name) and not name.endswith(".py"):
        return {"model_name": name}
    path, _ = files.split_spec(name)
    if path.suffix == ".py" or str(path) in shipped.configs():
        config, _ = files.from_big_vision(files.load(name))
        return config.to_dict()
    raise ValueError(
        f"unknown model {name!r}: expected a variant such as 'S/16', a config, or one of "
        f"{', '.join(sorted(MODELS))}"
    )
