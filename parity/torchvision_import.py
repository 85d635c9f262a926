"""The one place that imports torchvision."""

import contextlib
import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

# Compiled ops that torchvision's modules name while they are imported. They belong to
# object detection; nothing here calls them.
NAMED_AT_IMPORT = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def import_torchvision() -> ModuleType:
    """torchvision, also where PyPI's wheel stands beside a torch built for the CPU only.

    Such a torchvision can't load its compiled library, and its import fails with
    "operator torchvision::nms does not exist". Its transforms and models need only that
    these ops have schemas, which are defined here before the first import.

    Raises:
      ImportError: torchvision is not installed, or was tried without this function.
    """
    if "torchvision" not in sys.modules:
        spec = importlib.util.find_spec("torchvision")
        if spec is None or spec.origin is None:
            raise ImportError('torchvision is missing: pip install -e ".[parity]"')
        _with_schemas(Path(spec.origin).parent)
    import torchvision

    return torchvision


@functools.cache  # what a Library defines lasts as long as the object
def _with_schemas(folder: Path) -> Any:
    for compiled in folder.glob("_C*"):
        with contextlib.suppress(OSError):  # built for another torch
            torch.ops.load_library(str(compiled))
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in NAMED_AT_IMPORT:
        if not hasattr(torch.ops.torchvision, schema.split("(")[0]):
            library.define(schema)
    return library
