"""Make a module from a config's `model` section, for models without variants."""

import dataclasses
import typing
from typing import Any

from vitjax.config import arguments
from vitjax.config.lookup import unknown


def make(module: Any, num_classes: int, kw: dict[str, Any]) -> Any:
    """Return `module(num_classes, **kw)`.

    Raises ValueError for an unknown name or a wrong type.
    """
    fields = {f.name for f in dataclasses.fields(module)} - {"parent", "name"}
    for name in kw:
        if name not in fields:
            raise unknown(name, fields, "model argument")
    arguments.check_types("model", typing.get_type_hints(module), kw)
    if "patch_size" in kw:
        kw = {**kw, "patch_size": tuple(kw["patch_size"])}
    return module(num_classes, **kw)
