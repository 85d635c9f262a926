"""What must hold before TensorFlow is imported, and beside it.

The only work that importing `input_pipeline` or `vitjax` does: both prepare a process
whose own code may import TensorFlow, torch and either of them in any order.
"""

import importlib.abc
import importlib.machinery
import os
import sys
from types import ModuleType
from typing import Any

TRITON = "triton._C.libtriton"


def prepare() -> None:
    """Set what TensorFlow reads at its import, and keep triton's symbols apart from it.

    Variables that the user has set stay. Nothing is imported.
    """
    # No chatter, and the same bits on every processor.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # Of files on gs:// only what is asked for: the default reads 64 MiB around it.
    os.environ.setdefault("GCS_READ_CACHE_MAX_SIZE_MB", "0")
    os.environ.setdefault("GCS_READ_CACHE_BLOCK_SIZE_MB", "0")
    prepared = any(isinstance(finder, OwnSymbols) for finder in sys.meta_path)
    if hasattr(os, "RTLD_DEEPBIND") and not prepared:
        sys.meta_path.insert(0, OwnSymbols())


class OwnSymbols(importlib.abc.MetaPathFinder):
    """Finds triton's compiled library, to be loaded with its own symbols first.

    TensorFlow's wheels load their library with RTLD_GLOBAL, and both libraries hold an
    LLVM. A triton that is loaded after TensorFlow takes some of its LLVM's functions
    from there, which ends the process: SIGSEGV with triton 3.7 and 3.8, "inconsistency
    in registered CommandLine options" with 3.9 (tensorflow 2.20, 2.21; its issue
    124205). torch imports triton by itself, at the first optimizer of torch.optim and
    at `import torchvision`. With RTLD_DEEPBIND the order does not matter, and a process
    without triton loads none.
    """

    def find_spec(
        self,
        fullname: str,
        path: Any,  # names, or a namespace's own kind of list
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of triton's library with a loader that binds deeply; else None."""
        if fullname != TRITON:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _DeepLoader(fullname, spec.origin)
        return spec


class _DeepLoader(importlib.machinery.ExtensionFileLoader):
    """Loads a compiled module with RTLD_DEEPBIND."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        flags = sys.getdlopenflags()
        sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
        try:
            return super().create_module(spec)
        finally:
            sys.setdlopenflags(flags)
