"""Prepare a process for TensorFlow, for triton after it, and for JAX without chips.

Importing `input_pipeline` or `vitjax` calls `prepare` and does nothing else. After
that, a program may import TensorFlow and torch in any order.
"""

import ctypes
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

TRITON = "triton._C.libtriton"


def prepare() -> None:
    """Set variables of TensorFlow and JAX, and keep triton's symbols to itself.

    Variables that the user has set are kept. Nothing is imported. JAX gets only the CPU
    where its plugins are installed and no chip is present.
    """
    # No log noise, and the same bits on every processor.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # tf.data runs ops side by side. Splitting an op over threads as well costs a core
    # more than it takes: 0.7 ms for an antialiased resize of 1 ms.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    # JAX's plugins for absent chips, installed to compile for them, print tracebacks.
    if _has_plugin() and not has_gpu() and not has_tpu():
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    prepared = any(isinstance(finder, OwnSymbols) for finder in sys.meta_path)
    if hasattr(os, "RTLD_DEEPBIND") and not prepared:
        sys.meta_path.insert(0, OwnSymbols())


def has_gpu() -> bool:
    """Return whether this machine shows an NVIDIA GPU, found without JAX."""
    files = (
        "/proc/driver/nvidia/version",
        "/dev/nvidia0",
        "/dev/nvidiactl",
        "/dev/dxg",
    )
    return any(Path(file).exists() for file in files)


def has_tpu() -> bool:
    """Return whether this machine shows a TPU, found without JAX."""
    return any([*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")])


def _has_plugin() -> bool:
    names = ("jax_cuda13_plugin", "jax_cuda12_plugin", "libtpu")
    return any(importlib.util.find_spec(name) is not None for name in names)


class OwnSymbols(importlib.abc.MetaPathFinder):
    """The finder that makes triton's library use its symbols, not TensorFlow's.

    TensorFlow's wheels load their library with RTLD_GLOBAL, and both libraries contain
    an LLVM. A triton that is loaded after TensorFlow takes some LLVM functions from
    TensorFlow's library, which ends the process: SIGSEGV with triton 3.7 and 3.8,
    "inconsistency in registered CommandLine options" with 3.9 (tensorflow 2.20, 2.21;
    TensorFlow's issue 124205). torch imports triton itself, at the first optimizer of
    torch.optim and at `import torchvision`. With RTLD_DEEPBIND the order does not
    matter.

    Deep binding bypasses a malloc that LD_PRELOAD has put in place, which also ends the
    process. A process without TensorFlow, or with triton first, thus binds as usual.
    With such a malloc, loading triton after TensorFlow is refused, and torch behaves as
    if triton were not installed.
    """

    def find_spec(
        self,
        fullname: str,
        path: Any,  # names, or a namespace package's path
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of triton's library with a deep-binding loader; else None.

        Raises ImportError if deep binding would end the process.
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
                "triton cannot be loaded after TensorFlow with a malloc from LD_PRELOAD: "
                "import triton before TensorFlow, or unset LD_PRELOAD"
            )
        spec.loader = _DeepLoader(fullname, spec.loader.path)
        return spec


def _malloc_is_replaced() -> bool:
    """Return whether malloc comes from another library than libc."""
    seen = ctypes.CDLL(None).malloc
    own = ctypes.CDLL("libc.so.6").malloc
    address = lambda function: ctypes.cast(function, ctypes.c_void_p).value
    return address(seen) != address(own)


class _DeepLoader(importlib.machinery.ExtensionFileLoader):
    """Loader of a compiled module with RTLD_DEEPBIND."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        flags = sys.getdlopenflags()
        sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
        try:
            return super().create_module(spec)
        finally:
            sys.setdlopenflags(flags)
