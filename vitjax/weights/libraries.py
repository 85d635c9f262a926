"""Imports of torch and of what stands on it: a failure of theirs is one sentence.

They are optional here, large, and made for each other's versions. A pair that does not
match raises OSError, RuntimeError, AttributeError or ImportError while it is imported.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# The plain `pip install torch` could put a torch for CUDA in the place of one for the CPU.
MATCHING = "in versions made for each other and from where they came"
NAMES = ("torch", "torchvision", "timm", "transformers", "triton")
# Compiled ops that torchvision's modules name while they are imported. They belong to
# object detection; nothing here calls them.
NAMED_AT_IMPORT = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class Unusable(ValueError):
    """A library that is missing or broken: which, what it said, what helps."""


@contextlib.contextmanager
def importing(name: str, instead: str = "") -> Iterator[None]:
    """Around the import of a library: whatever it raises becomes `Unusable`.

    `instead` are words for what helps as well as an installation.
    """
    try:
        yield
    except Unusable:  # of a library that this one needs
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            sentence = f"{name} is not installed: pip install {name}"
        else:
            sentence = _broken(name, error)
        raise Unusable(f"{sentence}{instead and f', or {instead}'}") from error


def import_torchvision() -> ModuleType:
    """torchvision, also where PyPI's wheel stands beside a torch built for the CPU only.

    Such a torchvision can't load its compiled library, and its import fails with
    "operator torchvision::nms does not exist"; so does timm's and transformers', which
    import it. Its transforms and models need only that these ops have schemas, which are
    defined here before the first import. Raises `Unusable`.
    """
    with importing("torchvision"):
        if "torchvision" not in sys.modules:
            spec = importlib.util.find_spec("torchvision")
            if spec is not None and spec.origin is not None:
                _with_schemas(Path(spec.origin).parent)
        import torchvision
    return torchvision


@functools.cache  # what a Library defines lasts as long as the object
def _with_schemas(folder: Path) -> Any:
    import torch

    for compiled in folder.glob("_C*"):
        with contextlib.suppress(OSError):  # built for another torch
            torch.ops.load_library(str(compiled))
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in NAMED_AT_IMPORT:
        if not hasattr(torch.ops.torchvision, schema.split("(")[0]):
            library.define(schema)
    return library


def _broken(name: str, error: BaseException) -> str:
    """Which libraries the failure went through, and the first line of its cause."""
    through = {name: None}
    while True:
        frames = traceback.walk_tb(error.__traceback__)
        modules = [frame.f_globals.get("__name__") for frame, _ in frames]
        # "cannot import name ... from ..." has the second library here.
        modules.append(getattr(error, "name", None))
        tops = [str(module).split(".")[0] for module in modules]
        through |= dict.fromkeys(top for top in tops if top in NAMES)
        if error.__cause__ is None:
            break
        error = error.__cause__  # transformers hides what happened behind its own
    said = (str(error).strip() or "no reason given").splitlines()[0][:300]
    through |= {"torch": None}  # for which the others are made
    versions = ", ".join(map(_version, through))
    return (
        f"{name} cannot be imported, {type(error).__name__}: {said} ({versions}); "
        f"install {' and '.join(through)} again, {MATCHING}"
    )


def _version(name: str) -> str:
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return name
