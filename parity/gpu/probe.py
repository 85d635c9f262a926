"""The devices and versions of this machine: `python -m parity.gpu.probe --json FILE`."""

import argparse
import contextlib
import importlib.metadata
import json
import platform
import sys
from collections.abc import Sequence
from typing import Any

from input_pipeline import home, places

PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "torch", "timm",
    "nvidia-cudnn-cu12", "nvidia-cudnn-cu13",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def probe() -> dict[str, Any]:
    """Return what JAX and torch see.

    The chip is None if it is in no table, and its memory, in bytes, if torch sees none.
    """
    import jax
    import torch

    from vitjax.devices import chips

    kind = jax.devices()[0].device_kind
    chip = chips.of_kind(kind)
    gpu = torch.cuda.is_available()
    return {
        "platform": jax.default_backend(),
        "device": kind,
        "devices": jax.device_count(),
        "chip": None if chip is None else chip.name,
        "memory": torch.cuda.get_device_properties(0).total_memory if gpu else None,
        "torch sees": torch.cuda.get_device_name() if gpu else "no GPU",
        "versions": versions(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m parity.gpu.probe")
    parser.add_argument("--json", type=places.local, required=True, metavar="FILE")
    flags = parser.parse_args(home.expanded(argv))
    flags.json.write_text(json.dumps(probe()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
