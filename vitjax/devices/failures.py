"""Explain errors to users in one sentence, and handle Ctrl-C while modules load."""

import importlib.util
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import NoReturn

from input_pipeline import environment

# Imports nothing slow: JAX is looked up in sys.modules.
LESS_MEMORY = "use smaller batches, or end another program that uses the device"


def sentence(error: BaseException, less_memory: str = LESS_MEMORY) -> str | None:
    """Return the message of an error for users, or None if the error is a bug of ours.

    `less_memory` says what helps if the memory of a device is full.
    """
    if isinstance(error, ValueError | OSError):
        return str(error)
    if _no_backend(error):
        return _no_device(error)
    jax_errors = sys.modules.get("jax.errors")  # absent if JAX is not imported
    if jax_errors is None or not isinstance(error, jax_errors.JaxRuntimeError):
        return None
    first = _first_line(error)
    if is_out_of_memory(error):
        return f"the memory of a device is full: {first} {less_memory}"
    return f"JAX stopped: {first}"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether XLA asked a device for more memory than it has."""
    return str(error).startswith("RESOURCE_EXHAUSTED")


def accelerator() -> tuple[str, str] | None:
    """Return (name, extra to install) of an accelerator, found without JAX, or None."""
    if environment.has_gpu():
        return "an NVIDIA device", "cuda13"
    if environment.has_tpu() and importlib.util.find_spec("libtpu") is not None:
        return "a TPU", "tpu"
    return None


def install(extra: str) -> str:
    """Return the command that installs the packages for an accelerator."""
    return f'`{sys.executable} -m pip install -e ".[{extra}]"` in the checkout'


def leave_on_interrupt() -> None:
    """Let Ctrl-C end the process with one word, until `raise_on_interrupt`.

    The imports of a command take seconds, and extension modules turn a
    KeyboardInterrupt into other errors. Does nothing if Ctrl-C is ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def raise_on_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    os.write(sys.stderr.fileno(), b"interrupted\n")  # print is not signal-safe
    os._exit(130)


def _no_backend(error: BaseException) -> bool:
    """Return whether JAX has none of the platforms that JAX_PLATFORMS asks for.

    JAX raises RuntimeError for a platform that it tried to initialize, and
    AssertionError for one without a plugin.
    """
    if isinstance(error, AssertionError):
        frames = traceback.extract_tb(error.__traceback__)
        return bool(frames) and Path(frames[-1].filename).name == "xla_bridge.py"
    return isinstance(error, RuntimeError) and "initialize backend" in str(error)


def _no_device(error: BaseException) -> str:
    asked = os.environ.get("JAX_PLATFORMS", "")
    reason = _first_line(error).split(" (set JAX_PLATFORMS")[0].rstrip(".")
    found = accelerator()
    if found is None:
        there = "only CPUs are present: unset JAX_PLATFORMS, or set it to cpu"
    else:
        name, extra = found
        there = f"{name} is present: run {install(extra)} to install JAX's support"
    return f"JAX_PLATFORMS asks for {asked!r}, which JAX cannot use here ({reason}); {there}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "it has no plugin for this platform").splitlines()[0]
