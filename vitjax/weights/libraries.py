"""Import torch and the libraries built on it; report a failure in one sentence.

These libraries are optional and large, and each release needs a matching torch. The
import of a pair that does not match raises OSError, RuntimeError, AttributeError or
ImportError.
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

# A plain `pip install torch` might replace a CPU build of torch with a CUDA build.
MATCHING = "in matching versions and from the same index as before"
NAMES = ("torch", "torchvision", "timm", "transformers", "triton")
# Compiled ops that torchvision's modules reference at import. They are for object
# detection, and vitjax never calls them.
NAMED_AT_IMPORT = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class Unusable(ValueError):
    """A library is missing or broken; the message names it, its error and a remedy."""


@contextlib.contextmanager
def importing(name: str, instead: str = "") -> Iterator[None]:
    """Context manager around a library's import; any exception becomes `Unusable`.

    `instead` describes an alternative to installing the library.
    """
    try:
        yield
    except Unusable:  # raised by a nested import
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            sentence = f"{name} is not installed: pip install {name}"
        else:
            sentence = _broken(name, error)
        raise Unusable(f"{sentence}{instead and f', or {instead}'}") from error


def import_torchvision() -> ModuleType:
    """Import torchvision, even PyPI's wheel with a CPU-only torch.

    Such a torchvision cannot load its compiled library, and its import fails with
    "operator torchvision::nms does not exist"; so do the imports of timm and
    transformers, which import it. Its transforms and models need only the schemas of
    these ops, so they are defined before the first import. Raises `Unusable`.
    """
    with importing("torchvision"):
        if "torchvision" not in sys.modules:
            spec = importlib.util.find_spec("torchvision")
            if spec is not None and spec.origin is not None:
                _with_schemas(Path(spec.origin).parent)
        import torchvision
    return torchvision


@functools.cache  # the definitions last only as long as the Library object
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
    """Describe a failed import: the first line of its cause, the libraries involved."""
    through = {name: None}
    while True:
        frames = traceback.walk_tb(error.__traceback__)
        modules = [frame.f_globals.get("__name__") for frame, _ in frames]
        # In "cannot import name ... from ...", `name` is the second library.
        modules.append(getattr(error, "name", None))
        tops = [str(module).split(".")[0] for module in modules]
        through |= dict.fromkeys(top for top in tops if top in NAMES)
        if error.__cause__ is None:
            break
        error = error.__cause__  # transformers wraps the original error
    message = (str(error).strip() or "no reason given").splitlines()[0][:300]
    through |= {"torch": None}  # the others are built against it
    versions = ", ".join(map(_version, through))
    return (
        f"{name} cannot be imported, {type(error).__name__}: {message} ({versions}); "
        f"install {' and '.join(through)} again, {MATCHING}"
    )


def _version(name: str) -> str:
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return name
