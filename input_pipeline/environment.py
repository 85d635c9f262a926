"""Prepares a process for TensorFlow, and for triton after it.

Importing `input_pipeline` or `vitjax` calls `prepare`, and does nothing else. After one of
them, a program may import TensorFlow and torch in any order.
"""

import ctypes
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
    """Finds triton's compiled library after TensorFlow's: it uses its own symbols first.

    TensorFlow's wheels load their library with RTLD_GLOBAL, and both libraries hold an
    LLVM. A triton that is loaded after TensorFlow takes some of its LLVM's functions
    from there, which ends the process: SIGSEGV with triton 3.7 and 3.8, "inconsistency
    in registered CommandLine options" with 3.9 (tensorflow 2.20, 2.21; TensorFlow's
    issue 124205). torch imports triton by itself, at the first optimizer of torch.optim
    and at `import torchvision`. With RTLD_DEEPBIND the order does not matter.

    Deep binding passes by a malloc that LD_PRELOAD has put in place, which ends the
    process too. So a process without TensorFlow, or with triton first, binds as ever;
    with such a malloc, triton after TensorFlow is refused, which torch takes for no
    triton.
    """

    def find_spec(
        self,
        fullname: str,
        path: Any,  # names, or a namespace's own kind of list
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of triton's library with a loader that binds deeply; else None.

        Raises ImportError where deep binding would end the process.
        """
        if fullname != TRITON or "tensorflow" not in sys.modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or not isinstance(
            spec.loader, importlib.machinery.ExtensionFileLoader
        ):
            return None
        if _malloc_is_replaced():
            raise ImportError(
                "triton after TensorFlow cannot be loaded beside a malloc of LD_PRELOAD: "
                "import triton before TensorFlow, or leave LD_PRELOAD out"
            )
        spec.loader = _DeepLoader(fullname, spec.loader.path)
        return spec


def _malloc_is_replaced() -> bool:
    """Whether the process allocates by another library than the one of C."""
    seen = ctypes.CDLL(None).malloc
    own = ctypes.CDLL("libc.so.6").malloc
    address = lambda function: ctypes.cast(function, ctypes.c_void_p).value
    return address(seen) != address(own)


class _DeepLoader(importlib.machinery.ExtensionFileLoader):
    """Loads a compiled module with RTLD_DEEPBIND."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        flags = sys.getdlopenflags()
        sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
        try:
            return super().create_module(spec)
        finally:
            sys.setdlopenflags(flags)
